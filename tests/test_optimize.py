"""Optimization: what it reaches, what it refuses, and that a killed run resumes bit for bit."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffsim.errors import DataError, GradientError, SceneError, SimulationError
from diffsim.optimize import optimize, resume_run
from diffsim.optimizers import methods
from diffsim.scripts import load

PROJECTILE = Path(__file__).with_name("projectile.py")
PRECISION = os.environ.get("DIFFSIM_TEST_PRECISION", "f64")
# every way through: a table with projected Adam, the replay of L-BFGS-B, a policy that draws random numbers, the replay
# of populations, one after the other, of several descents, of a growing rollout
KINDS = [
    ("adam", {}, {}),
    ("lbfgs", {"limit": 5.0}, {}),
    ("adam", {"policy": True}, {}),
    ("cma", {"policy": True}, {"population": 4}),
    ("consensus", {}, {"population": 3}),
    ("hybrid", {}, {"switch": 2, "population": 3}),
    ("hybrid", {"limit": 5.0}, {"switch": 2, "population": 3, "optimizer": "lbfgs"}),
    ("multi_start", {}, {"starts": 2}),
    ("expanding", {}, {"start": 4, "increment": 3, "plateaus": 1, "rtol": 0.3, "keep": 5}),
    ("sophia", {}, {"hessian_period": 2}),
    ("augmented_lagrangian", {"ceiling": 0.5}, {"every": 2, "lr": 1.0}),
]
NAMES = [f"{method}-{number}" for number, (method, _, _) in enumerate(KINDS)]

# Kills itself at ever later writes to the disk. The interpreter forks, so that its imports are paid once; nothing is
# really brought to the disk, which would take the most of the time: a kill, unlike a power cut, needs none of it.
VICTIM = """
import json, os, signal, sys
import cma, pytorch_optimizer, scipy.optimize, torch, diffsim
from diffsim.optimize import optimize
from diffsim.scripts import load

scene, kinds, folder, precision = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
diffsim.init(device="cpu", precision=precision)
sys.modules["diffsim.optimize"]._plot = lambda folder: None
optimize(load(scene), iterations=1)  # the first one imports for seconds

def counted(function):
    def call(*arguments, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **more)
    return call

for number, (method, options, more) in enumerate(kinds):
    point, status = 0, None
    while status is None or os.WIFSIGNALED(status):
        point += 5 + point // 3
        child = os.fork()
        if child == 0:
            left = point
            os.fsync, os.replace = counted(lambda file: None), counted(os.replace)
            out = f"{folder}/{number}/{point}"
            optimize(load(scene, **options), method=method, iterations=6, out=out, seed=3, **more)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    if status:
        sys.exit(1)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Per kind a folder of runs, each killed at a later write, the last one whole."""
    folder = tmp_path_factory.mktemp("killed")
    arguments = [str(PROJECTILE), json.dumps(KINDS), str(folder), PRECISION]
    child = subprocess.run([sys.executable, "-c", VICTIM, *arguments], capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
    return folder


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """A resumed run takes the threads it began with; figures, which take most of the time, are left blank."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys.modules["diffsim.optimize"], "_plot", lambda folder: (folder.path / "loss.png").touch())
    yield
    torch.set_num_threads(threads)


