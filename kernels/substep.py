"""MLS-MPM substeps and their adjoints, up to a control step in one launch.

For a particle with mass m, rest volume V, body acceleration b and D = dx^2 / 4 (Hu et al. 2018):

    P = law(F)                                      first Piola-Kirchhoff stress
    scatter  m_i, (m v)_i = sum w (m, m (v + dt b) + A d_i),    A = m C - dt V D^-1 P F^T
    grid     v_i = (m v)_i / m_i, tools, walls      (grid.py)
    gather   v' = sum w v_i,    C' = D^-1 sum w v_i d_i^T
    x' = x + dt v',    F_trial = (I + dt C') F,    F', q' = return_map(F_trial, q)

The adjoint walks the same list backwards, from the stored state, the next one (v', C') and the nodes' history, which is
(m v)_i / m_i and m_i of each node: a fraction of a state, and it spares the adjoint a scatter.

On a CPU the threads stay in the launch from its first substep to its last: to wake them for each phase takes longer
than the phase in scenes of some thousand particles. They take shares of a phase's work as they are free, and wait for
each other between phases (``claim`` and ``meet``). Particles of a tile and nodes of an owner are worked on in their
order by whichever thread has the share, so the bits do not depend on it. On a GPU a launch is one substep.

Arrays. states: (slots n, 2 d + 2 d^2 + k), a slot for each state, columns x, v, C, F, q. particles: (n, 2) mass,
volume. labels: (n, 3) tile, row of theta, law. nodes: d + 1 values per node of every tile. motion: (S T, 18), the tools
of each substep. See tiles.py and grid.py for the others.
``spec`` fixes what is compiled: dim, laws, stretch (q starts with F33), internals (columns of q), tools, trace, atomic.
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
from diffsim.kernels.tiles import CELLS, CHUNK, NODES
from diffsim.kernels.transfer import (
    gather,
    gather_adjoint,
    local_node,
    scatter,
    scatter_adjoint,
    with_mass,
    without_mass,
)

# entries of ``flags``: whether tiles must be sorted anew, the first particle in each kind of trouble, substeps made
SORT, NOT_FINITE, OUTSIDE, TOO_FAST, INVERTED, DONE, FLAGS = 0, 1, 2, 3, 4, 5, 6
NONE = 2**31 - 1  # no particle in trouble
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
def read_internal(states: ti.template(), row, stretch, spec: ti.template()):
    """q as the laws see it: F33, then the internal variables; F33 is ``stretch`` where the state does not hold it."""
    q = ti.Vector.zero(float, 1 + spec.laws.internals)
    q[0] = stretch
    for j in ti.static(range(spec.internals)):
        q[j + (0 if spec.stretch else 1)] = states[row, spec.q + j]
    return q


@ti.func
def write_internal(states: ti.template(), row, q, spec: ti.template()):
    for j in ti.static(range(spec.internals)):
        states[row, spec.q + j] = q[j + (0 if spec.stretch else 1)]


@ti.func
def locate(states: ti.template(), row, tile, tile_info: ti.template(), boundary: ti.template(), dx, dim: ti.template()):
    """Storage index of the first node of a particle's support, and its fraction."""
    x = ti.Vector([(states[row, a] - boundary[a]) * (1.0 / dx) for a in range(dim)])
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
def momentum_and_affine(P, F, C, v, particles: ti.template(), accel: ti.template(), p, dt, dx, spec: ti.template()):
    """What a particle scatters: m (v + dt b) and A = m C - dt V D^-1 P F^T."""
    row = ti.min(p, accel.shape[0] - 1)  # one row for all, or one each
    b = read_vector(accel, row, 0, spec.dim)
    mass = particles[p, 0]
    affine = mass * C - (dt * particles[p, 1] * 4.0 / (dx * dx)) * (P @ F.transpose())
    return mass * (v + dt * b), affine


@ti.func
def claim(progress: ti.template(), phase):
    """The next share of a phase's work that no thread has taken."""
    return ti.atomic_add(progress[1 + phase], 1)


