"""Sums over particles whose bits no number of threads changes, and the repetition that they are the adjoint of.

``torch.sum`` splits its work by the number of threads, also inside the backward of a broadcast. So a scalar that is
repeated over the particles goes through ``repeat``.

The kernel ``sum_rows`` has no adjoint kernel: it runs only inside adjoints, which are not differentiated again, and so
does ``reduce_rows``. ``ordered_sum`` is the adjoint of ``repeat``, and ``objectives.total`` makes it an operator.
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.kernels.arrays import Integers, Rows, launch
from diffsim.kernels.lang import ti


@ti.kernel
def sum_rows(values: Rows, target: Integers, total: Rows):
    """total[target[p]] += values[p], in the order of p; runs of one target are added up by 256, for accuracy in f32."""
    ti.loop_config(serialize=True)
    for j in range(values.shape[1]):
        chunk = 0.0
        row = target[0]
        for p in range(values.shape[0]):
            if target[p] != row or p % 256 == 0:
                total[row, j] = total[row, j] + chunk
                chunk = 0.0
                row = target[p]
            chunk += values[p, j]
        total[row, j] = total[row, j] + chunk


def reduce_rows(values, target, row_count):
    """Sum of values (n, k) by target row (n,), the same for any number of threads (torch.sum is not)."""
    total = values.new_zeros(row_count, values.shape[1])
    if values.numel():
        launch(sum_rows, values.contiguous(), target, total)
    return total


def ordered_sum(values):
    """Sum over the first axis by halving: additions of whole tensors, in an order that no thread count changes."""
    while values.shape[0] > 1:
        half = values.shape[0] // 2
        paired = values[:half] + values[half : 2 * half]
        values = torch.cat([paired, values[2 * half :]]) if values.shape[0] % 2 else paired
    return values[0]


class Repeat(torch.autograd.Function):
    """value -> (count, *value.shape); the adjoint is ``ordered_sum``."""

    @staticmethod
    def forward(ctx, value, count):
        return value.expand(count, *value.shape).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return ordered_sum(grad.contiguous()), None


def repeat(value, count):
    """A tensor for each of ``count`` particles, (count, *value.shape).

    Adjoint: grad_value = sum over the particles, in an order that no thread count changes.
    """
    return Repeat.apply(value, count)
