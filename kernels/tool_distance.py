"""Signed distance of points to posed tools, differentiable in the points and the poses.

    phi = phi_t(R^T (x - p)),   dphi/dx = R g,   dphi/dp = -R g,   dphi/dR = (x - p) g^T,   g = grad phi_t

There is no adjoint kernel, though the distance is differentiable: the forward kernel leaves g, and the adjoint is these
formulas (``Distance.backward``).

The distance of a mesh is sampled in a box only. Outside it, with c the nearest point of that box,

    phi = phi_t(c) + |X - c|,   X = R^T (x - p)

is continuous and an upper bound: the way to the surface through c. Exact shapes need no such continuation.
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.kernels.arrays import IntegerRows, Rows, Scalars, Vectors, launch
from diffsim.kernels.contact import padded
from diffsim.kernels.lang import ti
from diffsim.kernels.reduction import ordered_sum
from diffsim.kernels.sdf import MESH, signed_distance

INSET = 1e-3  # of a sample's spacing: keeps the nearest point of the box strictly inside it in f32


@ti.func
def continued_distance(X, t, tool_params: ti.template(), tool_ints: ti.template(), sdf: ti.template()):
    """Signed distance and its gradient in the tool's frame, wherever X is."""
    c = X
    if tool_ints[t, 0] == MESH:
        spacing = 1.0 / tool_params[t, 6]
        for a in ti.static(range(3)):
            low = tool_params[t, 3 + a] + (0.5 + INSET) * spacing
            high = tool_params[t, 3 + a] + (tool_ints[t, 2 + a] - 1.5 - INSET) * spacing
            c[a] = ti.min(ti.max(X[a], low), high)
    phi, g, H = signed_distance(c, t, tool_params, tool_ints, sdf)
    rest = X - c
    length = rest.norm()
    if length > 0.0:
        phi += length
        for a in ti.static(range(3)):
            if rest[a] != 0.0:
                g[a] = rest[a] / length
    return phi, g


@ti.kernel
def distance_forward(
    x: Vectors, frames: Rows, tool_params: Rows, tool_ints: IntegerRows, sdf: Scalars, phi: Rows, gradient: Rows
):
    """frames (T, 12): position, rotation by rows. gradient (n, 3 T): g of each tool in its frame."""
    for p in range(x.shape[0]):
        for t in range(frames.shape[0]):
            offset = padded(x[p]) - ti.Vector([frames[t, 0], frames[t, 1], frames[t, 2]])
            R = ti.Matrix.zero(float, 3, 3)
            for i, j in ti.static(ti.ndrange(3, 3)):
                R[i, j] = frames[t, 3 + 3 * i + j]
            value, g = continued_distance(R.transpose() @ offset, t, tool_params, tool_ints, sdf)
            phi[p, t] = value
            for a in ti.static(range(3)):
                gradient[p, 3 * t + a] = g[a]


class Distance(torch.autograd.Function):
    """(x, position, rotation) -> phi; the forward kernel leaves the gradient, so that the adjoint is algebra."""

    @staticmethod
    def forward(ctx, x, position, rotation, tool_params, tool_ints, sdf):
        count, tools = len(x), len(position)
        phi, gradient = x.new_empty(count, tools), x.new_empty(count, 3 * tools)
        frames = torch.cat([position, rotation.flatten(1)], 1)
        launch(distance_forward, x, frames, tool_params, tool_ints, sdf, phi, gradient)
        ctx.save_for_backward(x, position, rotation, gradient.reshape(count, tools, 3))
        return phi

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_phi):
        x, position, rotation, gradient = ctx.saved_tensors
        local = grad_phi[:, :, None] * gradient  # (n, T, 3)
        # written out: a matrix product may add in another order for another number of threads
        world = sum(rotation[:, :, a] * local[:, :, a, None] for a in range(3))
        offset = torch.nn.functional.pad(x, (0, 3 - x.shape[1]))[:, None] - position
        grad_x = sum((world[:, t] for t in range(len(position))), x.new_zeros(len(x), 3))[:, : x.shape[1]]
        grad_rotation = ordered_sum(offset[:, :, :, None] * local[:, :, None, :])
        return grad_x, -ordered_sum(world), grad_rotation, None, None, None


def tool_distance(x, position, rotation, tool_params, tool_ints, sdf):
    """Signed distance (n, T) [m] of points x (n, d) [m] to tools at position (T, 3) [m] with rotation (T, 3, 3).

    The tables are those of ``diffsim.models.tools.pack``; the distance is not differentiated in them.
    """
    return Distance.apply(x.contiguous(), position, rotation, tool_params.detach(), tool_ints, sdf)