@ti.func
def meet(progress: ti.template(), slot, threads, number):
    """Wait until all threads have come here for the ``number``-th time, counted from 1.

    ``slot`` makes the argument of the atomic maximum one that is known at run time only: the compiler would make a
    plain load of another, and move it out of the loop.
    """
    ti.atomic_add(progress[0], 1)
    while ti.atomic_max(progress[0], -slot) < threads * number:
        pass


@ti.func
def scatter_particle(
    states: ti.template(), now, particles: ti.template(), labels: ti.template(), theta: ti.template(),
    accel: ti.template(), nodes: ti.template(), p, tile, tile_info: ti.template(), boundary: ti.template(), dt, dx,
    spec: ti.template(),
):  # fmt: skip
    """Stress and scatter of one particle; ``now`` is the first row of the state."""
    row = now + p
    v = read_vector(states, row, spec.dim, spec.dim)
    C = read_matrix(states, row, 2 * spec.dim, spec.dim)
    F = read_matrix(states, row, spec.F, spec.dim)
    q = read_internal(states, row, 1.0, spec)
    t = read_vector(theta, labels[p, 1], 0, spec.laws.parameters)
    P = stress(F, q, C, t, labels[p, 2], spec.laws)
    momentum, affine = momentum_and_affine(P, F, C, v, particles, accel, p, dt, dx, spec)
    first, f = locate(states, row, tile, tile_info, boundary, dx, spec.dim)
    scatter(nodes, first, f, momentum, affine, particles[p, 0], dx, spec.atomic)


@ti.func
def clear_tile(nodes: ti.template(), tile, dim: ti.template()):
    for i in range(ti.static(NODES**dim)):
        nodes[tile * ti.static(NODES**dim) + i] = ti.Vector.zero(float, dim + 1)


@ti.func
def node_forward(
    nodes: ti.template(), owners: ti.template(), o, i, motion: ti.template(), tool, tool_params: ti.template(),
    tool_ints: ti.template(), sdf: ti.template(), boundary: ti.template(), layout: ti.template(), wrench: ti.template(),
    history: ti.template(), row, trace: ti.template(), codes: ti.template(), s, dx, rate, spec: ti.template(),
):  # fmt: skip
    """Node i of an owner's block: momentum of its tiles to velocity, which all of them get; ``row`` is that of history.

    ``tool`` is the row of ``motion`` of the first tool, s the row of ``trace``.
    """
    local = block_node(i, spec.dim)
    total = collect(nodes, owners, o, local)
    mass = total[spec.dim]
    before = ti.Vector.zero(float, spec.dim)
    if mass > 0.0:
        before = without_mass(total) / mass
        node = grid_node(owners, o, local, layout)
        v, bits, branches = node_velocity(
            before, mass, o, node, rate, dx, tool, motion, tool_params, tool_ints, sdf, boundary, layout, wrench, spec
        )
        distribute(nodes, owners, o, local, with_mass(v, mass))
        if ti.static(spec.trace):
            distribute(codes, owners, o, local, bits)
            number = 0
            for a in ti.static(range(spec.dim)):
                number = number * 4099 + node[a]
            ti.atomic_add(trace[s, HASH], (number * 7919 + 1) * (branches * 104729 + 1))
    history[row] = with_mass(before, mass)


