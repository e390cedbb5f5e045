"""Run folders and files that are never half-written."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffsim.errors import DataError
from diffsim.runs import RunFolder, atomic_write, read_metrics, read_run, versions


def test_atomic_write_takes_bytes_text_and_functions(tmp_path):
    for content in (b"abc", "abc", lambda path: path.write_text("abc")):
        path = tmp_path / "a.txt"
        atomic_write(path, content)
        assert path.read_text() == "abc" and os.listdir(tmp_path) == ["a.txt"]
        path.unlink()


def test_a_function_writes_at_a_path_in_the_same_folder_with_the_same_suffix(tmp_path):
    seen = []
    atomic_write(tmp_path / "a.png", lambda path: (seen.append(path), path.write_bytes(b"x")))
    assert seen[0].parent == tmp_path and seen[0].suffix == ".png" and not seen[0].exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def torn(path):
        path.write_text("ne")
        raise ValueError("out of ideas")

    with pytest.raises(ValueError, match="out of ideas"):
        atomic_write(tmp_path / "a.txt", torn)
    assert (tmp_path / "a.txt").read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    script = f"""
import os, signal
from diffsim.runs import atomic_write
def torn(path):
    path.write_text("ne")
    os.kill(os.getpid(), signal.SIGKILL)
atomic_write({str(tmp_path / "a.txt")!r}, torn)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    atomic_write(tmp_path / "a.txt", "abc")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere/a\.txt cannot be written: No such file"):
        atomic_write(tmp_path / "nowhere" / "a.txt", "abc")


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    assert RunFolder(tmp_path / "runs" / "jelly").path.is_dir()
    assert RunFolder(tmp_path / "runs" / "jelly").path.is_dir()  # an empty one will do


def test_a_folder_in_use_is_kept_and_the_remedies_named(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"not empty \(notes.txt, .*--out.*--overwrite") as refusal:
        RunFolder(tmp_path)
    assert "resume" not in str(refusal.value)  # there is nothing to go on with
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DataError, match="diffsim resume"):
        RunFolder(tmp_path)
    with pytest.raises(DataError, match="not a run's folder"):
        RunFolder(tmp_path, overwrite=True)
    with pytest.raises(DataError, match="nothing to resume"):
        RunFolder(tmp_path, resume=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    run = RunFolder(tmp_path)
    run.write_run("jelly_drop", {})
    run.log(loss=1.0)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "1.pt").write_text("")
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path, overwrite=True)
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("place", ["file", "file/inside", "/proc/diffsim"])
def test_a_place_that_cannot_hold_a_folder_is_named(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--out") as error:
        RunFolder(tmp_path / place)
    assert place in str(error.value)


def test_run_json_says_what_is_needed_to_run_again(tmp_path):
    run = RunFolder(tmp_path)
    options = {
        "E": 1e5,
        "size": (1, 2),
        "friction": float("inf"),
        "path": Path("a/b"),
        "t": torch.ones(2),
        "n": np.int64(3),
    }
    run.write_run("jelly_drop", options, seed=7, method="adam")
    read = read_run(tmp_path)
    assert read["scene"] == "jelly_drop" and read["seed"] == 7 and read["method"] == "adam" and read["schema"] == 1
    assert read["options"] == {"E": 1e5, "size": [1, 2], "friction": np.inf, "path": "a/b", "t": [1, 1], "n": 3}
    assert {"device", "precision", "threads", "language"} <= set(read)
    assert read["versions"] == versions() and {"diffsim", "torch", "numpy", "python"} <= set(read["versions"])
    assert read["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_an_option_that_json_cannot_hold_is_named_and_nothing_written(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(DataError, match=r"options\.laws\[1\] is a function"):
        run.write_run("jelly_drop", {"laws": [1, lambda x: x]})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [None, b"{", b"\xff", b"[]", b'{"schema": 99}'], ids=str)
def test_a_bad_run_json_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(DataError, match=r"run\.json"):
        read_run(tmp_path)


def test_metrics_read_back_line_by_line(tmp_path):
    run = RunFolder(tmp_path)
    rows = [{"iteration": i, "loss": 0.1 * i, "note": "ü"} for i in range(3)]
    for row in rows:
        run.log(**row)
    run.log(loss=torch.tensor(float("inf")))
    assert run.metrics() == [*rows, {"loss": float("inf")}]


@pytest.mark.parametrize(
    "tail", [b'{"iteration": 2', b'{"iteration": 2}', b'{"iter\n', b"\xff\xfe", b"\0\0\0\n"], ids=str
)
def test_a_torn_last_line_is_left_out_and_cut_on_resume(tmp_path, tail):
    run = RunFolder(tmp_path)
    run.write_run("jelly_drop", {})
    whole = [{"iteration": 0}, {"iteration": 1}]
    for row in whole:
        run.log(**row)
    with open(run.metrics_path, "ab") as file:
        file.write(tail)
    assert read_metrics(run.metrics_path) == whole
    resumed = RunFolder(tmp_path, resume=True)
    resumed.log(iteration=2)
    assert [json.loads(line) for line in run.metrics_path.read_text().splitlines()] == [*whole, {"iteration": 2}]


def test_metrics_after_the_last_checkpoint_can_be_cut(tmp_path):
    run = RunFolder(tmp_path)
    run.trim_metrics()  # no file yet
    for i in range(5):
        run.log(iteration=i)
    run.trim_metrics(lines=2)
    assert run.metrics() == [{"iteration": 0}, {"iteration": 1}]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"a": 1}\nbroken\n{"a": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path / "metrics.jsonl")
    with pytest.raises(DataError, match="does not exist"):
        read_metrics(tmp_path / "other.jsonl")
