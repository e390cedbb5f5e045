"""Rollouts: frames, checkpointing that changes no bit, the plan for a memory budget, errors."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bodies import block, model, normal, parameter

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.kernels import control_step
from diffsim.rollout import estimate, parse_memory, repetitions, split

ROOT = Path(__file__).parent


def scene(**options):
    tool = ds.Tool(ds.Sphere(0.1), pose=((0.5, 0.32), (1, 0, 0, 0)), friction=parameter(0.3))
    simulation = model(gravity=9.8, tools=[tool], walls=ds.Walls("separating", friction=parameter(0.2)), **options)
    controls = 0.3 * normal(12, 1, 6, seed=5)
    return simulation, block(simulation, 60, v=(0.3, -1.0)), controls


def gradient(simulation, state, controls, **options):
    """A fixed objective on all frames, and its gradients by state, controls and parameters."""
    x = state.x.clone().requires_grad_()
    known = [x, *simulation.parameters()]
    if isinstance(controls, torch.Tensor):
        controls = controls.clone().requires_grad_()
        known.append(controls)
    elif isinstance(controls, torch.nn.Module):
        known += controls.parameters()
    path = ds.rollout(simulation, state._replace(x=x), controls, **options)
    loss = (path.x * normal(*path.x.shape, seed=1)).sum() + (path.wrench**2).sum() + path.F.pow(2).sum()
    return [loss.detach(), *torch.autograd.grad(loss, known)]


def assert_same_bits(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def budget(simulation, state, steps, stored, every):
    """Bytes in which ``stored`` states fit, and the plan."""
    low, high = 1, 2**40
    while high - low > 1:  # the plan's own idea of what fits
        middle = (low + high) // 2
        try:
            fits = estimate(simulation, state, steps, every=every, memory=middle).snapshots >= stored
        except SceneError:
            fits = False
        low, high = (low, middle) if fits else (middle, high)
    return high, estimate(simulation, state, steps, every=every, memory=high)


def test_frames_are_the_initial_state_and_every_so_many_th():
    simulation, state, controls = scene()
    whole = ds.rollout(simulation, state, controls)
    path = ds.rollout(simulation, state, controls, every=5)
    assert len(whole) == 13 and len(path) == 12 // 5 + 1
    assert torch.equal(path.x, whole.x[[0, 5, 10]])
    assert torch.allclose(whole.times, 5e-3 * torch.arange(13, dtype=torch.float64))
    assert path.wrench.shape == (3, 1, 6) and path.pose.shape == (3, 1, 7)
    assert path.model is simulation and torch.equal(path[-1].v, whole[10].v)
    assert len(ds.rollout(simulation, state, steps=0)) == len(ds.rollout(simulation, state, steps=3, every=4)) == 1


@pytest.mark.parametrize("every", [1, 4])
def test_checkpointing_changes_no_bit_of_a_gradient(every):
    simulation, state, controls = scene()
    stored = gradient(simulation, state, controls, every=every)
    assert estimate(simulation, state, 12, every=every).store_substeps
    seen = set()
    for kept in (12, 5, 3, 2):
        memory, plan = budget(simulation, state, 12, kept, every)
        assert not plan.store_substeps and plan.snapshots == kept
        seen.add(plan.repetitions)
        assert_same_bits(gradient(simulation, state, controls, every=every, memory=memory), stored)
    assert seen == {1, 2, 3, 4}  # stored inputs of all steps, and three depths of recomputation


def test_substep_states_kept_or_computed_again_give_the_same_bits():
    simulation, state, controls = scene()
    results = []
    for store in (True, False):
        x = state.x.clone().requires_grad_()
        after = simulation(state._replace(x=x), controls[0], store=store)
        results.append([after.x.detach(), *torch.autograd.grad(after.x.pow(2).sum() + after.wrench.sum(), x)])
    assert_same_bits(*results)


class Noisy(torch.nn.Module):
    """A policy with random exploration."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(0.1 * normal(2, 6))

    def forward(self, state, step):
        return torch.tanh(state.x.mean(0) @ self.weight + torch.randn(6, dtype=state.x.dtype))[None]


def test_a_policys_noise_is_the_same_when_its_steps_are_computed_again():
    simulation, state, _ = scene()
    policy, results = Noisy(), []
    for memory in ("1GiB", budget(simulation, state, 12, 3, 12)[0]):
        torch.manual_seed(0)
        results.append(gradient(simulation, state, policy, steps=12, every=12, memory=memory))
    assert_same_bits(*results)


def test_a_split_run_is_the_whole_run_bit_for_bit():
    simulation, state, controls = scene()
    whole = ds.rollout(simulation, state, controls)
    first = ds.rollout(simulation, state, controls[:5])
    second = ds.rollout(simulation, first[-1], controls[5:])
    for part, other in zip(whole[-1], second[-1], strict=True):
        assert torch.equal(part, other)


