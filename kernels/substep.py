"""MLS-MPM substeps and their adjoints, up to a control step in one launch.

What happens to a particle and to a node is in particle_step.py and grid.py; here is who does it when.

On a CPU the threads stay in the launch from its first substep to its last: to wake them for each phase takes longer
than the phase in scenes of some thousand particles. They take shares of a phase's work as they are free, and wait for
each other between phases (``claim`` and ``meet``). Particles of a tile and nodes of an owner are worked on in their
order by whichever thread has the share, so the bits do not depend on it. On a GPU a launch is one substep.

"""

from diffsim.kernels.arrays import IntegerRows, Integers, Rows, Scalars, Vectors
from diffsim.kernels.grid import node_adjoint, node_again, node_forward
from diffsim.kernels.lang import ti
from diffsim.kernels.particle_step import (
    DONE,
    NONE,
    NOT_FINITE,
    SORT,
    advance,
    advance_adjoint,
    clear_tile,
    momentum_adjoint,
    scatter_particle,
)
from diffsim.kernels.tiles import CELLS, CHUNK


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
