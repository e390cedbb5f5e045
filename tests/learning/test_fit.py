"""Fits on a small scene: the loss falls, an interrupted one resumes bit for bit, the law comes back from its file."""

import json

import pytest
import torch

import diffsim as ds
from diffsim.cli import main
from diffsim.errors import DataError, SceneError, SimulationError
from diffsim.kernels.arrays import context
from diffsim.learning import Segments, fit, load_law, save_law
from diffsim.learning.candidates import KINDS, candidate, settled
from diffsim.learning.fit import resume_fit
from diffsim.learning.report import deformation, response
from diffsim.learning.segments import begin
from diffsim.learning.trainer import Patience, shares

SMALL = {"per_side": 4, "resolution": 12, "steps": 24, "velocity": (1.0, -3.0, -2.0), "side": 0.6}
double = pytest.mark.skipif(context.dtype != torch.float64, reason="f64")


def cube(**options):
    return ds.load("tumbling_cube", **{**SMALL, **options})


def quick(scene, law="hyperelastic", **options):
    return fit(scene, law=law, **{"epochs": 4, "segments": Segments(6, 12), **options})


@pytest.mark.parametrize(
    "law",
    [
        kind if kind in ("hyperelastic", "spline", "sysid") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in KINDS
    ],
)
def test_a_fit_lowers_the_error_on_the_same_segments(law):
    options = {"lr_elastic": 0.2, "lr_plastic": 0.2} if law in ("sysid", "blind") else {}
    result = quick(cube(material="plasticine"), law, epochs=6, segments=Segments(8, 8), **options)
    errors = [record["error"] for record in result.history]
    assert errors[-1] < 0.98 * errors[0]
    assert all(record["segments"] == 3 for record in result.history)


def test_identification_finds_the_stiffness():
    result = quick(cube(), "sysid", epochs=30, segments=Segments(8, 8), lr_elastic=0.7)
    assert float(result.material.elastic.E.detach()) == pytest.approx(1e5, rel=0.05)