@ti.func
def watch(
    states: ti.template(), row, p, tile, step, J, tile_info: ti.template(), boundary: ti.template(),
    layout: ti.template(), flags: ti.template(), dx, dim: ti.template(),
):  # fmt: skip
    """Flag a particle that is not finite, left the grid, moved more than a cell, inverted, or drifted from its tile."""
    for a in ti.static(range(dim)):
        x = (states[row, a] - boundary[a]) * (1.0 / dx)
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
    states: ti.template(), now, then, labels: ti.template(), theta: ti.template(), nodes: ti.template(),
    sums: ti.template(), p, tile, slot, tile_info: ti.template(), boundary: ti.template(), layout: ti.template(),
    flags: ti.template(), trace: ti.template(), codes: ti.template(), s, dt, dx, spec: ti.template(),
):  # fmt: skip
    """Gather, advance and return map for one particle, from the state at row ``now`` to that at ``then``."""
    row, after = now + p, then + p
    first, f = locate(states, row, tile, tile_info, boundary, dx, spec.dim)
    v, C = gather(nodes, first, f, dx, sums, slot)
    F = read_matrix(states, row, spec.F, spec.dim)
    q = read_internal(states, row, 1.0, spec)
    trial = F + dt * (C @ F)
    t = read_vector(theta, labels[p, 1], 0, spec.laws.parameters)
    F_new, q_new = trial, q
    for m in ti.static(range(spec.laws.count)):
        if labels[p, 2] == m:
            F_m, q_m = spec.laws.items[m].update(trial, q, t)
            F_new, q_new = F_m, q_m
            if ti.static(spec.trace):
                branch = spec.laws.items[m].branch(trial, q, t)
                ti.atomic_add(trace[s, HASH], (p * 15485863 + 1) * (branch * 32452843 + first * 49979687 + 1))
                if branch != 0:
                    ti.atomic_add(trace[s, YIELDING], 1)
    for a in ti.static(range(spec.dim)):
        states[after, a] = states[row, a] + dt * v[a]
    write_vector(states, after, spec.dim, v)
    write_matrix(states, after, 2 * spec.dim, C)
    write_matrix(states, after, spec.F, F_new)
    write_internal(states, after, q_new, spec)
    watch(states, after, p, tile, dt * v, trial.determinant(), tile_info, boundary, layout, flags, dx, spec.dim)
    if ti.static(spec.trace):
        bits = 0
        for offset in ti.static(ti.grouped(ti.ndrange(*((3,) * spec.dim)))):
            bits = bits | codes[first + local_node(0, offset)]
        for bit in ti.static(range(4)):
            if (bits >> bit) & 1:
                ti.atomic_add(trace[s, ON_TOOL + bit], 1)


@ti.func
def untroubled(flags: ti.template()):
    """Whether the launch may go on: nothing to sort, no particle in trouble."""
    going = flags[SORT] == 0
    for which in ti.static(range(NOT_FINITE, DONE)):
        going = going and flags[which] == NONE
    return going


