"""A return map that is learned: isotropic, aware of the volume, never gaining energy, and independent of dt."""

import math

import torch
from torch import nn

from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.kernels.log_strain import log_invariants
from diffsim.kernels.plasticity_network import Operator, return_map
from diffsim.materials.law import POSITIVE, hold
from diffsim.materials.plane_strain import in_plane, spatial


class PlasticityNetwork(nn.Module):
    """Viscoplastic return in the logarithmic strains eps of F_trial = U diag(exp eps) V^T, tr = sum eps, m = |dev eps|:

        tension   tr > T:       tr' = T + (tr - T) exp(-dt/t_v),          else tr' = tr
        shear     m > Y(tr'):   m'  = Y + (m - Y) exp(-dt/t_s),           else m' = m
        eps' = tr'/3 + (m'/m) dev,    F = U diag(exp eps') V^T

    Learned are the yield radius Y(tr) > 0, a perceptron with two hidden layers of softplus, the limit T > 0 of the
    volume's expansion, and the relaxation times t_v, t_s > 0. As these go to 0 the map becomes a perfect one: von
    Mises (Y constant), Drucker-Prager without dilation (Y falls with tr), a fluid (Y = 0); as they go to infinity,
    elasticity. Inside the surface F is returned to the last bit.

    For every value of the weights the map is objective and isotropic, keeps det F > 0 and, below T, the volume; half
    of dt twice is dt once where Y does not change with what tension takes. It is dissipative, psi(F) <= psi(F_trial),
    with every isotropic energy that grows along |dev eps| and along tr > 0, such as Hencky's. It depends on neither the
    third invariant nor history. On its corners, m = Y and tr = T, the elastic side counts. In 2-D: plane strain, q
    holds F33.

    Adjoint: kernels/plasticity_network.py.

    Args:
        strain: reference strain: Y starts near 0.7 of it, T at 0.1 of it, and Y sees tr/strain.
        time: t_v and t_s before training [s].
        width: neurons of the two hidden layers.
        seed: of the weights; None takes torch's generator.
    """

    pointwise = True  # the same for any order of the particles

    def __init__(self, *, strain=0.05, time=2e-3, width: int = 16, seed: int | None = None):
        super().__init__()
        if int(width) != width or width < 1:
            raise SceneError(f"PlasticityNetwork: width={width!r}; give a whole number of neurons, at least 1")
        self.width, self.time = int(width), float(time)
        hold(self, "strain", float(strain), POSITIVE)
        if not self.time > 0:
            raise SceneError(f"PlasticityNetwork: time={time!r}; give a positive relaxation time in seconds")
        generator = None if seed is None else torch.Generator().manual_seed(seed)

        def parameter(value):
            return nn.Parameter(torch.as_tensor(value, dtype=torch.float64).to(context.tensor_device, context.dtype))

        sizes = ((width, 1), (width, width), (1, width))
        weights = [nn.init.xavier_uniform_(torch.empty(*s, dtype=torch.float64), generator=generator) for s in sizes]
        self.W1, self.W2, self.w = parameter(weights[0]), parameter(weights[1]), parameter(0.1 * weights[2][0])
        b1 = torch.rand(width, generator=generator, dtype=torch.float64) - 0.5
        self.b1, self.b2, self.b3 = parameter(b1), parameter(torch.zeros(width)), parameter(0.0)
        self.log_T = parameter(math.log(0.1))
        self.log_t_v, self.log_t_s = parameter(0.0), parameter(0.0)

    def configuration(self) -> dict:
        """Arguments that build a law of the same shape."""
        return {"strain": self.strain.item(), "time": self.time, "width": self.width}

    def initial(self, n: int, d: int):
        """q (n, k): in 2-D F33 = 1, in 3-D nothing."""
        return torch.ones(n, 1 if d == 2 else 0, dtype=context.dtype, device=context.tensor_device)

    def limit(self):
        """T, the largest lasting tr."""
        return self.strain * self.log_T.exp()

    def operator(self, dt):
        """The map over dt as an operator of a spatial F, and the tensors that its adjoint has gradients of."""
        parameters = (self.log_T, self.log_t_v, self.log_t_s, self.W1, self.b1, self.W2, self.b2, self.w, self.b3)
        return Operator(float(self.strain), dt / self.time, *parameters), parameters

    def update(self, F_trial, q, L=None, dt=0.0):
        """(F, q) after a time dt [s]."""
        d = F_trial.shape[-1]
        _, parameters = self.operator(dt)
        F = return_map(spatial(F_trial, q), float(self.strain), dt / self.time, *parameters)
        if d == 3:
            return F, q
        return in_plane(F, d).contiguous(), torch.cat([F[:, 2, 2][:, None], q[:, 1:]], 1) if q.shape[1] else q

    @torch.no_grad()
    def branch(self, F_trial, q=None, dt=1.0):
        """1 where the map changes F, 0 where it leaves it, (n,) int32."""
        change, _ = self.operator(dt)[0].change(log_invariants(spatial(F_trial, q))[0])
        return ((change[:, 0] != 1) | (change[:, 1] != 0)).to(torch.int32)
