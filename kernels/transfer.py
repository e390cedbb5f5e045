"""Transfers between particles and the nodes of their tile: scatter and gather, each with its adjoint.

MLS-MPM with APIC (Hu et al. 2018, A moving least squares material point method; Jiang et al. 2015). With the weights
w_i of node i, the offset d_i = x_i - x_p and D = dx^2 / 4,

    scatter   (m, m v)_i += w_i (m, m v + A d_i)
    gather    v = sum_i w_i v_i,    C = D^-1 sum_i w_i v_i d_i^T

The two are transposes of each other up to the weights' own derivatives, so the adjoint of the one walks the nodes as
the other does. A node value is a vector of d + 1: momentum and mass, or velocity and mass, or their adjoints.
The loops over a support run at run time: there is a tenth of the code for Taichi to work on, and the compiler behind it
unrolls the inner ones.

Functions take the index of the first node of the support in the tile's storage and the fraction f (bspline.py).

Sums over nodes go through memory, ``sums``, SUMS rows for each ``slot`` (a worker): that is what makes the compiler
keep the components of a node in one vector register, which halves the time (see ``put`` and ``chosen``).
"""

from diffsim.kernels.bspline import slope, weight
from diffsim.kernels.lang import ti
from diffsim.kernels.tiles import NODES

SUMS = 7  # w y, its moments along three axes, and dw/dx y along three axes


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
def chosen(i, stride: ti.template()):
    """i times stride for a layer i = 0, 1, 2 that is known at run time only.

    Chosen, not computed: for a product the compiler cannot prove that the components of a node are neighbors in memory,
    and would load and store them one by one.
    """
    return ti.select(i == 0, 0, ti.select(i == 1, stride, 2 * stride))


@ti.func
def affine_rows(step, zero):
    """The columns of ``step`` as node values.

    The mass component is a run-time zero: a constant one would make the components differ in kind, and the compiler
    would not put them into one vector register.
    """
    return [with_mass(ti.Vector([step[i, a] for i in range(step.n)]), zero) for a in ti.static(range(step.n))]


@ti.func
def scatter(nodes: ti.template(), first, f, momentum, affine, mass, dx, atomic: ti.template()):
    """Add w (momentum + affine d_i, mass) to every node of the support; momentum is that at the particle."""
    step = affine * dx
    # the affine part is built up along the axes, which halves the arithmetic of affine @ d_i
    corner = with_mass(momentum - step @ f, mass)
    rows = affine_rows(step, mass * 0.0)
    for i in range(3):
        row = first + chosen(i, ti.static(NODES ** (f.n - 1)))
        w_i = weight(i, f[0])
        value_i = corner + ti.cast(i, float) * rows[0]
        for j in range(3):
            w_1, number_1 = weight(j, f[1]), ti.cast(j, float)
            line_start = row + chosen(j, ti.static(NODES ** (f.n - 2)))
            value_j = value_i + number_1 * rows[1]
            w_j = w_i * w_1
            if ti.static(f.n == 2):
                add(nodes, line_start, w_j * value_j, atomic)
            else:
                for k in range(3):
                    w_2, number_2 = weight(k, f[2]), ti.cast(k, float)
                    node = line_start + chosen(k, 1)
                    value = value_j + number_2 * rows[2]
                    add(nodes, node, (w_j * w_2) * value, atomic)


@ti.func
def horizontal(vector):
    """Sum of the components."""
    total = vector[0]
    for a in ti.static(range(1, vector.n)):
        total += vector[a]
    return total


@ti.func
def put(sums: ti.template(), index, keep, value):
    """sums[index] = keep sums[index] + value, with keep 0 in the first layer.

    Reading before writing makes the compiler compute one address for the components and use one vector register; plain
    assignments of the same components stay scalar.
    """
    sums[index] = keep * sums[index] + value


@ti.func
def moments(sums: ti.template(), base, f, dx):
    """sum w y and sum w y d^T from rows 0 .. 3 of sums, where d = (i, j, k) dx - f dx."""
    total = sums[base]
    matrix = ti.Matrix.zero(float, f.n, f.n)
    for a in ti.static(range(f.n)):
        column = sums[base + 1 + a]
        for i in ti.static(range(f.n)):
            matrix[i, a] = (column[i] - f[a] * total[i]) * dx
    return total, matrix


@ti.func
def gradient_of_weights(sums: ti.template(), base, dim: ti.template(), dx):
    """sum dw/dx y from rows 4 .. 6 of sums."""
    return ti.Vector([horizontal(sums[base + 4 + a]) for a in range(dim)]) / dx


@ti.func
def line_weights(f):
    """Weights and slopes of the three nodes along the last axis."""
    x = f[f.n - 1]
    return ti.Vector([weight(0, x), weight(1, x), weight(2, x)]), ti.Vector([slope(0, x), slope(1, x), slope(2, x)])


@ti.func
def line_sums(g_0, g_1, g_2, w):
    """sum w g and sum k w g along a line of three nodes."""
    g_1w, g_2w = w[1] * g_1, w[2] * g_2
    outer = g_1w + g_2w
    return w[0] * g_0 + outer, outer + g_2w


