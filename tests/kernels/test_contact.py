"""Contact with tools and walls: the law's branches, and every adjoint against central differences."""

import math

import pytest
import torch
import trimesh

from diffsim.geometry.shapes import Box, Capsule, Cylinder, HalfSpace, MeshSDF, Sphere, Torus
from diffsim.kernels import contact as law
from diffsim.kernels.arrays import IntegerRows, Integers, Rows, Scalars, Vectors, context, launch
from diffsim.kernels.lang import ti
from diffsim.models.tools import Tool, pack, rotation_matrix

EXACT = context.dtype == torch.float64
TOLERANCE = 1e-12 if EXACT else 5e-5
needs_f64 = pytest.mark.skipif(not EXACT, reason="differences to 1e-6 need f64")

ROWS = 400
BRANCHES = {
    "off": law.OFF,
    "separating": law.SEPARATING,
    "sliding": law.SLIDING,
    "sticking": law.STICKING,
    "separating, soft": law.SEPARATING + law.SOFT,
    "sliding, soft": law.SLIDING + law.SOFT,
    "sticking, soft": law.STICKING + law.SOFT,
}
SHAPES = {
    "sphere": Sphere(0.3),
    "box": Box((0.3, 0.2, 0.25)),
    "capsule": Capsule(0.4, 0.2),
    "cylinder": Cylinder(0.3, 0.2),
    "half space": HalfSpace(),
    "torus": Torus(0.25, 0.1),
    "mesh": MeshSDF(trimesh.creation.icosphere(subdivisions=2, radius=0.3), resolution=12, padding=0.2),
}


@ti.kernel
def contact_forward(
    v: Vectors, n: Vectors, v_c: Vectors, scalars: Rows, sticky: Integers, out: Vectors, code: Integers
):
    for i in v:
        out[i], code[i] = law.contact(v[i], n[i], scalars[i, 0], v_c[i], scalars[i, 1], scalars[i, 2], sticky[i])


@ti.kernel
def contact_adjoint(
    grad: Vectors, v: Vectors, n: Vectors, v_c: Vectors, scalars: Rows, sticky: Integers,
    grad_v: Vectors, grad_n: Vectors, grad_v_c: Vectors, grad_scalars: Rows,
):  # fmt: skip
    for i in v:
        grad_v[i], grad_n[i], grad_scalars[i, 0], grad_v_c[i], grad_scalars[i, 1], grad_scalars[i, 2] = law.contact_vjp(
            grad[i], v[i], n[i], scalars[i, 0], v_c[i], scalars[i, 1], scalars[i, 2], sticky[i]
        )


@ti.kernel
def tool_forward(
    x: Vectors, v: Vectors, motion: Rows, tool_params: Rows, tool_ints: IntegerRows, sdf: Scalars,
    out: Vectors, code: Integers,
):  # fmt: skip
    for i in v:
        out[i], code[i] = law.apply_tool(i, i, x[i], v[i], motion, tool_params, tool_ints, sdf)


@ti.kernel
def tool_adjoint(
    grad: Vectors, x: Vectors, v: Vectors, motion: Rows, tool_params: Rows, tool_ints: IntegerRows, sdf: Scalars,
    grad_v: Vectors, grad_motion: Rows, grad_params: Rows,
):  # fmt: skip
    for i in v:
        a, b, c, e = law.apply_tool_vjp(grad[i], i, i, x[i], v[i], motion, tool_params, tool_ints, sdf)
        grad_v[i] = a
        grad_params[i, 0], grad_params[i, 1] = c, e
        for j in ti.static(range(18)):
            grad_motion[i, j] = b[j]


@ti.kernel
def wall_forward(v: Vectors, mu: Rows, where: IntegerRows, out: Vectors, code: Integers):
    for i in v:
        out[i], code[i] = law.apply_wall(where[i, 0], where[i, 1], where[i, 2], mu[i, 0], v[i])


@ti.kernel
def wall_adjoint(grad: Vectors, v: Vectors, mu: Rows, where: IntegerRows, grad_v: Vectors, grad_mu: Rows):
    for i in v:
        grad_v[i], grad_mu[i, 0] = law.apply_wall_vjp(grad[i], where[i, 0], where[i, 1], where[i, 2], mu[i, 0], v[i])


def forward(kernel, *arguments):
    out = torch.zeros_like(arguments[1] if kernel is tool_forward else arguments[0])
    code = torch.zeros(len(out), dtype=torch.int32)
    launch(kernel, *arguments, out, code)
    return out, code


