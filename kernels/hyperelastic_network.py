"""The stress of a learned isotropic energy as one operator of F, with its adjoint written out, in 3-D.

    k = invariants of F (strain_invariants.py),    z = z(k),
    s = dN/dz (energy_network.py), less its value at rest by z_3,
    g = scale [s dz/dk + (a, 0, b (J^2 - 1))/2],    P = sum_a g_a dk_a/dF

Adjoint, with g_bar and a part of F_bar from that of P: s_bar = scale g_bar dz/dk; z_bar and the weights' from
that of the slope; k_bar = z_bar dz/dk + scale g_bar (s d2z/dk2 + (0, 0, b J^2)); and the
invariants' for the rest of F_bar.
"""

import math

import torch
from torch.autograd.function import once_differentiable

from diffsim.kernels import energy_network
from diffsim.kernels.arrays import alone, launch, unchanged
from diffsim.kernels.control_step import one_torch_thread
from diffsim.kernels.strain_invariants import invariants_forward, stress_adjoint, stress_forward


def inputs(k, polyconvex: bool):
    """z (n, 3) of the invariants k (n, 3), dz_a/dk_a and d2z_a/dk_a^2."""
    if polyconvex:
        root, J = (k[:, 1] + 3).sqrt(), k[:, 2].exp()
        one = torch.ones_like(J)
        z = torch.stack([k[:, 0], root**3 - 3 * math.sqrt(3), torch.expm1(k[:, 2])], 1)
        return z, torch.stack([one, 1.5 * root, J], 1), torch.stack([0 * one, 0.75 / root, J], 1)
    z, dz, ddz = k.clone(), torch.ones_like(k), torch.zeros_like(k)
    thirds = k[:, :2] / 3
    z[:, :2] = 3 * torch.log1p(thirds)
    inverse = 1 / (1 + thirds)
    dz[:, :2] = inverse
    ddz[:, :2] = -inverse * inverse / 3
    return z, dz, ddz


class Operator:
    """Scale, log a, log b and the weights W1, b1, W2, b2, w that the network uses."""

    def __init__(self, polyconvex, scale, log_a, log_b, *weights):
        self.polyconvex, self.weights = polyconvex, [weight.detach() for weight in weights]
        self.versions = [weight._version for weight in self.weights]
        self.like = (scale, log_a, log_b)
        self.scale, self.a, self.b = scale.item(), math.exp(log_a.item()), math.exp(log_b.item())

    def forward(self, F):
        """P (n, 3, 3), and what the adjoint needs."""
        k = F.new_empty(len(F), 3)
        launch(invariants_forward, F, k, alone(F))
        z, dz, ddz = inputs(k, self.polyconvex)
        s, kept = energy_network.forward(torch.cat([z, torch.zeros_like(z[:1])]), *self.weights)
        rest, s = s[-1, 2], s[:-1]
        s[:, 2] -= rest
        volume = torch.expm1(2 * k[:, 2])
        g = s * dz
        g[:, 0] += 0.5 * self.a
        g[:, 2] += 0.5 * self.b * volume
        g *= self.scale
        P = torch.empty_like(F)
        launch(stress_forward, g, F, P, alone(F))
        return P, (F, dz, ddz, s, volume, g, *kept)

    def adjoint(self, grad_P, kept, learn):
        """Gradients of F, scale, log a, log b and the weights; None for the rest unless ``learn``."""
        unchanged(self.weights, self.versions)
        F, dz, ddz, s, volume, g, *kept = kept
        on_g, grad_F, more = torch.empty_like(g), torch.empty_like(F), torch.empty_like(F)
        launch(stress_adjoint, grad_P, g, F, on_g, grad_F, alone(F))
        on_bracket = self.scale * on_g
        on_s = on_bracket * dz
        on_s = torch.cat([on_s, torch.zeros_like(on_s[:1])])
        on_s[-1, 2] = -on_s[:-1, 2].sum()
        on_z, *on_weights = energy_network.adjoint(on_s, kept, *self.weights[::2], learn=learn)
        on_k = on_z[:-1] * dz + on_bracket * (s * ddz)
        on_k[:, 2] += self.b * on_bracket[:, 2] * (1 + volume)
        launch(stress_forward, on_k, F, more, alone(F))
        grad_F += more
        if not learn:
            return grad_F, None, None, None, *on_weights
        scalars = (
            torch.dot(on_g.reshape(-1), g.reshape(-1)) / self.scale,
            0.5 * self.a * on_bracket[:, 0].sum(),
            0.5 * self.b * torch.dot(on_bracket[:, 2], volume),
        )
        scalars = [value.to(like.dtype).reshape(like.shape) for value, like in zip(scalars, self.like, strict=True)]
        return grad_F, *scalars, *on_weights


class HyperelasticStress(torch.autograd.Function):
    @staticmethod
    @one_torch_thread()
    def forward(ctx, F, polyconvex, *parameters):
        ctx.operator = Operator(polyconvex, *(parameter.detach() for parameter in parameters))
        P, kept = ctx.operator.forward(F)
        ctx.save_for_backward(*kept)
        return P

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx, grad_P):
        learn = any(ctx.needs_input_grad[2:])
        grad_F, *found = ctx.operator.adjoint(grad_P.contiguous(), ctx.saved_tensors, learn)
        return grad_F, None, *found


def hyperelastic_stress(F, polyconvex: bool, scale, log_a, log_b, W1, b1, W2, b2, w):
    """P (n, 3, 3) of F (n, 3, 3), det F > 0; see above."""
    return HyperelasticStress.apply(F.contiguous(), polyconvex, scale, log_a, log_b, W1, b1, W2, b2, w)