@ti.func
def sum_nodes(nodes: ti.template(), first, f, sums: ti.template(), base):
    """Rows 0 .. 3 of sums: sum w y over the nodes' values y, and its moments along the axes."""
    w_2, _s_2 = line_weights(f)
    zero = with_mass(f * 0.0, f[0] * 0.0)
    for i in range(3):
        row = first + chosen(i, ti.static(NODES ** (f.n - 1)))
        w_i, number, keep = weight(i, f[0]), ti.cast(i, float), ti.cast(ti.min(i, 1), float)
        line, line_1, line_2 = zero, zero, zero
        for j in range(3):
            w_1, number_1 = weight(j, f[1]), ti.cast(j, float)
            line_start = row + chosen(j, ti.static(NODES ** (f.n - 2)))
            if ti.static(f.n == 2):
                line += w_1 * nodes[line_start]
                line_1 += (number_1 * w_1) * nodes[line_start]
            else:
                along, along_2 = line_sums(nodes[line_start], nodes[line_start + 1], nodes[line_start + 2], w_2)
                line += w_1 * along
                line_1 += (number_1 * w_1) * along
                line_2 += w_1 * along_2
        put(sums, base, keep, w_i * line)
        put(sums, base + 1, keep, (w_i * number) * line)
        put(sums, base + 2, keep, w_i * line_1)
        if ti.static(f.n == 3):
            put(sums, base + 3, keep, w_i * line_2)


@ti.func
def sum_slopes(nodes: ti.template(), first, f, corner, rows: ti.template(), sums: ti.template(), base):
    """Rows 4 .. 6 of sums: sum dw/dx y * value over the nodes' values y; value = corner + i rows[0] + j rows[1] + .."""
    w_2, s_2 = line_weights(f)
    zero = corner * 0.0
    for i in range(3):
        row = first + chosen(i, ti.static(NODES ** (f.n - 1)))
        w_i, number, keep = weight(i, f[0]), ti.cast(i, float), ti.cast(ti.min(i, 1), float)
        value_i = corner + number * rows[0]
        work, work_1, work_2 = zero, zero, zero
        for j in range(3):
            w_1, s_1, number_1 = weight(j, f[1]), slope(j, f[1]), ti.cast(j, float)
            line_start = row + chosen(j, ti.static(NODES ** (f.n - 2)))
            value_j = value_i + number_1 * rows[1]
            if ti.static(f.n == 2):
                product = nodes[line_start] * value_j
                work += w_1 * product
                work_1 += s_1 * product
            else:
                value_1 = value_j + rows[2]
                y_0 = nodes[line_start] * value_j
                y_1 = nodes[line_start + 1] * value_1
                y_2 = nodes[line_start + 2] * (value_1 + rows[2])
                product = w_2[0] * y_0 + w_2[1] * y_1 + w_2[2] * y_2
                work += w_1 * product
                work_1 += s_1 * product
                work_2 += w_1 * (s_2[0] * y_0 + s_2[1] * y_1 + s_2[2] * y_2)
        put(sums, base + 4, keep, slope(i, f[0]) * work)
        put(sums, base + 5, keep, w_i * work_1)
        if ti.static(f.n == 3):
            put(sums, base + 6, keep, w_i * work_2)


@ti.func
def scatter_adjoint(grad_nodes: ti.template(), first, f, momentum, affine, mass, dx, sums: ti.template(), slot):
    """Adjoint of scatter, for the node adjoints g_i of (m v)_i and m_i.

    grad_momentum = sum w g,  grad_affine = sum w g d^T,  grad_mass = sum w g_m,
    grad_x = sum dw/dx (g . (momentum + A d) + g_m mass) - A^T grad_momentum.

    In two passes over the nodes: one alone has more sums than there are registers, and takes longer.
    """
    step = affine * dx
    corner = with_mass(momentum - step @ f, mass)
    rows = affine_rows(step, mass * 0.0)
    base = SUMS * slot
    sum_nodes(grad_nodes, first, f, sums, base)
    sum_slopes(grad_nodes, first, f, corner, rows, sums, base)
    total, grad_affine = moments(sums, base, f, dx)
    grad_momentum = without_mass(total)
    grad_x = gradient_of_weights(sums, base, f.n, dx) - affine.transpose() @ grad_momentum
    return grad_momentum, grad_affine, total[f.n], grad_x


@ti.func
def gather(nodes: ti.template(), first, f, dx, sums: ti.template(), slot):
    """Velocity v = sum w v_i and affine velocity C = 4/dx^2 sum w v_i d_i^T at a particle."""
    base = SUMS * slot
    sum_nodes(nodes, first, f, sums, base)
    total, C = moments(sums, base, f, 4.0 / dx)
    return without_mass(total), C


@ti.func
def gather_adjoint(
    nodes: ti.template(), grad_nodes: ti.template(), first, f, grad_v, grad_c, v, dx, sums: ti.template(), slot,
    atomic: ti.template(),
):  # fmt: skip
    """Adjoint of gather: adds w (grad_v + B d_i), B = 4/dx^2 grad_C, to the nodes' adjoints and returns

    grad_x = sum dw/dx v_i . (grad_v + B d_i) - B^T v,  with v the gathered velocity.
    """
    affine = grad_c * (4.0 / (dx * dx))
    step = affine * dx
    nothing = f[0] * 0.0
    corner = with_mass(grad_v - step @ f, nothing)  # nothing comes back to the mass of a node
    rows = affine_rows(step, nothing)
    base = SUMS * slot
    sum_slopes(nodes, first, f, corner, rows, sums, base)
    scatter(grad_nodes, first, f, grad_v, affine, nothing, dx, atomic)
    return gradient_of_weights(sums, base, f.n, dx) - affine.transpose() @ v
