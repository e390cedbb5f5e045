"""Finite elements of a law: rest geometry, masses, and the elastic term of an incremental potential."""

import math

import numpy as np
import torch
from torch import Tensor

from diffsim.errors import MeshError, SceneError
from diffsim.kernels import elements as kernels
from diffsim.kernels.arrays import context
from diffsim.kernels.reduction import repeat
from diffsim.materials.composite import combine


def simplex_rule(D: int, k: int):
    """Shape functions N (q, k), gradients dN (q, k, D) in unit coordinates, weights (q,) that add up to 1/D!.

    Linear elements take the centroid, quadratic ones the symmetric rule of degree 2 with D + 1 points."""
    unit = np.concatenate([-np.ones((1, D)), np.eye(D)])  # gradients of the barycentric coordinates
    if k == D + 1:
        return np.full((1, k), 1 / k), unit[None], np.array([1 / math.factorial(D)])
    from diffsim.geometry.solid import EDGES

    near = {2: 2 / 3, 3: 0.58541019662496845446}[D]
    L = np.full((D + 1, D + 1), (1 - near) / D)
    np.fill_diagonal(L, near)
    pairs = np.array(EDGES[D])
    N = np.concatenate([L * (2 * L - 1), 4 * L[:, pairs[:, 0]] * L[:, pairs[:, 1]]], axis=1)
    corners = (4 * L - 1)[..., None] * unit
    first, second = L[:, pairs[:, 0], None], L[:, pairs[:, 1], None]
    return (
        N,
        np.concatenate([corners, 4 * (first * unit[pairs[:, 1]] + second * unit[pairs[:, 0]])], axis=1),
        np.full(D + 1, 1 / math.factorial(D) / (D + 1)),
    )


