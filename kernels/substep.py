"""One MLS-MPM substep and its adjoint, a launch each.

For a particle with mass m, rest volume V, body acceleration b and D = dx^2 / 4 (Hu et al. 2018):

    P = law(F)                                      first Piola-Kirchhoff stress
    scatter  m_i, (m v)_i = sum w (m, m (v + dt b) + A d_i),    A = m C - dt V D^-1 P F^T
    grid     v_i = (m v)_i / m_i, tools, walls      (grid.py)
    gather   v' = sum w v_i,    C' = D^-1 sum w v_i d_i^T
    x' = x + dt v',    F_trial = (I + dt C') F,    F', q' = return_map(F_trial, q)

The adjoint walks the same list backwards, from the stored state, the next one (v', C') and the nodes' history, which is
(m v)_i / m_i and m_i of each node: a fraction of a state, and it spares the adjoint a scatter.

Arrays. state: (n, 2 d + 2 d^2 + k), columns x, v, C, F, q. particles: (n, 2) mass, volume. labels: (n, 3) tile, row of
theta, law. nodes: d + 1 values per node of every tile. See tiles.py and grid.py for the others.
``spec`` fixes what is compiled: dim, laws, stretch (q starts with F33), internals (columns of q), tools, trace, stride.
"""

from diffsim.kernels.arrays import IntegerRows, Integers, Rows, Scalars, Vectors
from diffsim.kernels.bspline import support
from diffsim.kernels.contact import PERIODIC
from diffsim.kernels.grid import (
    block_node,
    collect,
    distribute,
    grid_node,
    node_velocity,
    node_velocity_adjoint,
)
from diffsim.kernels.lang import ti
from diffsim.kernels.tiles import CELLS, NODES
from diffsim.kernels.transfer import (
    gather,
    gather_adjoint,
    local_node,
    scatter,
    scatter_adjoint,
    with_mass,
    without_mass,
)

# entries of ``flags``: whether tiles must be sorted anew, then the first particle in each kind of trouble
SORT, NOT_FINITE, OUTSIDE, TOO_FAST, INVERTED, FLAGS = 0, 1, 2, 3, 4, 5
# entries of ``trace``: hash of the branches, then particle counts
HASH, ON_TOOL, ON_WALL, SLIDING, STICKING, YIELDING, TRACES = 0, 1, 2, 3, 4, 5, 6


@ti.func
def read_vector(rows: ti.template(), p, column: ti.template(), size: ti.template()):
    return ti.Vector([rows[p, column + a] for a in range(size)])


@ti.func
def read_matrix(rows: ti.template(), p, column: ti.template(), size: ti.template()):
    return ti.Matrix([[rows[p, column + size * a + b] for b in range(size)] for a in range(size)])


@ti.func
def write_vector(rows: ti.template(), p, column: ti.template(), vector):
    for a in ti.static(range(vector.n)):
        rows[p, column + a] = vector[a]


@ti.func
def write_matrix(rows: ti.template(), p, column: ti.template(), matrix):
    for a, b in ti.static(ti.ndrange(matrix.n, matrix.n)):
        rows[p, column + matrix.n * a + b] = matrix[a, b]


@ti.func
def read_internal(state: ti.template(), p, stretch, spec: ti.template()):
    """q as the laws see it: F33, then the internal variables; F33 is ``stretch`` where the state does not hold it."""
    q = ti.Vector.zero(float, 1 + spec.laws.internals)
    q[0] = stretch
    for j in ti.static(range(spec.internals)):
        q[j + (0 if spec.stretch else 1)] = state[p, spec.q + j]
    return q


@ti.func
def write_internal(state: ti.template(), p, q, spec: ti.template()):
    for j in ti.static(range(spec.internals)):
        state[p, spec.q + j] = q[j + (0 if spec.stretch else 1)]


