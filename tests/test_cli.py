"""The command line: what each command writes and prints, and what a user's mistake leads to."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import h5py
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffsim.cli import main

PROJECTILE = str(Path(__file__).with_name("projectile.py"))
PRECISION = os.environ.get("DIFFSIM_TEST_PRECISION", "f64")
ENGINE = ["--device", "cpu", "--precision", PRECISION]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own; torch's threads, which a resumed run sets, are put back."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


def printed(capsys, *arguments):
    """What a command that must succeed prints with --json."""
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    """The one line that a command that must fail prints, and its exit code."""
    code = main(list(arguments))
    text = capsys.readouterr().err
    last = text.strip().splitlines()[-1]
    assert code != 0 and last.startswith("error: ") and "Traceback" not in text
    return code, last


def test_help_and_list_do_not_wait_for_torch():
    for arguments in (["--help"], ["list", "--json"]):
        source = f"import sys; from diffsim.cli import main; code = main({arguments!r}); print('torch' in sys.modules)"
        child = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
        assert child.stdout.strip().splitlines()[-1] == "False"


def test_a_run_writes_its_files_and_reports_its_figures(folder, capsys):
    found = printed(capsys, "run", PROJECTILE, "--set", "target=0,-5", "--vtu", "--ply", *ENGINE)
    assert found["folder"] == "runs/projectile" and found["frames"] == 11
    run = folder / "runs" / "projectile"
    names = {"run.json", "metrics.jsonl", "trajectory.h5", "video.mp4", "last.png", "last.ply", "trajectory.pvd"}
    assert names | {"frames"} == {file.name for file in run.iterdir()}
    with h5py.File(run / "trajectory.h5") as file:
        assert file["x"].shape == (11, 1, 2)
        # symplectic Euler: the fall of n steps is g dt^2 n (n + 1) / 2
        assert file["x"][-1, 0, 1] == pytest.approx(-9.8 * 0.01 * 55, rel=1e-6)
    assert Image.open(run / "last.png").size == (640, 480)
    frozen = json.loads((run / "run.json").read_text())
    assert frozen["options"]["target"] == [0, -5] and frozen["precision"] == PRECISION


def test_a_second_run_takes_the_next_folder(capsys):
    for name in ("projectile", "projectile-2"):
        assert printed(capsys, "run", PROJECTILE, "--no-render", *ENGINE)["folder"] == f"runs/{name}"


def test_fewer_steps_give_the_start_of_the_whole_run(folder, capsys):
    main(["run", PROJECTILE, "--out", "whole", "--no-render", *ENGINE])
    main(["run", PROJECTILE, "--out", "part", "--steps", "4", "--no-render", *ENGINE])
    with h5py.File("whole/trajectory.h5") as whole, h5py.File("part/trajectory.h5") as part:
        assert (whole["x"][:5] == part["x"][()]).all()


def test_an_optimization_reports_first_and_best_and_draws_the_best(folder, capsys):
    found = printed(capsys, "optimize", PROJECTILE, "--iterations", "30", "--out", "o", *ENGINE)
    assert found["loss, best"] < 0.1 * found["loss, first"]
    assert found["score, best"] > found["score, first"]
    names = {file.name for file in (folder / "o").iterdir()}
    assert {"video.mp4", "last.png", "loss.png", "controls.csv", "controls.npy", "best.safetensors"} <= names
    with h5py.File("o/trajectory.h5") as file:
        end = torch.from_numpy(file["x"][-1, 0])
    score = 1 / (1 + (end - torch.tensor([1.0, 2.0])).norm())
    assert float(score) == pytest.approx(found["score, best"], rel=1e-5)
    header, first = (folder / "o" / "controls.csv").read_text().splitlines()[:2]
    assert header == "step,tool,vx,vy,vz,wx,wy,wz"
    push = load_file("o/best.safetensors")["push"]
    assert [float(word) for word in first.split(",")[2:]] == push[0, 0].tolist()


def test_options_of_the_method_are_converted(folder, capsys):
    arguments = ["--method", "SGD", "--lr", "0.5", "--option", "nesterov=true", "--option", "momentum=0.9"]
    main(["optimize", PROJECTILE, "--iterations", "2", "--no-render", "--out", "o", *arguments, *ENGINE])
    assert json.loads((folder / "o" / "run.json").read_text())["optimize"]["method"] == "sgd"
    _, line = refused(capsys, "optimize", PROJECTILE, "--option", "momntum=1", *ENGINE)
    assert "no option 'momntum'" in line


def test_ctrl_c_leaves_a_checkpoint_from_which_the_run_goes_on(folder, capsys):
    command = [sys.executable, "-m", "diffsim.cli", "optimize", PROJECTILE, "--out", "o", "--iterations", "100"]
    child = subprocess.Popen(
        [*command, "--no-render", *ENGINE],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits "ignore"
    )
    while not (folder / "o" / "best.safetensors").exists():
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    errors = child.communicate(timeout=120)[1]
    assert child.returncode == 130 and "Traceback" not in errors
    assert "diffsim resume o" in errors
    assert main(["resume", "o", "--no-render"]) == 0
    assert main(["optimize", PROJECTILE, "--out", "whole", "--iterations", "100", "--no-render", *ENGINE]) == 0
    found, expected = (load_file(f"{name}/best.safetensors")["push"] for name in ("o", "whole"))
    assert torch.equal(found, expected)


def test_a_run_is_drawn_again_in_another_color_and_size(folder, capsys):
    main(["run", PROJECTILE, "--out", "r", "--no-render", *ENGINE])
    assert main(["render", "r", "--color", "speed", "--size", "320x240", "--every", "5", "--frames"]) == 0
    assert Image.open(folder / "r" / "last.png").size == (320, 240)
    assert len(list((folder / "r" / "frames").iterdir())) == 3


def test_an_estimate_counts_the_steps_of_the_scene(capsys):
    found = printed(capsys, "estimate", PROJECTILE, "--set", "steps=7", "--precision", PRECISION)
    assert (found["particles"], found["steps"], found["substeps"], found["frames"]) == (1, 7, 7, 8)
    assert found["duration [s]"] == pytest.approx(0.7)
    timed = printed(capsys, "estimate", PROJECTILE, "--time", "--precision", PRECISION)
    assert timed["run [s]"] > 0 and timed["gradient [s]"] > 0


@pytest.mark.skipif(PRECISION == "f32", reason="differences of f32 do not resolve a gradient to 1e-6")
def test_gradients_are_checked_for_every_input_and_variable(capsys):
    found = printed(capsys, "check-gradients", PROJECTILE)
    assert found["passed"]
    inputs = {row["input"]: row for row in found["inputs"]}
    assert {"x", "v", "controls", "objective by push"} <= set(inputs)
    assert all(inputs[name]["difference"] < 1e-6 for name in ("x", "v", "controls", "objective by push"))
    assert main(["check-gradients", PROJECTILE]) == 0
    assert "objective by push" in capsys.readouterr().out
    # no finite difference is exact
    assert main(["check-gradients", PROJECTILE, "--tolerance", "1e-30"]) == 1
    assert "off" in capsys.readouterr().out


def test_the_horizon_lists_the_gradient_of_ever_longer_runs(capsys):
    rows = printed(capsys, "check-gradients", PROJECTILE, "--horizon", "--precision", PRECISION)
    assert [row["steps"] for row in rows] == [1, 2, 4, 8, 10]
    assert all(row["gradient_norm"] > 0 for row in rows)


def test_the_doctor_finds_the_cpu_and_the_encoder(capsys):
    found = printed(capsys, "doctor")
    assert found["device cpu"]["ok"] and found["video encoder"]["ok"]


MISTAKES = {
    "unknown command": (["optimise", "move"], 2, "No such command 'optimise'"),
    "unknown flag": (["run", PROJECTILE, "--stepz", "3"], 2, "--stepz"),
    "malformed setting": (["run", PROJECTILE, "--set", "steps"], 2, "'steps' is not KEY=VALUE"),
    "steps below one": (["run", PROJECTILE, "--steps", "0"], 2, "--steps"),
    "unknown scene": (["run", "jely_drop"], 1, "scene 'jely_drop' is not known"),
    "unknown option": (["run", PROJECTILE, "--set", "targt=1"], 1, "did you mean 'target'?"),
    "wrong type": (["run", PROJECTILE, "--set", "steps=few"], 1, "option steps='few' is not of type int"),
    "missing script": (["run", "no.py"], 1, "no.py does not exist"),
    "too many steps": (["run", PROJECTILE, "--steps", "99"], 1, "10 rows of controls for 99 steps"),
    "nan controls": (["run", PROJECTILE, "--set", "mode=nan controls"], 1, "controls of step 0 are not finite"),
    "broken objective": (["optimize", PROJECTILE, "--set", "mode=broken objective"], 1, "objective raised Attribute"),
    "unknown method": (["optimize", PROJECTILE, "--method", "adamm"], 1, "did you mean 'adam'?"),
    "setting as option": (["optimize", PROJECTILE, "--option", "lr=1"], 1, "give it as --lr"),
    "unknown device": (["run", PROJECTILE, "--device", "abacus"], 1, "device 'abacus' is not known"),
    "too little memory": (["optimize", PROJECTILE, "--memory", "lots"], 1, "memory='lots' is not understood"),
    "not a run": (["resume", "."], 1, "run.json does not exist"),
}


@pytest.mark.parametrize("arguments, code, text", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_a_remedy_and_leaves_nothing_behind(folder, capsys, arguments, code, text):
    own = [option for option in ENGINE[::2] if option in arguments]
    engine = [] if code == 2 or arguments[0] == "resume" else ENGINE[2:] if own else ENGINE
    found, line = refused(capsys, *arguments, *engine)
    assert found == code and text in line
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert not files


def test_an_output_folder_that_cannot_be_written_is_refused(folder, capsys):
    (folder / "file").write_text("")
    for command in ("run", "optimize"):
        code, line = refused(capsys, command, PROJECTILE, "--out", "file/run", *ENGINE)
        assert code == 1 and "--out" in line


def test_an_earlier_run_is_kept_unless_it_is_to_be_replaced(folder, capsys):
    run = ["run", PROJECTILE, "--out", "r", "--no-render", *ENGINE]
    assert main(run) == 0
    before = (folder / "r" / "trajectory.h5").stat().st_mtime_ns
    assert "not empty" in refused(capsys, *run)[1]
    assert (folder / "r" / "trajectory.h5").stat().st_mtime_ns == before
    assert main([*run, "--overwrite"]) == 0


def test_a_run_is_not_resumed_as_an_optimization(capsys):
    main(["run", PROJECTILE, "--out", "r", "--no-render", *ENGINE])
    assert "holds no optimization" in refused(capsys, "resume", "r")[1]


def test_a_failing_run_keeps_its_frames_and_says_where(folder, capsys):
    (folder / "far.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(PROJECTILE).parent)!r})\n"
        "from projectile import scene as near\n"
        "def scene():\n"
        "    built = near(limit=1e9)\n"
        "    built.variables['push'].data[6] = 1e7\n"
        "    return built\n"
    )
    code, line = refused(capsys, "run", "far.py", "--out", "r", *ENGINE)
    assert code == 1 and "particle 0 left the domain" in line and "the 7 frames before it are in r/" in line
    with h5py.File("r/trajectory.h5.part", swmr=True) as file:
        assert len(file["time"]) == 7


def test_debug_shows_the_traceback():
    with pytest.raises(Exception, match="no.py does not exist"):
        main(["run", "no.py", "--debug", *ENGINE])


def test_a_scene_is_described_with_its_options_and_defaults(capsys):
    assert main(["list", "jelly_drop"]) == 0
    text = capsys.readouterr().out
    assert "Young's modulus [Pa]" in text and "--set E=100000.0" in text and "--set mesh=blob" in text
    assert main(["list", "dam_break", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["options"]["width"] == 0.05715
    assert "did you mean 'jelly_drop'" in refused(capsys, "list", "jelly")[1]


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"diffsim {metadata.version('diffsim')}\n"
