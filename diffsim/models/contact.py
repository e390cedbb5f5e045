"""Contact and friction between surfaces, and of a surface with itself, by the IPC Toolkit.

    g_c(x) = d/dx [ sum_c kappa A_c d^ beta(d_c/d^) + sum_c mu lambda_c f0(|T_c (u)|) ],   u = x - x_t

d_c are the distances between vertices and faces and between edges (in 2-D vertices and edges) below d^, A_c their share
of the area, beta the logarithmic barrier, which is infinite at d = 0; so nothing ever interpenetrates, as long as no
step crosses, which continuous collision detection ensures. Friction has the normal forces lambda_c and tangent planes
T_c of the step's start (lagged), and is smoothed below a slip of slip_speed * dt. Both are multiplied as they stand by
the Toolkit's own Hessians in the adjoint, the dependence of the lagged quantities on x_t included.

Source: Li et al., Incremental Potential Contact, ACM TOG 39 (2020), doi:10.1145/3386569.3392425; Huang et al.,
Differentiable solver for time-dependent deformation problems with contact, ACM TOG 43 (2024), for the derivatives.
"""

from collections.abc import Sequence

import ipctk
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diffsim.errors import GradientError, MeshError, SceneError
from diffsim.kernels.arrays import context
from diffsim.materials.law import NOT_NEGATIVE, POSITIVE, hold
from diffsim.models.branches import contact_record
from diffsim.models.obstacle import Obstacle, Refinement

NONE, CLAMP = ipctk.PSDProjectionMethod.NONE, ipctk.PSDProjectionMethod.CLAMP
# by distances, several times as fast here as by roots; it stops a step at nine tenths of the way to a collision
CCD = ipctk.AdditiveCCD()
# takes away what neighboring faces and edges count twice
MAX_APPROX = ipctk.NormalCollisions.IMPROVED_MAX_APPROX
LAGGED, REST = ipctk.FrictionPotential.DiffWRT.LAGGED_DISPLACEMENTS, ipctk.FrictionPotential.DiffWRT.REST_POSITIONS


