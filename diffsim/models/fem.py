"""Finite elements of solids: tetrahedra, or triangles in plane strain."""

import numpy as np
import torch

from diffsim.errors import SceneError
from diffsim.geometry.solid import as_solid
from diffsim.kernels import constitutive
from diffsim.kernels.arrays import context
from diffsim.materials import LinearElastic, StableNeoHookean
from diffsim.materials.plastic_potential import Potential
from diffsim.materials.von_mises import Hardening
from diffsim.models.deformable import Deformable
from diffsim.models.elements import Elements
from diffsim.models.plastic_flow import PlasticFlow

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
        material: ``ds.Material`` with an elastic law of ``ds.materials`` that has an energy; or with ``Hencky`` and
            ``VonMises`` of the same E and nu, whose flow is solved for with the step (``plastic_flow``).
        options: ``dt`` [s], and those of ``Deformable``: integrator, gravity, prescribed, tractions, contact, ...

    Raises:
        SceneError: an option that does not fit; a material without an energy.
        MeshError: a broken mesh.
    """

    def __init__(self, mesh, material, **options):
        mesh = as_solid(mesh)
        super().__init__(torch.from_numpy(mesh.nodes), **options)
        law = material.elastic
        if material.viscous is not None or getattr(law, "own_map", None) is not None:
            raise SceneError("FEM takes elastic and von Mises materials; leave viscous out, and take a solid law")
        self.flow = PlasticFlow(material) if material.plastic is not None else None
        if not hasattr(getattr(law, "functions", None), "energy"):
            raise SceneError(f"FEM needs a law with an energy; {type(law).__name__} has none")
        self.mesh, self.material = mesh, material
        functions, plastic = (law.functions, None) if self.flow is None else (Potential, Hardening)
        self.elements = Elements(mesh.elements, mesh.dim, functions, len(mesh.nodes), plastic=plastic,
                                 invertible=isinstance(law, INVERTIBLE))  # fmt: skip
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

    def internals(self):
        """q of the rest state."""
        return super().internals() if self.flow is None else self.flow.start(self.elements, self.dim)

    def material_inputs(self, state, frozen):
        """Inputs of the elastic term, or of the potential of a plastic step."""
        if self.flow is None:
            return self.term_inputs(state.X)
        A, q = self.flow.split(state.q, self.dim)
        return [self.elements.inputs(state.X, self.flow.theta(self.elements, frozen), A=A, q=q)]

    def flowed(self, state, x, static=False):
        """q after a step to x, whether each point yields, and the number of nodes of elements that do."""
        if self.flow is None:
            return super().flowed(state, x, static)
        q, yields = self.flow.update(self.elements, state.q, self.deformation(state._replace(x=x)))
        return q, tuple(yields.tolist()), len(self.elements.topology.nodes[yields].unique())

    def footprint(self, state):
        """Bytes of a state, and of what one differentiated control step keeps: with flow also G A of every point."""
        own, kept = super().footprint(state)
        return own, kept + (0 if self.flow is None else self.substeps * 8 * 3 * self.elements.rest(self.X)[0].numel())

    def plastic_strain(self, state):
        """Accumulated plastic strain a at the quadrature points (m q,) of a plastic body."""
        if self.flow is None:
            raise SceneError("FEM: the material is not plastic; give ds.Material a plastic law")
        return state.q[:, -1]

    def deformation(self, state):
        """Deformation gradients F at the quadrature points (m q, d, d), differentiable."""
        G, _ = self.elements.rest(state.X)
        nodes = self.elements.elements.repeat_interleave(self.elements.points, 0)
        return torch.einsum("pai,paj->pij", state.x[nodes], G)

    def stress(self, state):
        """Cauchy stress sigma = P F^T / J at the quadrature points (m q, d, d) [Pa], differentiable."""
        F, theta = self.deformation(state), None
        J = torch.linalg.det(F)[:, None, None]
        q = F.new_ones(len(F), 1)
        if self.flow is not None:  # of the elastic part; flow keeps the volume
            A, q = self.flow.split(state.q, self.dim)
            F, theta = F @ A, self.flow.theta(self.elements, frozen=True)
        theta = self.theta() if theta is None else theta
        kind = torch.zeros(len(F), dtype=torch.int32)
        P = constitutive.stress(self.elements.laws, F, q, torch.zeros_like(F), theta, kind)
        return P @ F.transpose(1, 2) / J