@ti.kernel
def substeps_forward(
    states: Rows, particles: Rows, labels: IntegerRows, theta: Rows, accel: Rows,
    nodes: Vectors, sums: Vectors, tile_info: IntegerRows, owners: IntegerRows, shares: IntegerRows,
    motion: Rows, tool_params: Rows, tool_ints: IntegerRows, sdf: Scalars, boundary: Scalars, layout: Integers,
    wrench: Rows, history: Vectors, flags: Integers, trace: IntegerRows, codes: Integers, progress: Integers,
    first: int, slots: int, count: int, keep: int, substep: int, threads: int, dt: float, dx: float, rate: float,
    spec: ti.template(),
):  # fmt: skip
    """Up to ``count`` substeps from the state in slot ``first`` of ``slots``, each into the next slot.

    Ends early after a substep with which the tiles must be sorted anew or a particle is in trouble. Writes ``history``
    for the adjoint, one of each substep or (``keep`` = 0) over the last, and adds each owner's part of the tools'
    wrench to ``wrench``. ``substep`` is the number of the first in the control step.
    """
    if ti.static(not spec.atomic):
        for worker in range(CHUNK * threads):
            if worker % CHUNK == 0:
                slot = worker // CHUNK
                s = 0
                going = True
                while s < count and going:
                    now = ((first + s) % slots) * labels.shape[0]
                    then = ((first + s + 1) % slots) * labels.shape[0]
                    rows = keep * s * owners.shape[0] * ti.static(CELLS**spec.dim)
                    share = claim(progress, 3 * s)
                    while share < shares.shape[0] - 1:
                        for tile in range(shares[share, 0], shares[share + 1, 0]):
                            clear_tile(nodes, tile, spec.dim)
                            for p in range(tile_info[tile, 0], tile_info[tile + 1, 0]):
                                scatter_particle(
                                    states, now, particles, labels, theta, accel, nodes, p, tile, tile_info, boundary,
                                    dt, dx, spec,
                                )  # fmt: skip
                        share = claim(progress, 3 * s)
                    meet(progress, slot, threads, 3 * s + 1)
                    share = claim(progress, 3 * s + 1)
                    while share < shares.shape[0] - 1:
                        for o in range(shares[share, 1], shares[share + 1, 1]):
                            for i in range(ti.static(CELLS**spec.dim)):
                                node_forward(
                                    nodes, owners, o, i, motion, (substep + s) * tool_params.shape[0], tool_params,
                                    tool_ints, sdf, boundary, layout, wrench, history,
                                    rows + o * ti.static(CELLS**spec.dim) + i, trace, codes, s, dx, rate, spec,
                                )  # fmt: skip
                        share = claim(progress, 3 * s + 1)
                    meet(progress, slot, threads, 3 * s + 2)
                    share = claim(progress, 3 * s + 2)
                    while share < shares.shape[0] - 1:
                        for tile in range(shares[share, 0], shares[share + 1, 0]):
                            for p in range(tile_info[tile, 0], tile_info[tile + 1, 0]):
                                advance(
                                    states, now, then, labels, theta, nodes, sums, p, tile, slot, tile_info, boundary,
                                    layout, flags, trace, codes, s, dt, dx, spec,
                                )  # fmt: skip
                        share = claim(progress, 3 * s + 2)
                    meet(progress, slot, threads, 3 * s + 3)
                    going = untroubled(flags)
                    s += 1
                if slot == 0:
                    flags[DONE] = s
    else:
        now, then = first * labels.shape[0], ((first + 1) % slots) * labels.shape[0]
        tool = substep * tool_params.shape[0]
        for tile in range(tile_info.shape[0] - 1):
            clear_tile(nodes, tile, spec.dim)
        for p in range(labels.shape[0]):
            scatter_particle(
                states, now, particles, labels, theta, accel, nodes, p, labels[p, 0], tile_info, boundary, dt, dx, spec
            )
        for o in range(owners.shape[0]):
            for i in range(ti.static(CELLS**spec.dim)):
                node_forward(
                    nodes, owners, o, i, motion, tool, tool_params, tool_ints, sdf, boundary, layout, wrench, history,
                    o * ti.static(CELLS**spec.dim) + i, trace, codes, 0, dx, rate, spec,
                )  # fmt: skip
        for p in range(labels.shape[0]):
            advance(
                states, now, then, labels, theta, nodes, sums, p, labels[p, 0], p, tile_info, boundary, layout, flags,
                trace, codes, 0, dt, dx, spec,
            )  # fmt: skip
        flags[DONE] = 1


@ti.func
def node_again(
    nodes: ti.template(), owners: ti.template(), o, i, motion: ti.template(), tool, tool_params: ti.template(),
    tool_ints: ti.template(), sdf: ti.template(), boundary: ti.template(), layout: ti.template(), wrench: ti.template(),
    history: ti.template(), row, dx, rate, spec: ti.template(),
):  # fmt: skip
    """The velocity of node i of an owner's block again, from ``history[row]``."""
    local = block_node(i, spec.dim)
    before = history[row]
    mass = before[spec.dim]
    v = without_mass(before)
    if mass > 0.0:
        node = grid_node(owners, o, local, layout)
        moved, _bits, _branches = node_velocity(
            v, mass, o, node, rate, dx, tool, motion, tool_params, tool_ints, sdf, boundary, layout, wrench, spec
        )
        v = moved
    distribute(nodes, owners, o, local, with_mass(v, mass))


