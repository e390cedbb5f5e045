"""Transfers between particles and the nodes of their tile: scatter and gather, each with its adjoint.

MLS-MPM with APIC (Hu et al. 2018, A moving least squares material point method; Jiang et al. 2015). With the weights w_i
of node i, the offset d_i = x_i - x_p and D = dx^2 / 4,

    scatter   (m, m v)_i += w_i (m, m v + A d_i)
    gather    v = sum_i w_i v_i,    C = D^-1 sum_i w_i v_i d_i^T

The two are transposes of each other up to the weights' own derivatives, so the adjoint of the one walks the nodes as the
other does. A node value is a vector of d + 1: momentum and mass, or velocity and mass, or their adjoints.
Functions take the index of the first node of the support in the tile's storage and the fraction f (bspline.py).
"""

from diffsim.kernels.bspline import slope, slopes, weight, weights
from diffsim.kernels.lang import ti
from diffsim.kernels.tiles import NODES


@ti.func
def stencil_strides(dim: ti.template()):
    """Distance in storage between neighbors along each axis."""
    return ti.Vector([ti.static(NODES ** (dim - 1 - a)) for a in range(dim)])


@ti.func
def local_node(tile, local):
    """Storage index of the node at integer coordinates ``local`` of a tile."""
    index = tile
    for a in ti.static(range(local.n)):
        index = index * NODES + local[a]
    return index


@ti.func
def with_mass(vector, mass):
    """The d + 1 components of a node."""
    node = ti.Vector.zero(float, vector.n + 1)
    for a in ti.static(range(vector.n)):
        node[a] = vector[a]
    node[vector.n] = mass
    return node


@ti.func
def without_mass(node):
    """The first d components of a node."""
    vector = ti.Vector.zero(float, node.n - 1)
    for a in ti.static(range(node.n - 1)):
        vector[a] = node[a]
    return vector


@ti.func
def add(nodes: ti.template(), i, value, atomic: ti.template()):
    """Add to a node: plainly where one thread owns the tile, atomically where particles run in parallel."""
    if ti.static(atomic):
        for a in ti.static(range(value.n)):
            ti.atomic_add(nodes[i][a], value[a])
    else:
        nodes[i] = nodes[i] + value


@ti.func
def scatter(nodes: ti.template(), first, f, momentum, affine, mass, dx, atomic: ti.template()):
    """Add w (momentum + affine d_i, mass) to every node of the support; momentum is that at the particle."""
    w = weights(f)
    step = affine * dx
    # the affine part is built up along the axes, which halves the arithmetic of affine @ d_i
    corner = with_mass(momentum - step @ f, mass)
    rows = [with_mass(ti.Vector([step[i, a] for i in range(f.n)]), 0.0) for a in ti.static(range(f.n))]
    for i in range(3):  # a run-time loop: a third of the code to compile
        w_i = weight(i, f[0])
        value_i = corner + ti.cast(i, float) * rows[0]
        for j in ti.static(range(3)):
            value_j = value_i + j * rows[1]
            w_j = w_i * w[j, 1]
            if ti.static(f.n == 2):
                add(nodes, first + i * NODES + j, w_j * value_j, atomic)
            else:
                for k in ti.static(range(3)):
                    value = value_j + k * rows[2]
                    add(nodes, first + (i * NODES + j) * NODES + k, (w_j * w[k, 2]) * value, atomic)


