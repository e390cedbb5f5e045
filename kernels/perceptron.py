"""A small perceptron without biases, batched over particles: y = W3 gelu(W2 gelu(W1 z)), and its adjoint.

gelu(a) = a Phi(a), Phi the normal distribution function, exact (erf). The products are torch's, which measured faster
than loops in kernels (86 GFLOP/s on one core for 64 x 64 weights). On one torch thread: for a few thousand particles
waking others costs more than they do, and sums over particles do not depend on their number.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu

from diffsim.kernels.control_step import one_torch_thread


def forward(z, W1, W2, W3):
    """y (n, outputs) from z (n, inputs), and what the adjoint needs."""
    a1 = z @ W1.T
    h1 = gelu(a1)
    a2 = h1 @ W2.T
    h2 = gelu(a2)
    return h2 @ W3.T, (z, a1, h1, a2, h2)


def adjoint(grad_y, kept, W1, W2, W3, *, inputs=True, weights=True):
    """Gradients of z and of the three weights; None for what is not wanted."""
    z, a1, h1, a2, h2 = kept
    grad_a2 = torch.ops.aten.gelu_backward(grad_y @ W3, a2)
    grad_a1 = torch.ops.aten.gelu_backward(grad_a2 @ W2, a1)
    grad_z = grad_a1 @ W1 if inputs else None
    if not weights:
        return grad_z, None, None, None
    return grad_z, grad_a1.T @ z, grad_a2.T @ h1, grad_y.T @ h2


class Perceptron(torch.autograd.Function):
    @staticmethod
    @one_torch_thread()
    def forward(ctx, z, W1, W2, W3):
        y, kept = forward(z, W1, W2, W3)
        ctx.save_for_backward(*kept, W1, W2, W3)
        return y

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx, grad_y):
        *kept, W1, W2, W3 = ctx.saved_tensors
        return adjoint(grad_y, kept, W1, W2, W3)


def perceptron(z, W1, W2, W3):
    """y = W3 gelu(W2 gelu(W1 z)) for each row of z (n, inputs); zero where z is zero.

    Adjoint: with a1 = W1 z, a2 = W2 gelu(a1), back through W3, gelu'(a2), W2, gelu'(a1), W1; of each weight the sum
    over particles of the outer product of what arrives behind it and what entered it.
    """
    return Perceptron.apply(z, W1, W2, W3)
