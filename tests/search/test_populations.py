"""Methods without gradients: what they find, and that nothing depends on who evaluates their candidates."""

import importlib.util
import json
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from diffsim.errors import DataError, SceneError, SimulationError
from diffsim.kernels.arrays import context
from diffsim.optimize import optimize
from diffsim.problem import Problem
from diffsim.scripts import load
from diffsim.search import evaluators
from diffsim.search.population import Cma, Consensus
from diffsim.search.space import Space
from diffsim.search.worker import Worker

PROJECTILE = Path(__file__).parent.parent / "projectile.py"
KINDS = {
    "cma": {"method": "cma", "population": 5},
    "consensus": {"method": "consensus", "population": 4},
    "hybrid": {"method": "hybrid", "switch": 2, "population": 4},
    "multi_start": {"method": "multi_start", "starts": 3},
}
ray_only = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def figures(result):
    """The records of a run, without the time they took."""
    return [{name: value for name, value in record.items() if name != "seconds"} for record in result.history]


def test_a_scene_that_was_changed_after_it_was_loaded_is_not_given_to_other_processes():
    def freeze(scene):
        next(scene.policy.parameters()).requires_grad_(False)

    def noise(scene):
        scene.policy.register_buffer("noise", torch.zeros(1))

    for name, change in {
        "objective": lambda scene: setattr(scene, "objective", lambda path: path[-1].x.square().sum()),
        "every": lambda scene: setattr(scene, "every", 2),
        "options": lambda scene: scene.options.update(target=(0.0, 0.0)),
        "lagrangian.rho": lambda scene: setattr(scene.lagrangian, "rho", 5.0),
        "constraints": lambda scene: scene.constraints.update(none=lambda path: path.x),
        "policy.fixed": freeze,
        r"policy\.fixed": noise,
    }.items():
        scene = load(PROJECTILE, steps=4, policy=True)
        assert scene.changed_since_load() == []
        change(scene)
        with pytest.raises(SceneError, match=f": {name} was changed after diffsim.load"):
            optimize(scene, "cma", iterations=1, population=3, workers=2)
    scene = load(PROJECTILE, steps=4)
    scene.variables["push"].data += 1.0  # candidates bring the variables along
    assert scene.changed_since_load() == []


@pytest.fixture(scope="module")
def serial():
    """Per kind what one process finds: a policy that draws random numbers, so seeds matter as well."""
    return {
        name: optimize(load(PROJECTILE, policy=True), iterations=3, seed=5, **options)
        for name, options in KINDS.items()
    }


@pytest.fixture(scope="module")
def pool():
    """Two processes for all tests: they take seconds to start."""
    with evaluators.Processes(load(PROJECTILE, policy=True), 2) as running:
        yield running


@pytest.fixture
def two(pool, monkeypatch):
    """Let every run use them."""
    for module in ("population", "combined"):
        monkeypatch.setattr(f"diffsim.search.{module}.evaluator_of", lambda problem: nullcontext(pool))


@pytest.mark.parametrize("name", KINDS)
def test_processes_give_the_bits_of_a_serial_run(name, serial, two):
    found = optimize(load(PROJECTILE, policy=True), iterations=3, seed=5, workers=2, **KINDS[name])
    assert figures(serial[name]) == figures(found)
    for key, value in serial[name].variables.items():
        assert torch.equal(value, found.variables[key])


@ray_only
@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_ray_cluster_gives_the_bits_of_a_serial_run(name, serial):
    found = optimize(load(PROJECTILE, policy=True), iterations=3, seed=5, workers=2, cluster="local", **KINDS[name])
    assert figures(serial[name]) == figures(found)


def test_a_run_begun_by_one_process_goes_on_with_two(tmp_path, two, serial):
    class Stop(Exception):
        pass

    def stop(record):
        if record["evaluation"] == 7:
            raise Stop

    settings = {"iterations": 3, "seed": 5, "out": tmp_path / "run", **KINDS["cma"]}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr("diffsim.search.population.evaluator_of", evaluators.evaluator_of)  # serial at first
        optimize(load(PROJECTILE, policy=True), callback=stop, **settings)
    found = optimize(load(PROJECTILE, policy=True), resume=True, workers=2, **settings)
    assert figures(found) == figures(serial["cma"])
    assert len(found.history) == 16
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [record["loss"] for record in found.history]


@pytest.mark.parametrize("method", ["cma", "consensus"])
def test_a_population_finds_the_bottom_of_a_bowl(method):
    scene = load(PROJECTILE, steps=2)
    push = scene.variables["push"]
    goal = torch.linspace(-0.6, 0.7, push.numel(), dtype=push.dtype).reshape(push.shape)
    scene.objective = lambda path: (push - goal).square().sum() + 0 * path.x.sum()
    scene.bounds = {"push": (-1.0, 1.0)}
    population = 12 if method == "cma" else 60
    result = optimize(scene, method=method, iterations=60, population=population)
    assert result.loss < 1e-4 * result.history[0]["loss"]
    torch.testing.assert_close(result.variables["push"], goal, rtol=0, atol=0.02)


@pytest.mark.parametrize("method", ["cma", "consensus"])
def test_every_candidate_keeps_to_the_bounds(method):
    scene = load(PROJECTILE, limit=0.5)
    worst = []
    optimize(
        scene,
        method=method,
        sigma=2.0,
        iterations=4,
        callback=lambda _: worst.append(float(scene.variables["push"].detach().abs().max())),
    )
    assert 0.4 < max(worst) <= 0.5


