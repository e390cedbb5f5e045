"""Finite elements of solids: tetrahedra, or triangles in plane strain."""

import numpy as np
import torch

from diffsim.errors import SceneError
from diffsim.geometry.solid import as_solid
from diffsim.kernels import constitutive
from diffsim.kernels.arrays import context
from diffsim.materials import LinearElastic, StableNeoHookean
from diffsim.models.deformable import Deformable
from diffsim.models.elements import Elements

INVERTIBLE = (LinearElastic, StableNeoHookean)  # laws that are smooth for all F


def flat_faces(faces, dim: int):
    """Linear faces (f, d) of linear or quadratic ones, which are cut at their midpoints."""
    if faces.shape[1] == dim:
        return faces
    cuts = [(0, 2), (2, 1)] if dim == 2 else [(0, 3, 5), (3, 1, 4), (5, 4, 2), (3, 4, 5)]
    return np.concatenate([faces[:, list(cut)] for cut in cuts])


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
        options: ``dt`` [s], and those of ``Deformable``: integrator, gravity, prescribed, tractions, contact, ...

    Raises:
        SceneError: an option that does not fit; a material without an energy.
        MeshError: a broken mesh.
    """

    def __init__(self, mesh, material, **options):
        mesh = as_solid(mesh)
        super().__init__(torch.from_numpy(mesh.nodes), **options)
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
        self._finish(flat_faces(mesh.surface(), mesh.dim))

    def nodal(self, X):
        """Masses and weights of loads per unit mass, (n,) each [kg]."""
        return self.elements.nodal(X, torch.as_tensor(self.material.density))

    def term_inputs(self, X):
        """Inputs of the elastic term."""
        return [self.elements.inputs(X, self.theta())]

    def theta(self):
        """Parameters of the law at the quadrature points (m q, parameters)."""
        return self.elements.theta([torch.as_tensor(v).to(context.dtype) for v in self.material.elastic.theta()])

    def deformation(self, state):
        """Deformation gradients F at the quadrature points (m q, d, d), differentiable."""
        G, _ = self.elements.rest(state.X)
        nodes = self.elements.elements.repeat_interleave(self.elements.points, 0)
        return torch.einsum("pai,paj->pij", state.x[nodes], G)

    def stress(self, state):
        """Cauchy stress sigma = P F^T / J at the quadrature points (m q, d, d) [Pa], differentiable."""
        F = self.deformation(state)
        kind = torch.zeros(len(F), dtype=torch.int32)
        P = constitutive.stress(self.elements.laws, F, F.new_ones(len(F), 1), torch.zeros_like(F), self.theta(), kind)
        return P @ F.transpose(1, 2) / torch.linalg.det(F)[:, None, None]