def lines(folder):
    """The records of a run, without the time they took."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=NAMES)
def test_a_run_killed_at_any_write_resumes_bit_for_bit(killed, kind, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    *folders, whole = sorted((killed / str(kind)).iterdir(), key=lambda folder: int(folder.name))
    assert len(folders) >= 3
    expected = load_file(whole / "best.safetensors")
    for number, folder in enumerate(folders):
        if number % 2 and (folder / "metrics.jsonl").exists():
            with open(folder / "metrics.jsonl", "a") as file:
                file.write('{"iteration": 99, "lo')  # as a write cut off by a crash leaves it
        _, result = resume_run(folder)
        assert lines(folder) == lines(whole)
        found = load_file(folder / "best.safetensors")
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert all(torch.equal(result.variables[name], expected[name]) for name in expected)
        if (whole / "controls.csv").exists():
            assert (folder / "controls.csv").read_bytes() == (whole / "controls.csv").read_bytes()


# not "expanding", whose last evaluation of a plan is one of the whole rollout
@pytest.mark.parametrize("method, options, more", [*KINDS[:8], *KINDS[9:]], ids=[*NAMES[:8], *NAMES[9:]])
def test_going_further_equals_having_planned_more(tmp_path, method, options, more):
    optimize(load(PROJECTILE, **options), method=method, iterations=4, out=tmp_path / "short", **more)
    _, result = resume_run(tmp_path / "short", iterations=9)
    optimize(load(PROJECTILE, **options), method=method, iterations=9, out=tmp_path / "long", **more)
    assert lines(tmp_path / "short") == lines(tmp_path / "long")
    assert result.history[-1]["iteration"] == 9


def test_a_scene_built_in_python_resumes_with_the_scene_given_again(tmp_path):
    def build():
        scene = load(PROJECTILE)
        scene.source = None
        return scene

    class Stop(Exception):
        pass

    def stop(record):
        if record["iteration"] == 3:
            raise Stop

    with pytest.raises(Stop):
        optimize(build(), iterations=6, out=tmp_path / "a", callback=stop)
    with pytest.raises(SceneError, match="was built in Python"):
        resume_run(tmp_path / "a")
    optimize(build(), iterations=6, out=tmp_path / "a", resume=True)
    optimize(build(), iterations=6, out=tmp_path / "b", resume=True)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


@pytest.mark.parametrize("method", sorted(set(methods()) - {"muon", "augmented_lagrangian"}))
def test_every_method_lowers_the_loss_and_reports_the_best_iterate(method):
    scene = load(PROJECTILE)
    result = optimize(scene, method=method.upper(), iterations=6, **({"switch": 3} if method == "hybrid" else {}))
    losses = [record["loss"] for record in result.history]
    assert result.loss == min(losses) < losses[0]
    assert torch.equal(scene.variables["push"], result.variables["push"])
    assert torch.equal(result.controls, result.variables["push"])
    again = scene.loss(scene.rollout())
    assert float(again.detach()) == result.loss


def test_a_policy_is_optimized_too():
    result = optimize(load(PROJECTILE, policy=True), lr=0.1, iterations=20)
    assert result.loss < 0.5 * result.history[0]["loss"]
    assert result.controls is None
    assert set(result.variables) == {f"policy.net.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}


@pytest.mark.parametrize("method", ["adam", "sgd", "lbfgs"])
def test_bounds_hold_at_every_evaluation_and_are_reached(method):
    scene = load(PROJECTILE, limit=2.0)
    worst = []
    result = optimize(
        scene,
        method=method,
        iterations=8,
        lr=None if method == "lbfgs" else 5.0,
        callback=lambda record: worst.append(float(scene.variables["push"].detach().abs().max())),
    )
    assert max(worst) == 2.0
    assert result.controls.abs().max() <= 2.0


def test_settings_come_from_the_call_then_the_scene():
    assert len(optimize(load(PROJECTILE)).history) == 13
    assert len(optimize(load(PROJECTILE), iterations=2).history) == 3
    # the scene's learning rate belongs to its own method
    own = optimize(load(PROJECTILE), iterations=1).variables["push"].abs().max()
    other = optimize(load(PROJECTILE), method="adamax", iterations=1).variables["push"].abs().max()
    assert own == pytest.approx(1.0) and other == pytest.approx(2e-3, rel=1e-3)


def test_patience_stops_a_run_that_no_longer_improves():
    result = optimize(load(PROJECTILE), method="sgd", lr=1e-300, iterations=40, patience=3)
    assert (result.reason, len(result.history)) == ("no improvement", 4)


def test_lbfgs_stops_when_its_steps_are_below_rounding():
    scene = load(PROJECTILE)
    push = torch.nn.Parameter(torch.zeros(2, dtype=torch.float32))
    start, _ = scene.start()
    scene.variables, scene.bounds = {"push": push}, {}
    scene.setup = lambda: (start._replace(v=push.to(start.v)[None]), torch.zeros(10, 1, 6, dtype=start.x.dtype))
    result = optimize(scene, method="lbfgs", iterations=100)
    assert result.reason.startswith("no further descent") and len(result.history) < 60
    assert result.loss < 1e-2 * result.history[0]["loss"]


def test_clip_norm_limits_the_step():
    result = optimize(load(PROJECTILE), method="sgd", lr=1.0, iterations=1, clip_norm=1e-3)
    assert result.history[0]["gradient_norm"] > 1
    assert float(result.variables["push"].norm()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"method": "adamm"}, r"method 'adamm' is not known; did you mean 'adam'\?"),
        ({"method": "adam", "beta": 0.9}, r"method 'adam' has no option 'beta'; did you mean 'betas'\?"),
        ({"method": "lbfgs", "lr": 0.1}, "method 'lbfgs' has no option 'lr'"),
        ({"method": "sgd", "lr": -1.0}, "Invalid learning rate"),
        ({"clip_norm": 0.0}, "clip_norm=0.0; it must be positive"),
        ({"iterations": 0}, "iterations is 0"),
        ({"resume": True}, "needs out="),
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_written(tmp_path, settings, text):
    if "resume" not in settings:
        settings = {**settings, "out": tmp_path / "run"}
    with pytest.raises(SceneError, match=text) as caught:
        optimize(load(PROJECTILE), **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "mode, error, text",
    [
        ("nan controls", SceneError, "controls of step 0 are not finite"),
        ("broken objective", SceneError, r"projectile\.py:\d+: objective raised AttributeError"),
        ("nan loss", GradientError, "iteration 0: the loss is nan"),
        ("infinite gradient", GradientError, "iteration 0: the gradient of 'push' is not finite"),
    ],
)
def test_a_scene_that_fails_at_once_says_where_and_leaves_no_folder(tmp_path, mode, error, text):
    with pytest.raises(error, match=text):
        optimize(load(PROJECTILE, mode=mode), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_failing_rollout_names_the_iteration_and_keeps_what_was_done(tmp_path):
    with pytest.raises(SimulationError, match=r"^iteration 1: at \d\.\d s particle 0 left the domain") as caught:
        optimize(load(PROJECTILE, limit=math.inf), method="sgd", lr=1e6, out=tmp_path / "run")
    assert caught.value.step is not None
    assert [record["iteration"] for record in lines(tmp_path / "run")] == [0]
    assert (tmp_path / "run" / "loss.png").exists()


def test_a_step_to_infinity_names_the_variable():
    with pytest.raises(GradientError, match="iteration 0: 'push' is not finite after the step"):
        optimize(load(PROJECTILE, limit=math.inf, target=(900.0, 900.0)), method="sgd", lr=1e308)


def test_a_scene_without_objective_or_variables_is_refused():
    scene = load(PROJECTILE)
    scene.variables, scene.bounds = {}, {}
    with pytest.raises(SceneError, match="has no variables"):
        optimize(scene)
    scene = load(PROJECTILE)
    scene.objective = None
    with pytest.raises(SceneError, match="has no objective"):
        optimize(scene)


@pytest.mark.parametrize("bounds, text", [((1.0, -1.0), "exceeds"), ((torch.zeros(3), 1.0), "do not fit its shape")])
def test_bounds_that_make_no_sense_are_refused(bounds, text):
    scene = load(PROJECTILE)
    scene.bounds = {"push": bounds}
    with pytest.raises(SceneError, match=text):
        optimize(scene)


def test_a_metric_may_not_take_the_name_of_a_logged_figure():
    scene = load(PROJECTILE)
    scene.metrics = lambda path: {"loss": 0.0}
    with pytest.raises(SceneError, match="metric 'loss'"):
        optimize(scene)


def changed_script(folder):
    text = (folder / "scene.py").read_text()
    (folder / "scene.py").write_text(text.replace("target: tuple = (1.0", "target: tuple = (1.5"))


def broken_checkpoint(folder):
    (folder / "run" / "checkpoints" / "latest.pt").write_bytes(b"PK not a checkpoint")


def lost_metrics(folder):
    (folder / "run" / "metrics.jsonl").write_text("")


@pytest.mark.parametrize(
    "damage, error, text",
    [
        (changed_script, SceneError, "has changed since the run began"),
        (broken_checkpoint, DataError, r"latest\.pt is damaged"),
        (lost_metrics, DataError, "has lost lines"),
    ],
)
def test_a_run_that_could_not_resume_bit_for_bit_is_refused_and_left_alone(tmp_path, damage, error, text):
    (tmp_path / "scene.py").write_text(PROJECTILE.read_text())
    optimize(load(tmp_path / "scene.py"), iterations=2, out=tmp_path / "run")
    damage(tmp_path)
    files = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(error, match=text) as caught:
        resume_run(tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == files


def test_other_settings_do_not_continue_a_run(tmp_path):
    optimize(load(PROJECTILE), iterations=2, out=tmp_path / "run")
    with pytest.raises(SceneError, match="was begun with seed=0, not 1"):
        optimize(load(PROJECTILE), iterations=2, seed=1, out=tmp_path / "run", resume=True)
    with pytest.raises(DataError, match="not empty"):
        optimize(load(PROJECTILE), iterations=2, out=tmp_path / "run")
    with pytest.raises(DataError, match=r"run\.json does not exist"):
        resume_run(tmp_path)
