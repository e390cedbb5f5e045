"""Thin shells: a St. Venant-Kirchhoff membrane and bending at the hinges of a triangle mesh."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from diffsim.errors import SceneError
from diffsim.geometry.surface import as_sheet, hinges
from diffsim.kernels import hinge as kernels
from diffsim.kernels.arrays import context
from diffsim.kernels.elements import Topology
from diffsim.materials.law import POISSON, POSITIVE, hold
from diffsim.materials.st_venant_kirchhoff import Functions
from diffsim.models.deformable import Deformable
from diffsim.models.elements import Elements


class Hinges:
    """The term sum_h k_h/2 (theta_h - rest_h)^2 of a potential.

    Args:
        nodes: (h, 4), ``geometry.surface.hinges``.
        node_count: of the mesh.
    """

    def __init__(self, nodes, node_count: int):
        self.nodes = torch.as_tensor(nodes)
        self.topology = Topology(self.nodes, node_count)

    def dofs(self, dim: int) -> np.ndarray:
        """Unknowns of every hinge, (h, 12)."""
        return (self.nodes.numpy()[:, :, None] * 3 + np.arange(3)).reshape(len(self.nodes), -1)

    def weights(self, X: Tensor) -> Tensor:
        """|e|^2/(A1 + A2) of the rest shape (h,): with the rigidity D, a cylinder has the energy D kappa^2/2 per area."""
        x0, x1, x2, x3 = X[self.nodes].unbind(1)
        e = x1 - x0
        areas = (torch.linalg.cross(e, x2 - x0).norm(dim=1) + torch.linalg.cross(e, x3 - x0).norm(dim=1)) / 2
        return (e * e).sum(1) / areas

    def angles(self, x: Tensor) -> Tensor:
        return kernels.angles(self.topology, x)

    def force(self, x, k, rest):
        """dPsi/dx (n, 3), differentiable in x, k and rest."""
        return kernels.moments(self.topology, x, k * (self.angles(x) - rest))

    def energy(self, x, inputs) -> tuple[float, float]:
        k, rest = inputs
        own = k * (self.angles(x) - rest) ** 2 / 2
        return float(own.sum()), float(own.sum())

    def stiffness(self, x, inputs, project) -> np.ndarray:
        k, rest = inputs
        m = torch.zeros_like(k) if project else k * (self.angles(x) - rest)
        return kernels.stiffness(self.topology, x, m, k).numpy()


class Shell(Deformable):
    """A thin sheet with the membrane and bending energies per rest area

        h [E nu/(2 (1 - nu^2)) tr(G)^2 + E/(2 (1 + nu)) tr(G^2)],  G = (F^T F - I)/2      D/2 |e|^2/(A1 + A2) (theta - rest)^2

    per triangle and per inner edge, D = E h^3/(12 (1 - nu^2)), A1 and A2 the areas of the two triangles at the edge e;
    masses are lumped; state: ``NodalState``. Differentiable in x, v and X of the state, controls, motions, loads,
    gravity, E, nu, thickness, density and rest angles.

    Bending by hinges is that of a plate with Poisson's ratio 1/3 on a mesh of equilateral triangles, whatever nu; on
    other meshes it depends on the directions of the edges: squares cut along alternating diagonals are right for
    bending about their sides and 1.5 times too stiff at 45 degrees. Membranes give way where they are crushed to less
    than about 0.6 of their length.

    Source: Grinspun et al., Discrete shells (SCA 2003), for the energy of a hinge, here with the weight that gives a
    cylinder its energy.

    Args:
        mesh: ``trimesh.Trimesh``, a file, or (vertices (n, 3), faces (f, 3)); ``geometry.surface.sheet`` makes one.
        E: Young's modulus [Pa]. nu: Poisson's ratio. thickness: [m]. density: [kg/m^3]. Each a number, a parameter, or
            a tensor with one per face.
        dt: step [s].
        rest_angles: (h,) [rad] of ``model.hinges.nodes``; those of the rest shape when None.
        bending: factor of D; 0 leaves a membrane.
        Others: as in ``FEM``.

    Raises:
        SceneError: an option that does not fit.
        MeshError: a broken mesh, with the element named.
    """

    def __init__(self, mesh, *, E, nu, thickness, density, dt: float, rest_angles=None, bending: float = 1.0,
                 substeps: int = 1, integrator: str = "euler", gravity=None, body_force: Callable | None = None,
                 prescribed=(), tractions: Sequence = (), forces=None, damping: float = 0.0, tolerance: float = 1e-6,
                 iterations: int = 100, linear: str = "auto"):  # fmt: skip
        vertices, faces = as_sheet(mesh)
        super().__init__(torch.from_numpy(vertices), dt=dt, substeps=substeps, integrator=integrator, gravity=gravity,
                         body_force=body_force, prescribed=prescribed, tractions=tractions, forces=forces,
                         damping=damping, tolerance=tolerance, iterations=iterations, linear=linear)  # fmt: skip
        hold(self, "E", E, POSITIVE, " Pa")
        hold(self, "nu", nu, POISSON)
        hold(self, "thickness", thickness, POSITIVE, " m")
        hold(self, "density", density, POSITIVE, " kg/m^3")
        if not bending >= 0:
            raise SceneError(f"Shell: bending={bending!r}; give a factor of the rigidity, 0 or greater")
        self.faces, self.bending = faces, float(bending)
        self.membrane = Elements(faces, 2, Functions, len(vertices))
        nodes = hinges(faces)
        self.hinges = Hinges(nodes, len(vertices))
        # the two faces at each hinge
        owner = {(face[k], face[(k + 1) % 3]): f for f, face in enumerate(faces.tolist()) for k in range(3)}
        self._sides = torch.tensor([(owner[a, b], owner[b, a]) for a, b, *_ in nodes.tolist()]).reshape(-1, 2)
        if rest_angles is not None:
            rest_angles = torch.as_tensor(rest_angles)
            if rest_angles.shape != (len(nodes),):
                raise SceneError(
                    f"Shell: rest_angles has shape {tuple(rest_angles.shape)}; the mesh has {len(nodes)} hinges"
                )
            if isinstance(rest_angles, torch.nn.Parameter):
                self.rest_angles = rest_angles
            else:
                self.register_buffer("rest_angles", rest_angles.to(context.dtype))
        else:
            self.rest_angles = None
        self.terms = [self.membrane, self.hinges] if len(nodes) and bending else [self.membrane]
        self._finish()

    def rigidity(self) -> Tensor:
        """Bending rigidity D of every face (f,) [N m]."""
        E, nu, h = (self.membrane.per_point(value) for value in (self.E, self.nu, self.thickness))
        return self.bending * E * h**3 / (12 * (1 - nu**2))

    def nodal(self, X):
        """Masses (n,) [kg], twice: they are also the weights of loads per unit mass."""
        per_face = self.membrane.per_point
        return self.membrane.nodal(X, per_face(self.density) * per_face(self.thickness))

    def term_inputs(self, X):
        """Inputs of the membrane and of the hinges."""
        E, nu, h = (self.membrane.per_point(value) for value in (self.E, self.nu, self.thickness))
        theta = torch.stack([E / (2 * (1 + nu)), E * nu / (1 - nu**2)], 1)
        inputs = [self.membrane.inputs(X, theta, h)]
        if len(self.terms) > 1:
            D = self.rigidity()[self._sides].mean(1)
            rest = self.hinges.angles(X) if self.rest_angles is None else self.rest_angles.to(X)
            inputs.append((D * self.hinges.weights(X), rest))
        return inputs
