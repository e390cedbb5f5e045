"""The nodes' step: momentum to velocity, then tools, then walls; and its adjoint.

    v_i = (m v)_i / m_i,    v_i <- tool_t(v_i) for each tool,    v_i <- wall(v_i) for each axis

(contact.py has the two laws; gravity and body forces are carried by the particles, see particle_step.py). The reaction
on a tool is minus the rate of change of the nodes' momentum, averaged over the control step of S substeps:

    force = sum_i m_i (v_before - v_after) / (S dt),    torque = sum_i (x_i - p) x force_i

The sums over nodes are kept per owner, so that their order does not depend on threads.
``boundary`` is (origin per axis, friction per side), ``layout`` is (cells per axis, margin, wall kind per side); a side
is 2 axis for the low and 2 axis + 1 for the high one.
"""

from diffsim.kernels.contact import PERIODIC, apply_tool, apply_tool_vjp, apply_wall, apply_wall_vjp
from diffsim.kernels.lang import ti
from diffsim.kernels.tiles import CELLS, NODES
from diffsim.kernels.transfer import local_node, with_mass, without_mass

TOOL_GRADIENTS = 20  # motion (18), friction, softness

# bits of a node's branch code, counted per particle by the trace
TOUCHES_TOOL, TOUCHES_WALL, SLIDES, STICKS = 1, 2, 4, 8
# entries of ``trace``: hash of the branches, then particle counts
HASH, ON_TOOL, ON_WALL, SLIDING, STICKING, YIELDING, TRACES = 0, 1, 2, 3, 4, 5, 6


@ti.func
def block_node(i, dim: ti.template()):
    """Coordinates 0 .. 3 of node i of an owner's block."""
    local = ti.Vector.zero(ti.i32, dim)
    rest = i
    for a in ti.static(range(dim - 1, -1, -1)):
        local[a] = rest % CELLS
        rest = rest // CELLS
    return local


@ti.func
def copy_offset(s, dim: ti.template()):
    """Storage offset of an owner's node in the s-th tile that holds it: CELLS along the set bits of s."""
    offset = 0
    for a in ti.static(range(dim)):
        offset += ((s >> (dim - 1 - a)) & 1) * ti.static(CELLS * NODES ** (dim - 1 - a))
    return offset


@ti.func
def collect(nodes: ti.template(), owners: ti.template(), o, local):
    """Sum of a node over the tiles that hold it, in a fixed order."""
    total = ti.Vector.zero(float, local.n + 1)
    for s in range(ti.static(2**local.n)):
        tile = owners[o, local.n + s]
        if tile >= 0:
            total += nodes[local_node(tile, local) + copy_offset(s, local.n)]
    return total


@ti.func
def distribute(nodes: ti.template(), owners: ti.template(), o, local, value):
    """Write a node to every tile that holds it."""
    for s in range(ti.static(2**local.n)):
        tile = owners[o, local.n + s]
        if tile >= 0:
            nodes[local_node(tile, local) + copy_offset(s, local.n)] = value


@ti.func
def grid_node(owners: ti.template(), o, local, layout: ti.template()):
    """Coordinates of an owner's node in the grid."""
    node = local
    for a in ti.static(range(local.n)):
        node[a] += owners[o, a]
        if layout[ti.static(local.n + 1 + 2 * a)] == PERIODIC and node[a] < 0:
            node[a] += layout[a]
    return node


@ti.func
def position(node, boundary: ti.template(), dx):
    """World position of a node."""
    x = ti.cast(node, float) * dx
    for a in ti.static(range(node.n)):
        x[a] += boundary[a]
    return x


@ti.func
def wall_side(node, a, layout: ti.template()):
    """The side whose wall acts on this node along axis a, -1 if none."""
    i = 0
    for b in ti.static(range(node.n)):
        if a == b:
            i = node[b]
    side = -1
    if layout[node.n + 1 + 2 * a] == PERIODIC:
        side = -1
    elif i < layout[node.n]:
        side = 2 * a
    elif i > layout[a] - layout[node.n]:
        side = 2 * a + 1
    return side


@ti.func
def wall_velocity(v, node, a, boundary: ti.template(), layout: ti.template()):
    """The wall of axis a on a node: velocity and branch code."""
    side = wall_side(node, a, layout)
    after, code = v, 0
    if side >= 0:
        after, code = apply_wall(a, 2 * (side % 2) - 1, layout[v.n + 1 + side], boundary[v.n + side], v)
    return after, code


@ti.func
def arm_cross(x, row, motion: ti.template(), vector):
    """(x - p) x vector in 3-D for planar or spatial arguments, and the arm x - p."""
    arm, spatial = ti.Vector.zero(float, 3), ti.Vector.zero(float, 3)
    for a in ti.static(range(x.n)):
        arm[a] = x[a] - motion[row, a]
        spatial[a] = vector[a]
    return arm.cross(spatial), arm


