"""The shipped scenes: they build, run and differentiate in a small form, find what they seek, and refuse nonsense."""

import pytest
import torch

import diffsim as ds
from diffsim.errors import MeshError, SceneError
from diffsim.kernels.arrays import context
from diffsim.objectives import center_of_mass

SMALL = {
    "jelly_drop": {"particles": 100, "resolution": 16, "dim": 2},
    "throw_to_target": {"particles": 100, "resolution": 24, "dim": 2},
    "identify_stiffness": {"particles": 100, "resolution": 16, "dim": 2, "steps": 2},
    "move": {"particles": 200, "resolution": 16},
    "triple_move": {"particles": 300, "resolution": 16},
    "torus": {"particles": 300, "resolution": 16},
    "rope": {"particles": 300, "resolution": 16},
    "writer": {"particles": 300, "resolution": 16},
    "pinch": {"particles": 300, "resolution": 16},
    "rolling_pin": {"particles": 300, "resolution": 16},
    "chopsticks": {"particles": 300, "resolution": 16},
    "table": {"particles": 300, "resolution": 16},
    "assembly": {"particles": 300, "resolution": 16},
    "move_arm": {"particles": 200, "resolution": 16},
    "dam_break": {"per_width": 6, "time": 0.02, "frames": 3},
    "sand_column": {"per_width": 6, "time": 0.03, "frames": 3},
    "honey": {"per_width": 6, "time": 0.03, "frames": 3},
    "toothpaste": {"per_width": 6, "time": 0.01, "frames": 3},
    "snowball": {"particles": 100, "resolution": 16, "frames": 30},
    "two_materials": {"resolution": 16, "frames": 25},
    "tumbling_cube": {"per_side": 4, "resolution": 16},
    "nclaw_trials": {"steps": 2},
    "hanging_cloth": {"cells": 4, "steps": 8},
    "folding_sheet": {"parts": 1, "steps": 2, "dt": 0.04, "speed": 0.1},
    "buckling_strip": {"cells": 8, "steps": 2},
    "drape": {"cells": 4, "steps": 2, "dt": 0.04, "place": 0.02},
    "bouncing": {"cells": 3, "steps": 2},
}
f64_only = pytest.mark.skipif(context.dtype != torch.float64, reason="converges in f64")


def test_every_shipped_scene_is_tested():
    assert set(ds.list_scenes()) == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_a_scene_runs_two_steps_and_its_objective_has_a_gradient(name):
    scene = ds.load(name, **SMALL[name])
    state, controls = scene.start()
    if not scene.variables:
        state = state._replace(v=state.v.clone().requires_grad_())
    path = scene.rollout(steps=2, start=(state, controls))
    loss = scene.loss(path)
    leaves = list(scene.variables.values()) or [state.v]
    gradients = torch.autograd.grad(loss, leaves)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in gradients)
    with torch.no_grad():
        assert all(isinstance(value, float) for value in scene.measure(path).values())
    for value, variable in zip((path.x[-1], path.v[-1]), (path.x[0], path.v[0]), strict=True):
        assert torch.isfinite(value).all() and not torch.equal(value, variable)


def test_the_same_options_build_the_same_scene():
    first, second = (ds.load("move", **SMALL["move"], seed=3).start() for _ in range(2))
    assert torch.equal(first[0].x, second[0].x) and torch.equal(first[1], second[1])
    assert not torch.equal(first[1], ds.load("move", **SMALL["move"], seed=4).start()[1])


def test_a_dropped_body_falls_freely_and_bounces_back():
    scene = ds.load("jelly_drop", **SMALL["jelly_drop"], steps=50)
    with torch.no_grad():
        heights = [center_of_mass(frame)[1].item() for frame in scene.rollout()]
    dt, steps = scene.model.dt, 10 * scene.model.substeps  # of the first 10 frames, before it touches
    fall = 9.8 * dt**2 * steps * (steps + 1) / 2  # semi-implicit Euler
    assert heights[0] - heights[10] == pytest.approx(fall, rel=1e-4)
    lowest = min(range(51), key=heights.__getitem__)
    assert 15 < lowest < 45 and heights[50] > heights[lowest] + 0.02


def test_bodies_of_any_closed_mesh_have_its_extent_and_stay_where_they_are_put():
    for mesh in ("blob", "paddle"):
        state, _ = ds.load("jelly_drop", mesh=mesh, size=0.5, height=0.6, particles=2000, steps=1).start()
        low, high = state.x.amin(0), state.x.amax(0)
        assert 0.4 < float((high - low).max()) < 0.5
        torch.testing.assert_close((low + high) / 2, state.x.new_tensor([0.5, 0.6, 0.5]), rtol=0, atol=0.02)


