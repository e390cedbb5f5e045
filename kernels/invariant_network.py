"""The constitutive networks of NCLaw as one operator: Y = base F + scale R sym(X), X a perceptron of invariants of F.

The parts and their adjoints are those of network_inputs.py and perceptron.py; see there for the corner at equal
singular values. Nothing but F, the decomposition and the layers is kept for the adjoint.

Source: Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369.
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.kernels import network_inputs, perceptron
from diffsim.kernels.arrays import unchanged
from diffsim.kernels.control_step import one_torch_thread


class Operator:
    """The network with its weights: for steps that call it without torch's graph, and for the Function below."""

    def __init__(self, base, scale, W1, W2, W3):
        self.base, self.scale, self.weights = base, scale, [W.detach() for W in (W1, W2, W3)]
        self.number = scale.item()
        self.versions = [weight._version for weight in self.weights]

    def forward(self, F):
        """Y (n, d, d), and what the adjoint needs."""
        z, factors = network_inputs.inputs(F)
        X, layers = perceptron.forward(z, *self.weights)
        X.mul_(self.number)
        return network_inputs.head(X, F, factors, self.base), (F, factors, X, *layers)

    def adjoint(self, grad_Y, kept, learn):
        """Gradients of F, of the scale and of the three weights; None for the last four unless ``learn``."""
        unchanged(self.weights, self.versions)
        F, factors, X, *layers = kept
        grad_X, grad_F = network_inputs.grad_head(grad_Y, X, factors, self.base)
        grad_scale = None
        if learn:
            total = torch.dot(grad_X.reshape(-1), X.reshape(-1)) / self.number
            grad_scale = total.to(self.scale.dtype).reshape(self.scale.shape)
        grad_z, *grad_weights = perceptron.adjoint(grad_X.mul_(self.number), layers, *self.weights, weights=learn)
        network_inputs.grad_inputs(grad_z, F, factors, grad_F)
        return grad_F, grad_scale, *grad_weights


class InvariantNetwork(torch.autograd.Function):
    @staticmethod
    @one_torch_thread()
    def forward(ctx, F, base, scale, *weights):
        ctx.operator = Operator(base, scale.detach(), *weights)
        Y, kept = ctx.operator.forward(F)
        ctx.save_for_backward(*kept)
        return Y

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx, grad_Y):
        learn = any(ctx.needs_input_grad[2:])
        grad_F, *found = ctx.operator.adjoint(grad_Y.contiguous(), ctx.saved_tensors, learn)
        return grad_F, None, *found


def invariant_network(F, base: float, scale, W1, W2, W3):
    """Y = base F + scale R sym(X(z)) per particle, (n, d, d).

    Args:
        F: deformation gradient (n, d, d), det F > 0.
        base: 0 for a stress, 1 for a correction of F.
        scale: number tensor, not zero.
        W1, W2, W3: weights (64, d + d^2 + 1), (64, 64), (d^2, 64), or of another width.
    """
    return InvariantNetwork.apply(F.contiguous(), base, scale, W1, W2, W3)