@ti.func
def locate(state: ti.template(), p, tile, tile_info: ti.template(), boundary: ti.template(), dx, dim: ti.template()):
    """Storage index of the first node of a particle's support, and its fraction."""
    x = ti.Vector([(state[p, a] - boundary[a]) * (1.0 / dx) for a in range(dim)])
    base, f = support(x)
    local = base
    for a in ti.static(range(dim)):
        local[a] -= tile_info[tile, 1 + a]
    return local_node(tile, local), f


@ti.func
def stress(F, q, C, theta, law, laws: ti.template()):
    P = F * 0.0
    for m in ti.static(range(laws.count)):
        if law == m:
            P = laws.items[m].stress(F, q, C, theta)
    return P


@ti.func
def momentum_and_affine(
    P, F, C, state: ti.template(), particles: ti.template(), accel: ti.template(), p, dt, dx, spec: ti.template()
):
    """What a particle scatters: m (v + dt b) and A = m C - dt V D^-1 P F^T."""
    v = read_vector(state, p, spec.dim, spec.dim)
    row = ti.min(p, accel.shape[0] - 1)  # one row for all, or one each
    b = read_vector(accel, row, 0, spec.dim)
    mass = particles[p, 0]
    affine = mass * C - (dt * particles[p, 1] * 4.0 / (dx * dx)) * (P @ F.transpose())
    return mass * (v + dt * b), affine


@ti.func
def scatter_particle(
    state: ti.template(), particles: ti.template(), labels: ti.template(), theta: ti.template(), accel: ti.template(),
    nodes: ti.template(), p, tile, tile_info: ti.template(), boundary: ti.template(), dt, dx, spec: ti.template(),
):  # fmt: skip
    """Stress and scatter of one particle."""
    C = read_matrix(state, p, 2 * spec.dim, spec.dim)
    F = read_matrix(state, p, spec.F, spec.dim)
    q = read_internal(state, p, 1.0, spec)
    t = read_vector(theta, labels[p, 1], 0, spec.laws.parameters)
    P = stress(F, q, C, t, labels[p, 2], spec.laws)
    momentum, affine = momentum_and_affine(P, F, C, state, particles, accel, p, dt, dx, spec)
    first, f = locate(state, p, tile, tile_info, boundary, dx, spec.dim)
    scatter(nodes, first, f, momentum, affine, particles[p, 0], dx, spec.atomic)


@ti.func
def clear_tile(nodes: ti.template(), tile, dim: ti.template()):
    for i in range(ti.static(NODES**dim)):
        nodes[tile * ti.static(NODES**dim) + i] = ti.Vector.zero(float, dim + 1)


@ti.func
def watch(
    state: ti.template(), p, tile, step, J, tile_info: ti.template(), boundary: ti.template(), layout: ti.template(),
    flags: ti.template(), dx, dim: ti.template(),
):  # fmt: skip
    """Flag a particle that is not finite, left the grid, moved more than a cell, inverted, or drifted from its tile."""
    for a in ti.static(range(dim)):
        x = (state[p, a] - boundary[a]) * (1.0 / dx)
        if not (x >= 0.5 and x < layout[a] - 0.5):
            if x == x and ti.abs(x) < 1e30:
                if layout[ti.static(dim + 1 + 2 * a)] != PERIODIC:
                    ti.atomic_min(flags[OUTSIDE], p)
            else:
                ti.atomic_min(flags[NOT_FINITE], p)
        if ti.abs(step[a]) > dx:
            ti.atomic_min(flags[TOO_FAST], p)
        local = ti.floor(x - 0.5, ti.i32) - tile_info[tile, 1 + a]
        if local < 0 or local > NODES - 3:
            flags[SORT] = 1
    if not (J > 0.0):
        if J == J:
            ti.atomic_min(flags[INVERTED], p)
        else:
            ti.atomic_min(flags[NOT_FINITE], p)


