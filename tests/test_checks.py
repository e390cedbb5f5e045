"""The check of a scene's variables: it passes right gradients, finds wrong ones, and counts branches apart."""

import math
from pathlib import Path

import pytest
import torch

from diffsim.checks import check_variables, measure_horizon
from diffsim.kernels.arrays import context
from diffsim.scripts import load

PROJECTILE = Path(__file__).with_name("projectile.py")
needs_f64 = pytest.mark.skipif(
    context.dtype != torch.float64, reason="differences of f32 do not resolve a gradient to 1e-6"
)


class Wrong(torch.autograd.Function):
    """The identity, its gradient off by a relative 1e-3."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 1.001


def with_objective(change):
    scene = load(PROJECTILE)
    objective = scene.objective
    scene.objective = lambda path: change(objective(path), path)
    return scene


@needs_f64
@pytest.mark.parametrize("policy", [False, True])
def test_a_right_gradient_passes(policy):
    scene = load(PROJECTILE, policy=policy)
    if policy:
        scene.policy.forward = lambda state, step: scene.policy.net(torch.cat([state.x, state.v], dim=-1))
    rows = check_variables(scene, 3)
    assert [row.input for row in rows] == list(scene.parameters())
    assert all(row.difference < 1e-7 and row.switches == 0 for row in rows)
    assert all(row.slope == pytest.approx(2, abs=0.05) for row in rows)


@needs_f64
def test_a_variable_of_single_precision_is_checked_at_what_it_rounds_to():
    scene = load(PROJECTILE)
    speed = torch.nn.Parameter(torch.tensor([1.0, 3.0], dtype=torch.float32))
    start, _ = scene.start()
    scene.variables, scene.bounds = {"speed": speed}, {}
    scene.setup = lambda: (start._replace(v=speed.to(start.v)[None]), torch.zeros(10, 1, 6, dtype=start.x.dtype))
    (row,) = check_variables(scene, 3)
    assert row.difference < 1e-6


@needs_f64
def test_a_gradient_off_by_a_thousandth_is_found():
    (row,) = check_variables(with_objective(lambda loss, path: Wrong.apply(loss)), 3)
    assert row.difference == pytest.approx(1e-3, rel=1e-2)
    assert row.slope == pytest.approx(1, abs=0.2)


def test_the_check_leaves_the_variables_as_they_were():
    scene = load(PROJECTILE)
    scene.variables["push"].data.uniform_(-1, 1)
    before = scene.variables["push"].detach().clone()
    check_variables(scene, 3)
    assert torch.equal(scene.variables["push"], before)


def test_a_variable_without_influence_is_left_out():
    assert check_variables(with_objective(lambda loss, path: 0 * loss), 3) == []


@needs_f64
def test_runs_on_another_branch_are_counted_and_left_out():
    scene = load(PROJECTILE)
    scene.model.trace = None
    forward = scene.model.forward

    def traced(state, control, **options):
        after = forward(state, control, **options)
        if scene.model.trace is not None:
            scene.model.trace.append(bool(control[0, 0] > 1e-4))
        # a kick that comes with the branch, which no difference across it could tell from a slope
        return after._replace(x=after.x + (control[0, 0] > 1e-4))

    scene.model.forward = traced
    (row,) = check_variables(scene, 3)
    assert row.switches > 0 and row.difference < 1e-6 and not math.isinf(row.difference)


@needs_f64
def test_the_horizon_shows_the_gradient_and_its_agreement_for_every_number_of_steps():
    scene = load(PROJECTILE)
    before = scene.variables["push"].detach().clone()
    rows = measure_horizon(scene)
    assert [row.steps for row in rows] == [1, 2, 4, 8, 10]
    assert all(row.difference < 1e-7 and row.gradient_norm > 0 for row in rows)
    assert torch.equal(scene.variables["push"], before)
    wrong = measure_horizon(with_objective(lambda loss, path: Wrong.apply(loss)), 4)
    assert all(row.difference == pytest.approx(1e-3, rel=1e-2) for row in wrong)
    assert measure_horizon(with_objective(lambda loss, path: 0 * loss), 2)[0].difference is None


@needs_f64
def test_the_horizon_shows_where_chaos_makes_gradients_useless():
    """x <- 4x(1 - x) doubles a difference in the mean of every step, so its gradient grows until nothing agrees."""
    scene = load(PROJECTILE, steps=64)

    def chaotic(path):
        value = 0.3 + 0.01 * torch.tanh(scene.variables["push"][0, 0, 0]) + 0 * path.x.sum()
        for _ in range(len(path) - 1):
            value = 4 * value * (1 - value)
        return value

    scene.objective = chaotic
    rows = measure_horizon(scene)
    assert rows[2].difference < 1e-6
    assert rows[-1].gradient_norm > 1e6 * rows[0].gradient_norm
    assert rows[-1].difference > 0.5