def test_the_generators_of_the_user_are_left_alone():
    np.random.seed(4)
    expected = np.random.rand(2)
    np.random.seed(4)
    first = np.random.rand()
    one = optimize(load(PROJECTILE), method="cma", iterations=2)
    assert [first, np.random.rand()] == expected.tolist()
    np.random.seed(99)
    assert figures(optimize(load(PROJECTILE), method="cma", iterations=2)) == figures(one)
    assert figures(optimize(load(PROJECTILE), method="cma", iterations=2, seed=1)) != figures(one)


def test_held_rows_are_equal_and_the_search_has_so_many_fewer_numbers():
    problem = Problem(load(PROJECTILE, steps=7, limit=4.0))
    with torch.no_grad():
        problem.parameters["push"].copy_(torch.arange(42.0).reshape(7, 1, 6))
    space = Space(problem, hold=3)
    assert len(space.start) == 3 * 6
    assert (space.high == 1).all()  # in units of half the distance of the bounds
    found = space.variables(space.start).reshape(7, 6)
    rows = [0, 0, 0, 3, 3, 3, 6]
    assert np.array_equal(found, np.arange(42.0).reshape(7, 6)[rows])
    assert np.array_equal(Space(problem).variables(Space(problem).start), np.arange(42.0))
    result = optimize(load(PROJECTILE), method="cma", hold=5, iterations=3)
    blocks = result.variables["push"].reshape(2, 5, 6)
    assert torch.equal(blocks, blocks[:, :1].expand_as(blocks)) and not torch.equal(blocks[0], blocks[1])


def test_a_candidate_that_fails_is_the_worst_one_and_its_reason_is_kept(tmp_path):
    scene = load(PROJECTILE, limit=math.inf)
    result = optimize(scene, method="consensus", sigma=5000.0, population=8, iterations=2, out=tmp_path / "run")
    failed = [record for record in result.history if "failed" in record]
    assert failed and len(failed) < len(result.history) - 1
    assert all(record["loss"] == math.inf and "left the domain" in record["failed"] for record in failed)
    assert math.isfinite(result.loss)
    again = optimize(
        load(PROJECTILE, limit=math.inf),
        method="consensus",
        sigma=5000.0,
        population=8,
        iterations=3,
        out=tmp_path / "run",
        resume=True,
    )
    assert figures(again)[: len(result.history)] == figures(result)


def test_a_generation_of_failures_ends_the_run():
    with pytest.raises(SimulationError, match=r"^iteration 1: all 4 candidates failed, the first with: at \d"):
        scene = load(PROJECTILE, limit=math.inf)
        drawn = scene.variables["push"]
        settings = {"method": "cma", "population": 4, "sigma": 1e9}
        optimize(scene, iterations=1, callback=lambda _: drawn, **settings)


def test_workers_need_a_scene_that_can_be_built_again_and_a_method_that_uses_them():
    scene = load(PROJECTILE)
    scene.source = None
    with pytest.raises(SceneError, match="built in Python"):
        optimize(scene, method="cma", workers=2)
    with pytest.raises(SceneError, match="one candidate at a time"):
        optimize(load(PROJECTILE), method="adam", workers=2)
    with pytest.raises(SceneError, match="workers is 0"):
        optimize(load(PROJECTILE), method="cma", workers=0)


def test_an_error_of_the_scene_in_a_worker_is_an_error_here():
    worker = Worker.__new__(Worker)
    worker.scene = load(PROJECTILE, mode="broken objective")
    job = {"variables": [0.0] * 60, "evaluation": 0, "seed": 0, "gradient": False}
    answer = worker.answer(job | {"memory": "2GiB", "steps": None, "truncate": None})
    assert json.loads(json.dumps(answer)) == answer  # as it crosses the pipe
    with pytest.raises(SceneError, match=r"projectile\.py:\d+: objective raised AttributeError"):
        evaluators._checked(answer)


@pytest.mark.parametrize(
    "build, text",
    [
        (lambda: Cma(sigma=0.0), "sigma=0.0"),
        (lambda: Cma(population=2), "population=2"),
        (lambda: Cma(hold=0), "hold=0"),
        (lambda: Consensus(population=1), "population=1"),
        (lambda: Consensus(diffusion=2.0), "diffusion=2.0"),
        (lambda: Consensus(alpha=-1.0), "alpha=-1.0"),
    ],
)
def test_options_out_of_range_are_refused(build, text):
    with pytest.raises(SceneError, match=text):
        build()


def test_precision_of_the_variables_is_kept():
    assert optimize(load(PROJECTILE), method="cma", iterations=1).variables["push"].dtype == context.dtype


def test_a_worker_that_dies_is_reported_and_leaves_none_behind(pool, two):
    """The last test of the file: it takes the processes of the others."""
    started = list(pool._processes)
    for process in started:
        process.kill()
        process.wait()
    with pytest.raises(DataError, match="a worker process ended"):
        optimize(load(PROJECTILE, policy=True), method="cma", iterations=1, workers=2)
    pool.__exit__(None, None, None)
    assert len(started) == 2 and all(process.poll() is not None for process in started)