class Contact(nn.Module):
    """The contact term of ``FEM`` and ``Shell``: ``contact=ds.models.Contact(...)``.

    Differentiable in positions, velocities, obstacles' motions, stiffness, distance and friction. At nearly parallel
    edges the Toolkit leaves out how the mollifier of their distance depends on the rest shape: gradients by X and by
    ``distance`` are refused there.
    Where a pair comes or goes, derivatives are one-sided only beyond the second: the barrier is twice differentiable.

    Args:
        distance: d^ [m], the thickness of contact, below which surfaces repel; less than half of the shortest edge of
            a sheet.
        stiffness: kappa [Pa], the scale of the contact pressure; about a tenth of Young's modulus of a solid, or so
            that sheets rest at a part of the distance.
        friction: mu, of all pairs.
        slip_speed: [m/s] below which friction is smoothed; a stuck body creeps at less.
        obstacles: ``Obstacle``, or meshes at rest; those with edges of more than twice the body's are subdivided
            (``obstacle.Refinement``).
        itself: whether the body collides with itself.
    """

    def __init__(self, distance, stiffness, *, friction=0.0, slip_speed: float = 1e-3, obstacles: Sequence = (),
                 itself: bool = True):  # fmt: skip
        super().__init__()
        if not slip_speed > 0:
            raise SceneError(f"Contact: slip_speed={slip_speed!r}; give a positive number")
        hold(self, "distance", distance, POSITIVE, " m")
        hold(self, "stiffness", stiffness, POSITIVE, " Pa")
        hold(self, "friction", friction, NOT_NEGATIVE)
        for name in ("distance", "stiffness", "friction"):
            if getattr(self, name).ndim:
                raise SceneError(f"Contact: {name} has shape {tuple(getattr(self, name).shape)}; give one number")
        self.slip_speed, self.itself = float(slip_speed), bool(itself)
        self.obstacles = [o if isinstance(o, Obstacle) else Obstacle(o) for o in obstacles]
        ipctk.set_num_threads(1)  # sums differ from run to run with more
        self._mesh = self._memo = self._lag = self.count = None

    def bind(self, faces: np.ndarray, X: Tensor, dt: float) -> "Contact":
        """Tie the term to the surface of a body: faces (f, d) of its nodes X (n, d), d = 3 triangles, d = 2 edges.

        Raises:
            SceneError: it is tied to a body already.
        """
        if self.count is not None:
            raise SceneError("Contact: it belongs to another model already; make one for each model")
        count, dim = X.shape
        self.nodes, local = np.unique(faces, return_inverse=True)
        corners = X.detach().numpy()[faces]
        length = float(np.linalg.norm(corners[:, 1:] - corners[:, :-1], axis=2).mean())
        parts, first, self.refinements = [local.reshape(faces.shape)], len(self.nodes), []
        for number, obstacle in enumerate(self.obstacles):
            if obstacle.faces.shape[1] != dim:
                raise SceneError(f"Contact: an obstacle of {obstacle.faces.shape[1]}-gons in {dim} dimensions")
            fine = Refinement(obstacle, length, number)
            self.refinements.append(fine)
            parts.append(fine.faces + first)
            first += len(fine)
        cells = np.concatenate(parts).astype(np.int32)
        self.edges, self.faces = (cells, None) if dim == 2 else (ipctk.edges(cells), cells)
        self.count, self.dim, self.dt = count, dim, dt
        self.index = torch.from_numpy(self.nodes)
        # unknowns of the body by those of the surface; of obstacles -1
        own = (self.nodes[:, None] * dim + np.arange(dim)).reshape(-1)
        self.unknowns = np.concatenate([own, np.full((first - len(self.nodes)) * dim, -1)])
        return self

    def __getstate__(self):
        """Without what is kept from one call to the next: copies make it anew."""
        return self.__dict__ | {"_mesh": None, "_memo": None, "_lag": None}

    def dofs(self, dim):
        """No fixed pattern: see ``matrix``."""
        return []

    # --- what the step gives

    def inputs(self, X: Tensor, x_old: Tensor, before: float, after: float) -> tuple[Tensor, ...]:
        """What ``force`` takes besides x: obstacles after and before, x_old, X, stiffness, distance, friction."""
        numbers = (v.to(context.dtype) for v in (self.stiffness, self.distance, self.friction))
        now, then = self.obstacles_at(after, X), self.obstacles_at(before, X)
        return now, then, x_old, X, *numbers

    def obstacles_at(self, time: float, X: Tensor) -> Tensor:
        """Vertices of all obstacles as subdivided (k, d)."""
        parts = [fine.at(time) for fine in self.refinements]
        return torch.cat(parts) if parts else X.new_zeros(0, X.shape[1])

    def vertices(self, x: Tensor, obstacles: Tensor) -> np.ndarray:
        """Vertices of the collision mesh."""
        return np.asfortranarray(torch.cat([x.detach()[self.index], obstacles.detach()]).numpy())

    def check(self, x: Tensor, X: Tensor, time: float = 0.0) -> None:
        """Raises MeshError where surfaces intersect."""
        mesh = self._collision_mesh(X)
        if ipctk.has_intersections(mesh, self.vertices(x, self.obstacles_at(time, x))):
            raise MeshError("the surfaces intersect at the start; move the bodies apart, or leave out itself=True")

    # --- energy, force, Hessian

    def _collision_mesh(self, X):
        # the same values: a detached tensor shares memory and version with the one that is held here
        same = self._mesh is not None and (self._mesh[0].data_ptr(), self._mesh[1]) == (X.data_ptr(), X._version)
        if not same:
            rest = self.vertices(X, torch.cat([X[:0].detach(), *(f.of(f.obstacle.X) for f in self.refinements)]))
            mesh = ipctk.CollisionMesh(rest, self.edges, *([] if self.faces is None else [self.faces]))
            mesh.init_area_jacobians()
            own = len(self.nodes)
            if not self.itself:
                body = np.concatenate([np.zeros(own), np.ones(len(rest) - own)]).astype(np.int32)
                mesh.can_collide = ipctk.make_vertex_patches_filter(body)
            elif len(rest) > own:
                mesh.can_collide = ipctk.make_static_obstacle_filter(own)
            self._mesh = (X.detach(), X._version, mesh)  # not with the graph of X
            self._memo = self._lag = None
        return self._mesh[2]

    def _pairs(self, mesh, V, distance):
        pairs = ipctk.NormalCollisions()
        pairs.use_area_weighting = True
        pairs.enable_shape_derivatives = True
        pairs.collision_set_type = MAX_APPROX
        pairs.build(mesh, V, distance)
        return pairs

    def _state(self, x, inputs):
        """At x: mesh, V, barrier, pairs, and of friction (potential, pairs, slip, V_old) or None."""
        now, then, x_old, X, *numbers = (value.detach() for value in inputs)
        mesh = self._collision_mesh(inputs[3])
        kappa, reach, mu = (float(number) for number in numbers)
        V, barrier = self.vertices(x, now), ipctk.BarrierPotential(reach, kappa, True)
        if self._memo is None or self._memo[2] != reach or not np.array_equal(self._memo[0], V):
            self._memo = (V, self._pairs(mesh, V, reach), reach)
        rub = None
        if mu > 0:
            V_old = self.vertices(x_old, then)
            if self._lag is None or self._lag[1:] != (kappa, reach, mu) or not np.array_equal(self._lag[0][0], V_old):
                tangential = ipctk.TangentialCollisions()
                tangential.build(mesh, V_old, self._pairs(mesh, V_old, reach), barrier, mu)
                self._lag = ((V_old, tangential), kappa, reach, mu)
            V_old, tangential = self._lag[0]
            rub = (ipctk.FrictionPotential(self.slip_speed * self.dt), tangential, V - V_old, V_old)
        return mesh, V, barrier, self._memo[1], rub

    def energy(self, x, inputs):
        mesh, V, barrier, pairs, rub = self._state(x, inputs)
        total = barrier(pairs, mesh, V)
        if rub is not None:
            total += rub[0](rub[1], mesh, rub[2])
        return total, abs(total)

    def force(self, x, *inputs):
        """g_c (n, d) [N], differentiable."""
        return _Force.apply(self, x, *inputs)

    def stiffness_matrix(self, x, inputs, project) -> sp.coo_matrix:
        """Hessian in the unknowns of the body, (n d, n d)."""
        mesh, V, barrier, pairs, rub = self._state(x, inputs)
        method = CLAMP if project else NONE
        H = barrier.hessian(pairs, mesh, V, method)
        if rub is not None:
            H = H + rub[0].hessian(rub[1], mesh, rub[2], method)
        H = H.tocoo()
        rows, columns = self.unknowns[H.row], self.unknowns[H.col]
        own = (rows >= 0) & (columns >= 0)
        size = self.count * self.dim
        return sp.coo_matrix((H.data[own], (rows[own], columns[own])), shape=(size, size))

    def _spread(self, values):
        """Values of the collision mesh as (n, d) of the body."""
        own = torch.from_numpy(np.ascontiguousarray(values)).reshape(-1, self.dim)[: len(self.nodes)]
        return own.new_zeros(self.count, self.dim).index_copy(0, self.index, own)

    def _moved(self, values):
        """Values of the collision mesh at the obstacles (k, d)."""
        return torch.from_numpy(np.ascontiguousarray(values)).reshape(-1, self.dim)[len(self.nodes) :].clone()

    def record(self, x, inputs) -> tuple[int, int, int, int]:
        """Hash of the branches at x, and numbers of nodes in contact, sliding, sticking (``branches``)."""
        mesh, V, _, pairs, rub = self._state(x, inputs)
        return contact_record(mesh, V, pairs, rub, self.slip_speed * self.dt, len(self.nodes))

    def _mollified(self, pairs, V) -> bool:
        """Whether two edges in contact are so nearly parallel that their distance is mollified."""
        for i in range(len(pairs)):
            if pairs.is_edge_edge(i):
                corners = pairs[i].vertices(V, self.edges, self.faces)
                if pairs[i].mollifier(np.concatenate([corners[k] for k in range(4)])) < 1:
                    return True
        return False

    # --- ways

    def limit(self, x, ahead, obstacles, obstacles_ahead, X) -> float:
        """Longest part of the straight way from x to ``ahead`` without a collision, at most 1."""
        V0 = self.vertices(x, obstacles)
        V1 = self.vertices(ahead, obstacles_ahead)
        if not np.isfinite(V1).all():
            return 0.0
        return ipctk.compute_collision_free_stepsize(self._collision_mesh(X), V0, V1, 0.0, None, CCD)

    def minimum_distance(self, x: Tensor, time: float, X: Tensor) -> float:
        """Smallest distance [m] of pairs below d^; infinite without any."""
        mesh, V = self._collision_mesh(X), self.vertices(x, self.obstacles_at(time, X))
        pairs = self._pairs(mesh, V, float(self.distance))
        return float("inf") if pairs.empty() else float(np.sqrt(pairs.compute_minimum_distance(mesh, V)))