@ti.func
def advance(
    state: ti.template(), after: ti.template(), labels: ti.template(), theta: ti.template(), nodes: ti.template(),
    sums: ti.template(), p, tile, slot, tile_info: ti.template(), boundary: ti.template(), layout: ti.template(),
    flags: ti.template(), trace: ti.template(), codes: ti.template(), dt, dx, spec: ti.template(),
):  # fmt: skip
    """Gather, advance and return map for one particle."""
    first, f = locate(state, p, tile, tile_info, boundary, dx, spec.dim)
    v, C = gather(nodes, first, f, dx, sums, slot)
    F = read_matrix(state, p, spec.F, spec.dim)
    q = read_internal(state, p, 1.0, spec)
    trial = F + dt * (C @ F)
    t = read_vector(theta, labels[p, 1], 0, spec.laws.parameters)
    F_new, q_new = trial, q
    for m in ti.static(range(spec.laws.count)):
        if labels[p, 2] == m:
            F_m, q_m = spec.laws.items[m].update(trial, q, t)
            F_new, q_new = F_m, q_m
            if ti.static(spec.trace):
                branch = spec.laws.items[m].branch(trial, q, t)
                ti.atomic_add(trace[HASH], (p * 15485863 + 1) * (branch * 32452843 + first * 49979687 + 1))
                if branch != 0:
                    ti.atomic_add(trace[YIELDING], 1)
    for a in ti.static(range(spec.dim)):
        after[p, a] = state[p, a] + dt * v[a]
    write_vector(after, p, spec.dim, v)
    write_matrix(after, p, 2 * spec.dim, C)
    write_matrix(after, p, spec.F, F_new)
    write_internal(after, p, q_new, spec)
    watch(after, p, tile, dt * v, trial.determinant(), tile_info, boundary, layout, flags, dx, spec.dim)
    if ti.static(spec.trace):
        bits = 0
        for offset in ti.static(ti.grouped(ti.ndrange(*((3,) * spec.dim)))):
            bits = bits | codes[first + local_node(0, offset)]
        for bit in ti.static(range(4)):
            if (bits >> bit) & 1:
                ti.atomic_add(trace[ON_TOOL + bit], 1)


@ti.kernel
def substep_forward(
    state: Rows, after: Rows, particles: Rows, labels: IntegerRows, theta: Rows, accel: Rows,
    nodes: Vectors, sums: Vectors, tile_info: IntegerRows, owners: IntegerRows, shares: IntegerRows,
    motion: Rows, tool_params: Rows, tool_ints: IntegerRows, sdf: Scalars, boundary: Scalars, layout: Integers,
    wrench: Rows, history: Vectors, flags: Integers, trace: Integers, codes: Integers,
    dt: float, dx: float, rate: float, spec: ti.template(),
):  # fmt: skip
    """state -> after; writes ``history`` for the adjoint, adds each owner's part of the tools' wrench to ``wrench``."""
    ti.loop_config(serialize=spec.serial)
    for t in range(spec.stride * (shares.shape[0] - 1)):
        if t % spec.stride == 0:
            worker = t // spec.stride
            for tile in range(shares[worker, 0], shares[worker + 1, 0]):
                clear_tile(nodes, tile, spec.dim)
                if ti.static(not spec.atomic):
                    for p in range(tile_info[tile, 0], tile_info[tile + 1, 0]):
                        scatter_particle(
                            state, particles, labels, theta, accel, nodes, p, tile, tile_info, boundary, dt, dx, spec
                        )
    if ti.static(spec.atomic):
        for p in range(state.shape[0]):
            tile = labels[p, 0]
            scatter_particle(state, particles, labels, theta, accel, nodes, p, tile, tile_info, boundary, dt, dx, spec)

    ti.loop_config(serialize=spec.serial)
    for t in range(spec.stride * (shares.shape[0] - 1)):
        if t % spec.stride == 0:
            worker = t // spec.stride
            for o in range(shares[worker, 1], shares[worker + 1, 1]):
                for i in range(ti.static(CELLS**spec.dim)):
                    local = block_node(i, spec.dim)
                    total = collect(nodes, owners, o, local)
                    mass = total[spec.dim]
                    before = ti.Vector.zero(float, spec.dim)
                    if mass > 0.0:
                        before = without_mass(total) / mass
                        node = grid_node(owners, o, local, layout)
                        v, bits, branches = node_velocity(
                            before, mass, o, node, rate, dx, motion, tool_params, tool_ints, sdf,
                            boundary, layout, wrench, spec,
                        )  # fmt: skip
                        distribute(nodes, owners, o, local, with_mass(v, mass))
                        if ti.static(spec.trace):
                            distribute(codes, owners, o, local, bits)
                            number = 0
                            for a in ti.static(range(spec.dim)):
                                number = number * 4099 + node[a]
                            ti.atomic_add(trace[HASH], (number * 7919 + 1) * (branches * 104729 + 1))
                    history[o * ti.static(CELLS**spec.dim) + i] = with_mass(before, mass)

    if ti.static(spec.atomic):
        for p in range(state.shape[0]):
            advance(
                state, after, labels, theta, nodes, sums, p, labels[p, 0], p, tile_info, boundary, layout, flags, trace,
                codes, dt, dx, spec,
            )  # fmt: skip
    else:
        ti.loop_config(serialize=spec.serial)
        for t in range(spec.stride * (shares.shape[0] - 1)):
            if t % spec.stride == 0:
                worker = t // spec.stride
                for tile in range(shares[worker, 0], shares[worker + 1, 0]):
                    for p in range(tile_info[tile, 0], tile_info[tile + 1, 0]):
                        advance(
                            state, after, labels, theta, nodes, sums, p, tile, worker, tile_info, boundary, layout,
                            flags, trace, codes, dt, dx, spec,
                        )  # fmt: skip