@ti.func
def advance_adjoint(
    states: ti.template(), now, then, grads: ti.template(), grad_now, grad_then, grad_particles: ti.template(),
    labels: ti.template(), theta: ti.template(), nodes: ti.template(), grad_nodes: ti.template(), sums: ti.template(),
    p, tile, slot, tile_info: ti.template(), boundary: ti.template(), dt, dx, spec: ti.template(),
):  # fmt: skip
    """Adjoint of return map, advance and gather for one particle: to F, q and x of its gradient, and to grad_nodes."""
    row, after, grad_row, grad_after = now + p, then + p, grad_now + p, grad_then + p
    F = read_matrix(states, row, spec.F, spec.dim)
    q = read_internal(states, row, 1.0, spec)
    v_new = read_vector(states, after, spec.dim, spec.dim)
    C_new = read_matrix(states, after, 2 * spec.dim, spec.dim)
    trial = F + dt * (C_new @ F)
    t = read_vector(theta, labels[p, 1], 0, spec.laws.parameters)
    grad_x = read_vector(grads, grad_after, 0, spec.dim)
    grad_v = read_vector(grads, grad_after, spec.dim, spec.dim) + dt * grad_x
    grad_trial = read_matrix(grads, grad_after, spec.F, spec.dim)
    grad_q = read_internal(grads, grad_after, 0.0, spec)
    for m in ti.static(range(spec.laws.count)):
        if labels[p, 2] == m:
            grad_F_m, grad_q_m, grad_theta = spec.laws.items[m].update_vjp(grad_trial, grad_q, trial, q, t)
            grad_trial, grad_q = grad_F_m, grad_q_m
            for j in ti.static(range(spec.laws.parameters)):
                grad_particles[p, 2 + spec.dim + j] = grad_particles[p, 2 + spec.dim + j] + grad_theta[j]
    grad_C = read_matrix(grads, grad_after, 2 * spec.dim, spec.dim) + dt * (grad_trial @ F.transpose())
    first, f = locate(states, row, tile, tile_info, boundary, dx, spec.dim)
    grad_x += gather_adjoint(nodes, grad_nodes, first, f, grad_v, grad_C, v_new, dx, sums, slot, spec.atomic)
    write_vector(grads, grad_row, 0, grad_x)
    write_matrix(grads, grad_row, spec.F, grad_trial + dt * (C_new.transpose() @ grad_trial))
    write_internal(grads, grad_row, grad_q, spec)


@ti.func
def node_adjoint(
    grad_nodes: ti.template(), owners: ti.template(), o, i, stages: ti.template(), grad_wrench: ti.template(),
    motion: ti.template(), tool, tool_params: ti.template(), tool_ints: ti.template(), sdf: ti.template(),
    boundary: ti.template(), layout: ti.template(), parts: ti.template(), history: ti.template(), row, dx, rate,
    spec: ti.template(),
):  # fmt: skip
    """Adjoint of walls, tools and division by mass for node i of an owner's block; adds to ``parts[o]``."""
    mass = history[row][spec.dim]
    if mass > 0.0:
        local = block_node(i, spec.dim)
        node = grid_node(owners, o, local, layout)
        v = without_mass(history[row])
        grad = without_mass(collect(grad_nodes, owners, o, local))
        grad_v, grad_mass = node_velocity_adjoint(
            grad, v, mass, o, o * ti.static(CELLS**spec.dim) + i, node, rate, dx, tool, stages, grad_wrench, motion,
            tool_params, tool_ints, sdf, boundary, layout, parts, spec,
        )  # fmt: skip
        grad_momentum = grad_v / mass
        grad_mass -= grad_momentum.dot(v)
        distribute(grad_nodes, owners, o, local, with_mass(grad_momentum, grad_mass))


