"""PlasticineLab's tasks: targets, scores, gradients, and what they refuse."""

from pathlib import Path

import numpy as np
import pytest
import torch

import diffsim as ds
from diffsim.checks import check_variables
from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context
from diffsim.kernels.density import node_mass
from diffsim.objectives import center_of_mass
from diffsim.scenes import pinch, plasticine, plasticine_targets, torus, triple_move
from diffsim.scenes.tool_actions import Translations

TASKS = ["move", "triple_move", "torus", "rope", "writer", "pinch", "rolling_pin", "chopsticks", "table", "assembly"]
COARSE = {"resolution": 16, "particles": 300}
RECORDED = Path(__file__).parents[2] / ".." / "shared" / "data" / "motion" / "plasticine_target_densities.npz"
f64_only = pytest.mark.skipif(context.dtype != torch.float64, reason="central differences need f64")


@f64_only
@pytest.mark.parametrize(
    "name", [task if task in ("torus", "chopsticks") else pytest.param(task, marks=pytest.mark.slow) for task in TASKS]
)
def test_the_first_gradient_equals_central_differences(name):
    scene = ds.load(name, **COARSE, steps=3)
    (row,) = check_variables(scene, 3)
    assert row.difference < 1e-6
    assert np.isnan(row.slope) or abs(row.slope - 2) <= 0.05


@pytest.mark.parametrize("name", ["torus", "pinch"])
def test_the_scripted_actions_reach_the_target(name):
    scene = ds.load(name, **COARSE)
    if name == "torus":
        x, z = torus.VARIANTS[1]
        tool = Translations([torus.START], 0.004, lower=(0.0, torus.DEEPEST, 0.0))
        actions = tool.towards((x, torus.ABOVE, z), (x, torus.DEEPEST, z), (x, 0.08, z))
    else:
        tool = Translations([(0.5, 0.35, 0.5)], 0.02, lower=0.1, upper=0.9)
        actions = tool.towards(*pinch.VARIANTS[1])
    with torch.no_grad():
        scene.variables["actions"].copy_(actions)
        path = scene.rollout()
    figures = scene.measure(path)
    assert figures["score"] == pytest.approx(1, abs=1e-4) and figures["matched"] == pytest.approx(1, abs=1e-4)
    assert (path[-1].x - scene.ghost).abs().max() < 1e-5


@pytest.mark.parametrize("name", TASKS)
def test_the_start_scores_zero_and_the_target_one(name):
    scene = ds.load(name, **COARSE)
    state, _ = scene.start()
    figures = scene.measure([state])
    assert figures["score"] == 0 and figures["matched"] == 0
    if name == "rope":  # whose target is no state of the bar: it has more volume
        return
    figures = scene.measure([state._replace(x=scene.ghost)])
    assert figures["score"] == pytest.approx(1, abs=1e-4) and figures["matched"] == pytest.approx(1, abs=1e-4)


def test_the_transport_part_of_the_loss_is_the_squared_way_of_each_body_to_its_own_place():
    plain, led = (ds.load("triple_move", **COARSE, transport=weight) for weight in (0.0, 100.0))
    state, _ = led.start()
    with torch.no_grad():
        first = float(led.loss([state, state]) - plain.loss([state, state]))
        there = state._replace(x=led.ghost.to(state.x))
        last = float(led.loss([state, there]) - plain.loss([state, there]))
    goals, starts = (torch.tensor(places) for places in (triple_move.VARIANTS[1], triple_move.STARTS))
    assert first == pytest.approx(100 * float((goals - starts).square().sum(1).mean()), rel=1e-3)
    assert last == pytest.approx(0, abs=1e-3)
    with pytest.raises(SceneError, match="transport is -1"):
        ds.load("torus", **COARSE, transport=-1.0)


@pytest.mark.parametrize("name", ["move", "triple_move", "rope", "assembly"])
def test_the_five_variants_differ(name):
    ghosts = [ds.load(name, **COARSE, variant=variant).ghost for variant in range(1, 6)]
    for i, one in enumerate(ghosts):
        assert all(one.shape != other.shape or not torch.allclose(one, other) for other in ghosts[:i])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torus", "writer", "pinch", "rolling_pin", "chopsticks", "table"])
def test_the_five_scripted_variants_differ_and_can_be_scored_at_the_default_size(name):
    scenes = [ds.load(name, variant=variant) for variant in range(1, 6)]  # refuses a target too faint to be scored
    for i, one in enumerate(scenes):
        assert all(not torch.allclose(one.ghost, other.ghost) for other in scenes[:i])
        bounds = one.variables["actions"].new_tensor([one.ghost.min(), one.ghost.max()])
        assert bounds[0] > -0.01 and bounds[1] < 1.0


def test_a_body_on_the_floor_stays_where_the_benchmark_s_does():
    for resolution in (32, 64):
        scene = ds.load("rolling_pin", resolution=resolution, particles=600)
        with torch.no_grad():
            path = scene.rollout(steps=10)
        assert (center_of_mass(path[-1]) - center_of_mass(path[0]))[1].abs() < 2e-3


