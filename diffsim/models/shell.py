"""Thin shells: a St. Venant-Kirchhoff membrane and bending by the angles of a triangle mesh."""

import torch
from torch import Tensor

from diffsim.errors import SceneError
from diffsim.geometry.surface import as_sheet, hinges
from diffsim.kernels.arrays import context
from diffsim.materials.law import POISSON, POSITIVE, hold
from diffsim.materials.st_venant_kirchhoff import Functions
from diffsim.models.bending import Hinges, ShapeOperator
from diffsim.models.deformable import Deformable
from diffsim.models.elements import Elements

BENDING = {"shape": ShapeOperator, "hinge": Hinges, None: None}


class Shell(Deformable):
    """A thin sheet with the membrane energy per rest area

        h [E nu/(2 (1 - nu^2)) tr(G)^2 + E/(2 (1 + nu)) tr(G^2)],    G = (F^T F - I)/2,

    and a bending energy with the rigidity D = E h^3/(12 (1 - nu^2)), of the triangles' curvatures
    (``bending.ShapeOperator``) or of the angles at single edges (``bending.Hinges``); masses are lumped; state:
    ``NodalState``. Differentiable in x, v and X of the state, controls, motions, loads, gravity, E, nu, thickness,
    density and rest angles.

    Membranes give way where they are crushed to less than about 0.6 of their length.

    Args:
        mesh: ``trimesh.Trimesh``, a file, or (vertices (n, 3), faces (f, 3)); ``geometry.surface.sheet`` makes one.
        E: Young's modulus [Pa]. nu: Poisson's ratio. thickness: [m]. density: [kg/m^3]. Each a number, a parameter, or
            a tensor with one per face.
        bending_rigidity: D [N m], when it is other than that of a homogeneous sheet; likewise.
        rest_angles: (h,) [rad] of ``model.hinges.nodes``; those of the rest shape when None.
        bending: "shape", of the triangles' curvatures, with Poisson's ratio; "hinge", of single edges; None: none.
        options: ``dt`` [s], and those of ``Deformable``: integrator, gravity, prescribed, tractions, contact, ...

    Raises:
        SceneError: an option that does not fit.
        MeshError: a broken mesh, with the element named.
    """

    def __init__(self, mesh, *, E, nu, thickness, density, bending_rigidity=None, rest_angles=None,
                 bending: str | None = "shape", **options):  # fmt: skip
        vertices, faces = as_sheet(mesh)
        super().__init__(torch.from_numpy(vertices), **options)
        hold(self, "E", E, POSITIVE, " Pa")
        hold(self, "nu", nu, POISSON)
        hold(self, "thickness", thickness, POSITIVE, " m")
        hold(self, "density", density, POSITIVE, " kg/m^3")
        self.bending_rigidity = None
        if bending_rigidity is not None:
            del self.bending_rigidity
            hold(self, "bending_rigidity", bending_rigidity, POSITIVE, " N m")
        if bending not in BENDING:
            raise SceneError(f"Shell: bending={bending!r}; use 'shape', 'hinge' or None")
        self.faces = faces
        self.membrane = Elements(faces, 2, Functions, len(vertices))
        nodes = hinges(faces)
        self.hinges = (BENDING[bending] or Hinges)(nodes, faces, len(vertices))
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
        self.terms = [self.membrane, self.hinges] if len(nodes) and bending is not None else [self.membrane]
        self._finish(faces)

    def rigidity(self) -> Tensor:
        """Bending rigidity D of every face (f,) [N m]."""
        if self.bending_rigidity is not None:
            return self.membrane.per_point(self.bending_rigidity)
        E, nu, h = (self.membrane.per_point(value) for value in (self.E, self.nu, self.thickness))
        return E * h**3 / (12 * (1 - nu**2))

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
            rest = self.hinges.angles(X) if self.rest_angles is None else self.rest_angles.to(X)
            inputs.append(self.hinges.inputs(X, self.rigidity(), nu, rest))
        return inputs
