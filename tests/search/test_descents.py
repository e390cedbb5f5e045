"""Descents that look at a part: growing and truncated rollouts, several starts, an estimate of the Hessian."""

from pathlib import Path

import pytest
import torch

from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.optimize import optimize
from diffsim.optimizers import method_named
from diffsim.problem import Problem
from diffsim.scripts import load

PROJECTILE = Path(__file__).parent.parent / "projectile.py"
ROUNDING = 1e-9 if context.dtype == torch.float64 else 1e-3


# --- truncated rollouts


def gradient(scene, **options):
    scene.variables["push"].grad = None
    path = scene.rollout(**options)
    scene.loss(path).backward()
    return path, scene.variables["push"].grad.clone()


def test_a_truncated_rollout_computes_the_same_and_cuts_the_gradient_at_the_windows():
    scene = load(PROJECTILE)
    with torch.no_grad():
        scene.variables["push"].uniform_(-1, 1)
    whole_path, whole = gradient(scene)
    path, cut = gradient(scene, truncate=4)  # windows of steps 0-3, 4-7, 8-9
    assert torch.equal(path.x, whole_path.x)
    # the last window sees the loss at the end as the whole rollout does; the first two see only their own frames
    assert torch.equal(cut[8:], whole[8:])
    assert not torch.allclose(cut[:8], whole[:8])
    last = load(PROJECTILE)
    goal = torch.tensor([1.0, 2.0], dtype=context.dtype)
    last.objective = lambda path: (path.x[-1] - goal).square().sum()
    assert (gradient(last, truncate=4)[1][:8] == 0).all() and (gradient(last)[1][:8, 0, :2] != 0).all()


@pytest.mark.parametrize("length", [10, 99])
def test_a_window_as_long_as_the_rollout_changes_nothing(length):
    scene = load(PROJECTILE)
    assert torch.equal(gradient(scene)[1], gradient(scene, truncate=length)[1])


@pytest.mark.parametrize("memory", ["2GiB", "40KiB"])
def test_truncation_does_not_depend_on_checkpoints(memory, capsys):
    scene = load(PROJECTILE, steps=30)
    scene.every = 30
    _, found = gradient(scene, truncate=7, memory=memory)
    _, expected = gradient(scene, truncate=7)
    assert torch.equal(found, expected)


def test_frozen_steps_get_no_gradient_and_the_others_theirs():
    scene = load(PROJECTILE)
    _, whole = gradient(scene)
    path, found = gradient(scene, frozen=6)
    assert (found[:6] == 0).all() and torch.equal(found[6:], whole[6:])
    assert not path[6].x.requires_grad and path[7].x.requires_grad


def test_optimize_truncates_and_refuses_nonsense():
    result = optimize(load(PROJECTILE), iterations=4, truncate=3)
    assert result.loss < result.history[0]["loss"]
    assert result.history[0]["gradient_norm"] < optimize(load(PROJECTILE), iterations=1).history[0]["gradient_norm"]
    with pytest.raises(SceneError, match="truncate=0"):
        optimize(load(PROJECTILE), truncate=0)


# --- growing rollouts


def test_the_horizon_grows_at_plateaus_and_the_result_is_of_the_whole_rollout():
    scene = load(PROJECTILE)
    options = {"start": 4, "increment": 4, "plateaus": 1, "rtol": 0.2, "lr": 0.5}
    result = optimize(scene, method="expanding", iterations=40, **options)
    counts = [record["simulated_steps"] for record in result.history]
    lengths = [after - before for before, after in zip([0, *counts], counts, strict=False)]
    assert lengths[0] == 4 and lengths[-1] == 10
    assert lengths == sorted(lengths) and set(lengths) == {4, 8, 10}
    with torch.no_grad():
        assert float(scene.loss(scene.rollout())) == result.loss


def test_a_run_too_short_to_grow_ends_with_an_evaluation_of_all_steps():
    scene = load(PROJECTILE)
    result = optimize(scene, method="expanding", iterations=2, start=3)
    assert [record["simulated_steps"] for record in result.history] == [3, 6, 16]
    assert result.iteration == 2
    push = result.variables["push"]
    assert (push[:3] != 0).any() and (push[3:] == 0).all()  # rows beyond the horizon stay


def test_rows_that_left_the_free_window_stay_as_they_were():
    scene = load(PROJECTILE)
    rows = []
    optimize(
        scene,
        method="expanding",
        iterations=12,
        **{"start": 4, "increment": 2, "plateaus": 1, "rtol": 0.9, "keep": 4},
        callback=lambda record: rows.append((record["simulated_steps"], scene.variables["push"].detach().clone())),
    )
    lengths = [after[0] - before[0] for before, after in zip([(0, None), *rows], rows, strict=False)]
    for (_, before), (_, after), length in zip(rows, rows[1:], lengths, strict=False):
        frozen = max(0, length - 4)
        assert torch.equal(before[:frozen], after[:frozen])
        assert not torch.equal(before[frozen:length], after[frozen:length])
    assert max(lengths) == 10


def test_the_learning_rate_decays_at_every_expansion():
    scene = load(PROJECTILE)
    options = {"optimizer": "sgd", "lr": 1e-3, "start": 9, "increment": 1, "plateaus": 1, "rtol": 1e9, "decay": 0.25}
    moved = []

    def note(record):
        moved.append((scene.variables["push"].detach().clone(), record["gradient_norm"]))

    optimize(scene, method="expanding", iterations=3, callback=note, **options)
    rates = [float((b[0] - a[0]).norm()) / a[1] for a, b in zip(moved[:-1], moved[1:], strict=True)]
    # the first loss of a horizon has nothing to be compared with, so the second iteration expands it
    assert rates == pytest.approx([1e-3, 1e-3, 0.25e-3], rel=1e-3)