@ti.func
def advance_adjoint(
    state: ti.template(), after: ti.template(), grad_after: ti.template(), grad_state: ti.template(),
    grad_particles: ti.template(), labels: ti.template(), theta: ti.template(), nodes: ti.template(),
    grad_nodes: ti.template(), sums: ti.template(), p, tile, slot, tile_info: ti.template(), boundary: ti.template(),
    dt, dx, spec: ti.template(),
):  # fmt: skip
    """Adjoint of return map, advance and gather for one particle: to F, q and x of grad_state, and to grad_nodes."""
    F = read_matrix(state, p, spec.F, spec.dim)
    q = read_internal(state, p, 1.0, spec)
    v_new = read_vector(after, p, spec.dim, spec.dim)
    C_new = read_matrix(after, p, 2 * spec.dim, spec.dim)
    trial = F + dt * (C_new @ F)
    t = read_vector(theta, labels[p, 1], 0, spec.laws.parameters)
    grad_x = read_vector(grad_after, p, 0, spec.dim)
    grad_v = read_vector(grad_after, p, spec.dim, spec.dim) + dt * grad_x
    grad_trial = read_matrix(grad_after, p, spec.F, spec.dim)
    grad_q = read_internal(grad_after, p, 0.0, spec)
    for m in ti.static(range(spec.laws.count)):
        if labels[p, 2] == m:
            grad_F_m, grad_q_m, grad_theta = spec.laws.items[m].update_vjp(grad_trial, grad_q, trial, q, t)
            grad_trial, grad_q = grad_F_m, grad_q_m
            for j in ti.static(range(spec.laws.parameters)):
                grad_particles[p, 2 + spec.dim + j] = grad_particles[p, 2 + spec.dim + j] + grad_theta[j]
    grad_C = read_matrix(grad_after, p, 2 * spec.dim, spec.dim) + dt * (grad_trial @ F.transpose())
    first, f = locate(state, p, tile, tile_info, boundary, dx, spec.dim)
    grad_x += gather_adjoint(nodes, grad_nodes, first, f, grad_v, grad_C, v_new, dx, sums, slot, spec.atomic)
    write_vector(grad_state, p, 0, grad_x)
    write_matrix(grad_state, p, spec.F, grad_trial + dt * (C_new.transpose() @ grad_trial))
    write_internal(grad_state, p, grad_q, spec)


