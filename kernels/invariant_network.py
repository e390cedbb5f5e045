"""The constitutive networks of NCLaw as one operator: Y = base F + scale R sym(X), X a perceptron of invariants of F.

The parts and their adjoints are those of network_inputs.py and perceptron.py; see there for the corner at equal
singular values. Nothing but F, the decomposition and the layers is kept for the adjoint.

Source: Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369.
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.kernels import network_inputs, perceptron
from diffsim.kernels.control_step import one_torch_thread


def forward(F, base, scale, weights):
    """Y (n, d, d), and what the adjoint needs. scale: a number."""
    z, factors = network_inputs.inputs(F)
    X, layers = perceptron.forward(z, *weights)
    scaled = X * scale
    return network_inputs.head(scaled, F, factors, base), (F, factors, scaled, *layers)


def adjoint(grad_Y, kept, base, scale, weights, *, learn=True):
    """Gradients of F, of scale (a number tensor), and of the three weights; None for the last four unless ``learn``."""
    F, factors, scaled, *layers = kept
    grad_scaled, grad_F = network_inputs.grad_head(grad_Y, scaled, factors, base)
    grad_scale = (grad_scaled * scaled).sum() / scale if learn else None
    grad_z, *grad_weights = perceptron.adjoint(grad_scaled.mul_(scale), layers, *weights, weights=learn)
    network_inputs.grad_inputs(grad_z, F, factors, grad_F)
    return grad_F, grad_scale, *grad_weights


class InvariantNetwork(torch.autograd.Function):
    @staticmethod
    @one_torch_thread()
    def forward(ctx, F, base, scale, *weights):
        ctx.base, ctx.scale = base, scale.item()
        Y, kept = forward(F, base, ctx.scale, weights)
        ctx.save_for_backward(*kept, *weights)
        ctx.like = scale
        return Y

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx, grad_Y):
        *kept, W1, W2, W3 = ctx.saved_tensors
        learn = any(ctx.needs_input_grad[2:])
        grad_F, grad_scale, *grad_weights = adjoint(
            grad_Y.contiguous(), kept, ctx.base, ctx.scale, (W1, W2, W3), learn=learn
        )
        grad_scale = None if grad_scale is None else grad_scale.to(ctx.like.dtype).reshape(ctx.like.shape)
        return grad_F, None, grad_scale, *grad_weights


def invariant_network(F, base: float, scale, W1, W2, W3):
    """Y = base F + scale R sym(X(z)) per particle, (n, d, d).

    Args:
        F: deformation gradient (n, d, d), det F > 0.
        base: 0 for a stress, 1 for a correction of F.
        scale: number tensor, not zero.
        W1, W2, W3: weights (64, d + d^2 + 1), (64, 64), (d^2, 64), or of another width.
    """
    return InvariantNetwork.apply(F.contiguous(), base, scale, W1, W2, W3)