# --- several starts


def test_several_starts_are_descents_of_their_own_and_the_best_one_wins():
    one = optimize(load(PROJECTILE), method="adam", lr=1.0, iterations=5)
    result = optimize(load(PROJECTILE), method="multi_start", lr=1.0, starts=3, iterations=5)
    tracks = [[r["loss"] for r in result.history if r["candidate"] == k] for k in range(3)]
    assert tracks[0] == [record["loss"] for record in one.history]  # the first start is the scene's
    assert len({track[0] for track in tracks}) == 3
    assert result.loss == min(min(track) for track in tracks)


def test_a_hybrid_descends_from_the_best_candidate():
    result = optimize(load(PROJECTILE), method="hybrid", switch=3, population=6, iterations=8, lr=0.3)
    explored = [record for record in result.history if record["iteration"] <= 3]
    refined = [record for record in result.history if record["iteration"] > 3]
    assert len(explored) == 1 + 3 * 6 and len(refined) == 5
    assert all(record["gradient_norm"] is None for record in explored)
    assert refined[0]["loss"] == min(record["loss"] for record in explored)
    assert result.loss < 0.5 * refined[0]["loss"]


# --- Sophia


def diagonal(weights, at=0.0, limit=1.0, samples=1, mixed=0.0):
    scene = load(PROJECTILE, steps=2, limit=limit)
    push = scene.variables["push"]
    with torch.no_grad():
        push.fill_(at)
    scene.objective = lambda path: (
        (weights * push.square()).sum() + mixed * push[0, 0, 0] * push[1, 0, 1] + 0 * path.x.sum()
    )
    problem = Problem(scene)
    problem.evaluate(0)
    before, gradient = push.detach().clone(), push.grad.clone()
    method = method_named("sophia", {"hessian_samples": samples, "probe": 1e-2})
    (found,) = method.diagonal(problem)
    assert torch.equal(push, before) and torch.equal(push.grad, gradient)
    assert problem.simulated_steps == 2 + 2 * 2 * samples
    return found


@pytest.mark.parametrize("at", [0.0, 1.0])  # within the bounds, and on one, where probes go to one side only
def test_the_diagonal_of_a_diagonal_hessian_is_exact(at):
    weights = torch.linspace(0.5, 3.0, 12, dtype=context.dtype).reshape(2, 1, 6)
    torch.testing.assert_close(diagonal(weights, at), 2 * weights, rtol=ROUNDING, atol=0)


def test_mixed_derivatives_average_out():
    torch.manual_seed(0)
    weights = torch.ones(2, 1, 6, dtype=context.dtype)
    once, often = (diagonal(weights, samples=count, mixed=1.0)[0, 0, 0].item() for count in (1, 400))
    assert abs(once - 2) == pytest.approx(1, rel=ROUNDING)
    assert abs(often - 2) < 3 / 400**0.5


def test_sophia_takes_newton_steps_where_they_are_short():
    """A quadratic of very different curvatures, the steps not clipped: one with averaging off is Newton's."""
    scene = load(PROJECTILE, steps=2)
    push = scene.variables["push"]
    weights = torch.logspace(-2, 2, 12, dtype=context.dtype).reshape(2, 1, 6)
    with torch.no_grad():
        push.fill_(0.5)
    scene.objective = lambda path: (weights * push.square()).sum() + 0 * path.x.sum()
    result = optimize(scene, method="sophia", iterations=1, lr=1.0, betas=(0.0, 0.0), p=10.0, probe=1e-2)
    assert result.loss < 1e-6 * result.history[0]["loss"]


# --- names and options


@pytest.mark.parametrize(
    "name, options, text",
    [
        ("cmaa", {}, r"method 'cmaa' is not known; did you mean 'cma'\?"),
        ("fromage", {}, "method 'fromage' is not known"),  # not free for commercial use
        ("expanding", {"optimizer": "lbfgs"}, "method 'lbfgs' is not known"),
        ("expanding", {"increment": 0}, "increment=0"),
        ("expanding", {"strat": 3}, "no option 'strat'"),
        ("hybrid", {"search": "adam"}, "option search='adam'"),
        ("hybrid", {"optimizer": "cma"}, "has no gradients"),
        ("hybrid", {"switch": 0}, "switch=0"),
        ("multi_start", {"starts": 0}, "starts=0"),
        ("sophia", {"update_period": 3}, "no option 'update_period'"),
        ("sophia", {"hessian_period": 0}, "hessian_period"),
        ("cma", {"lr": 0.1}, "no option 'lr'"),
    ],
)
def test_unknown_methods_and_options_are_refused(name, options, text):
    with pytest.raises(SceneError, match=text):
        method_named(name, options)


def test_a_method_of_a_missing_extra_names_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(SceneError, match=r"pip install 'diffsim\[optimizers\]'"):
        method_named("lion", {})


def test_options_as_texts_reach_the_method_inside():
    method = method_named("hybrid", {"switch": "4", "population": "6", "optimizer": "lion", "betas": "0.8,0.9"})
    assert (method.switch, method.explore.population, method.refine.options["betas"]) == (4, 6, (0.8, 0.9))
