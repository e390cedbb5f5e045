"""Bending terms of a shell, functions of the angles theta at the inner edges of a triangle mesh."""

import numpy as np
import torch
from torch import Tensor

from diffsim.kernels import hinge as kernels
from diffsim.kernels.elements import Topology


class Hinges:
    """sum_h k_h/2 (theta_h - rest_h)^2,  k = D |e|^2/(A1 + A2).

    With this weight a sheet of equilateral triangles on a cylinder has the energy D kappa^2/2 per area, and so have
    rectangles cut into triangles on a cylinder along their sides. In general the energy is that of a plate whose
    Poisson's ratio is 1/3 (equilateral triangles), or one that depends on direction; a free strip of equilateral
    triangles bends as with the rigidity 8/9 D.

    Source: Grinspun et al., Discrete shells (SCA 2003), with a third of its weight.

    Args:
        nodes: (h, 4), ``geometry.surface.hinges``.
        faces: (f, 3).
        node_count: of the mesh.
    """

    def __init__(self, nodes, faces, node_count: int):
        self.nodes = torch.as_tensor(nodes)
        self.topology = Topology(self.nodes, node_count)
        owner = {(face[k], face[(k + 1) % 3]): f for f, face in enumerate(faces.tolist()) for k in range(3)}
        pairs = [(owner[a, b], owner[b, a]) for a, b, *_ in nodes.tolist()]
        self.sides = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)  # the two faces of each hinge

    def dofs(self, dim: int) -> list[np.ndarray]:
        """Unknowns of every hinge, (h, 12)."""
        return [(self.nodes.numpy()[:, :, None] * 3 + np.arange(3)).reshape(len(self.nodes), -1)]

    def angles(self, x: Tensor) -> Tensor:
        """theta (h,) [rad], differentiable."""
        return kernels.angles(self.topology, x)

    def sizes(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Lengths |e| (h,) [m] and areas A1 + A2 of both faces (h,) [m^2], differentiable."""
        x0, x1, x2, x3 = X[self.nodes].unbind(1)
        e = x1 - x0
        areas = (torch.linalg.cross(e, x2 - x0).norm(dim=1) + torch.linalg.cross(e, x3 - x0).norm(dim=1)) / 2
        return e.norm(dim=1), areas

    def inputs(self, X: Tensor, rigidity: Tensor, nu: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """(k, rest). rigidity: D (f,) [N m]; nu: (f,), of no effect here; rest: (h,) [rad]."""
        length, areas = self.sizes(X)
        return rigidity[self.sides].mean(1) * length**2 / areas, rest

    def force(self, x, k, rest):
        """dPsi/dx (n, 3), differentiable in x, k and rest."""
        return kernels.moments(self.topology, x, k * (self.angles(x) - rest))

    def energy(self, x, inputs) -> tuple[float, float]:
        k, rest = inputs
        own = float((k * (self.angles(x) - rest) ** 2).sum() / 2)
        return own, own

    def stiffness(self, x, inputs, project) -> list[np.ndarray]:
        k, rest = inputs
        m = torch.zeros_like(k) if project else k * (self.angles(x) - rest)
        return [kernels.stiffness(self.topology, x, m, k).numpy()]


class ShapeOperator(Hinges):
    """sum_f A D/2 [(1 - nu) |kappa|^2 + nu tr(kappa)^2],  kappa = sum_i (theta_i - rest_i) l_i/(2 A) m_i (x) m_i.

    kappa is the gradient of the normal that is interpolated linearly between the middles of a triangle's edges, where
    it is the mean of the normals of both faces; l_i is the length of an edge, m_i its normal in the plane. So

        Psi = sum_f 1/2 t^T Q t,    Q_ij = D/(4 A) [(1 - nu) (e_i.e_j)^2/(l_i l_j) + nu l_i l_j],    t = theta - rest

    over the three edges of a face. At an edge of one face only the normal is free: its angle is the one of least energy
    (no bending moment there), which is eliminated from Q.

    kappa is exact for quadratic deflections where the triangles at every inner edge form a parallelogram (rectangles
    cut along parallel diagonals, equilateral triangles); on other meshes an error remains under refinement.

    Source: Grinspun et al., Computing discrete shape operators on general meshes, Computer Graphics Forum 25 (2006);
    Chen et al., Physical simulation of environmentally induced thin shell deformation, ACM TOG 37 (2018); here in the
    angles, with the rest shape's lengths.
    """

    def __init__(self, nodes, faces, node_count: int):
        super().__init__(nodes, faces, node_count)
        self.faces = torch.as_tensor(faces)
        count = len(faces)
        self.edge = torch.full((count, 3), -1, dtype=torch.int64)
        around = torch.cat([self.faces, self.faces], 1)  # corners, then the opposite ones; placeholders at the border
        place = torch.zeros(count, 3, 4, dtype=torch.int64)
        for h, ((first, second), (a, b, c, d)) in enumerate(zip(self.sides.tolist(), nodes.tolist(), strict=True)):
            k = faces[first].tolist().index(a)
            self.edge[first, k], around[first, 3 + k] = h, d
            place[first, k] = torch.tensor([k, (k + 1) % 3, (k + 2) % 3, 3 + k])
            k = faces[second].tolist().index(b)
            self.edge[second, k], around[second, 3 + k] = h, c
            place[second, k] = torch.tensor([(k + 1) % 3, k, 3 + k, (k + 2) % 3])
        self.inner = self.edge >= 0
        self.around, self.edge = around, self.edge.clamp_min(0)
        self.columns = (place[..., None] * 3 + torch.arange(3)).reshape(count, 3, 12)

    def dofs(self, dim):
        """Unknowns of every hinge (h, 12), and of every face with its neighbors (f, 18)."""
        own = (self.around.numpy()[:, :, None] * 3 + np.arange(3)).reshape(len(self.around), -1)
        return [*super().dofs(dim), own]

    def inputs(self, X, rigidity, nu, rest):
        """(Q (f, 3, 3), rest)."""
        corners = X[self.faces]
        e = torch.roll(corners, -1, 1) - corners
        area = torch.linalg.cross(e[:, 0], e[:, 1]).norm(dim=1) / 2
        length = e.norm(dim=2)
        both = length[:, :, None] * length[:, None, :]
        dots = e @ e.transpose(1, 2)
        Q = (rigidity / (4 * area))[:, None, None] * (
            (1 - nu)[:, None, None] * dots**2 / both + nu[:, None, None] * both
        )
        for k in range(3):
            pivot = Q - Q[:, :, k : k + 1] * Q[:, k : k + 1, :] / Q[:, k, k][:, None, None]
            Q = torch.where(self.inner[:, k, None, None], Q, pivot)
        return Q, rest

    def _tilts(self, x, rest):
        return torch.where(self.inner, (self.angles(x) - rest)[self.edge], torch.zeros_like(rest[:1]))

    def _moments(self, x, Q, rest):
        m = torch.where(self.inner, (Q @ self._tilts(x, rest)[..., None])[..., 0], torch.zeros_like(rest[:1]))
        return torch.zeros_like(rest).index_add(0, self.edge.reshape(-1), m.reshape(-1))

    def force(self, x, Q, rest):
        """dPsi/dx (n, 3), differentiable in x, Q and rest."""
        return kernels.moments(self.topology, x, self._moments(x, Q, rest))

    def energy(self, x, inputs):
        Q, rest = inputs
        t = self._tilts(x, rest)
        own = float((t * (Q @ t[..., None])[..., 0]).sum() / 2)
        return own, own

    def stiffness(self, x, inputs, project):
        Q, rest = inputs
        m = torch.zeros_like(rest) if project else self._moments(x, Q, rest)
        bent = kernels.stiffness(self.topology, x, m, torch.zeros_like(m))
        rows = torch.where(self.inner[..., None], kernels.gradients(self.topology, x)[self.edge], torch.zeros(1).to(x))
        J = x.new_zeros(len(Q), 3, 18).scatter_add(2, self.columns, rows)
        return [bent.numpy(), (J.transpose(1, 2) @ Q @ J).numpy()]
