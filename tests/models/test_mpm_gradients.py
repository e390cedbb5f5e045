"""Gradients of whole rollouts against differences, in every state that a particle or a node can be in."""

import math
from dataclasses import dataclass

import pytest
import torch
import trimesh
from bodies import DX, block, model, neo_hookean, parameter, tensor, uniform

import diffsim as ds
from diffsim.testing import gradcheck

WALL = 2 * DX  # where the low walls stand
TURN = (0.9950041652780258, 0.0, 0.0, 0.09983341664682815)  # 0.2 rad about z


@dataclass
class Case:
    """A scene, and the state that at least a tenth of its particles must be in."""

    model: object
    state: object
    controls: object = None
    share: str | None = None


def walls(kind, friction=None, v=(0.0, 0.0), share=None, dim=2, gravity=9.8):
    friction = 0.0 if friction is None else parameter(friction)
    simulation = model(dim=dim, gravity=gravity, walls=ds.Walls({"y-": kind}, friction={"y-": friction}))
    low = (0.4, WALL - 0.3 * DX, 0.4)[:dim]
    return Case(simulation, block(simulation, 60, low=low, v=v[:dim]), share=share)


def tool(shape, *, dim=2, share="on a tool", controls=None, v=(0.0, -1.0, 0.0), z=0.503, **options):
    """A body that falls on a tool that moves up and turns."""
    center = tensor((0.5, 0.32, z)[:dim])
    options = {"softness": 0.0, "friction": 0.3} | options
    for name in ("softness", "friction"):
        if 0 < options[name] < float("inf"):
            options[name] = parameter(options[name])
    body = ds.Tool(shape, pose=(center, TURN), **options)
    simulation = model(dim=dim, gravity=9.8, tools=[body])
    state = block(simulation, 60, v=v[:dim], jitter=0.05)
    if controls is None:
        twist = (0.1, -0.2, 0.8) if dim == 3 else (0.0, 0.0, 0.8)
        controls = tensor([(0.3, 0.5, 0.1 * (dim == 3), *twist), (0.1, 0.4, 0.0, *twist)])[:, None]
    return Case(simulation, state, controls, share)


def on_floor():
    """A 3-D body pressed on a wall with friction by a sphere from above."""
    floor = ds.Walls({"y-": "separating"}, friction={"y-": parameter(0.3)})
    press = ds.Tool(SPHERE, pose=(tensor((0.5, 0.36, 0.503)), TURN), friction=parameter(0.2))
    simulation = model(dim=3, gravity=9.8, walls=floor, tools=[press])
    state = block(simulation, 60, low=(0.4, WALL - 0.3 * DX, 0.4), v=(1.0, -0.5, 0.3))
    return Case(simulation, state, tensor([(0.1, -0.5, 0.2, 0.0, 1.0, 0.3)] * 2)[:, None], "on a wall")


def posed(shape):
    poses = tensor([(0.505, 0.324, 0.0, *TURN), (0.508, 0.33, 0.0, 0.99, 0.0, 0.0, 0.14)])
    return tool(shape, mode="pose", controls=poses[:, None])


def plastic(share, strain):
    law = ds.materials.VonMises(parameter(1e3), parameter(0.3), parameter(20.0))
    material = ds.Material(ds.materials.Hencky(parameter(1e3), parameter(0.3)), law, density=parameter(10.0))
    simulation = model([material])
    return Case(simulation, block(simulation, strain=strain, jitter=strain), share=share)


def several():
    """Four laws at once; one has a stiffness per particle, one a density per particle."""
    count = 60
    stiff = torch.nn.Parameter(uniform(count, low=500.0, high=2000.0))
    dense = torch.nn.Parameter(uniform(count, low=5.0, high=15.0, seed=1))
    materials = [
        ds.Material(ds.materials.FixedCorotated(stiff, parameter(0.3)), density=parameter(10.0)),
        neo_hookean(),
        ds.Material(
            ds.materials.Hencky(parameter(1e3), parameter(0.3)),
            ds.materials.VonMises(parameter(1e3), parameter(0.3), parameter(20.0)),
            density=dense,
        ),
        ds.Material(ds.materials.Liquid(parameter(1e3), parameter(0.3)), density=parameter(12.0)),
    ]
    simulation = model(materials, gravity=9.8)
    return Case(simulation, block(simulation, count, strain=0.05, material=torch.arange(count) % 4), share="yielding")


