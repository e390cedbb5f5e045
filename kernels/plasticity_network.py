"""The learned return map as one operator of F, with its adjoint written out, in 3-D.

With (tr, m^2) of F_trial (log_strain.py), c_v = 1 - exp(-dt/t_v), c_s alike, and the yield radius Y of a perceptron,

    taken = c_v max(tr - T, 0),    u = tr - taken,    Y = strain sp(w . sp(W2 sp(W1 u/strain + b1) + b2) + b3),
    kappa = 1 - c_s (1 - Y/m) where m > Y, else 1,    shift = -taken/3,    F = log_return(F_trial, kappa, shift)

The adjoint takes the lines backwards; where m <= Y nothing reaches Y, where tr <= T nothing reaches T and t_v.
"""

import math

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from diffsim.kernels.arrays import alone, launch, unchanged
from diffsim.kernels.control_step import one_torch_thread
from diffsim.kernels.log_strain import invariants_adjoint, invariants_forward, return_adjoint, return_forward
from diffsim.kernels.network_inputs import factors_like


class Operator:
    """strain, and dt/time, the step in units of the reference time; the parameters log T, log t_v, log t_s, weights."""

    def __init__(self, strain, step, log_T, log_t_v, log_t_s, W1, b1, W2, b2, w, b3):
        self.like = (log_T, log_t_v, log_t_s, b3)
        self.strain, self.limit = strain, strain * math.exp(log_T.item())
        self.rates = [step * math.exp(-value.item()) for value in (log_t_v, log_t_s)]
        self.c_v, self.c_s = (-math.expm1(-rate) for rate in self.rates)
        self.weights = [weight.detach() for weight in (W1, b1, W2, b2, w, b3)]
        self.versions = [weight._version for weight in self.weights]

    def change(self, k):
        """(kappa, shift), (n, 2), of k = (tr, m^2), (n, 2), and what its adjoint needs."""
        W1, b1, W2, b2, w, b3 = self.weights
        tr, square = k.unbind(1)
        excess = (tr - self.limit).clamp_min(0)
        z = ((tr - self.c_v * excess) / self.strain)[:, None]
        a1 = torch.addmm(b1, z, W1.T)
        h1 = softplus(a1)
        a2 = torch.addmm(b2, h1, W2.T)
        h2 = softplus(a2)
        a3 = h2 @ w + b3
        Y = self.strain * softplus(a3)
        yields = square > Y * Y
        m = torch.where(yields, square, torch.ones_like(square)).sqrt()  # no root of zero where nothing depends on it
        over = torch.where(yields, 1 - Y / m, torch.zeros_like(m))
        change = torch.stack([1 - self.c_s * over, excess * (-self.c_v / 3)], 1)
        return change, (excess, z, a1, h1, a2, h2, a3, Y, m, yields, over)

    def grad_change(self, on_change, kept, learn):
        """Gradients of k, log T, log t_v, log t_s and the weights; None for the rest unless ``learn``."""
        W1, _b1, W2, _b2, w, _b3 = self.weights
        excess, z, a1, h1, a2, h2, a3, Y, m, yields, over = kept
        on_kappa, on_shift = on_change.unbind(1)
        on_yield = torch.where(yields, self.c_s * on_kappa / m, torch.zeros_like(m))
        on_a3 = self.strain * on_yield * torch.sigmoid(a3)
        on_a2 = on_a3[:, None] * w * torch.sigmoid(a2)
        on_a1 = on_a2 @ W2 * torch.sigmoid(a1)
        on_u = (on_a1 @ W1)[:, 0] / self.strain
        on_taken = on_shift * (-1 / 3) - on_u
        on_excess = torch.where(excess > 0, self.c_v * on_taken, torch.zeros_like(m))
        on_k = torch.stack([on_u + on_excess, -0.5 * on_yield * Y / (m * m)], 1)
        if not learn:
            return on_k, *[None] * 9
        slopes = [-rate * math.exp(-rate) for rate in self.rates]  # dc/d log t
        scalars = (
            -self.limit * on_excess.sum(),
            slopes[0] * torch.dot(on_taken, excess),
            -slopes[1] * torch.dot(on_kappa, over),
            on_a3.sum(),
        )
        log_T, log_t_v, log_t_s, b3 = (
            v.to(like.dtype).reshape(like.shape) for v, like in zip(scalars, self.like, strict=True)
        )
        weights = (on_a1.T @ z, on_a1.sum(0), on_a2.T @ h1, on_a2.sum(0), on_a3 @ h2)
        return on_k, log_T, log_t_v, log_t_s, *weights, b3

    def forward(self, F):
        """F after the map (n, 3, 3), and what the adjoint needs."""
        k, factors, F_new = F.new_empty(len(F), 2), factors_like(F), torch.empty_like(F)
        launch(invariants_forward, F, factors, k, alone(F))
        change, kept = self.change(k)
        launch(return_forward, F, factors, change, F_new, alone(F))
        return F_new, (factors, change, *kept)

    def adjoint(self, grad_F_new, kept, learn):
        """Gradients of F and of the parameters, in the order of the constructor; None for them unless ``learn``."""
        unchanged(self.weights, self.versions)
        factors, change, *kept = kept
        grad_F, more, on_change = torch.empty_like(grad_F_new), torch.empty_like(grad_F_new), torch.empty_like(change)
        launch(return_adjoint, grad_F_new, factors, change, grad_F, on_change, alone(grad_F))
        on_k, *found = self.grad_change(on_change, kept, learn)
        launch(invariants_adjoint, on_k, factors, more, alone(more))
        return grad_F.add_(more), *found


class ReturnMap(torch.autograd.Function):
    @staticmethod
    @one_torch_thread()
    def forward(ctx, F, strain, step, *parameters):
        ctx.operator = Operator(strain, step, *(parameter.detach() for parameter in parameters))
        F_new, kept = ctx.operator.forward(F)
        ctx.save_for_backward(*kept)
        return F_new

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx, grad_F_new):
        learn = any(ctx.needs_input_grad[3:])
        grad_F, *found = ctx.operator.adjoint(grad_F_new.contiguous(), ctx.saved_tensors, learn)
        return grad_F, None, None, *found


def return_map(F, strain: float, step: float, log_T, log_t_v, log_t_s, W1, b1, W2, b2, w, b3):
    """F (n, 3, 3) after the map, of F_trial (n, 3, 3), det F > 0; see above."""
    return ReturnMap.apply(F.contiguous(), strain, step, log_T, log_t_v, log_t_s, W1, b1, W2, b2, w, b3)