def particles_and_masses(file, nodes=64):
    """Random particles, and their masses as the benchmark stores them: on nodes 0 .. 63."""
    x = 0.2 + 0.5 * torch.rand(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.to(context.dtype)
    mass = node_mass(x, 1e-3, (64, 64, 64), 1 / 64)[:nodes, :64, :64]
    np.savez(file, torus3d_v1=mass.numpy())
    return x


@pytest.mark.parametrize("cells", [64, 32, 16])
def test_a_recorded_target_on_fewer_cells_is_the_density_of_the_same_particles(tmp_path, cells):
    x = particles_and_masses(tmp_path / "targets.npz")
    target = plasticine_targets.recorded(str(tmp_path / "targets.npz"), "torus3d_v1", cells)
    assert target.grid.dx == 1 / cells
    density = target.density(x, 1e-3)
    torch.testing.assert_close(density, target.mass, rtol=0, atol=1e-12 if context.dtype == torch.float64 else 1e-6)


def test_a_recorded_target_is_taken_by_a_task(tmp_path):
    x = particles_and_masses(tmp_path / "targets.npz")
    scene = ds.load("torus", **COARSE, target_file=str(tmp_path / "targets.npz"))
    assert (scene.ghost.mean(0) - x.mean(0)).abs().max() < 0.02
    assert scene.measure([scene.start()[0]])["score"] == 0


@pytest.mark.skipif(not RECORDED.is_file(), reason="the data folder ../shared/data is not on this machine")
@pytest.mark.parametrize(
    "name, center",
    [
        ("rope", (0.3930, 0.0302, 0.4988)),
        ("table", (0.5042, 0.1138, 0.4955)),
        ("writer", (0.5011, 0.0514, 0.4992)),
        ("chopsticks", (0.5987, 0.1013, 0.6203)),
    ],
)
def test_the_benchmark_s_own_targets_keep_mass_and_center_on_half_the_cells_and_can_be_scored(name, center):
    target = plasticine_targets.recorded(str(RECORDED), f"{name}3d_v1", 32)
    nodes = torch.cartesian_prod(*[torch.arange(n) for n in target.mass.shape]) * target.grid.dx
    nodes = nodes + torch.tensor(target.grid.origin)
    mass = target.mass.reshape(-1, 1)
    assert mass.sum().item() == pytest.approx(plasticine.MASS, rel=1e-5)
    assert ((nodes * mass).sum(0) / mass.sum()).tolist() == pytest.approx(center, abs=1e-4)
    scene = ds.load(name, resolution=32, particles=1500, target_file=str(RECORDED))
    assert scene.measure([scene.start()[0]])["score"] == 0


BAD = [
    ("torus", {"variant": 6}, SceneError, "variant is 6; choose one of 1, 2, 3, 4, 5"),
    ("rope", {"resolution": 8}, SceneError, "resolution is 8"),
    ("pinch", {"particles": 0}, SceneError, "particles is 0"),
    ("chopsticks", {"steps": 0}, SceneError, "steps is 0"),
    ("assembly", {"softness": -1.0}, SceneError, "softness is -1"),
    ("triple_move", {"gap": 0.1}, SceneError, "no option 'gap'"),
    ("torus", {"resolution": 24, "particles": 600}, SceneError, "too faint"),
    ("writer", {"target_file": "nowhere.npz"}, DataError, "nowhere.npz: there is no such file"),
]


@pytest.mark.parametrize("name, options, error, words", BAD, ids=[f"{n}-{next(iter(o))}" for n, o, *_ in BAD])
def test_an_option_out_of_range_is_refused_in_one_line(name, options, error, words):
    with pytest.raises(error, match=words) as refusal:
        ds.load(name, **{**COARSE, **options})
    assert "\n" not in str(refusal.value)


def test_a_file_of_targets_that_does_not_fit_is_refused_by_name(tmp_path):
    file = str(tmp_path / "targets.npz")
    particles_and_masses(file)
    with pytest.raises(DataError, match="has no 'torus3d_v2', but torus3d_v1"):
        ds.load("torus", **COARSE, variant=2, target_file=file)
    with pytest.raises(SceneError, match="resolution is 48; a target from a file needs 64"):
        ds.load("torus", resolution=48, target_file=file)
    particles_and_masses(file, nodes=32)
    with pytest.raises(DataError, match=r"torus3d_v1 has shape \(32, 64, 64\)"):
        ds.load("torus", **COARSE, target_file=file)
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "broken.npz").write_bytes((tmp_path / "targets.npz").read_bytes()[:-100])
    np.save(tmp_path / "single.npy", np.zeros((64, 64, 64)))
    for name in ("text.npz", "broken.npz", "single.npy"):
        with pytest.raises(DataError, match=f"{name}: not an npz of arrays"):
            ds.load("torus", **COARSE, target_file=str(tmp_path / name))
