"""Gradients where several things act on one node: the second sees what the first has left, so the order matters."""

import pytest
from bodies import DX, block, model, parameter, tensor

import diffsim as ds
from diffsim.testing import gradcheck

WALL = 2 * DX  # where the low walls stand


def in_a_corner():
    """A body that slides into the corner of two walls with friction of their own."""
    friction = {"x-": parameter(0.3), "y-": parameter(0.2)}
    simulation = model(gravity=9.8, walls=ds.Walls({"x-": "separating", "y-": "slip"}, friction=friction))
    return simulation, block(simulation, 60, low=(WALL - 0.3 * DX,) * 2, v=(-1.0, -1.5)), None


def between_tools():
    """A body that falls into the notch of two spheres that overlap; the one moves, the other turns."""
    first = ds.Tool(ds.Sphere(0.1), pose=(tensor((0.44, 0.36)), (1, 0, 0, 0)), friction=parameter(0.3))
    second = ds.Tool(
        ds.Sphere(0.12), pose=(tensor((0.58, 0.35)), (1, 0, 0, 0)), friction=parameter(0.5), softness=parameter(60.0)
    )
    simulation = model(gravity=9.8, tools=[first, second])
    controls = tensor([[(0.2, 0.4, 0.0, 0.0, 0.0, 0.3), (-0.1, 0.2, 0.0, 0.0, 0.0, -2.0)]] * 2)
    return simulation, block(simulation, 60, v=(0.0, -1.0), jitter=0.05), controls


@pytest.mark.parametrize(
    "case, share", [(in_a_corner, "on a wall"), (between_tools, "on a tool")], ids=["two walls", "two tools"]
)
def test_the_gradient_by_every_input_equals_differences(case, share):
    simulation, state, controls = case()
    report = gradcheck(simulation, state, controls, steps=2, entries=3, directions=1, taylor=False)
    assert report.ok, report
    assert report.shares[share] >= 0.1 and report.shares["sliding"] >= 0.1, report
    assert all(row.switched <= 1 for row in report.rows), report