@ti.func
def momentum_adjoint(
    states: ti.template(), now, grads: ti.template(), grad_now, grad_particles: ti.template(),
    particles: ti.template(), labels: ti.template(), theta: ti.template(), accel: ti.template(),
    grad_nodes: ti.template(), sums: ti.template(), p, tile, slot, tile_info: ti.template(), boundary: ti.template(),
    dt, dx, spec: ti.template(),
):  # fmt: skip
    """Adjoint of stress and scatter for one particle: node adjoints to its gradient and grad_particles."""
    row, grad_row = now + p, grad_now + p
    v = read_vector(states, row, spec.dim, spec.dim)
    C = read_matrix(states, row, 2 * spec.dim, spec.dim)
    F = read_matrix(states, row, spec.F, spec.dim)
    q = read_internal(states, row, 1.0, spec)
    th = read_vector(theta, labels[p, 1], 0, spec.laws.parameters)
    P = stress(F, q, C, th, labels[p, 2], spec.laws)
    mass = particles[p, 0]
    momentum, affine = momentum_and_affine(P, F, C, v, particles, accel, p, dt, dx, spec)
    first, f = locate(states, row, tile, tile_info, boundary, dx, spec.dim)
    grad_momentum, grad_affine, grad_mass, grad_x = scatter_adjoint(
        grad_nodes, first, f, momentum, affine, mass, dx, sums, slot
    )
    grad_mass += grad_momentum.dot(momentum) / mass + (grad_affine * C).sum()
    volume_rate = dt * 4.0 / (dx * dx)
    grad_tau = (-volume_rate * particles[p, 1]) * grad_affine
    grad_volume = -volume_rate * (grad_affine * (P @ F.transpose())).sum()
    grad_F = read_matrix(grads, grad_row, spec.F, spec.dim) + grad_tau.transpose() @ P
    grad_C = mass * grad_affine
    grad_q = read_internal(grads, grad_row, 0.0, spec)
    for m in ti.static(range(spec.laws.count)):
        if labels[p, 2] == m:
            grad_F_m, grad_q_m, grad_L, grad_theta = spec.laws.items[m].stress_vjp(grad_tau @ F, F, q, C, th)
            grad_F += grad_F_m
            grad_q += grad_q_m
            grad_C += grad_L
            for j in ti.static(range(spec.laws.parameters)):
                grad_particles[p, 2 + spec.dim + j] = grad_particles[p, 2 + spec.dim + j] + grad_theta[j]
    for a in ti.static(range(spec.dim)):
        grads[grad_row, a] = grads[grad_row, a] + grad_x[a]
        grad_particles[p, 2 + a] = grad_particles[p, 2 + a] + dt * mass * grad_momentum[a]
    write_vector(grads, grad_row, spec.dim, mass * grad_momentum)
    write_matrix(grads, grad_row, 2 * spec.dim, grad_C)
    write_matrix(grads, grad_row, spec.F, grad_F)
    write_internal(grads, grad_row, grad_q, spec)
    grad_particles[p, 0] = grad_particles[p, 0] + grad_mass
    grad_particles[p, 1] = grad_particles[p, 1] + grad_volume


@ti.func
def sum_parts(parts: ti.template(), grad_boundary: ti.template(), substep, c):
    """Sum of a column over the owners, in their order."""
    total = 0.0
    for o in range(parts.shape[0]):
        total += parts[o, c]
    grad_boundary[substep, c] = total


