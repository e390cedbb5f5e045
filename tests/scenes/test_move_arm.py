"""Move by a robot: limits of the optimized motion, and files that replay to the same score."""

import json

import pytest
import torch

import diffsim as ds
from diffsim.cli import main
from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context
from diffsim.robots import read_joint_trajectory
from diffsim.scenes.move_arm import ACCELERATION, BASE

SMALL = {"particles": 150, "resolution": 16, "steps": 12}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short optimization from the command line."""
    folder = tmp_path_factory.mktemp("arm") / "run"
    options = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    engine = ["--precision", context.precision, "--device", context.device]
    settings = ["--iterations", "8", "--lr", "0.02", "--no-render", "--out", str(folder), *engine]
    assert main(["optimize", "move_arm", *options, *settings]) == 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return folder, records


def test_the_tools_begin_where_those_of_move_do():
    arm, plain = ds.load("move_arm", **SMALL), ds.load("move", tool="sphere", **SMALL)
    first = arm.start()[1][0]
    torch.testing.assert_close(first[:, :3], plain.start()[0].pose[:, :3], rtol=0, atol=1e-3)
    assert arm.objective is not None and set(arm.constraints) == {"joints"}


def test_the_optimized_motion_is_better_and_keeps_every_limit(run):
    folder, records = run
    assert min(record["loss"] for record in records) < records[0]["loss"]
    found = read_joint_trajectory(folder / "joints.csv")
    robot = ds.robots.Robot("six_axis_arm", base=BASE, acceleration=ACCELERATION)
    robot.check_limits(torch.tensor(found.positions), found.times[1], tolerance=1e-3)
    assert len(found) == SMALL["steps"] + 1 and found.joints == robot.joints


@pytest.mark.parametrize("suffix", ["csv", "yaml", "json"])
def test_an_exported_file_replays_to_the_same_score(run, suffix):
    folder, records = run
    best = min(records, key=lambda record: record["loss"])
    scene = ds.load("move_arm", trajectory=str(folder / f"joints.{suffix}"), **SMALL)
    with torch.no_grad():
        path = scene.rollout()
        assert scene.measure(path)["score"] == best["score"]
        assert float(scene.objective(path)) == pytest.approx(best["loss"], rel=1e-3)  # which has the constraint's term


def test_files_that_do_not_fit_are_refused(run, tmp_path):
    folder, _ = run
    with pytest.raises(SceneError, match="no point every .* for 20 steps"):
        ds.load("move_arm", trajectory=str(folder / "joints.csv"), **{**SMALL, "steps": 20})
    text = (folder / "joints.csv").read_text()
    (tmp_path / "other.csv").write_text(text.replace("elbow", "knee"))
    with pytest.raises(SceneError, match="is of joints turn, lift, knee"):
        ds.load("move_arm", trajectory=str(tmp_path / "other.csv"), **SMALL)
    lines = text.splitlines()
    row = lines[5].split(",")
    lines[5] = ",".join([row[0], str(float(row[1]) + 0.5), *row[2:]])
    (tmp_path / "fast.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="joint 'turn' has the velocity .* in step 3, beyond its limits -8 .. 8"):
        ds.load("move_arm", trajectory=str(tmp_path / "fast.csv"), **SMALL)


def test_an_arm_too_far_away_says_so(monkeypatch):
    monkeypatch.setattr("diffsim.scenes.move_arm.BASE", ((5.0, 1.5, 0.5), BASE[1]))
    with pytest.raises(SceneError, match="cannot reach"):
        ds.load("move_arm", **SMALL)
