"""An isotropic elastic law whose energy is learned; the stress is its exact gradient."""

import math

import torch
from torch import nn
from torch.nn.functional import softplus

from diffsim.errors import SceneError
from diffsim.kernels import energy_network
from diffsim.kernels.arrays import context
from diffsim.kernels.hyperelastic_network import Operator, hyperelastic_stress, inputs
from diffsim.kernels.strain_invariants import strain_invariants
from diffsim.materials.law import POISSON, POSITIVE, hold, lame
from diffsim.materials.plane_strain import in_plane, spatial


class HyperelasticNetwork(nn.Module):
    """psi = scale [a k1/2 + b (J^2 - 1 - 2 log J)/4 + N(z) - N(0) - N_3(0) z_3],   P = d psi/dF.

    k1 = J^(-2/3) tr C - 3, k2 = J^(-4/3) tr cof C - 3, C = F^T F, J = det F; a, b > 0 are learned, and so is the
    perceptron N with two hidden layers of softplus; N_3 is its slope by its third input. The inputs are

        z = (3 log(1 + k1/3), 3 log(1 + k2/3), log J)                   or, when polyconvex,
        z = (k1, (k2 + 3)^(3/2) - 3 sqrt(3), J - 1)                     with W2, w and W1's first columns >= 0.

    For every value of the weights the law is objective and isotropic (k1, k2, J are invariants on both sides), tau =
    P F^T is symmetric, there is an energy, and rest is free of both: k1 and k2 are stationary at F = I, and the last
    term takes away the slope by J. The second form is polyconvex: |F|^2 J^(-2/3) and |cof F|^3 J^-2 are convex in (F,
    J) and (cof F, J), since |A|^p/J^q is where p >= q + 1; N is convex and grows with both; J^2 - 1 - 2 log J and -J
    are convex. It is smooth for det F > 0, equal stretches and F = I among them. In 2-D: plane strain, F33 = 1.

    Adjoint: kernels/hyperelastic_network.py.

    Args:
        E [Pa], nu: the law before training: the reference part with the shear and bulk modulus of these. scale is the
            shear modulus.
        width: neurons of the two hidden layers.
        polyconvex: which inputs.
        seed: of the weights; None takes torch's generator.
    """

    pointwise = True  # the same for any order of the particles

    def __init__(self, E=1e5, nu=0.3, *, width: int = 32, polyconvex: bool = False, seed: int | None = None):
        super().__init__()
        if int(width) != width or width < 1:
            raise SceneError(f"HyperelasticNetwork: width={width!r}; give a whole number of neurons, at least 1")
        own = nn.Module()  # only for the checks of ``hold``
        for name, value, limit, unit in (("E", E, POSITIVE, " Pa"), ("nu", nu, POISSON, "")):
            hold(own, name, float(value), limit, unit)
        mu, lam = (float(value) for value in lame(own.E, own.nu))
        self.E, self.nu, self.width, self.polyconvex = float(E), float(nu), int(width), bool(polyconvex)
        hold(self, "scale", mu, POSITIVE, " Pa")
        generator = None if seed is None else torch.Generator().manual_seed(seed)

        def parameter(value):
            return nn.Parameter(torch.as_tensor(value, dtype=torch.float64).to(context.tensor_device, context.dtype))

        self.log_a = parameter(0.0)
        self.log_b = parameter(math.log(lam / mu + 2 / 3))
        W1, W2 = torch.empty(width, 3, dtype=torch.float64), torch.empty(width, width, dtype=torch.float64)
        w = torch.empty(1, width, dtype=torch.float64)
        for weight in (W1, W2, w):
            nn.init.xavier_uniform_(weight, generator=generator)
        b1 = torch.rand(width, generator=generator, dtype=torch.float64) - 0.5
        if polyconvex:  # what ``weights`` makes positive starts small, so that the reference part rules
            W1[:, :2] -= 3
            W2 -= 4
            w -= 4
        else:
            w *= 0.1
        self.W1, self.b1, self.W2 = parameter(W1), parameter(b1), parameter(W2)
        self.b2, self.w = parameter(torch.zeros(width)), parameter(w[0])

    def configuration(self) -> dict:
        """Arguments that build a law of the same shape."""
        return {"E": self.E, "nu": self.nu, "width": self.width, "polyconvex": self.polyconvex}

    def modulus(self):
        """P-wave modulus at rest of the reference part [Pa], lam + 2 mu."""
        return self.scale * (self.log_b.exp() + 4 / 3 * self.log_a.exp())

    def weights(self):
        """W1, b1, W2, b2, w as the network uses them."""
        if not self.polyconvex:
            return self.W1, self.b1, self.W2, self.b2, self.w
        W1 = torch.cat([softplus(self.W1[:, :2]), self.W1[:, 2:]], 1)
        return W1, self.b1, softplus(self.W2), self.b2, softplus(self.w)

    def operator(self, dt=None):
        """The law as an operator of a spatial F, and the tensors that its adjoint has gradients of, in their order."""
        parameters = (self.scale, self.log_a, self.log_b, self.W1, self.b1, self.W2, self.b2, self.w)
        if self.polyconvex:  # its weights are functions of the parameters, which torch differentiates
            return None
        return Operator(False, *parameters), parameters

    def energy(self, F, q=None):
        """Energy density psi (n,) [J/m^3]."""
        k = strain_invariants(spatial(F, q))
        z = inputs(k, self.polyconvex)[0]
        weights = self.weights()
        both = energy_network.value(torch.cat([z, torch.zeros_like(z[:1])]), *weights)
        rest = energy_network.slope(torch.zeros_like(z[:1]), *weights)[0, 2]
        learned = both[:-1] - both[-1] - rest * z[:, 2]
        volume = torch.expm1(2 * k[:, 2]) - 2 * k[:, 2]
        return self.scale.to(k.dtype) * (learned + 0.5 * self.log_a.exp() * k[:, 0] + 0.25 * self.log_b.exp() * volume)

    def stress(self, F, q=None, L=None):
        """First Piola-Kirchhoff stress P = d psi/dF, (n, d, d) [Pa]. q: in 2-D F33 first when not empty."""
        whole = spatial(F, q)
        parameters = (self.scale, self.log_a, self.log_b, *self.weights())
        return in_plane(hyperelastic_stress(whole, self.polyconvex, *parameters), F.shape[-1])