@ti.func
def scatter_adjoint(grad_nodes: ti.template(), first, f, momentum, affine, mass, dx):
    """Adjoint of scatter, for the node adjoints g_i of (m v)_i and m_i.

    grad_momentum = sum w g,  grad_affine = sum w g d^T,  grad_mass = sum w g_m,
    grad_x = sum dw/dx (g . (momentum + A d) + g_m mass) - A^T grad_momentum.
    """
    w, s = weights(f), slopes(f)
    step = affine * dx
    corner = with_mass(momentum - step @ f, mass)
    rows = [with_mass(ti.Vector([step[i, a] for i in range(f.n)]), 0.0) for a in ti.static(range(f.n))]
    total = ti.Vector.zero(float, f.n + 1)
    moment = ti.Matrix.zero(float, f.n, f.n)
    grad_f = ti.Vector.zero(float, f.n)
    for i in range(3):  # a run-time loop: a third of the code to compile
        w_i = weight(i, f[0])
        value_i = corner + ti.cast(i, float) * rows[0]
        for j in ti.static(range(3)):
            value_j = value_i + j * rows[1]
            w_j = w_i * w[j, 1]
            if ti.static(f.n == 2):
                g = grad_nodes[first + i * NODES + j]
                work = g.dot(value_j)
                grad_f[0] += slope(i, f[0]) * w[j, 1] * work
                grad_f[1] += w_i * s[j, 1] * work
                total += w_j * g
                for a in ti.static(range(2)):
                    moment[a, 0] += i * w_j * g[a]
                    moment[a, 1] += j * w_j * g[a]
            else:
                line = ti.Vector.zero(float, f.n + 1)
                line_moment = ti.Vector.zero(float, f.n + 1)
                work, work_slope = 0.0, 0.0
                for k in ti.static(range(3)):
                    g = grad_nodes[first + (i * NODES + j) * NODES + k]
                    dot = g.dot(value_j + k * rows[2])
                    work += w[k, 2] * dot
                    work_slope += s[k, 2] * dot
                    line += w[k, 2] * g
                    line_moment += (k * w[k, 2]) * g
                grad_f[0] += slope(i, f[0]) * w[j, 1] * work
                grad_f[1] += w_i * s[j, 1] * work
                grad_f[2] += w_j * work_slope
                total += w_j * line
                for a in ti.static(range(3)):
                    moment[a, 0] += i * w_j * line[a]
                    moment[a, 1] += j * w_j * line[a]
                    moment[a, 2] += w_j * line_moment[a]
    grad_momentum = without_mass(total)
    grad_affine = (moment - grad_momentum.outer_product(f)) * dx
    grad_x = grad_f / dx - affine.transpose() @ grad_momentum
    return grad_momentum, grad_affine, total[f.n], grad_x


@ti.func
def gather(nodes: ti.template(), first, f, dx):
    """Velocity v = sum w v_i and affine velocity C = 4/dx^2 sum w v_i d_i^T at a particle."""
    w = weights(f)
    total = ti.Vector.zero(float, f.n)
    moment = ti.Matrix.zero(float, f.n, f.n)
    for i in range(3):
        w_i = weight(i, f[0])
        for j in ti.static(range(3)):
            w_j = w_i * w[j, 1]
            line = ti.Vector.zero(float, f.n)
            line_moment = ti.Vector.zero(float, f.n)
            if ti.static(f.n == 2):
                line = without_mass(nodes[first + i * NODES + j])
            else:
                for k in ti.static(range(3)):
                    v = without_mass(nodes[first + (i * NODES + j) * NODES + k])
                    line += w[k, 2] * v
                    line_moment += (k * w[k, 2]) * v
            total += w_j * line
            for a in ti.static(range(f.n)):
                moment[a, 0] += i * w_j * line[a]
                moment[a, 1] += j * w_j * line[a]
                if ti.static(f.n == 3):
                    moment[a, 2] += w_j * line_moment[a]
    return total, (moment - total.outer_product(f)) * (4.0 / dx)


@ti.func
def gather_adjoint(
    nodes: ti.template(), grad_nodes: ti.template(), first, f, grad_v, grad_c, v, dx, atomic: ti.template()
):
    """Adjoint of gather: adds w (grad_v + B d_i), B = 4/dx^2 grad_C, to the nodes' adjoints and returns

    grad_x = sum dw/dx v_i . (grad_v + B d_i) - B^T v,  with v the gathered velocity.
    """
    w, s = weights(f), slopes(f)
    affine = grad_c * (4.0 / (dx * dx))
    step = affine * dx
    corner = with_mass(grad_v - step @ f, 0.0)
    rows = [with_mass(ti.Vector([step[i, a] for i in range(f.n)]), 0.0) for a in ti.static(range(f.n))]
    grad_f = ti.Vector.zero(float, f.n)
    for i in range(3):  # a run-time loop: a third of the code to compile
        w_i = weight(i, f[0])
        value_i = corner + ti.cast(i, float) * rows[0]
        for j in ti.static(range(3)):
            value_j = value_i + j * rows[1]
            w_j = w_i * w[j, 1]
            if ti.static(f.n == 2):
                node = first + i * NODES + j
                work = nodes[node].dot(value_j)
                grad_f[0] += slope(i, f[0]) * w[j, 1] * work
                grad_f[1] += w_i * s[j, 1] * work
                add(grad_nodes, node, w_j * value_j, atomic)
            else:
                work, work_slope = 0.0, 0.0
                for k in ti.static(range(3)):
                    node = first + (i * NODES + j) * NODES + k
                    value = value_j + k * rows[2]
                    dot = nodes[node].dot(value)  # the mass component of value is zero
                    work += w[k, 2] * dot
                    work_slope += s[k, 2] * dot
                    add(grad_nodes, node, (w_j * w[k, 2]) * value, atomic)
                grad_f[0] += slope(i, f[0]) * w[j, 1] * work
                grad_f[1] += w_i * s[j, 1] * work
                grad_f[2] += w_j * work_slope
    return grad_f / dx - affine.transpose() @ v