@ti.func
def node_velocity(
    v, mass, o, node, rate, dx, first, motion: ti.template(), tool_params: ti.template(), tool_ints: ti.template(),
    sdf: ti.template(), boundary: ti.template(), layout: ti.template(), parts: ti.template(), spec: ti.template(),
):  # fmt: skip
    """Tools, then walls, on one node; adds the tools' wrench (times rate = 1 / (S dt)) to ``parts[o]``.

    ``first`` is the row of ``motion`` of the first tool in this substep.

    Returns the velocity, its branch bits, and a number that identifies the branches taken.
    """
    bits, branches = 0, 0
    if ti.static(spec.tools):
        x = position(node, boundary, dx)
        for t in range(tool_params.shape[0]):
            after, code = apply_tool(t, first + t, x, v, motion, tool_params, tool_ints, sdf)
            if code != 0:
                force = (mass * rate) * (v - after)
                torque, _arm = arm_cross(x, first + t, motion, force)
                for a in ti.static(range(v.n)):
                    parts[o, 6 * t + a] = parts[o, 6 * t + a] + force[a]
                for a in ti.static(range(3)):
                    parts[o, 6 * t + 3 + a] = parts[o, 6 * t + 3 + a] + torque[a]
            v = after
            if ti.static(spec.trace):
                branches = branches * 31 + code
                if code % 4 >= 2:
                    bits = bits | TOUCHES_TOOL | (SLIDES if code % 4 == 2 else STICKS)
    for a in range(ti.static(v.n)):
        after, code = wall_velocity(v, node, a, boundary, layout)
        v = after
        if ti.static(spec.trace):
            branches = branches * 31 + code
            if code % 4 >= 2:
                bits = bits | TOUCHES_WALL | (SLIDES if code % 4 == 2 else STICKS)
    return v, bits, branches


@ti.func
def node_velocity_adjoint(
    grad, v, mass, o, i, node, rate, dx, first, stages: ti.template(), grad_wrench: ti.template(),
    motion: ti.template(), tool_params: ti.template(), tool_ints: ti.template(), sdf: ti.template(),
    boundary: ti.template(), layout: ti.template(), parts: ti.template(), spec: ti.template(),
):  # fmt: skip
    """Adjoint of node_velocity: grad is that of its result, v its argument, i the node's row in ``stages``.

    Adds the gradients of motion, friction and softness of tool t to ``parts[o, 20 t:]`` and those of the walls'
    friction behind them; ``stages`` is scratch for the velocities between the tools. Returns the gradients of v and of
    the node's mass.
    """
    tools = 0
    x = position(node, boundary, dx)
    before = v  # velocity in front of the walls
    if ti.static(spec.tools):
        tools = tool_params.shape[0]
        for t in range(tools):
            after, code = apply_tool(t, first + t, x, before, motion, tool_params, tool_ints, sdf)
            for a in ti.static(range(v.n)):
                stages[i, t * (v.n + 1) + a] = before[a]
            stages[i, t * (v.n + 1) + v.n] = ti.cast(code, float)
            before = after

    for reverse in range(ti.static(v.n)):
        a = ti.static(v.n) - 1 - reverse
        side = wall_side(node, a, layout)
        if side >= 0:
            facing = before
            for b in range(a):
                after, _code = wall_velocity(facing, node, b, boundary, layout)
                facing = after
            grad_facing, grad_mu = apply_wall_vjp(
                grad, a, 2 * (side % 2) - 1, layout[v.n + 1 + side], boundary[v.n + side], facing
            )
            grad = grad_facing
            column = TOOL_GRADIENTS * tools + side
            parts[o, column] = parts[o, column] + grad_mu

    grad_mass = 0.0
    if ti.static(spec.tools):
        after = before
        for reverse in range(tools):
            t = tools - 1 - reverse
            for a in ti.static(range(v.n)):
                before[a] = stages[i, t * (v.n + 1) + a]
            if stages[i, t * (v.n + 1) + v.n] != 0.0:
                force = (mass * rate) * (before - after)
                _torque, arm = arm_cross(x, first + t, motion, force)
                spatial, grad_torque = ti.Vector.zero(float, 3), ti.Vector.zero(float, 3)
                for a in ti.static(range(v.n)):
                    spatial[a] = force[a]
                for a in ti.static(range(3)):
                    grad_torque[a] = grad_wrench[t, 3 + a]
                # torque = arm x force
                from_torque = grad_torque.cross(arm)
                grad_arm = spatial.cross(grad_torque)
                grad_force = ti.Vector.zero(float, v.n)
                for a in ti.static(range(v.n)):
                    grad_force[a] = grad_wrench[t, a] + from_torque[a]
                grad_mass += rate * (before - after).dot(grad_force)
                grad_after = grad - (mass * rate) * grad_force
                grad_before, grad_motion, grad_mu, grad_k = apply_tool_vjp(
                    grad_after, t, first + t, x, before, motion, tool_params, tool_ints, sdf
                )
                grad = grad_before + (mass * rate) * grad_force
                for a in ti.static(range(v.n)):
                    grad_motion[a] -= grad_arm[a]
                for c in ti.static(range(18)):
                    column = TOOL_GRADIENTS * t + c
                    parts[o, column] = parts[o, column] + grad_motion[c]
                parts[o, TOOL_GRADIENTS * t + 18] = parts[o, TOOL_GRADIENTS * t + 18] + grad_mu
                parts[o, TOOL_GRADIENTS * t + 19] = parts[o, TOOL_GRADIENTS * t + 19] + grad_k
            after = before
    return grad, grad_mass


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