@ti.kernel
def substeps_adjoint(
    states: Rows, grads: Rows, grad_particles: Rows,
    particles: Rows, labels: IntegerRows, theta: Rows, accel: Rows,
    nodes: Vectors, grad_nodes: Vectors, sums: Vectors, history: Vectors, stages: Rows,
    tile_info: IntegerRows, owners: IntegerRows, shares: IntegerRows,
    motion: Rows, tool_params: Rows, tool_ints: IntegerRows, sdf: Scalars, boundary: Scalars, layout: Integers,
    wrench: Rows, grad_wrench: Rows, parts: Rows, grad_boundary: Rows, progress: Integers,
    half: int, count: int, substep: int, threads: int, dt: float, dx: float, rate: float, spec: ti.template(),
):  # fmt: skip
    """Adjoints of ``count`` substeps, the last first; their states and histories lie one after the other.

    The gradient of the last state is in half ``half`` of ``grads``, (2 n, ..); each substep writes that of its own
    state to the other half. Adds the gradients of mass, volume, b and theta to ``grad_particles``; writes those of the
    tools' motion, friction and softness and of the walls' friction to the rows of ``grad_boundary`` from ``substep``.
    """
    if ti.static(not spec.atomic):
        for worker in range(CHUNK * threads):
            if worker % CHUNK == 0:
                slot = worker // CHUNK
                for k in range(count):
                    s = count - 1 - k
                    now, then = s * labels.shape[0], (s + 1) * labels.shape[0]
                    grad_then = ((half + k) % 2) * labels.shape[0]
                    grad_now = labels.shape[0] - grad_then
                    rows = s * owners.shape[0] * ti.static(CELLS**spec.dim)
                    tool = (substep + s) * tool_params.shape[0]
                    # the nodes' velocities again
                    share = claim(progress, 4 * k)
                    while share < shares.shape[0] - 1:
                        for o in range(shares[share, 1], shares[share + 1, 1]):
                            for i in range(ti.static(CELLS**spec.dim)):
                                node_again(
                                    nodes, owners, o, i, motion, tool, tool_params, tool_ints, sdf, boundary, layout,
                                    wrench, history, rows + o * ti.static(CELLS**spec.dim) + i, dx, rate, spec,
                                )  # fmt: skip
                        share = claim(progress, 4 * k)
                    meet(progress, slot, threads, 4 * k + 1)
                    # return map, advance, gather
                    share = claim(progress, 4 * k + 1)
                    while share < shares.shape[0] - 1:
                        for tile in range(shares[share, 0], shares[share + 1, 0]):
                            clear_tile(grad_nodes, tile, spec.dim)
                            for p in range(tile_info[tile, 0], tile_info[tile + 1, 0]):
                                advance_adjoint(
                                    states, now, then, grads, grad_now, grad_then, grad_particles, labels, theta, nodes,
                                    grad_nodes, sums, p, tile, slot, tile_info, boundary, dt, dx, spec,
                                )  # fmt: skip
                        share = claim(progress, 4 * k + 1)
                    meet(progress, slot, threads, 4 * k + 2)
                    # walls, tools, division by mass
                    share = claim(progress, 4 * k + 2)
                    while share < shares.shape[0] - 1:
                        for o in range(shares[share, 1], shares[share + 1, 1]):
                            for c in range(parts.shape[1]):
                                parts[o, c] = 0.0
                            for i in range(ti.static(CELLS**spec.dim)):
                                node_adjoint(
                                    grad_nodes, owners, o, i, stages, grad_wrench, motion, tool, tool_params, tool_ints,
                                    sdf, boundary, layout, parts, history, rows + o * ti.static(CELLS**spec.dim) + i,
                                    dx, rate, spec,
                                )  # fmt: skip
                        share = claim(progress, 4 * k + 2)
                    meet(progress, slot, threads, 4 * k + 3)
                    # scatter, stress
                    share = claim(progress, 4 * k + 3)
                    while share < shares.shape[0] - 1:
                        for tile in range(shares[share, 0], shares[share + 1, 0]):
                            for p in range(tile_info[tile, 0], tile_info[tile + 1, 0]):
                                momentum_adjoint(
                                    states, now, grads, grad_now, grad_particles, particles, labels, theta, accel,
                                    grad_nodes, sums, p, tile, slot, tile_info, boundary, dt, dx, spec,
                                )  # fmt: skip
                        share = claim(progress, 4 * k + 3)
                    if slot == 0:
                        for c in range(parts.shape[1]):
                            sum_parts(parts, grad_boundary, substep + s, c)
                    meet(progress, slot, threads, 4 * k + 4)
    else:
        grad_then = half * labels.shape[0]
        grad_now = labels.shape[0] - grad_then
        tool = substep * tool_params.shape[0]
        for o in range(owners.shape[0]):
            for i in range(ti.static(CELLS**spec.dim)):
                node_again(
                    nodes, owners, o, i, motion, tool, tool_params, tool_ints, sdf, boundary, layout, wrench, history,
                    o * ti.static(CELLS**spec.dim) + i, dx, rate, spec,
                )  # fmt: skip
        for tile in range(tile_info.shape[0] - 1):
            clear_tile(grad_nodes, tile, spec.dim)
        for p in range(labels.shape[0]):
            advance_adjoint(
                states, 0, labels.shape[0], grads, grad_now, grad_then, grad_particles, labels, theta, nodes,
                grad_nodes, sums, p, labels[p, 0], p, tile_info, boundary, dt, dx, spec,
            )  # fmt: skip
        for o in range(owners.shape[0]):
            for c in range(parts.shape[1]):
                parts[o, c] = 0.0
            for i in range(ti.static(CELLS**spec.dim)):
                node_adjoint(
                    grad_nodes, owners, o, i, stages, grad_wrench, motion, tool, tool_params, tool_ints, sdf, boundary,
                    layout, parts, history, o * ti.static(CELLS**spec.dim) + i, dx, rate, spec,
                )  # fmt: skip
        for p in range(labels.shape[0]):
            momentum_adjoint(
                states, 0, grads, grad_now, grad_particles, particles, labels, theta, accel, grad_nodes, sums, p,
                labels[p, 0], p, tile_info, boundary, dt, dx, spec,
            )  # fmt: skip
        for c in range(parts.shape[1]):
            sum_parts(parts, grad_boundary, substep, c)
