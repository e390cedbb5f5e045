"""Evaluations: the true law has no error, a breakdown is a cell, what was found stays, the trials are the study's."""

import json
import math

import pytest
import torch

import diffsim as ds
from diffsim.cli import main
from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context
from diffsim.learning import Trial, evaluate, learned, save_law
from diffsim.learning.table import markdown
from diffsim.scenes import nclaw_trials
from diffsim.scenes.tumbling_cube import MATERIALS

SMALL = {"per_side": 4, "resolution": 12, "steps": 20, "velocity": (1.0, -3.0, -2.0), "side": 0.6}
M = ds.materials


def trial(**options):
    return Trial("throw", "jelly", lambda: ds.load("tumbling_cube", **{**SMALL, **options}), ("jelly",))


def file(folder, elastic, name="law", **about):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.safetensors"
    return save_law(path, ds.Material(elastic, density=1e3), **{"law": name, "learned_of": "jelly", **about})


def test_the_true_law_has_no_error_and_another_has_the_mean_over_every_fifth_step(tmp_path):
    methods = learned([file(tmp_path, M.FixedCorotated(1e5, 0.2), "true"), file(tmp_path, M.Hencky(3e5, 0.2), "other")])
    same, other = evaluate([trial()], methods)
    assert same.error == 0 and same.broken is None and same.steps == 20
    with torch.no_grad():
        scene = ds.load("tumbling_cube", **SMALL)
        true = scene.rollout().x.double()
        scene.model = scene.model.with_materials([ds.Material(M.Hencky(3e5, 0.2), density=1e3)])
        square = (scene.rollout().x.double() - true).square().mean((1, 2))
    assert other.error == pytest.approx(square[[0, 5, 10, 15, 20]].mean().item(), rel=1e-9)
    assert other.cells == pytest.approx(12 * math.sqrt(other.error))


def test_a_law_that_breaks_down_is_a_cell_and_the_others_go_on(tmp_path):
    stiff, soft = (
        file(tmp_path, M.FixedCorotated(1e9, 0.2), "stiff"),
        file(tmp_path, M.FixedCorotated(9e4, 0.2), "soft"),
    )
    with pytest.warns(UserWarning, match="Courant"):
        broken, whole = evaluate([trial()], learned([stiff, soft]), out=tmp_path / "out")
    assert broken.broken is not None and 0 < broken.broken < 20
    assert str(broken) == f"broken at step {broken.broken}" and broken.error >= 0 and broken.note
    assert whole.broken is None and whole.error > 0
    assert f"| throw | jelly | broken at step {broken.broken} | **{whole.error:.2e}** |" in markdown([broken, whole])
    assert (tmp_path / "out" / "evaluation.md").read_text() == markdown([broken, whole])
    for suffix in ("json", "csv", "png"):
        assert (tmp_path / "out" / f"evaluation.{suffix}").stat().st_size > 0


def test_what_was_found_is_not_computed_again_unless_the_law_changes(tmp_path):
    methods = learned([file(tmp_path, M.FixedCorotated(9e4, 0.2))])
    first = evaluate([trial()], methods, out=tmp_path / "out")

    def fails():
        raise SceneError("built again")

    again = evaluate([Trial("throw", "jelly", fails, ("jelly",))], methods, out=tmp_path / "out")
    assert again == first
    file(tmp_path, M.FixedCorotated(8e4, 0.2))
    (cell,) = evaluate([Trial("throw", "jelly", fails, ("jelly",))], methods, out=tmp_path / "out")
    assert cell.error is None and str(cell) == "built again"


def test_a_material_without_a_law_and_files_of_one_kind(tmp_path):
    methods = learned([file(tmp_path, M.FixedCorotated(9e4, 0.2), learned_of="water")])
    (cell,) = evaluate([trial()], methods)
    assert str(cell) == "no law" and cell.error is None
    with pytest.raises(DataError, match="are both law of water"):
        learned([tmp_path / "law.safetensors"] * 2)
    with pytest.raises(SceneError, match="nothing to evaluate"):
        evaluate([], methods)


def test_the_trials_are_those_of_the_study():
    count = {t: sum(bool(nclaw_trials.names(t, m)) for m in MATERIALS) for t in nclaw_trials.TRIALS}
    assert count == dict.fromkeys(nclaw_trials.TRIALS[:6], 4) | dict.fromkeys(nclaw_trials.TRIALS[6:], 1)
    assert [nclaw_trials.duration("time", m) for m in MATERIALS] == [2000, 2000, 2000, 5000]
    built = ds.load("nclaw_trials", trial="velocity_7", material="sand")
    state = built.start()[0]
    assert len(state.x) == 1000 and built.steps * built.model.substeps == 1000
    center = state.v.double().mean(0).tolist()
    assert center == pytest.approx([0.169227, -0.537345, 0.372944], abs=1e-6)
    with pytest.raises(SceneError, match="is not of sand"):
        ds.load("nclaw_trials", trial="pool", material="sand")
    with pytest.raises(SceneError, match=r"none/armadillo.obj does not exist"):
        ds.load("nclaw_trials", trial="geometry", material="jelly", meshes="none")


def test_melting_turns_particles_from_the_bottom_upward():
    laws = [ds.Material(M.FixedCorotated(E, 0.2), density=1e3) for E in (9e4, 1e5)]
    model = nclaw_trials.Melting(ds.Grid((12, 12, 12), 1 / 12), laws, dt=5e-4, gravity=(0, -9.8, 0))
    y = torch.linspace(0.4, 0.6, 5, dtype=torch.float64)
    x = torch.stack([0.5 + 0 * y, y, 0.5 + 0 * y], 1)
    state = model.initial_state(x, volume=1e-4)
    with torch.no_grad():
        before = model(state)
        after = model(state._replace(time=state.time + (nclaw_trials.FROM + 499) * 5e-4))
    assert before.material.tolist() == [0] * 5 and after.material.tolist() == [1, 1, 1, 0, 0]


def test_the_command_writes_the_table_and_a_video(tmp_path, capsys):
    law = file(tmp_path, M.FixedCorotated(9e4, 0.2), "sysid")
    common = ["--precision", "f64" if context.dtype == torch.float64 else "f32", "--device", "cpu"]
    command = ["evaluate", f"mine={law}", *common, "--steps", "10", "--tests", "reconstruction,slope", "--out"]
    assert main([*command, str(tmp_path / "out"), "--video", "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["cells"]
    assert cell["law"] == "mine" and cell["test"] == "reconstruction" and cell["steps"] == 10 and cell["error"] > 0
    assert (tmp_path / "out" / "reconstruction-jelly-mine.mp4").stat().st_size > 1000