def adjoint(kernel, grad, *arguments, like):
    grads = [torch.zeros_like(a) for a in like]
    launch(kernel, grad, *arguments, *grads)
    return grads


def assert_adjoint(function, inputs, grad, grads, step=1e-6):
    """Each gradient equals the central difference of <grad, function> to 1e-6, row by row.

    Rows whose branch a perturbation changes are left out; they are at most a tenth.
    """
    _, code = function(*inputs)
    for index, computed in enumerate(grads):
        difference = torch.zeros_like(computed)
        switched = torch.zeros(len(code), dtype=torch.bool)
        for column in range(computed.shape[1]):
            for sign in (1, -1):
                moved = [a.clone() for a in inputs]
                moved[index][:, column] += sign * step
                out, new_code = function(*moved)
                switched |= new_code != code
                difference[:, column] += sign * (out * grad).sum(1) / (2 * step)
        assert switched.float().mean() <= 0.1
        error = (computed - difference)[~switched].abs().max()
        assert error <= 1e-6 * max(1.0, difference[~switched].abs().max()), (index, error)


def normal(seed, *shape):
    return torch.randn(*shape, dtype=context.dtype, generator=torch.Generator().manual_seed(seed))


def uniform(seed, *shape):
    return torch.rand(*shape, dtype=context.dtype, generator=torch.Generator().manual_seed(seed))


def encounters(d, rows=40 * ROWS):
    """Random v, n, v_c, (phi, mu, k): hard and soft, with and without friction."""
    n = normal(1, rows, d)
    phi, mu = 0.2 * normal(2, rows), 2 * uniform(3, rows) - 0.5
    k = 40 * uniform(4, rows) - 10
    scalars = torch.stack([phi, mu.clamp(min=0), k.clamp(min=0)], dim=1)
    return normal(5, rows, d), n / n.norm(dim=1, keepdim=True), 0.3 * normal(6, rows, d), scalars


def reference(v, n, v_c, scalars):
    """The law as the module's docstring states it."""
    phi, mu, k = scalars.T[:, :, None]
    s = torch.exp(-k * phi).clamp(max=1)
    v_rel = v - v_c
    v_n = (v_rel * n).sum(1, keepdim=True)
    tau = v_rel - v_n.clamp(max=0) * n
    speed = tau.norm(dim=1, keepdim=True)
    u = torch.where(v_n < 0, tau * (1 + mu * v_n / speed).clamp(min=0), tau)
    acts = (phi <= 0) | ((k > 0) & (s > 0.1))
    return torch.where(acts, v_c + s * u + (1 - s) * v_rel, v)


@pytest.mark.parametrize("d", [2, 3])
def test_contact_is_the_published_law(d):
    inputs = encounters(d)
    out, code = forward(contact_forward, *inputs, torch.zeros(len(inputs[0]), dtype=torch.int32))
    torch.testing.assert_close(out, reference(*inputs), rtol=TOLERANCE, atol=TOLERANCE)
    assert set(code.tolist()) == set(BRANCHES.values())


@needs_f64
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("branch", BRANCHES)
def test_contact_adjoint_equals_central_differences_on_each_branch(branch, d):
    inputs = encounters(d)
    _, code = forward(contact_forward, *inputs, torch.zeros(len(inputs[0]), dtype=torch.int32))
    rows = (code == BRANCHES[branch]).nonzero()[:ROWS, 0]
    assert len(rows) >= ROWS / 4
    inputs = [a[rows].contiguous() for a in inputs]
    # a coefficient of 0 has no left side, and the branch code does not see where friction starts
    inputs[3][:, 1:] = inputs[3][:, 1:].where(inputs[3][:, 1:] == 0, inputs[3][:, 1:].clamp(min=1e-3))
    sticky = torch.zeros(len(rows), dtype=torch.int32)
    grad = normal(7, len(rows), d)
    grads = adjoint(contact_adjoint, grad, *inputs, sticky, like=inputs)
    edge = inputs[3] == 0
    edge[:, 0] = False

    def function(*moved):
        moved[3][edge] = 0
        return forward(contact_forward, *moved, sticky)

    grads[3][edge] = 0
    assert_adjoint(function, inputs, grad, grads)