@ti.func
def momentum_adjoint(
    state: ti.template(), grad_state: ti.template(), grad_particles: ti.template(), particles: ti.template(),
    labels: ti.template(), theta: ti.template(), accel: ti.template(), grad_nodes: ti.template(),
    sums: ti.template(), p, tile, slot, tile_info: ti.template(), boundary: ti.template(),
    dt, dx, spec: ti.template(),
):  # fmt: skip
    """Adjoint of stress and scatter for one particle: node adjoints to grad_state and grad_particles."""
    C = read_matrix(state, p, 2 * spec.dim, spec.dim)
    F = read_matrix(state, p, spec.F, spec.dim)
    q = read_internal(state, p, 1.0, spec)
    th = read_vector(theta, labels[p, 1], 0, spec.laws.parameters)
    P = stress(F, q, C, th, labels[p, 2], spec.laws)
    mass = particles[p, 0]
    momentum, affine = momentum_and_affine(P, F, C, state, particles, accel, p, dt, dx, spec)
    first, f = locate(state, p, tile, tile_info, boundary, dx, spec.dim)
    grad_momentum, grad_affine, grad_mass, grad_x = scatter_adjoint(
        grad_nodes, first, f, momentum, affine, mass, dx, sums, slot
    )
    grad_mass += grad_momentum.dot(momentum) / mass + (grad_affine * C).sum()
    volume_rate = dt * 4.0 / (dx * dx)
    grad_tau = (-volume_rate * particles[p, 1]) * grad_affine
    grad_volume = -volume_rate * (grad_affine * (P @ F.transpose())).sum()
    grad_F = read_matrix(grad_state, p, spec.F, spec.dim) + grad_tau.transpose() @ P
    grad_C = mass * grad_affine
    grad_q = read_internal(grad_state, p, 0.0, spec)
    for m in ti.static(range(spec.laws.count)):
        if labels[p, 2] == m:
            grad_F_m, grad_q_m, grad_L, grad_theta = spec.laws.items[m].stress_vjp(grad_tau @ F, F, q, C, th)
            grad_F += grad_F_m
            grad_q += grad_q_m
            grad_C += grad_L
            for j in ti.static(range(spec.laws.parameters)):
                grad_particles[p, 2 + spec.dim + j] = grad_particles[p, 2 + spec.dim + j] + grad_theta[j]
    for a in ti.static(range(spec.dim)):
        grad_state[p, a] = grad_state[p, a] + grad_x[a]
        grad_particles[p, 2 + a] = grad_particles[p, 2 + a] + dt * mass * grad_momentum[a]
    write_vector(grad_state, p, spec.dim, mass * grad_momentum)
    write_matrix(grad_state, p, 2 * spec.dim, grad_C)
    write_matrix(grad_state, p, spec.F, grad_F)
    write_internal(grad_state, p, grad_q, spec)
    grad_particles[p, 0] = grad_particles[p, 0] + grad_mass
    grad_particles[p, 1] = grad_particles[p, 1] + grad_volume


