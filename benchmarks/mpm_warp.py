"""MLS-MPM in warp-lang on its public API: the peer that ``benchmarks/mpm.py`` measures diffsim against.

Moving least squares material point method (Hu et al. 2018, ACM TOG 37(4), doi 10.1145/3197517.3201293) with APIC
transfers, quadratic B-splines and a neo-Hookean solid. One substep is three kernels:

    particles_to_grid   m_i = sum w m,  (m v)_i = sum w (m v + (m C - dt V 4/dx^2 tau) (x_i - x))
    grid_velocity       v_i = (m v)_i / m_i + dt g, the normal component zero at the walls
    grid_to_particles   v = sum w v_i,  C = 4/dx^2 sum w v_i (x_i - x)^T,  x += dt v,  F <- (I + dt C) F

Stepping forward swaps two particle states and uses one grid. The gradient is ``wp.Tape``'s, which needs every value
that was ever read: each substep has its own particle state and its own grids, allocated once and cleared outside of the
tape. Nothing is read back to the host on the way.

What made it faster (64,000 particles, one core): the affine term and the partial sums out of the innermost loop (10 %),
mass and momentum in one vector, a flat grid kernel that works out a node's coordinates only where there is mass (3x in
that kernel). ``fast_math``, other optimization levels and compiler flags made no difference. Loops stay within warp's
``max_unroll``: left as run-time loops, the gather's adjoint takes half the time, and is wrong without an error (by 6 to
140 % along the directions of ``mpm.py --check``, which compares with finite differences).
"""

import numpy as np
import warp as wp
from mpm_block import TARGET, Block

wp.config.log_level = wp.LOG_ERROR  # warnings of a missing CUDA driver

NAME = "warp"


@wp.func
def weights(f: float):
    """Quadratic B-spline at the three nodes of an axis; f in [0.5, 1.5) is the distance from the first [cells]."""
    return wp.vec3(0.5 * (1.5 - f) * (1.5 - f), 0.75 - (f - 1.0) * (f - 1.0), 0.5 * (f - 0.5) * (f - 0.5))


@wp.func
def kirchhoff(F: wp.mat33, mu: float, lam: float):
    """tau = P F^T = mu (F F^T - I) + lam log J I [Pa], of psi = mu/2 (|F|^2 - 3 - 2 log J) + lam/2 (log J)^2."""
    isotropic = lam * wp.log(wp.determinant(F)) - mu
    return mu * (F * wp.transpose(F)) + wp.diag(wp.vec3(isotropic, isotropic, isotropic))


@wp.kernel
def particles_to_grid(
    x: wp.array(dtype=wp.vec3),
    v: wp.array(dtype=wp.vec3),
    C: wp.array(dtype=wp.mat33),
    F: wp.array(dtype=wp.mat33),
    mass: float,
    volume: float,
    mu: float,
    lam: float,
    dx: float,
    dt: float,
    momentum: wp.array3d(dtype=wp.vec4),
):
    """Add every particle's momentum (first three components) and mass (the fourth) to its 27 nodes."""
    p = wp.tid()
    cell = x[p] / dx
    bx, by, bz = int(cell[0] - 0.5), int(cell[1] - 0.5), int(cell[2] - 0.5)
    f = cell - wp.vec3(float(bx), float(by), float(bz))
    wx, wy, wz = weights(f[0]), weights(f[1]), weights(f[2])
    affine = dx * (mass * C[p] - (dt * volume * 4.0 / (dx * dx)) * kirchhoff(F[p], mu, lam))
    corner = mass * v[p] - affine * f
    column_x = affine * wp.vec3(1.0, 0.0, 0.0)
    column_y = affine * wp.vec3(0.0, 1.0, 0.0)
    column_z = affine * wp.vec3(0.0, 0.0, 1.0)
    for i in range(3):
        for j in range(3):
            edge = corner + float(i) * column_x + float(j) * column_y
            wxy = wx[i] * wy[j]
            for k in range(3):
                q = edge + float(k) * column_z
                wp.atomic_add(momentum, bx + i, by + j, bz + k, (wxy * wz[k]) * wp.vec4(q[0], q[1], q[2], mass))


@wp.func
def inside(i: int, nodes: int, margin: int):
    """0 on the nodes of an axis where a wall acts, else 1."""
    return wp.where(i < margin or i > nodes - 1 - margin, 0.0, 1.0)


@wp.kernel
def grid_velocity(
    momentum: wp.array(dtype=wp.vec4),
    gravity: wp.vec3,
    dt: float,
    nodes: int,
    margin: int,
    velocity: wp.array(dtype=wp.vec3),
):
    """Momentum to velocity, gravity, slip walls; nodes without mass are never read and stay as they are."""
    n = wp.tid()
    q = momentum[n]
    if q[3] > 0.0:
        u = wp.vec3(q[0], q[1], q[2]) / q[3] + dt * gravity
        i, j, k = n // (nodes * nodes), (n // nodes) % nodes, n % nodes
        free = wp.vec3(inside(i, nodes, margin), inside(j, nodes, margin), inside(k, nodes, margin))
        velocity[n] = wp.cw_mul(free, u)