@needs_f64
@pytest.mark.parametrize("d", [2, 3])
def test_friction_derivative_at_zero_friction_is_the_one_sided_one(d):
    v, n, v_c, scalars = encounters(d, ROWS)
    scalars[:, 0], scalars[:, 1], scalars[:, 2] = -0.1, 0, 0
    sticky = torch.zeros(ROWS, dtype=torch.int32)
    grad = normal(8, ROWS, d)
    computed = adjoint(contact_adjoint, grad, v, n, v_c, scalars, sticky, like=(v, n, v_c, scalars))[3][:, 1]
    base, _ = forward(contact_forward, v, n, v_c, scalars, sticky)
    scalars[:, 1] = 1e-7
    moved, code = forward(contact_forward, v, n, v_c, scalars, sticky)
    difference = ((moved - base) * grad).sum(1) / 1e-7
    sliding = code == law.SLIDING
    torch.testing.assert_close(computed[sliding], difference[sliding], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_head_on_contact_has_finite_gradients(mu):
    v, n, v_c = torch.tensor([[0.0, -1.0]]), torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2)
    inputs = [a.to(context.dtype) for a in (v, n, v_c, torch.tensor([[-0.1, mu, 0.0]]))]
    sticky = torch.zeros(1, dtype=torch.int32)
    out, code = forward(contact_forward, *inputs, sticky)
    assert out.abs().max() == 0 and code == (law.STICKING if mu else law.SLIDING)
    grads = adjoint(contact_adjoint, torch.ones_like(out), *inputs, sticky, like=inputs)
    assert all(torch.isfinite(g).all() for g in grads) and grads[3].abs().max() == 0


@pytest.mark.parametrize("d", [2, 3])
def test_sticky_contact_takes_the_tool_velocity_exactly(d):
    inputs = encounters(d, ROWS)
    sticky = torch.ones(ROWS, dtype=torch.int32)
    out, code = forward(contact_forward, *inputs, sticky)
    off = code == law.OFF
    assert 0.1 < off.float().mean() < 0.9
    assert torch.equal(out, torch.where(off[:, None], inputs[0], inputs[2]))
    grad = normal(9, ROWS, d)
    grad_v, grad_n, grad_v_c, grad_scalars = adjoint(contact_adjoint, grad, *inputs, sticky, like=inputs)
    assert torch.equal(grad_v, grad * off[:, None]) and torch.equal(grad_v_c, grad * ~off[:, None])
    assert grad_n.abs().max() == 0 and grad_scalars.abs().max() == 0


def scene(name, d, softness, friction, rows=ROWS):
    """Nodes near one tool in random poses and motions -> x, v, motion, params, ints, sdf, all by row."""
    params, ints, sdf = pack([Tool(SHAPES[name], softness=softness, friction=friction)])
    q = normal(11, rows, 4)
    if d == 2:
        q[:, 1:3] = 0
    R = rotation_matrix(q / q.norm(dim=1, keepdim=True))
    p, local = 0.5 + 0.1 * normal(12, rows, 3), 0.3 * (2 * uniform(13, rows, 3) - 1)
    if d == 2:
        p[:, 2], local[:, 2] = 0, 0
    x = (p + (R @ local[:, :, None])[:, :, 0])[:, :d].contiguous()
    motion = torch.cat([p, R.flatten(1), normal(14, rows, 6)], dim=1)
    tables = params.repeat(rows, 1), ints.repeat(rows, 1), sdf
    return x, normal(15, rows, d), motion, *tables


@needs_f64
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("softness, friction", [(0.0, 1.2), (15.0, 1.2), (15.0, 0.0), (15.0, math.inf)])
@pytest.mark.parametrize("name", SHAPES)
def test_tool_adjoint_equals_central_differences(name, softness, friction, d):
    x, v, motion, params, ints, sdf = scene(name, d, softness, friction)
    _, code = forward(tool_forward, x, v, motion, params, ints, sdf)
    wanted = [law.STICKING] if friction == math.inf else [law.SEPARATING, law.SLIDING]
    wanted += [law.STICKING] if 0 < friction < math.inf else []
    touching = code[code != law.OFF]
    assert len(touching) >= 0.1 * len(code)
    for branch in wanted:
        assert (touching % law.SOFT == branch).float().mean() >= 0.1
    if softness:
        assert (touching >= law.SOFT).float().mean() >= 0.1
    grad = normal(16, len(x), d)
    grads = adjoint(tool_adjoint, grad, x, v, motion, params, ints, sdf, like=(v, motion, params[:, :2]))
    if friction in (0.0, math.inf):
        grads[2][:, 0] = 0  # tested by itself, one-sided; a sticky tool does not read it

    def function(v, motion, contact):
        moved = params.clone()
        moved[:, 1] = contact[:, 1]
        if 0 < friction < math.inf:
            moved[:, 0] = contact[:, 0]
        if softness == 0:
            moved[:, 1] = 0
        return forward(tool_forward, x, v, motion, moved, ints, sdf)

    assert_adjoint(function, [v, motion, params[:, :2].clone()], grad, grads)


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_the_bounding_sphere_leaves_out_no_contact(name, d):
    x, v, motion, params, ints, sdf = scene(name, d, softness=15.0, friction=0.3)
    culled = forward(tool_forward, x, v, motion, params, ints, sdf)
    params[:, 2] = math.inf
    everywhere = forward(tool_forward, x, v, motion, params, ints, sdf)
    assert torch.equal(culled[0], everywhere[0]) and torch.equal(culled[1], everywhere[1])


