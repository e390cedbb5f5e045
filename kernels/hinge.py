"""Bending angles of a triangle mesh: angle, gradient, exact Hessian.

A hinge is an edge x0 x1 between the faces (x0, x1, x2) and (x1, x0, x3), with normals n1 and n2. Its angle

    theta = atan2(e.(n1 x n2), n1.n2),    e = (x1 - x0)/|x1 - x0|,

lies between -pi and pi, is zero for a flat hinge and positive for a ridge seen from the normals' side. With
q_k = n_k/h_k, h_k the height of the face over the edge, and s_k its foot along the edge (0 at x0, 1 at x1),

    dtheta = ((1 - s1) q1 + (1 - s2) q2,  s1 q1 + s2 q2,  -q1,  -q2) . (dx0, dx1, dx2, dx3).

Hessian-vector products differentiate this once more. The gradient of sum m_h theta_h and the differential of theta are
transposes of each other; folded by pi the angle jumps, and has no derivative.

Source: Grinspun et al., Discrete shells (SCA 2003); Tamstorf and Grinspun, Discrete bending forces and their Jacobians,
Graphical Models 75 (2013). Here the derivatives are written with heights and feet.
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.kernels.arrays import IntegerRows, Integers, Rows, Scalars, Vectors, launch
from diffsim.kernels.lang import ti


@ti.func
def lever(e, f):
    """n/h of the face with the edge e and f from its first end to the opposite corner, and the foot s."""
    N = e.cross(f)
    return (e.norm() / N.dot(N)) * N, f.dot(e) / e.dot(e)


@ti.func
def lever_jvp(e, f, de, df):
    """Derivative of ``lever`` along (de, df)."""
    N = e.cross(f)
    dN = de.cross(f) + e.cross(df)
    length, NN, ee = e.norm(), N.dot(N), e.dot(e)
    dlength = e.dot(de) / length
    dq = (dlength / NN - 2 * length * N.dot(dN) / (NN * NN)) * N + (length / NN) * dN
    return dq, (df.dot(e) + f.dot(de) - 2 * (f.dot(e) / ee) * e.dot(de)) / ee


@ti.func
def angle_of(e, f, g):
    """theta with x2 = x0 + f and x3 = x0 + g."""
    N1, N2 = e.cross(f), g.cross(e)
    return ti.atan2(e.dot(N1.cross(N2)) / e.norm(), N1.dot(N2))


@ti.func
def angle_gradient(e, f, g):
    """dtheta/dx0, .., dtheta/dx3 as the rows of a matrix (4, 3)."""
    q1, s1 = lever(e, f)
    q2, s2 = lever(e, g)
    q2 = -q2  # the second face runs along the edge the other way
    return ti.Matrix.rows([(1 - s1) * q1 + (1 - s2) * q2, s1 * q1 + s2 * q2, -q1, -q2])


@ti.func
def angle_hessian_product(e, f, g, de, df, dg):
    """The derivative of ``angle_gradient`` along a motion, rows as there."""
    q1, s1 = lever(e, f)
    q2, s2 = lever(e, g)
    p1, r1 = lever_jvp(e, f, de, df)
    p2, r2 = lever_jvp(e, g, de, dg)
    q2, p2 = -q2, -p2
    first = (1 - s1) * p1 - r1 * q1 + (1 - s2) * p2 - r2 * q2
    second = s1 * p1 + r1 * q1 + s2 * p2 + r2 * q2
    return ti.Matrix.rows([first, second, -p1, -p2])


@ti.func
def sides(x: ti.template(), hinges: ti.template(), h):
    """e, f and g of a hinge."""
    x0 = x[hinges[h, 0]]
    return x[hinges[h, 1]] - x0, x[hinges[h, 2]] - x0, x[hinges[h, 3]] - x0


@ti.kernel
def angle_forward(x: Vectors, hinges: IntegerRows, theta: Scalars):
    for h in range(theta.shape[0]):
        e, f, g = sides(x, hinges, h)
        theta[h] = angle_of(e, f, g)


@ti.kernel
def moment_forward(
    x: Vectors, hinges: IntegerRows, m: Scalars, corners: Vectors, starts: Integers, slots: Integers, force: Vectors
):
    for h in range(m.shape[0]):
        e, f, g = sides(x, hinges, h)
        rows = m[h] * angle_gradient(e, f, g)
        for a in ti.static(range(4)):
            corners[4 * h + a] = ti.Vector([rows[a, 0], rows[a, 1], rows[a, 2]])
    for i in range(force.shape[0]):
        total = x[i] * 0
        for j in range(starts[i], starts[i + 1]):
            total += corners[slots[j]]
        force[i] = total


@ti.kernel
def moment_adjoint(
    grad_force: Vectors,
    x: Vectors,
    hinges: IntegerRows,
    m: Scalars,
    corners: Vectors,
    starts: Integers,
    slots: Integers,
    grad_x: Vectors,
    grad_m: Scalars,
):
    for h in range(m.shape[0]):
        e, f, g = sides(x, hinges, h)
        de, df, dg = sides(grad_force, hinges, h)
        first = angle_gradient(e, f, g)
        total = e[0] * 0
        for a, i in ti.static(ti.ndrange(4, 3)):
            total += first[a, i] * grad_force[hinges[h, a]][i]
        grad_m[h] = total
        rows = m[h] * angle_hessian_product(e, f, g, de, df, dg)
        for a in ti.static(range(4)):
            corners[4 * h + a] = ti.Vector([rows[a, 0], rows[a, 1], rows[a, 2]])
    for i in range(grad_x.shape[0]):
        total = x[i] * 0
        for j in range(starts[i], starts[i + 1]):
            total += corners[slots[j]]
        grad_x[i] = total


@ti.kernel
def blocks_forward(x: Vectors, hinges: IntegerRows, m: Scalars, c: Scalars, blocks: Rows):
    """c grad theta grad theta^T + m hess theta, a row of 12 per iteration."""
    for r in range(12 * m.shape[0]):
        h, k = r // 12, r % 12
        e, f, g = sides(x, hinges, h)
        first = angle_gradient(e, f, g)
        d = ti.Matrix.zero(float, 4, 3)
        along = e[0] * 0
        for a, i in ti.static(ti.ndrange(4, 3)):
            d[a, i] = ti.select(k == 3 * a + i, 1.0, 0.0)
            along += d[a, i] * first[a, i]
        d0 = ti.Vector([d[0, 0], d[0, 1], d[0, 2]])
        de = ti.Vector([d[1, 0], d[1, 1], d[1, 2]]) - d0
        df = ti.Vector([d[2, 0], d[2, 1], d[2, 2]]) - d0
        dg = ti.Vector([d[3, 0], d[3, 1], d[3, 2]]) - d0
        row = (c[h] * along) * first + m[h] * angle_hessian_product(e, f, g, de, df, dg)
        for a, i in ti.static(ti.ndrange(4, 3)):
            blocks[h, 12 * k + 3 * a + i] = row[a, i]


def _moments(topology, x, m):
    force, corners = torch.empty_like(x), x.new_empty(4 * len(m), 3)
    launch(moment_forward, x, topology.nodes, m, corners, topology.starts, topology.slots, force)
    return force


class Angle(torch.autograd.Function):
    """x (n, 3) -> theta (h,); the adjoint is the force of the moments grad_theta."""

    @staticmethod
    def forward(ctx, topology, x):
        theta = x.new_empty(len(topology.nodes))
        launch(angle_forward, x, topology.nodes, theta)
        ctx.topology = topology
        ctx.save_for_backward(x)
        return theta

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_theta):
        (x,) = ctx.saved_tensors
        return None, _moments(ctx.topology, x, grad_theta.contiguous())


class Moments(torch.autograd.Function):
    """(x, m) -> sum_h m_h dtheta_h/dx (n, 3)."""

    @staticmethod
    def forward(ctx, topology, x, m):
        ctx.topology = topology
        ctx.save_for_backward(x, m)
        return _moments(topology, x, m)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_force):
        x, m = ctx.saved_tensors
        grad_x, grad_m, corners = torch.empty_like(x), torch.empty_like(m), x.new_empty(4 * len(m), 3)
        topology = ctx.topology
        launch(moment_adjoint, grad_force.contiguous(), x, topology.nodes, m, corners, topology.starts,
               topology.slots, grad_x, grad_m)  # fmt: skip
        return None, grad_x, grad_m


def angles(topology, x):
    """theta (h,) [rad] of the hinges ``topology.nodes`` (h, 4), differentiable."""
    return Angle.apply(topology, x.contiguous())


def moments(topology, x, m):
    """Nodal forces sum_h m_h dtheta_h/dx (n, 3) [N] of moments m (h,) [N m], differentiable in x and m."""
    return Moments.apply(topology, x.contiguous(), m.contiguous())


def stiffness(topology, x, m, c):
    """c grad theta grad theta^T + m hess theta (h, 12, 12), the Hessian of an energy with m = dW/dtheta, c = dm/dtheta.

    Without m it is the Gauss-Newton matrix, positive where c is.
    """
    blocks = x.new_empty(len(m), 144)
    launch(blocks_forward, x, topology.nodes, m.contiguous(), c.contiguous(), blocks)
    return blocks.reshape(-1, 12, 12)


@ti.kernel
def gradient_forward(x: Vectors, hinges: IntegerRows, rows: Rows):
    for h in range(rows.shape[0]):
        e, f, g = sides(x, hinges, h)
        first = angle_gradient(e, f, g)
        for a, i in ti.static(ti.ndrange(4, 3)):
            rows[h, 3 * a + i] = first[a, i]


def gradients(topology, x):
    """dtheta/dx of every hinge's four nodes (h, 12), not differentiable: what ``moments`` adds up."""
    rows = x.new_empty(len(topology.nodes), 12)
    launch(gradient_forward, x, topology.nodes, rows)
    return rows