class _Force(torch.autograd.Function):
    @staticmethod
    def forward(ctx, contact, x, *inputs):
        mesh, V, barrier, pairs, rub = contact._state(x, inputs)
        g = barrier.gradient(pairs, mesh, V)
        if rub is not None:
            g = g + rub[0].gradient(rub[1], mesh, rub[2])
        own = torch.from_numpy(g).reshape(-1, contact.dim)[: len(contact.nodes)]
        ctx.contact = contact
        ctx.save_for_backward(x, *inputs)
        return torch.zeros_like(x).index_copy(0, contact.index, own)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        contact, (x, *inputs) = ctx.contact, ctx.saved_tensors
        mesh, V, barrier, pairs, rub = contact._state(x, inputs)
        b = np.zeros(V.shape)
        b[: len(contact.nodes)] = grad[contact.index].numpy()
        b = b.reshape(-1)
        H = barrier.hessian(pairs, mesh, V, NONE)
        normal = barrier.gradient(pairs, mesh, V)
        forces = normal @ b
        grad_V, grad_old, grad_mu = H @ b, np.zeros_like(b), 0.0
        if rub is not None:
            potential, tangential, slip, V_old = rub
            rest = mesh.rest_positions
            K = potential.hessian(tangential, mesh, slip, NONE)
            lagged = potential.force_jacobian(tangential, mesh, rest, V_old - rest, slip, barrier, LAGGED)
            grad_V = grad_V + K @ b
            grad_old = -(lagged.T @ b) - K @ b
            forces += potential.gradient(tangential, mesh, slip) @ b
            bare = potential.force(tangential, mesh, rest, V_old - rest, slip, barrier, 0.0, True)
            grad_mu = -float(bare @ b)
        elif ctx.needs_input_grad[8]:
            raise GradientError("friction is 0, where its derivative is one-sided; start from a small friction")
        grads = [contact._spread(grad_V), contact._moved(grad_V), contact._moved(grad_old), contact._spread(grad_old)]
        kappa, grad_X, grad_reach = float(inputs[4]), None, None
        if ctx.needs_input_grad[5] or ctx.needs_input_grad[7]:
            if contact._mollified(pairs, V):
                raise GradientError(
                    "the gradient by the rest shape or the distance is not available: two edges in contact are nearly "
                    "parallel; turn one of the meshes a little"
                )
            S = barrier.shape_derivative(pairs, mesh, V) - H
            total = S.T @ b
            # scaling all lengths by s scales forces by s^(d - 1): Euler's theorem gives the derivative by the distance
            scaled = (contact.dim - 1) * forces - _moment(V, H @ b)
            if rub is not None:
                moved = potential.force_jacobian(tangential, mesh, rest, V_old - rest, slip, barrier, REST)
                total = total - (moved - lagged).T @ b
                scaled += _moment(V_old, lagged.T @ b)
            scaled -= _moment(mesh.rest_positions, total)
            grad_X, grad_reach = contact._spread(total), torch.tensor(scaled / float(inputs[5]), dtype=x.dtype)
        as_tensor = lambda value: torch.tensor(value, dtype=x.dtype)  # noqa: E731
        return None, *grads, grad_X, as_tensor(forces / kappa), grad_reach, as_tensor(grad_mu)


def _moment(V, forces) -> float:
    """sum V_i.f_i, about the middle: the forces add up to nothing, and so lose fewer digits."""
    return float((V - V.mean(axis=0)).reshape(-1) @ forces)