@pytest.mark.parametrize("positions_only", [False, True])
def test_an_interrupted_fit_resumes_bit_for_bit(tmp_path, positions_only):
    options = {"positions_only": positions_only, "law": "neural"}
    whole = quick(cube(), out=tmp_path / "whole", **options)

    def stop(record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(cube(), out=tmp_path / "part", callback=stop, **options)
    again = quick(cube(), out=tmp_path / "part", resume=True, **options)
    assert [record["loss"] for record in again.history] == [record["loss"] for record in whole.history]
    for first, second in zip(whole.material.parameters(), again.material.parameters(), strict=True):
        assert torch.equal(first, second)
    with pytest.raises(SceneError, match="begun with law=neural, not spline"):
        quick(cube(), out=tmp_path / "part", resume=True, **{**options, "law": "spline"})


def test_a_fit_resumed_from_its_folder_cuts_where_it_was_begun(tmp_path):
    """The memory decides how many steps a piece has, and so the order of sums."""
    options = {"law": "hyperelastic", "memory": "600KB"}
    whole = quick(cube(), out=tmp_path / "whole", **options)

    def stop(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(cube(), out=tmp_path / "part", callback=stop, **options)
    _, again = resume_fit(tmp_path / "part")
    assert [record["loss"] for record in again.history] == [record["loss"] for record in whole.history]
    with pytest.raises(SceneError, match="begun with memory=600KB, not 1GiB"):
        quick(cube(), "hyperelastic", out=tmp_path / "part", resume=True)


def gradients(scene, **options):
    """Weights after one epoch: Adam's first step is the sign of the gradient, so the norms are compared."""
    return [
        {name: value for name, value in record.items() if name.startswith(("loss", "gradient"))}
        for record in quick(scene, "neural", epochs=1, **options).history
    ]


def test_a_small_memory_gives_the_same_gradient():
    whole, pieces = gradients(cube()), gradients(cube(), memory="2MB")
    assert pieces[0] == pytest.approx(whole[0], rel=1e-10 if context.dtype == torch.float64 else 1e-4)


def test_frames_may_be_sparser_than_steps():
    result = quick(cube(every=4), "hyperelastic", epochs=2, segments=Segments(8, 8))
    assert [record["segments"] for record in result.history] == [3, 3]
    assert result.history[1]["error"] < result.history[0]["error"]


def test_a_segment_that_breaks_down_is_halved(monkeypatch):
    from diffsim.learning.trainer import Trainer

    whole = Trainer.segment

    def fragile(self, start, end, *more):
        if end - start > 3:
            raise SimulationError("too long")
        return whole(self, start, end, *more)

    monkeypatch.setattr(Trainer, "segment", fragile)
    result = quick(cube(), epochs=1, segments=Segments(12, 12))
    assert result.history[0]["broken"] == 6 and result.history[0]["error"] > 0  # 12 -> 6 + 6 -> 3 + 3 + 3 + 3, twice


def test_patience_compares_epochs_with_as_many_segments_only():
    patience = Patience(2)
    for error, segments in ((1.0, 40), (3.0, 20), (2.0, 20), (2.5, 20)):  # longer segments have larger errors
        patience.see(error, segments)
        assert not patience.over
    again = Patience(2)
    again.restore(patience.state())
    again.see(2.2, 20)
    assert again.over and not patience.over


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("kind", ["neural", "unconstrained"])  # one operator, and a law that torch differentiates
def test_weights_changed_before_backward_are_noticed(kind, store):
    scene = cube()
    law = candidate(kind, None, density=1e3, dim=3, dt=5e-4).material
    model = scene.model.with_materials([law])
    start = scene.start()[0]
    state = model.initial_state(start.x, v=start.v, volume=start.volume)
    frames, _ = model.positions(state, steps=2, store=store)
    with torch.no_grad():
        law.elastic.W2 += 1
    with pytest.raises(RuntimeError, match="changed in place between forward and backward"):
        frames.sum().backward()


def test_hardening_of_zero_per_particle_is_none(tmp_path):
    plastic = ds.materials.VonMises(1e5, 0.3, 1e3, hardening=torch.zeros(3, dtype=torch.float64))
    save_law(tmp_path / "law.safetensors", ds.Material(ds.materials.Hencky(1e5, 0.3), plastic, density=1e3))
    assert float(load_law(tmp_path / "law.safetensors").plastic.yield_stress) == 1e3


def test_a_fit_logs_for_tensorboard(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = quick(cube(), "sysid", epochs=2, out=tmp_path / "run", tensorboard=True)
    log = events.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in log.Scalars("loss")]
    assert found == [(k, pytest.approx(record["loss"], rel=1e-6)) for k, record in enumerate(result.history)]
    with pytest.raises(SceneError, match="tensorboard=True needs out="):
        quick(cube(), "sysid", epochs=1, tensorboard=True)


def test_segments_are_dealt_to_updates():
    pieces = [(k, k + 1) for k in range(7)]
    assert shares(pieces, 1, False) == [pieces] == shares(pieces, 1, True)
    assert shares(pieces, 3, False) == [pieces[0::3], pieces[1::3], pieces[2::3]]
    assert shares(pieces, 3, True) == [pieces[:2], pieces[2:4], pieces[4:]]  # each begins where the one before ended
    assert shares(pieces, 9, False) == [[piece] for piece in pieces]


def test_several_updates_learn_more_in_an_epoch():
    last = [quick(cube(), "sysid", epochs=3, segments=Segments(4, 4), updates=updates, lr_elastic=0.2).history[-1]
            for updates in (1, 6)]  # fmt: skip
    assert last[0]["segments"] == last[1]["segments"] == 6
    assert last[1]["error"] < 0.7 * last[0]["error"]


def test_segments_follow_the_published_schedule():
    plan = Segments()
    counts = [len(plan.cuts(1000, epoch, 300)) - 1 for epoch in (0, 50, 100, 150, 200, 250, 299)]
    assert counts == [40, 28, 15, 9, 7, 6, 6]
    cuts = plan.cuts(1000, 50, 300)
    for step in range(1000):
        segment = sum(step >= cut for cut in cuts[:-1]) - 1
        assert segment == step * 28 // 1000


@double
def test_velocities_from_positions_are_those_of_the_integrator():
    scene = cube()
    with torch.no_grad():
        path = scene.rollout(steps=5)
    motion = ds.learning.Motion(path.times, path.x)
    state = begin(motion, 3, path[0], path[3])
    torch.testing.assert_close(state.v, path[3].v, rtol=1e-9, atol=1e-10)
    assert torch.equal(state.F, path[3].F) and torch.equal(state.x, path.x[3])


@double
def test_positions_only_take_nothing_else_from_a_full_motion():
    scene = cube()
    with torch.no_grad():
        path = scene.rollout(steps=3)
    bare = ds.learning.Motion(path.times, path.x)
    full = ds.learning.Motion(path.times, path.x, 3 * path.v, path.C, 1.1 * path.F)
    for a, b in zip(begin(full, 0, path[0], None, True), begin(bare, 0, path[0]), strict=True):
        assert torch.equal(a, b)


def test_what_a_file_of_a_law_would_drop_is_refused(tmp_path):
    M, elastic = ds.materials, ds.materials.Hencky(1e5, 0.3)
    for plastic, text in (
        (M.VonMises(1e5, 0.3, 1e3, hardening=5e3), "with hardening cannot be written"),
        (M.DruckerPrager(1e5, 0.3, 30.0, volume_correction=False), "without volume_correction cannot be written"),
    ):
        with pytest.raises(DataError, match=text):
            save_law(tmp_path / "law.safetensors", ds.Material(elastic, plastic, density=1e3))
    viscous = ds.Material(elastic, viscous=M.Newtonian(5.0), density=1e3)
    for call in (
        lambda: save_law(tmp_path / "law.safetensors", viscous),
        lambda: candidate("sysid", viscous, density=1e3, dim=3, dt=1e-3),
    ):
        with pytest.raises(DataError, match="the viscous part Newtonian, which files of laws do not hold"):
            call()
    assert not (tmp_path / "law.safetensors").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_law_comes_back_from_its_file(tmp_path, kind):
    true = cube(material="sand").model.materials[0]
    material = candidate(kind, true, density=1e3, dim=3, dt=1e-3).material
    save_law(tmp_path / "law.safetensors", settled(material), epochs=3)
    again = load_law(tmp_path / "law.safetensors", density=500.0)
    assert again.density.item() == 500.0 and not any(p.requires_grad for p in again.parameters())
    F = deformation("shear", torch.linspace(-0.2, 0.3, 7, dtype=torch.float64)).to(context.dtype)
    torch.testing.assert_close(again.elastic.stress(F), material.elastic.stress(F).detach())
    if material.plastic is not None:
        q = material.initial(7, 3)
        first, second = (part.plastic.update(F, q, None, 1e-3)[0].detach() for part in (again, material))
        torch.testing.assert_close(first, second)


def test_a_file_that_holds_no_law_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_law(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no law at all")
    with pytest.raises(DataError, match="damaged or no file of a law"):
        load_law(tmp_path / "text.safetensors")


def test_the_response_of_a_law_is_its_stress_along_the_path():
    material = ds.Material(ds.materials.NeoHookean(1e3, 0.3), density=1.0)
    strain, stress = response(material, "uniaxial", 0.3, 1e-3)
    F = deformation("uniaxial", torch.tensor(strain)).to(context.dtype)
    expected = (material.stress(F) @ F.mT)[:, 0, 0]
    torch.testing.assert_close(torch.tensor(stress, dtype=context.dtype), expected, rtol=1e-4, atol=1e-2)
    flow = ds.load("tumbling_cube", material="plasticine").model.materials[0]
    _, stress = response(flow, "shear", 0.3, 1e-3)
    assert abs(stress).max() == pytest.approx(5e3 / 2**0.5, rel=0.05)  # |dev tau| = 5 kPa


@pytest.mark.parametrize(
    "options, message",
    [
        ({"law": "magic"}, "law 'magic' is not known"),
        ({"epochs": 0}, "epochs is 0"),
        ({"clip": 0.0}, "clip is 0"),
        ({"updates": 0}, "updates is 0"),
        ({"steps": 99}, "steps is 99; the motion has 24"),
        ({"resume": True}, "needs out="),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(SceneError, match=message):
        fit(cube(), **options)


def test_the_command_fits_a_scene_and_its_data_and_a_scene_takes_the_law(tmp_path, capsys):
    sets = [f"--set={name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in SMALL.items()]
    common = ["--precision", "f64" if context.dtype == torch.float64 else "f32", "--device", "cpu", "--json"]
    run = tmp_path / "run"
    assert main(["run", "tumbling_cube", *sets, *common, "--no-render", "--out", str(run)]) == 0
    short = ["--epochs", "2", "--segments", "6,12", "--law", "hyperelastic"]
    found = []
    for source, name in (("tumbling_cube", "a"), (str(run / "trajectory.h5"), "b")):
        extra = sets if source == "tumbling_cube" else []
        assert main(["fit", source, *extra, *short, *common, "--out", str(tmp_path / name)]) == 0
        found.append(json.loads(capsys.readouterr().out.strip().splitlines()[-1]))
        for file in ("law.safetensors", "loss.png", "curves.png", "invariants.png", "report.json", "run.json"):
            assert (tmp_path / name / file).is_file(), file
    assert found[0]["loss, last"] == found[1]["loss, last"]
    assert main(["resume", str(tmp_path / "a"), "--json"]) == 0
    law = str(tmp_path / "a" / "law.safetensors")
    assert main(["run", "tumbling_cube", *sets, *common, "--no-render", "--set", f"law={law}", "--out",
                 str(tmp_path / "c")]) == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["frames"] == 25
    assert main(["fit", str(run / "none.h5"), *common]) == 1
    assert "does not exist" in capsys.readouterr().err
