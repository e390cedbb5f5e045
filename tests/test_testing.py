"""The gradient check itself: it sees a wrong gradient, leaves switches out, and names what it cannot check."""

import math

import pytest
import torch
from bodies import DX, block, model, parameter, tensor
from torch import nn

import diffsim as ds
from diffsim.errors import GradientError, SceneError
from diffsim.testing import Report, Row, gradcheck


class Faulty(torch.autograd.Function):
    """The identity, with a gradient that is off by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.factor * grad, None


class Wrong(nn.Module):
    """MPM whose gradient in v is off by ``factor``."""

    def __init__(self, simulation, factor):
        super().__init__()
        self.inner, self.factor = simulation, factor
        self.grid, self.dt, self.substeps, self.trace = simulation.grid, simulation.dt, simulation.substeps, None

    def forward(self, state, control=None, **options):
        self.inner.trace = self.trace
        return self.inner(state._replace(v=Faulty.apply(state.v, self.factor)), control, **options)


def scene():
    simulation = model(gravity=9.8, walls=ds.Walls("slip", friction=parameter(0.3)))
    return simulation, block(simulation, low=(0.4, 1.7 * DX), v=(1.0, -0.5))


def test_a_gradient_that_is_off_by_a_little_is_seen_and_blamed_on_its_input():
    simulation, state = scene()
    right = gradcheck(Wrong(simulation, 1.0), state, wrt=("x", "v"), taylor=False)
    wrong = gradcheck(Wrong(simulation, 1 + 1e-4), state, wrt=("x", "v"))
    assert right.ok and not wrong.ok
    assert wrong["v"].difference == pytest.approx(1e-4, rel=0.01)
    assert wrong["v"].slope < 1.9  # the remainder is of first order
    assert wrong["x"].difference < 1e-6
    assert "off" in str(wrong) and "off" not in str(right)


def test_by_default_every_input_and_parameter_is_checked_once():
    simulation, state = scene()
    report = gradcheck(simulation, state, entries=2, directions=0, taylor=False)
    names = [row.input for row in report.rows]
    law = [f"materials.0.{name}" for name in ("density", "elastic.E", "elastic.nu")]
    # one coefficient stands for the four walls
    assert names == ["x", "v", "C", "F", "volume", "gravity", *law, "walls.coefficients.x_low"]
    assert all(row.compared == 2 or row.norm > 0 for row in report.rows)
    assert report.shares["on a wall"] > 0.1 and report.shares["on a tool"] == 0


def test_a_number_of_the_model_is_checked_when_it_is_named_and_is_left_as_it_was():
    simulation = model([ds.Material(ds.materials.NeoHookean(1e3, 0.3), density=10.0)])
    before = {name: value.clone() for name, value in simulation.named_buffers()}
    report = gradcheck(simulation, block(simulation), wrt="materials.0.elastic.E", taylor=False)
    assert report.ok and report["materials.0.elastic.E"].norm > 0
    for name, value in simulation.named_buffers():
        assert torch.equal(value, before[name]) and not value.requires_grad
    assert simulation.trace is None


def test_a_perturbation_that_always_changes_a_branch_is_a_switch_and_is_not_compared():
    """A particle exactly between two cells: every change of x moves it into one of them."""
    simulation = model(walls=ds.Walls("none"))
    state = simulation.initial_state(tensor([(0.5 + DX / 2, 0.5)]), volume=1e-3)
    report = gradcheck(simulation, state, wrt="x", entries=1, directions=1)
    row = report["x"]
    assert row.switched == 2 and row.compared == 0 and row.switches > 0
    assert math.isnan(row.difference) and math.isnan(row.slope)
    assert not report.ok and "switch" in str(report)


def test_a_linear_objective_has_no_slope():
    simulation = model(walls=ds.Walls("none"))
    state = simulation.initial_state(tensor([(0.51, 0.52)]), v=tensor([(0.1, 0.2)]), volume=1e-3)
    report = gradcheck(simulation, state, wrt="v", objective=lambda path: path.x[-1].sum())
    assert report.ok and report["v"].linear and math.isnan(report["v"].slope)


def test_checkpointing_does_not_disturb_the_check():
    simulation, state = scene()
    plan = ds.estimate(simulation, state, 6, every=6, memory="1GiB")
    memory = plan.work_bytes + 6.5 * plan.state_bytes
    assert ds.estimate(simulation, state, 6, every=6, memory=memory).repetitions > 1
    assert gradcheck(simulation, state, steps=6, memory=memory, entries=2, directions=1, taylor=False).ok


def test_a_policy_is_checked_by_its_parameters():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = parameter(2.0)

        def forward(self, state, step):
            push = self.gain * (0.6 - state.x.mean(0)) + 0.1 * torch.randn(2, dtype=state.x.dtype)
            return torch.cat([push, push.new_zeros(4)])[None]

    tool = ds.Tool(ds.Sphere(0.1), pose=((0.5, 0.32), (1, 0, 0, 0)), friction=parameter(0.3))
    simulation = model(gravity=9.8, tools=[tool])
    state = block(simulation, v=(0.0, -1.0))
    report = gradcheck(simulation, state, Policy(), steps=3, wrt="policy.gain", taylor=False)
    assert report.ok and report["policy.gain"].norm > 0


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"wrt": "speed"}, SceneError, "wrt='speed' is no input here; did you mean"),
        ({"steps": 0}, SceneError, "steps=0"),
        ({"objective": lambda path: path.x[-1]}, SceneError, "scalar"),
        ({"objective": lambda path: torch.zeros(())}, GradientError, "depends on no input"),
    ],
)
def test_what_cannot_be_checked_is_named(options, error, message):
    with pytest.raises(error, match=message):
        gradcheck(*scene(), **options)


def test_the_table_says_what_was_found():
    row = Row("x", 1.0, 2e-9, 2.001, False, 6, 0, 55, 0)
    report = Report([row, Row("v", 1.0, 1e-3, math.nan, True, 6, 1, 55, 4)], {"sliding": 0.4}, 10, 1e-6)
    first, second, third, last = str(report).splitlines()
    assert first.split() == ["input", "|gradient|", "difference", "slope", "compared", "switched"]
    assert second.split() == ["x", "1", "2.0e-09", "2.001", "6", "0"]
    assert third.split() == ["v", "1", "1.0e-03", "linear", "6", "1", "off"]
    assert last == "10 substeps, tolerance 1e-06, 40% of the particles sliding"