@f64_only
def test_throwing_finds_the_velocity_that_ends_at_the_target():
    scene = ds.load("throw_to_target", **SMALL["throw_to_target"], steps=50)
    result = ds.optimize(scene, iterations=15)
    assert result.history[0]["miss"] > 0.3
    assert min(record["miss"] for record in result.history) < 1e-3


@f64_only
def test_stiffness_is_identified_within_one_percent_from_a_wrong_start():
    scene = ds.load("identify_stiffness", particles=150, resolution=16, dim=2, substeps=8)
    result = ds.optimize(scene)
    assert result.history[0]["E_error"] > 0.5
    assert result.history[-1]["E_error"] < 0.01 and result.history[-1]["nu_error"] < 0.01
    assert result.iteration <= 30


def test_move_scores_zero_at_the_start_and_one_on_the_target():
    scene = ds.load("move", **SMALL["move"])
    state, _ = scene.start()
    path = [state]
    assert scene.measure(path)["score"] == 0
    there = state._replace(x=scene.ghost)
    assert scene.measure([there])["score"] == pytest.approx(1, abs=1e-5)
    assert scene.measure([there])["distance"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("tool", ["paddle", "blob", "sphere"])
@pytest.mark.parametrize("variant", [1, 5])
def test_the_tools_of_move_start_inside_the_lump_on_both_sides_and_move_by_the_action(tool, variant):
    scene = ds.load("move", **SMALL["move"], tool=tool, variant=variant)
    state, _ = scene.start()
    gap = ds.objectives.tool_gaps(state, scene.model.tools).amin(0)
    assert ((gap < 0.005) & (gap > -0.04)).all()
    with torch.no_grad():
        scene.variables["actions"].fill_(1.0)
        after = scene.rollout(steps=1)[-1]
    torch.testing.assert_close(after.pose[:, :3] - state.pose[:, :3], torch.full_like(after.pose[:, :3], 0.01))


BAD = [
    ("move", {"variant": 6}, SceneError, "variant"),
    ("move", {"particles": 0}, SceneError, "particles"),
    ("move", {"mesh": "blub"}, MeshError, "blub"),
    ("move", {"tool": "no_such_tool"}, MeshError, "no_such_tool"),
    ("move", {"grip": 2.0}, SceneError, "grip"),
    ("move", {"friction": -1.0}, SceneError, "friction"),
    ("move", {"steps": 0}, SceneError, "steps"),
    ("jelly_drop", {"dim": 4}, SceneError, "dim"),
    ("jelly_drop", {"size": -0.1}, SceneError, "size"),
    ("jelly_drop", {"nu": 0.5}, SceneError, "nu"),
    ("jelly_drop", {"density": -1.0}, SceneError, "density"),
    ("throw_to_target", {"target": (0.1,), "dim": 2}, SceneError, "target"),
    ("throw_to_target", {"resolution": 33}, SceneError, "resolution"),
    ("identify_stiffness", {"nu_start": 0.0}, SceneError, "nu_start"),
    ("identify_stiffness", {"E_start": -1.0}, SceneError, "E"),
    ("identify_stiffness", {"stiffness": 1.0}, SceneError, "no option"),
]


@pytest.mark.parametrize("name, options, error, word", BAD, ids=[f"{n}-{next(iter(o))}" for n, o, *_ in BAD])
def test_an_option_out_of_range_is_refused_in_one_line_that_names_it(name, options, error, word):
    with pytest.raises(error, match=word) as refusal:
        ds.load(name, **{**SMALL[name], **options})
    assert "\n" not in str(refusal.value)


def test_a_body_that_melts_becomes_a_liquid_that_spreads_on_the_water():
    wide = {}
    for melts in (0.0, 0.4):
        scene = ds.load("two_materials", resolution=16, frames=50, height=0.4, melts=melts)
        with torch.no_grad():
            path = scene.rollout()
        swims = path[0].material == 1
        wide[melts] = path[-1].x[swims, 0].std() / path[0].x[swims, 0].std()
        last = path[-1].material[swims]
        assert (last == (2 if melts else 1)).all() and scene.measure(path).get("melted", 1.0) == 1.0
        F = path[-1].F[swims]
        assert ((F[:, 0, 1] == 0).all() and (F[:, 0, 0] == F[:, 1, 1]).all()) == bool(melts)
    assert wide[0.4] > 1.1 * wide[0.0]