SPHERE = ds.Sphere(0.1)
MESH = trimesh.creation.icosphere(subdivisions=2, radius=0.1)
CASES = {
    "free flight": lambda: walls("none"),
    "slip wall, sliding": lambda: walls("slip", 0.3, (2.0, -0.5), "sliding"),
    "slip wall, sticking": lambda: walls("slip", 3.0, (0.1, -1.0), "sticking"),
    "slip wall, two-sided": lambda: walls("slip", None, (0.3, 1.0)),
    "separating wall, sliding": lambda: walls("separating", 0.3, (2.0, -0.5), "sliding"),
    "separating wall, leaving": lambda: walls("separating", 0.3, (0.3, 1.0)),
    "sticky wall": lambda: walls("sticky", None, (0.5, -0.5), "sticking"),
    "hard sphere": lambda: tool(SPHERE),
    "hard sphere, sticking": lambda: tool(SPHERE, friction=2.0, share="sticking"),
    "soft sphere": lambda: tool(SPHERE, softness=60.0, share="sliding"),
    "sticky sphere": lambda: tool(SPHERE, friction=float("inf"), share="sticking"),
    "hard sphere, pose mode": lambda: posed(SPHERE),
    "hard mesh": lambda: tool(ds.MeshSDF(MESH, resolution=16)),
    "soft mesh": lambda: tool(ds.MeshSDF(MESH, resolution=16, padding=0.1), softness=60.0),
    "below yield": lambda: plastic(None, 1e-3),
    "yielding": lambda: plastic("yielding", 0.05),
    "several materials": several,
    "3-D, wall and hard sphere": lambda: on_floor(),
    "3-D, hard sphere": lambda: tool(SPHERE, dim=3),
    "3-D, soft mesh": lambda: tool(ds.MeshSDF(MESH, resolution=12, padding=0.1), dim=3, softness=60.0),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_by_every_input_equals_differences(name):
    case = CASES[name]()
    report = gradcheck(case.model, case.state, case.controls, steps=2, entries=2, directions=1, taylor=False)
    print(f"\n{name}\n{report}")
    assert report.ok, report
    if case.share:
        assert report.shares[case.share] >= 0.1, report
    assert all(row.switched <= 1 for row in report.rows), report


@pytest.mark.parametrize("name", ["slip wall, sliding", "soft sphere", "hard mesh", "several materials"])
def test_the_taylor_slope_over_50_substeps_is_2(name):
    case = CASES[name]()
    case.model.substeps = 10
    controls = None if case.controls is None else case.controls[[0, 1, 1, 1, 1]]
    report = gradcheck(case.model, case.state, controls, steps=5, entries=0, directions=1)
    print(f"\n{name}\n{report}")
    assert report.substeps == 50
    assert report.ok, report  # no slope is off by more than 0.05
    assert sum(math.isfinite(row.slope) for row in report.rows) >= 0.7 * len(report.rows), report


def test_with_nodes_on_the_knots_of_a_mesh_the_gradient_is_that_of_one_side():
    """Nodes in the plane z = 0.5 start where the second derivative of the distance jumps, by a little."""
    case = tool(ds.MeshSDF(MESH, resolution=12, padding=0.1), dim=3, softness=60.0, z=0.5)
    report = gradcheck(case.model, case.state, case.controls, wrt="pose", entries=7, taylor=False, tolerance=1e-3)
    assert report.ok, report


@pytest.mark.parametrize("dim", [2, 3])
def test_at_rest_nothing_moves_and_the_gradient_is_exact(dim):
    """v = 0 and F = I: equal singular values, and no strain on either side of yield."""
    case = several() if dim == 2 else tool(SPHERE, dim=3, share=None, z=0.2)
    case.model.gravity.zero_()
    n, one = len(case.state.x), torch.eye(dim, dtype=case.state.x.dtype)
    rest = case.state._replace(v=0 * case.state.v, C=0 * case.state.C, F=one.expand(n, dim, dim).contiguous())
    after = ds.rollout(case.model, rest, steps=2)[-1]
    assert torch.equal(after.x, rest.x) and not after.v.any() and not after.C.any()
    assert torch.equal(after.F, rest.F) and torch.equal(after.q, rest.q)
    report = gradcheck(case.model, rest, steps=2, wrt=("x", "v", "C", "F"), entries=6, taylor=False)
    assert report.ok, report
    assert all(row.norm > 0 for row in report.rows if row.input != "x"), report


def test_a_body_force_is_differentiable():
    strength = parameter(3.0)
    simulation = model(body_force=lambda X, t: strength * torch.sin(20 * X + 50 * t))
    state = block(simulation)
    loss = lambda: (ds.rollout(simulation, state, steps=3).x[-1, :, 0] ** 2).sum()  # noqa: E731
    (gradient,) = torch.autograd.grad(loss(), strength)
    with torch.no_grad():
        values = [(strength.fill_(3.0 + h), loss())[1] for h in (1e-3, -1e-3)]
    assert gradient.item() == pytest.approx(float(values[0] - values[1]) / 2e-3, rel=1e-7)


def test_at_a_corner_the_gradient_is_that_of_one_side():
    """A particle at rest on a separating wall: it may leave freely, but not go further in; the leaving side counts."""
    simulation = model(walls=ds.Walls("separating"))
    x = tensor([(0.5, WALL - 1.2 * DX)])
    height = lambda v: simulation(simulation.initial_state(x, v=v, volume=1e-3)).x[0, 1]  # noqa: E731
    v = torch.zeros(1, 2, dtype=x.dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(height(v), v)
    up = torch.zeros_like(x)
    up[0, 1] = 1e-6
    with torch.no_grad():
        leaving, entering = [float(height(h * up) - height(0 * up)) / 1e-6 for h in (1, -1)]
    assert gradient[0, 1].item() == pytest.approx(leaving, rel=1e-6)
    assert leaving == pytest.approx(5e-3, rel=1e-6)  # dt times substeps
    assert abs(entering) < 1e-9


def test_without_friction_the_gradient_in_the_coefficient_is_that_of_the_upper_side():
    """A negative coefficient is refused, so there is no other side."""
    friction = parameter(0.0)
    simulation = model(gravity=9.8, walls=ds.Walls("slip", friction={"y-": friction}))
    state = block(simulation, low=(0.4, WALL - 0.3 * DX), v=(2.0, -0.5))
    loss = lambda: simulation(state).x[:, 0].sum()  # noqa: E731
    start = loss()
    (gradient,) = torch.autograd.grad(start, friction)
    with torch.no_grad():
        friction.fill_(1e-6)
        upper = (loss() - start) / 1e-6
        friction.fill_(-1e-6)
        with pytest.raises(ds.errors.SceneError, match="friction"):
            loss()
    assert gradient.item() == pytest.approx(float(upper), rel=1e-4)
    assert gradient < 0
