"""The slope of a scalar perceptron, N(z) = w . sp(W2 sp(W1 z + b1) + b2), sp(a) = log(1 + exp a), and its adjoint.

    a1 = W1 z + b1,  s1 = sp'(a1),  a2 = W2 sp(a1) + b2,  s2 = sp'(a2),    dN/dz = W1^T (s1 (W2^T (w s2)))

With sp'' = sp'(1 - sp'), the adjoint follows the line backwards and adds what reaches a2 and a1 through the slopes. It
is written out here since the gradient of a gradient is what torch does slowest. N is convex where W2, w >= 0, and grows
with those inputs whose column of W1 is not negative as well.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from diffsim.kernels.control_step import one_torch_thread


def value(z, W1, b1, W2, b2, w):
    """N(z), (n,): differentiated by torch."""
    return softplus(softplus(z @ W1.T + b1) @ W2.T + b2) @ w


def forward(z, W1, b1, W2, b2, w):
    """dN/dz (n, inputs), and what the adjoint needs."""
    a1 = torch.addmm(b1, z, W1.T)
    h1, s1 = softplus(a1), torch.sigmoid(a1)
    s2 = torch.sigmoid(torch.addmm(b2, h1, W2.T))
    g2 = w * s2
    u1 = g2 @ W2
    g1 = u1 * s1
    return g1 @ W1, (z, h1, s1, s2, g2, u1, g1)


def adjoint(grad, kept, W1, W2, w, *, learn=True):
    """Gradients of z, W1, b1, W2, b2 and w; None for the last five unless ``learn``."""
    z, h1, s1, s2, g2, u1, g1 = kept
    on_g1 = grad @ W1.T
    on_u1 = on_g1 * s1
    on_g2 = on_u1 @ W2.T
    on_a2 = on_g2 * g2 * (1 - s2)
    on_a1 = (on_a2 @ W2 + on_g1 * u1 * (1 - s1)) * s1
    if not learn:
        return on_a1 @ W1, None, None, None, None, None
    grad_W1 = g1.T @ grad + on_a1.T @ z
    grad_W2 = g2.T @ on_u1 + on_a2.T @ h1
    return on_a1 @ W1, grad_W1, on_a1.sum(0), grad_W2, on_a2.sum(0), (on_g2 * s2).sum(0)


class Slope(torch.autograd.Function):
    @staticmethod
    @one_torch_thread()
    def forward(ctx, z, W1, b1, W2, b2, w):
        result, kept = forward(z, W1, b1, W2, b2, w)
        ctx.save_for_backward(*kept, W1, W2, w)
        return result

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx, grad):
        *kept, W1, W2, w = ctx.saved_tensors
        return adjoint(grad, kept, W1, W2, w)


def slope(z, W1, b1, W2, b2, w):
    """dN/dz (n, inputs) of z (n, inputs). Weights: (width, inputs), (width,), (width, width), (width,), (width,)."""
    return Slope.apply(z, W1, b1, W2, b2, w)
