"""Thin shells: a St. Venant-Kirchhoff membrane and bending by the angles of a triangle mesh."""

from collections import namedtuple
from contextlib import contextmanager

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
CreasedState = namedtuple("CreasedState", (*NodalState._fields, "crease"))
CreasedState.__doc__ = "``NodalState`` of a shell with plastic hinges: crease, (kappa_p, alpha) of each (h, 2) [1/m]."


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
        self.creases, self._resting = creases, None
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
            rest = self._first_angles(X) if self._resting is None else self._resting
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
        with self._at_rest(self.X if X is None else torch.as_tensor(X).to(context.dtype), crease):
            return CreasedState(*super().initial_state(x, v, X=X), crease)

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

    @contextmanager
    def _at_rest(self, X, crease):
        """Within the block ``term_inputs`` takes the rest angles of these creases."""
        self._resting = self._first_angles(X) + self.hinge_widths(X) * crease[:, 0]
        try:
            yield
        finally:
            self._resting = None

    def _step(self, state, control):
        if self.creases is None:
            return super()._step(state, control)
        with self._at_rest(state.X, state.crease):
            after = super()._step(state, control)
        return after._replace(crease=self.creases.update(*self._bent(after)))

    def _inputs_of(self, state):
        if self.creases is None:
            return super()._inputs_of(state)
        with self._at_rest(state.X, state.crease):
            return super()._inputs_of(state)

    def solve_static(self, state, control=None, *, load_steps: int = 1):
        """The equilibrium near a state, as of every ``Deformable``; creases stay as they are."""
        if self.creases is None:
            return super().solve_static(state, control, load_steps=load_steps)
        with self._at_rest(state.X, state.crease):
            return super().solve_static(state, control, load_steps=load_steps)
