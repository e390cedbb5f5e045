"""Finite elements of solids: tetrahedra, or triangles in plane strain."""

from collections.abc import Callable, Sequence

import torch

from diffsim.errors import SceneError
from diffsim.geometry.solid import as_solid
from diffsim.kernels.arrays import context
from diffsim.materials import LinearElastic, StableNeoHookean
from diffsim.models.deformable import Deformable
from diffsim.models.elements import Elements

INVERTIBLE = (LinearElastic, StableNeoHookean)  # laws that are smooth for all F


class FEM(Deformable):
    """Elastic solids by linear or quadratic finite elements, with lumped masses; state: ``NodalState``.

        model = ds.models.FEM(mesh, ds.Material(law, density=1e3), dt=1e-2, gravity=(0, 0, -9.8), prescribed=nodes)
        state = model(model.initial_state())        # a step
        state = model.solve_static(state)           # an equilibrium

    Differentiable in x, v and X of the state, controls, gravity, motions and loads, density, and the law's parameters,
    which are numbers or one per element. In 2-D forces and masses are per meter of thickness.

    Args:
        mesh: ``geometry.solid.SolidMesh``, a file, a ``meshio.Mesh`` or (nodes, elements).
        material: ``ds.Material`` with an elastic law of ``ds.materials`` that has an energy.
        dt: step [s].
        substeps: steps per control step.
        integrator: "euler" (implicit, damps), "bdf2" or "newmark" (second order), "explicit" (symplectic Euler).
        gravity: acceleration [m/s^2], d numbers, a tensor or a parameter.
        body_force: callable (X, t) -> acceleration [m/s^2], (n, d), of the rest position.
        prescribed: nodes that are held (indices), (indices, callable (X, t) -> positions), or a list of
            ``ds.models.Prescribed``.
        tractions: pairs of faces (f, k), such as ``mesh.faces(condition)``, and a dead load per rest area [Pa], (d,) or
            a callable of t.
        forces: nodal forces (n, d) [N], or a callable (X, t).
        damping: rate c of the force -c M v [1/s].
        tolerance: of a solve: the last Newton step is shorter than tolerance * dt [m/s]; of an equilibrium shorter than
            tolerance/100 of the mesh's spacing. As Newton converges quadratically, what is left is far less.
        iterations: of Newton, at most.
        linear: method of ``solvers.factorize``.

    Raises:
        SceneError: an option that does not fit; a material without an energy.
        MeshError: a broken mesh.
    """

    def __init__(self, mesh, material, *, dt: float, substeps: int = 1, integrator: str = "euler", gravity=None,
                 body_force: Callable | None = None, prescribed=(), tractions: Sequence = (), forces=None,
                 damping: float = 0.0, tolerance: float = 1e-6, iterations: int = 100, linear: str = "auto",
                 ):  # fmt: skip
        mesh = as_solid(mesh)
        super().__init__(torch.from_numpy(mesh.nodes), dt=dt, substeps=substeps, integrator=integrator,
                         gravity=gravity, body_force=body_force, prescribed=prescribed, tractions=tractions,
                         forces=forces, damping=damping, tolerance=tolerance, iterations=iterations,
                         linear=linear)  # fmt: skip
        law = material.elastic
        if material.plastic is not None or material.viscous is not None or getattr(law, "own_map", None) is not None:
            raise SceneError("FEM takes elastic materials only; leave plastic and viscous out")
        if not hasattr(getattr(law, "functions", None), "energy"):
            raise SceneError(f"FEM needs a law with an energy; {type(law).__name__} has none")
        self.mesh, self.material = mesh, material
        self.elements = Elements(
            mesh.elements, mesh.dim, law.functions, len(mesh.nodes), invertible=isinstance(law, INVERTIBLE)
        )
        self.terms = [self.elements]
        self._finish()

    def nodal(self, X):
        """Masses and weights of loads per unit mass, (n,) each [kg]."""
        return self.elements.nodal(X, torch.as_tensor(self.material.density))

    def term_inputs(self, X):
        """Inputs of the elastic term."""
        values = [torch.as_tensor(value).to(context.dtype) for value in self.material.elastic.theta()]
        return [self.elements.inputs(X, self.elements.theta(values))]

    def deformation(self, state):
        """Deformation gradients F at the quadrature points (m q, d, d), differentiable."""
        G, _ = self.elements.rest(state.X)
        nodes = self.elements.elements.repeat_interleave(self.elements.points, 0)
        return torch.einsum("pai,paj->pij", state.x[nodes], G)

    def stress(self, state):
        """Cauchy stress sigma = P F^T / J at the quadrature points (m q, d, d) [Pa], differentiable."""
        F = self.deformation(state)
        return self.material.elastic.stress(F) @ F.transpose(1, 2) / torch.linalg.det(F)[:, None, None]
