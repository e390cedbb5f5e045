"""Von Mises flow of finite elements: the internal variables of the quadrature points, and their step.

The elastic deformation is F A, A being the inverse of the plastic one. A step with the trial state F(x) A_t takes the
potential of ``materials.plastic_potential`` (which gives x), then the return map,

    F_e = map(F(x) A_t),    A = F(x)^-1 F_e,

so that the stress of the step is that of Hencky's law at F_e. Rows of q: A (d d), F33 of the elastic part (1 in 3-D),
and the accumulated plastic strain a. Source: multiplicative plasticity with a return map in logarithmic strains, as the
material point method here has it (``materials.VonMises``), in rest coordinates.
"""

import torch
from torch import Tensor

from diffsim.errors import SceneError
from diffsim.kernels import constitutive
from diffsim.materials import Hencky, VonMises


class PlasticFlow:
    """The plastic part of a material of ``FEM``.

    Raises:
        SceneError: other laws than Hencky's with von Mises', or with moduli of their own each.
    """

    def __init__(self, material):
        elastic, plastic = material.elastic, material.plastic
        if not isinstance(elastic, Hencky) or not isinstance(plastic, VonMises):
            raise SceneError(
                f"FEM: plastic={type(plastic).__name__} beside {type(elastic).__name__}; give VonMises beside Hencky"
            )
        for name in ("E", "nu"):
            one, other = getattr(elastic, name), getattr(plastic, name)
            learned = isinstance(one, torch.nn.Parameter) or isinstance(other, torch.nn.Parameter)
            if one is not other and (learned or not torch.equal(one, other)):
                raise SceneError(f"FEM: Hencky and VonMises have another {name} each; pass both the same one")
        self.material = material

    def theta(self, elements, frozen: bool) -> Tensor:
        """(mu, lam, yield radius, hardening) of the potential, and (mu, radius, hardening) of the map, (m q, 7).

        frozen: with an infinite yield stress, so that nothing flows.
        """
        mu, lam = (torch.as_tensor(value).to(torch.float64) for value in self.material.elastic.theta())
        radius, hardening = self.material.plastic.theta()[1], self.material.plastic.theta()[2:]
        hardening = hardening[0] if hardening else torch.zeros((), dtype=torch.float64)
        if frozen:
            radius = torch.full_like(radius, torch.inf)
        return elements.theta([mu, lam, radius, hardening, mu, radius, hardening])

    @staticmethod
    def start(elements, dim: int) -> Tensor:
        """q of the rest state (m q, 6 in 2-D or 10 in 3-D)."""
        row = [*torch.eye(dim).reshape(-1).tolist(), *([1.0] if dim == 2 else []), 0.0]
        return torch.tensor(row, dtype=torch.float64).repeat(elements.count * elements.points, 1)

    @staticmethod
    def split(q: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """A (m q, d, d), and what the law takes: F33 and a (m q, 2)."""
        A, own = q[:, : dim * dim].reshape(-1, dim, dim), q[:, dim * dim :]
        return A, own.contiguous() if dim == 2 else torch.cat([torch.ones_like(own), own], 1)

    def update(self, elements, q: Tensor, F: Tensor) -> tuple[Tensor, Tensor]:
        """q after a step to the deformation F (m q, d, d), and where it flowed (m q,) bool."""
        dim = F.shape[-1]
        A, own = self.split(q, dim)
        theta, trial = self.theta(elements, False), F @ A
        kind = torch.zeros(len(F), dtype=torch.int32)
        yields = constitutive.branch(elements.laws, trial.detach(), own.detach(), theta.detach(), kind) == 1
        flowed, own = constitutive.update(elements.laws, trial, own, theta, kind)
        # where nothing flows A stays as it is, to the last bit
        A = torch.where(yields[:, None, None], torch.linalg.solve(F, flowed), A)
        return torch.cat([A.reshape(len(A), -1), own if dim == 2 else own[:, 1:]], 1), yields