@wp.kernel
def grid_to_particles(
    x: wp.array(dtype=wp.vec3),
    F: wp.array(dtype=wp.mat33),
    velocity: wp.array3d(dtype=wp.vec3),
    dx: float,
    dt: float,
    x_new: wp.array(dtype=wp.vec3),
    v_new: wp.array(dtype=wp.vec3),
    C_new: wp.array(dtype=wp.mat33),
    F_new: wp.array(dtype=wp.mat33),
):
    """Gather velocity and affine velocity, then advance position and deformation gradient."""
    p = wp.tid()
    cell = x[p] / dx
    bx, by, bz = int(cell[0] - 0.5), int(cell[1] - 0.5), int(cell[2] - 0.5)
    f = cell - wp.vec3(float(bx), float(by), float(bz))
    wx, wy, wz = weights(f[0]), weights(f[1]), weights(f[2])
    v = wp.vec3()
    column_x = wp.vec3()
    column_y = wp.vec3()
    column_z = wp.vec3()
    for i in range(3):
        for j in range(3):
            u0 = wz[0] * velocity[bx + i, by + j, bz]
            u1 = wz[1] * velocity[bx + i, by + j, bz + 1]
            u2 = wz[2] * velocity[bx + i, by + j, bz + 2]
            line = u0 + u1 + u2
            line_z = u1 + 2.0 * u2
            wxy = wx[i] * wy[j]
            v += wxy * line
            column_x += (float(i) * wxy) * line
            column_y += (float(j) * wxy) * line
            column_z += wxy * line_z
    C = (4.0 / dx) * (wp.matrix_from_cols(column_x, column_y, column_z) - wp.outer(v, f))
    v_new[p] = v
    C_new[p] = C
    x_new[p] = x[p] + dt * v
    F_new[p] = F[p] + dt * (C * F[p])


@wp.kernel
def mean_square_distance(x: wp.array(dtype=wp.vec3), target: wp.vec3, loss: wp.array(dtype=float)):
    """loss += |x - target|^2 / n [m^2]"""
    d = x[wp.tid()] - target
    wp.atomic_add(loss, 0, wp.dot(d, d) / float(x.shape[0]))


class State:
    """Position x [m], velocity v [m/s], affine velocity C [1/s] and deformation gradient F of every particle."""

    def __init__(self, block: Block, gradient: bool):
        identity = np.tile(np.eye(3, dtype=np.float32), (block.count, 1, 1))
        self.x = wp.array(block.x, dtype=wp.vec3, requires_grad=gradient)
        self.v = wp.array(block.v, dtype=wp.vec3, requires_grad=gradient)
        self.C = wp.zeros(block.count, dtype=wp.mat33, requires_grad=gradient)
        self.F = wp.array(identity, dtype=wp.mat33, requires_grad=gradient)


class Nodes:
    """Momentum and mass [kg m/s, kg], velocity [m/s] of the (cells + 1)^3 nodes, and flat views of both."""

    def __init__(self, block: Block, gradient: bool):
        shape = 3 * (block.cells + 1,)
        self.momentum = wp.zeros(shape, dtype=wp.vec4, requires_grad=gradient)
        self.velocity = wp.zeros(shape, dtype=wp.vec3, requires_grad=gradient)
        self.flat_momentum, self.flat_velocity = self.momentum.flatten(), self.velocity.flatten()


class Engine:
    """The block for a number of substeps, forward or with its gradient.

    Args:
        block: the scene.
        substeps: length of a run.
        gradient: whether to allocate what the tape needs.
    """

    def __init__(self, block: Block, substeps: int, gradient: bool):
        self.block, self.substeps = block, substeps
        self.start = State(block, gradient)
        states = substeps if gradient else 2
        self.states = [State(block, gradient) for _ in range(states)]
        self.nodes = [Nodes(block, gradient) for _ in range(substeps if gradient else 1)]
        self.loss = wp.zeros(1, dtype=float, requires_grad=gradient)
        self.tape = None

    def substep(self, before: State, after: State, nodes: Nodes) -> None:
        """Advance by dt; ``nodes.momentum`` must be zero."""
        block = self.block
        mass = block.density * block.volume
        mu = block.E / (2 * (1 + block.nu))
        lam = block.E * block.nu / ((1 + block.nu) * (1 - 2 * block.nu))
        wp.launch(
            particles_to_grid,
            block.count,
            inputs=[before.x, before.v, before.C, before.F, mass, block.volume, mu, lam, block.dx, block.dt],
            outputs=[nodes.momentum],
        )
        wp.launch(
            grid_velocity,
            nodes.flat_momentum.size,
            inputs=[nodes.flat_momentum, wp.vec3(*block.gravity), block.dt, block.cells + 1, block.margin],
            outputs=[nodes.flat_velocity],
        )
        wp.launch(
            grid_to_particles,
            block.count,
            inputs=[before.x, before.F, nodes.velocity, block.dx, block.dt],
            outputs=[after.x, after.v, after.C, after.F],
        )

    def forward(self, v: np.ndarray | None = None) -> np.ndarray:
        """Final positions (n, 3) [m] from initial velocities v (n, 3) [m/s], the block's own unless given."""
        if v is not None:
            self.start.v.assign(v)
        before = self.start
        for step in range(self.substeps):
            after, nodes = self.states[step % len(self.states)], self.nodes[step % len(self.nodes)]
            nodes.momentum.zero_()
            self.substep(before, after, nodes)
            before = after
        return before.x.numpy()

    def gradient(self) -> np.ndarray:
        """Gradient (n, 3) [m s] of the mean square distance from the target with respect to initial velocities."""
        if self.tape is not None:
            self.tape.zero()
        for nodes in self.nodes:
            nodes.momentum.zero_()
        self.loss.zero_()
        with wp.Tape() as self.tape:
            before = self.start
            for after, nodes in zip(self.states, self.nodes, strict=True):
                self.substep(before, after, nodes)
                before = after
            wp.launch(mean_square_distance, self.block.count, inputs=[before.x, wp.vec3(*TARGET)], outputs=[self.loss])
        self.tape.backward(self.loss)
        return self.start.v.grad.numpy()


def initialize(threads: int) -> None:
    """Start warp; its CPU backend has one thread, whatever ``threads`` is."""
    wp.init()