@ti.kernel
def substep_adjoint(
    state: Rows, after: Rows, grad_after: Rows, grad_state: Rows, grad_particles: Rows,
    particles: Rows, labels: IntegerRows, theta: Rows, accel: Rows,
    nodes: Vectors, grad_nodes: Vectors, sums: Vectors, history: Vectors, stages: Rows,
    tile_info: IntegerRows, owners: IntegerRows, shares: IntegerRows,
    motion: Rows, tool_params: Rows, tool_ints: IntegerRows, sdf: Scalars, boundary: Scalars, layout: Integers,
    wrench: Rows, grad_wrench: Rows, parts: Rows, grad_boundary: Scalars,
    dt: float, dx: float, rate: float, spec: ti.template(),
):  # fmt: skip
    """grad_after -> grad_state.

    Adds the gradients of mass, volume, b and theta to ``grad_particles``; writes those of the tools' motion, friction
    and softness and of the walls' friction to ``grad_boundary``.
    """
    # the nodes' velocities again
    ti.loop_config(serialize=spec.serial)
    for t in range(spec.stride * (shares.shape[0] - 1)):
        if t % spec.stride == 0:
            worker = t // spec.stride
            for o in range(shares[worker, 1], shares[worker + 1, 1]):
                for i in range(ti.static(CELLS**spec.dim)):
                    local = block_node(i, spec.dim)
                    before = history[o * ti.static(CELLS**spec.dim) + i]
                    mass = before[spec.dim]
                    v = without_mass(before)
                    if mass > 0.0:
                        node = grid_node(owners, o, local, layout)
                        moved, _bits, _branches = node_velocity(
                            v, mass, o, node, rate, dx, motion, tool_params, tool_ints, sdf, boundary, layout, wrench,
                            spec,
                        )  # fmt: skip
                        v = moved
                    distribute(nodes, owners, o, local, with_mass(v, mass))

    # return map, advance, gather
    ti.loop_config(serialize=spec.serial)
    for t in range(spec.stride * (shares.shape[0] - 1)):
        if t % spec.stride == 0:
            worker = t // spec.stride
            for tile in range(shares[worker, 0], shares[worker + 1, 0]):
                clear_tile(grad_nodes, tile, spec.dim)
                if ti.static(not spec.atomic):
                    for p in range(tile_info[tile, 0], tile_info[tile + 1, 0]):
                        advance_adjoint(
                            state, after, grad_after, grad_state, grad_particles, labels, theta, nodes, grad_nodes,
                            sums, p, tile, worker, tile_info, boundary, dt, dx, spec,
                        )  # fmt: skip
    if ti.static(spec.atomic):
        for p in range(state.shape[0]):
            tile = labels[p, 0]
            advance_adjoint(
                state, after, grad_after, grad_state, grad_particles, labels, theta, nodes, grad_nodes, sums, p, tile,
                p, tile_info, boundary, dt, dx, spec,
            )  # fmt: skip

    # walls, tools, division by mass
    ti.loop_config(serialize=spec.serial)
    for t in range(spec.stride * (shares.shape[0] - 1)):
        if t % spec.stride == 0:
            worker = t // spec.stride
            for o in range(shares[worker, 1], shares[worker + 1, 1]):
                for c in range(parts.shape[1]):
                    parts[o, c] = 0.0
                for i in range(ti.static(CELLS**spec.dim)):
                    number = o * ti.static(CELLS**spec.dim) + i
                    mass = history[number][spec.dim]
                    if mass > 0.0:
                        local = block_node(i, spec.dim)
                        node = grid_node(owners, o, local, layout)
                        v = without_mass(history[number])
                        grad = without_mass(collect(grad_nodes, owners, o, local))
                        grad_v, grad_mass = node_velocity_adjoint(
                            grad, v, mass, o, number, node, rate, dx, stages, grad_wrench, motion, tool_params,
                            tool_ints, sdf, boundary, layout, parts, spec,
                        )  # fmt: skip
                        grad_momentum = grad_v / mass
                        grad_mass -= grad_momentum.dot(v)
                        distribute(grad_nodes, owners, o, local, with_mass(grad_momentum, grad_mass))

    # scatter, stress
    if ti.static(spec.atomic):
        for p in range(state.shape[0]):
            momentum_adjoint(
                state, grad_state, grad_particles, particles, labels, theta, accel, grad_nodes, sums, p,
                labels[p, 0], p, tile_info, boundary, dt, dx, spec,
            )  # fmt: skip
    else:
        ti.loop_config(serialize=spec.serial)
        for t in range(spec.stride * (shares.shape[0] - 1)):
            if t % spec.stride == 0:
                worker = t // spec.stride
                for tile in range(shares[worker, 0], shares[worker + 1, 0]):
                    for p in range(tile_info[tile, 0], tile_info[tile + 1, 0]):
                        momentum_adjoint(
                            state, grad_state, grad_particles, particles, labels, theta, accel, grad_nodes, sums, p,
                            tile, worker, tile_info, boundary, dt, dx, spec,
                        )  # fmt: skip

    for c in range(parts.shape[1]):
        total = 0.0
        for o in range(parts.shape[0]):
            total += parts[o, c]
        grad_boundary[c] = total
