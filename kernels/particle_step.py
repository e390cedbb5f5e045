"""What an MLS-MPM substep does to one particle, and the adjoint.

For a particle with mass m, rest volume V, body acceleration b and D = dx^2 / 4 (Hu et al. 2018):

    P = law(F)                                      first Piola-Kirchhoff stress
    scatter  m_i, (m v)_i = sum w (m, m (v + dt b) + A d_i),    A = m C - dt V D^-1 P F^T
    grid     v_i = (m v)_i / m_i, tools, walls      (grid.py)
    gather   v' = sum w v_i,    C' = D^-1 sum w v_i d_i^T
    x' = x + dt v',    F_trial = (I + dt C') F,    F', q' = return_map(F_trial, q)

The adjoint walks the same list backwards, from the stored state, the next one (v', C') and the nodes' history, which is
(m v)_i / m_i and m_i of each node: a fraction of a state, and it spares the adjoint a scatter.

Arrays. states: (slots n, 2 d + 2 d^2 + k), a slot for each state, columns x, v, C, F, q. particles: (n, 2) mass,
volume. labels: (n, 3) tile, row of theta, law. nodes: d + 1 values per node of every tile. motion: (S T, 18), the tools
of each substep. See tiles.py and grid.py for the others.
``spec`` fixes what is compiled: dim, laws, stretch (q starts with F33), internals (columns of q), tools, trace, atomic.
"""

from diffsim.kernels.bspline import support
from diffsim.kernels.contact import PERIODIC
from diffsim.kernels.grid import HASH, ON_TOOL, YIELDING
from diffsim.kernels.lang import ti
from diffsim.kernels.tiles import NODES
from diffsim.kernels.transfer import gather, gather_adjoint, local_node, scatter, scatter_adjoint

# entries of ``flags``: whether tiles must be sorted anew, the first particle in each kind of trouble, substeps made
SORT, NOT_FINITE, OUTSIDE, TOO_FAST, INVERTED, DONE, FLAGS = 0, 1, 2, 3, 4, 5, 6
NONE = 2**31 - 1  # no particle in trouble


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