def test_a_spinning_sticky_tool_carries_nodes_around_its_origin():
    x, v, motion, params, ints, sdf = scene("sphere", 3, softness=0.0, friction=math.inf)
    out, code = forward(tool_forward, x, v, motion, params, ints, sdf)
    carried = motion[:, 12:15] + torch.linalg.cross(motion[:, 15:], x - motion[:, :3])
    touching = code == law.STICKING
    assert touching.float().mean() >= 0.1
    torch.testing.assert_close(out[touching], carried[touching], rtol=TOLERANCE, atol=TOLERANCE)


def test_a_surface_parallel_to_the_plane_of_motion_has_no_contact_in_2d():
    params, ints, sdf = pack([Tool(Box((0.3, 0.3, 0.01)))])
    x, v = torch.tensor([[0.1, 0.05]]).to(context.dtype), torch.tensor([[0.3, -1.0]]).to(context.dtype)
    motion = torch.cat([torch.zeros(3), torch.eye(3).flatten(), torch.zeros(6)])[None].to(context.dtype)
    out, _ = forward(tool_forward, x, v, motion, params, ints, sdf)
    assert torch.equal(out, v)
    grads = adjoint(tool_adjoint, v, x, v, motion, params, ints, sdf, like=(v, motion, params[:, :2]))
    assert torch.equal(grads[0], v) and grads[1].abs().max() == 0


def wall_cases(kind, d):
    rows = torch.arange(ROWS, dtype=torch.int32)
    where = torch.stack([rows % d, 2 * (rows // d % 2) - 1, torch.full_like(rows, kind)], dim=1).contiguous()
    return normal(21, ROWS, d), 0.1 + 2 * uniform(22, ROWS, 1), where


@needs_f64
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("kind", [law.NO_WALL, law.SLIP, law.SEPARATE, law.STICKY])
def test_wall_adjoint_equals_central_differences(kind, d):
    v, mu, where = wall_cases(kind, d)
    grad = normal(23, ROWS, d)
    grads = adjoint(wall_adjoint, grad, v, mu, where, like=(v, mu))
    assert_adjoint(lambda v, mu: forward(wall_forward, v, mu, where), [v, mu], grad, grads)


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("kind", [law.SLIP, law.SEPARATE])
def test_walls_stop_what_presses_on_them_and_take_mu_times_it_from_the_rest(kind, d):
    v, mu, where = wall_cases(kind, d)
    out, code = forward(wall_forward, v, mu, where)
    axis = where[:, :1].long()
    outward = v.gather(1, axis) * where[:, 1:2]
    tangential, left = (a.scatter(1, axis, 0.0).norm(dim=1, keepdim=True) for a in (v, out))
    pressing = outward > 0
    assert out.gather(1, axis)[pressing].abs().max() == 0
    expected = (tangential - mu * outward).clamp(min=0)
    torch.testing.assert_close(left[pressing], expected[pressing], rtol=TOLERANCE, atol=TOLERANCE)
    for branch in (law.SEPARATING, law.SLIDING, law.STICKING):
        assert (code == branch).float().mean() >= 0.1
    free = v if kind == law.SEPARATE else v.scatter(1, axis, 0.0)
    assert torch.equal(out[~pressing[:, 0]], free[~pressing[:, 0]])


@pytest.mark.parametrize("d", [2, 3])
def test_sticky_walls_hold_everything_and_no_wall_nothing(d):
    for kind, factor in ((law.STICKY, 0), (law.NO_WALL, 1)):
        v, mu, where = wall_cases(kind, d)
        assert torch.equal(forward(wall_forward, v, mu, where)[0], factor * v)
