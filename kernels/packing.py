"""Between the user's arrays and the rows that a control step works on: one pass over the particles, in parallel.

    pack    packed[p] = (x, v, C, F, q)[order[p]]        unpack    (x, v, C, F, q)[order[p]] = packed[p]

There are no adjoint kernels, though both are differentiable: each is the adjoint of the other, since ``order`` is a
permutation. ``label_particles`` is differentiable in volume and density too, and has no adjoint kernel either: it
brings the properties that a substep reads into the same order, and its adjoint, a product or two per particle, is in
``ControlStep.backward``, where gradients are in the user's order.
"""

import torch

from diffsim.kernels.arrays import IntegerRows, Integers, Rows, Scalars, context, launch
from diffsim.kernels.lang import ti


@ti.kernel
def pack_rows(
    x: Rows, v: Rows, C: Rows, F: Rows, q: Rows, order: Integers, packed: Rows, internals: int, dim: ti.template()
):
    for p in range(order.shape[0]):
        i = order[p]
        for a in ti.static(range(dim)):
            packed[p, a] = x[i, a]
            packed[p, dim + a] = v[i, a]
        for a in ti.static(range(dim * dim)):
            packed[p, 2 * dim + a] = C[i, a]
            packed[p, 2 * dim + dim * dim + a] = F[i, a]
        for j in range(internals):
            packed[p, 2 * dim + 2 * dim * dim + j] = q[i, j]


@ti.kernel
def unpack_rows(
    packed: Rows, order: Integers, x: Rows, v: Rows, C: Rows, F: Rows, q: Rows, internals: int, dim: ti.template()
):
    for p in range(order.shape[0]):
        i = order[p]
        for a in ti.static(range(dim)):
            x[i, a] = packed[p, a]
            v[i, a] = packed[p, dim + a]
        for a in ti.static(range(dim * dim)):
            C[i, a] = packed[p, 2 * dim + a]
            F[i, a] = packed[p, 2 * dim + dim * dim + a]
        for j in range(internals):
            q[i, j] = packed[p, 2 * dim + 2 * dim * dim + j]


@ti.kernel
def label_particles(
    volume: Scalars, theta: Rows, laws: IntegerRows, tile: Integers, order: Integers, particles: Rows,
    labels: IntegerRows,
):  # fmt: skip
    for p in range(order.shape[0]):
        i = order[p]
        row = laws[i, 0]
        particles[p, 0] = theta[row, theta.shape[1] - 1] * volume[i]
        particles[p, 1] = volume[i]
        labels[p, 0] = tile[p]
        labels[p, 1] = row
        labels[p, 2] = laws[i, 1]


def width(dim, internals):
    """Columns of a packed state."""
    return 2 * dim + 2 * dim * dim + internals


def pack(x, v, C, F, q, order, packed):
    """Write the rows ``packed`` (n, width) of a state or of its gradient, in the order of ``order`` (n,) int32."""
    dim, internals = x.shape[1], q.shape[1]
    x, v, C, F, q = (part.contiguous() for part in (x, v, C, F, q))
    # an array without columns has no memory that every backend would take
    launch(pack_rows, x, v, C.flatten(1), F.flatten(1), q if internals else x, order, packed, internals, dim)
    return packed


def unpack(packed, order, dim):
    """The tensors x, v, C, F, q of packed rows, in the user's order; each has memory of its own."""
    count, internals = packed.shape[0], packed.shape[1] - width(dim, 0)

    def fresh(*shape):
        return torch.empty(count, *shape, dtype=context.dtype, device=context.tensor_device)

    x, v, C, F, q = fresh(dim), fresh(dim), fresh(dim, dim), fresh(dim, dim), fresh(internals)
    launch(unpack_rows, packed, order, x, v, C.flatten(1), F.flatten(1), q if internals else x, internals, dim)
    return x, v, C, F, q
