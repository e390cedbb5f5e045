"""Thin shells: a St. Venant-Kirchhoff membrane and bending by the angles of a triangle mesh."""

from collections import namedtuple

import torch
from torch import Tensor

from diffsim.errors import DataError, SceneError
from diffsim.geometry.surface import as_sheet, hinges
from diffsim.kernels.arrays import context
from diffsim.materials.law import POISSON, POSITIVE, hold
from diffsim.materials.st_venant_kirchhoff import Functions
from diffsim.models.bending import Hinges, ShapeOperator
from diffsim.models.creases import Creases
from diffsim.models.deformable import Deformable, NodalState
from diffsim.models.elements import Elements

BENDING = {"shape": ShapeOperator, "hinge": Hinges, None: None}
CreasedState = namedtuple("CreasedState", (*NodalState._fields, "crease", "start"))
CreasedState.__doc__ = """``NodalState`` of a shell with plastic hinges.

crease: (kappa_p, alpha) of each, (h, 2) [1/m]. start: kappa_p with which the last step was solved, (h,) [1/m].
"""


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
        creases: ``ds.models.Creases``, plastic hinges; the state is then a ``CreasedState``. None: elastic.
        options: ``dt`` [s], and those of ``Deformable``: integrator, gravity, prescribed, tractions, contact, ...

    Raises:
        SceneError: an option that does not fit.
        MeshError: a broken mesh, with the element named.
    """

    def __init__(self, mesh, *, E, nu, thickness, density, bending_rigidity=None, rest_angles=None,
                 bending: str | None = "shape", creases: Creases | None = None, **options):  # fmt: skip
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
        if creases is not None and bending is None:
            raise SceneError("Shell: creases need a bending energy; use bending='shape' or 'hinge'")
        self.creases = creases
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

    def term_inputs(self, X, rest=None):
        """Inputs of the membrane, and of the hinges with these rest angles (h,) [rad], or those without creases."""
        E, nu, h = (self.membrane.per_point(value) for value in (self.E, self.nu, self.thickness))
        theta = torch.stack([E / (2 * (1 + nu)), E * nu / (1 - nu**2)], 1)
        inputs = [self.membrane.inputs(X, theta, h)]
        if len(self.terms) > 1:
            rest = self._first_angles(X) if rest is None else rest
            inputs.append(self.hinges.inputs(X, self.rigidity(), nu, rest))
        return inputs

    # --- creases

    def initial_state(self, x=None, v=0.0, *, X=None, crease=0.0):
        """A state at time 0: at rest in the rest shape unless given.

        Args:
            x, v, X: as in ``Deformable.initial_state``.
            crease: of a shell with ``creases`` the plastic curvature and its accumulated amount (h, 2) [1/m].

        Raises:
            DataError: shapes that do not fit, or values that are not finite.
        """
        if self.creases is None:
            return super().initial_state(x, v, X=X)
        crease = torch.as_tensor(crease).to(context.dtype)
        shape = (len(self.hinges.nodes), 2)
        if crease.shape not in ((), shape) or not torch.isfinite(crease).all():
            raise DataError(f"initial_state: crease has shape {tuple(crease.shape)}; give finite numbers {shape}")
        crease = crease.expand(shape).contiguous()
        return self._started(CreasedState(*self._at_start(x, v, X), crease, crease[:, 0]))

    def rest_angles_of(self, state) -> Tensor:
        """Angles (h,) [rad] of the hinges without moments: the rest shape's, and what creases add; differentiable."""
        first = self._first_angles(state.X)
        return first if self.creases is None else first + self.hinge_widths(state.X) * state.crease[:, 0]

    def hinge_widths(self, X: Tensor) -> Tensor:
        """l = (A1 + A2)/|e| of every hinge (h,) [m]."""
        length, areas = self.hinges.sizes(X)
        return areas / length

    def yielding(self, state) -> Tensor:
        """Which hinges would yield at the state's positions (h,)."""
        return self.creases.yields(*self._bent(state))

    def _first_angles(self, X):
        return self.hinges.angles(X) if self.rest_angles is None else self.rest_angles.to(X)

    def _bent(self, state):
        """What ``Creases.update`` takes."""
        width = self.hinge_widths(state.X)
        kappa = (self.hinges.angles(state.x) - self._first_angles(state.X)) / width
        return kappa, state.crease, width, self.rigidity()[self.hinges.sides].mean(1)

    def material_inputs(self, state, frozen):
        """Inputs of the membrane, and of the hinges with the rest angles that the state's creases leave."""
        return self.term_inputs(state.X, None if self.creases is None else self.rest_angles_of(state))

    def flowed(self, state, x, static=False):
        """As of every ``Deformable``, with which hinges yield; a static solve leaves creases as they are."""
        if self.creases is None or static:
            return super().flowed(state, x, static)
        yields = self.yielding(state._replace(x=x))
        return state.q, tuple(yields.tolist()), len(self.hinges.nodes[yields].unique())

    def _step(self, state, control):
        after = super()._step(state, control)
        if self.creases is None:
            return after
        return after._replace(crease=self.creases.update(*self._bent(after)), start=state.crease[:, 0])

    def reactions(self, state):
        """As of every ``Deformable``, with the creases that the step was solved with: those of its start.

        Raises:
            SceneError: after an explicit step of a shell with creases, which takes forces where it began.
        """
        if self.creases is None or not float(state.interval):
            return super().reactions(state)
        if self.integrator == "explicit":
            raise SceneError(
                "reactions: explicit steps of a shell with creases do not keep them; use an implicit integrator"
            )
        return super().reactions(state._replace(crease=torch.stack([state.start, state.crease[:, 1]], 1)))

    def footprint(self, state):
        """Bytes of a state, and of what one differentiated control step keeps, creases included."""
        own, kept = super().footprint(state)
        extra = 0 if self.creases is None else 8 * 3 * len(self.hinges.nodes)
        return own + extra, kept + 10 * self.substeps * extra