class Elements:
    """The term sum_p w_p psi(F_p) of a potential, over elements of one law.

    Args:
        elements: nodes (m, k).
        rest_dim: 2 for triangles, 3 for tetrahedra.
        functions: ti.funcs of the law. plastic: of its return map, or None.
        node_count: of the mesh.
        invertible: whether states with inverted elements are allowed, as small-strain laws do.
    """

    def __init__(self, elements, rest_dim: int, functions, node_count: int, *, plastic=None, invertible=False):
        self.elements = torch.as_tensor(np.asarray(elements))
        self.count, k = self.elements.shape
        self.N, self.dN, self.weights = (torch.as_tensor(a, dtype=context.dtype) for a in simplex_rule(rest_dim, k))
        self.points = len(self.weights)
        self.rest_dim, self.node_count, self.invertible = rest_dim, node_count, invertible
        self.topology = kernels.Topology(self.elements.repeat_interleave(self.points, 0), node_count)
        self.laws = combine(((functions, plastic),))
        squares = (self.N**2).sum(0)
        if k > rest_dim + 1:  # of quadratic shape functions the rule above does not integrate squares exactly
            corner, middle = {2: (1 / 60, 4 / 45), 3: (1 / 420, 8 / 630)}[rest_dim]
            squares = torch.tensor([corner] * (rest_dim + 1) + [middle] * (k - rest_dim - 1), dtype=context.dtype)
        self.shares = squares / squares.sum()
        self._rest = None

    def dofs(self, dim: int) -> list[np.ndarray]:
        """Unknowns of every point, (m q, k dim)."""
        nodes = self.topology.nodes.numpy().astype(np.int64)
        return [(nodes[:, :, None] * dim + np.arange(dim)).reshape(len(nodes), -1)]

    def rest(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the shape functions G (m q, k, D) [1/m] and weights w (m q,) [m^D], differentiable in X.

        In a membrane the rest coordinates of a triangle are along its first edge and across it.
        """
        if self._rest is not None and self._rest[0] is X and self._rest[1] == X._version and not X.requires_grad:
            return self._rest[2]
        corners = X[self.elements]  # (m, k, d)
        J = torch.einsum("mkd,qkD->mqdD", corners, self.dN).reshape(-1, X.shape[1], self.rest_dim)
        if X.shape[1] != self.rest_dim:
            J = flattened(J)
        dN = self.dN.expand(self.count, *self.dN.shape).reshape(-1, *self.dN.shape[1:])
        G = dN @ torch.linalg.inv(J)
        w = torch.linalg.det(J) * self.weights.repeat(self.count)
        if not bool((w > 0).all()):
            e = int((~(w > 0)).nonzero()[0]) // self.points
            raise MeshError(f"element {e} is inverted or without volume in the rest shape; move its nodes")
        if not X.requires_grad:
            self._rest = (X, X._version, (G, w))
        return G, w

    def geometry_bytes(self) -> int:
        """Bytes that a graph through ``rest`` keeps, measured for linear and quadratic elements in 2-D and 3-D."""
        nodes, D = self.topology.nodes.shape[1], self.rest_dim
        return 8 * self.count * self.points * (5 * nodes * D + 3 * D * D)

    def per_point(self, value: Tensor) -> Tensor:
        """A number, or one per element, as (m q,)."""
        value = value.to(context.dtype)
        if value.numel() == 1:
            return repeat(value.reshape(()), self.count * self.points)
        if value.shape != (self.count,):
            raise SceneError(
                f"a parameter of the material has {value.numel()} values; give one or {self.count}, one per element"
            )
        return value.repeat_interleave(self.points)

    def theta(self, values) -> Tensor:
        """Parameters of the law (m q, parameters)."""
        return torch.stack([self.per_point(value) for value in values], 1)

    def nodal(self, X: Tensor, density: Tensor) -> tuple[Tensor, Tensor]:
        """Lumped masses (n,) [kg], and weights (n,) [kg] of a load per unit mass.

        Masses are the diagonal of the consistent matrix, scaled to the mass of each element; of linear elements both
        are equal. Source: Hinton, Rock and Zienkiewicz, Earthquake Eng. Struct. Dyn. 4 (1976).
        """
        _, w = self.rest(X)
        own = (self.per_point(density) * w).reshape(self.count, self.points)
        index = self.elements.reshape(-1)
        zero = X.new_zeros(self.node_count)
        mass = zero.index_add(0, index, (own.sum(1)[:, None] * self.shares).reshape(-1))
        if self.points == 1:
            return mass, mass
        return mass, zero.index_add(0, index, (own @ self.N).reshape(-1))

    def inputs(self, X: Tensor, theta: Tensor, factor: Tensor | None = None, A: Tensor | None = None,
               q: Tensor | None = None) -> tuple[Tensor, ...]:  # fmt: skip
        """What ``force`` takes besides x: G, w, q, theta.

        Args:
            factor: of w, such as a thickness, per point.
            A: (m q, D, D), from the rest state to the one that the law's F starts from: G is A^T G then.
            q: internal variables of the law, F33 first; 1 when None.
        """
        G, w = self.rest(X)
        G = G if A is None else G @ A
        q = torch.ones(len(w), 1, dtype=w.dtype) if q is None else q
        return G, w if factor is None else w * factor, q, theta

    def force(self, x, G, w, q, theta):
        """dPsi/dx (n, d), differentiable in x and all inputs."""
        return kernels.force(self.topology, self.laws, x, G, w, q, theta)

    def energy(self, x, inputs) -> tuple[float, float]:
        """Energy, infinite where an element is inverted, and the sum of magnitudes whose rounding it carries."""
        psi, ratio = kernels.energy(self.topology, self.laws, x, *inputs)
        if not self.invertible and not bool((ratio > 0).all()):
            return math.inf, 0.0
        size = (inputs[1] * inputs[3].abs().sum(1)).sum()  # moduli times volume: of what cancels at rest
        return float(psi.sum()), float(psi.abs().sum() + 0.01 * size)

    def stiffness(self, x, inputs, project) -> list[np.ndarray]:
        """Hessian by points, (m q, k d, k d)."""
        return [kernels.stiffness(self.topology, self.laws, x, *inputs, project=project).numpy()]


def flattened(J):
    """Columns (m, 3, 2) in the plane that they span: [[|a|, a.b/|a|], [0, |a x b|/|a|]]."""
    a, b = J[:, :, 0], J[:, :, 1]
    length = a.norm(dim=1)
    zero = torch.zeros_like(length)
    height = torch.linalg.cross(a, b).norm(dim=1) / length
    return torch.stack([torch.stack([length, (a * b).sum(1) / length], 1), torch.stack([zero, height], 1)], 1)