def test_the_gradient_goes_through_a_split():
    simulation, state, controls = scene()
    x = state.x.clone().requires_grad_()
    whole = ds.rollout(simulation, state._replace(x=x), controls[:6])
    split_up = ds.rollout(simulation, ds.rollout(simulation, state._replace(x=x), controls[:3])[-1], controls[3:6])
    gradients = [torch.autograd.grad(path.x[-1].pow(2).sum(), x)[0] for path in (whole, split_up)]
    assert torch.equal(*gradients)


def test_progress_counts_every_step_once():
    simulation, state, controls = scene()
    done = []
    memory, _ = budget(simulation, state, 12, 3, 12)
    path = ds.rollout(
        simulation, state._replace(x=state.x.clone().requires_grad_()), controls, every=12, memory=memory,
        progress=done.append,
    )  # fmt: skip
    path.x[-1].sum().backward()
    assert done == list(range(1, 13))


@pytest.mark.parametrize("snapshots", [1, 2, 3, 7])
def test_the_schedule_of_checkpoints_is_optimal(snapshots):
    """With c states and r repetitions C(c + r, c) steps are within reach (Griewank and Walther 2000)."""

    def most_runs(count, kept):
        """How often the busiest step runs forward in the recursion of rollout."""
        if count <= kept or count == 1:
            return 1
        part = split(count, kept)
        return max(1 + most_runs(part, kept), most_runs(count - part, kept - 1) if count > part else 0)

    for r in range(1, 5):
        reach = math.comb(snapshots + r, snapshots)
        if reach < 200:
            assert repetitions(reach, snapshots) == max(r, 1) or reach <= snapshots
            assert repetitions(reach + 1, snapshots) == r + 1
            assert most_runs(reach, snapshots) <= r + 1


@pytest.mark.parametrize(
    "text, size", [("2GiB", 2**31), ("500MB", 500e6), (" 1.5 kib ", 1536), (4096, 4096), ("64", 64)]
)
def test_memory_is_read_with_its_unit(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": -1}, "steps=-1"),
        ({"steps": 2.5}, "steps=2.5"),
        ({}, "steps=None"),
        ({"steps": 2, "every": 0}, "every=0"),
        ({"steps": 13, "controls": torch.zeros(12, 1, 6)}, "12 steps, but steps=13"),
        ({"controls": torch.zeros(1, 6)}, "controls have shape"),
        ({"controls": torch.full((2, 1, 6), float("nan"))}, "not finite at step 0"),
    ],
)
def test_an_option_that_does_not_fit_is_named(options, message):
    simulation, state, _ = scene()
    with pytest.raises(SceneError, match=message):
        ds.rollout(simulation, state, **options)


@pytest.mark.parametrize("memory", ["much", "-1GiB", 0, "3 parsecs"])
def test_a_budget_that_is_not_understood_is_named(memory):
    with pytest.raises(SceneError, match="memory="):
        parse_memory(memory)


def test_too_small_a_budget_says_how_much_is_needed():
    simulation, state, controls = scene()
    with pytest.raises(SceneError, match="give at least"):
        ds.rollout(simulation, state._replace(x=state.x.clone().requires_grad_()), controls, memory="1KiB")


@pytest.mark.parametrize("store", [True, False])
def test_arrays_that_indices_do_not_reach_are_cut_into_launches_without_changing_a_bit(monkeypatch, store):
    simulation, state, controls = scene(substeps=10)
    x, launches, launch = state.x.clone().requires_grad_(), [], control_step.Workspace.launch

    def counted(work, *arguments, **options):
        launches.append(1)
        return launch(work, *arguments, **options)

    def results():
        launches.clear()
        after = simulation(state._replace(x=x), controls[0], store=store)
        loss = after.x.sum() + after.F.pow(2).sum() + after.wrench.pow(2).sum()
        return [after.x, *torch.autograd.grad(loss, [x, *simulation.parameters()])], len(launches)

    monkeypatch.setattr(control_step.Workspace, "launch", counted)
    whole, count = results()
    states = state.x.shape[0] * 14  # of one substep: x, v, C, F, F33 and the internal variable of the law or less
    for limit in (4 * states, 3 * states):
        monkeypatch.setattr(control_step, "LAST_INDEX", limit)
        cut, more = results()
        assert more > count
        assert_same_bits(whole, cut)


def child(script, *arguments, **environment):
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("precision", ["f64", pytest.param("f32", marks=pytest.mark.slow)])
def test_results_and_gradients_have_the_same_bits_for_any_number_of_threads(precision):
    """2-D and 3-D, with a tool, walls with friction, particles in random order, and tiles sorted within a step."""
    results = {threads: child("threads_child.py", precision, threads) for threads in (1, 2, 4)}
    assert results[1]["sorts per step"] > 1
    assert results[1] == results[2] == results[4]


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["all", "some"])
def test_the_estimate_bounds_the_memory_of_a_gradient(kept):
    """Growth of the peak over a first short gradient, which has everything loaded and compiled.

    Freed blocks go back to the system: how many of them an allocator keeps is not the rollout's to plan.
    """
    result = child("memory_child.py", kept, MALLOC_MMAP_THRESHOLD_="65536")
    assert result["estimate"] / 3 < result["growth"] < 1.1 * result["estimate"] + 20 * 2**20, result
