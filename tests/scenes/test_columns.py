"""Columns that collapse: the search finds the parameter again, and steps suit the material."""

import pytest
import torch

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.scenes.columns import run_out, substeps_for
from diffsim.testing import gradcheck

f64_only = pytest.mark.skipif(context.dtype != torch.float64, reason="differences need f64")
SMALL = {
    "sand_column": ("angle", {"per_width": 6, "time": 0.12, "frames": 4}),
    "honey": ("viscosity", {"per_width": 6, "time": 0.1, "frames": 4}),
    "toothpaste": ("yield_stress", {"per_width": 6, "time": 0.06, "frames": 4}),
}


@f64_only
@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_by_the_parameter_of_the_material_equals_differences(name):
    variable, options = SMALL[name]
    scene = ds.load(name, **options | {"time": options["time"] / 4})
    state, _ = scene.start()
    report = gradcheck(
        scene.model, state, steps=2, wrt=[f"materials.0.{part(scene, variable)}"], directions=1, taylor=False
    )
    assert report.ok and len(report.rows) == 1 and report.rows[0].norm > 0, report


@f64_only
@pytest.mark.parametrize(
    "name, options",
    [
        ("dam_break", {"per_width": 6, "time": 0.01, "frames": 2}),
        ("snowball", {"particles": 60, "resolution": 16, "frames": 30, "speed": 30.0}),  # crushed in the sixth step
        ("two_materials", {"resolution": 16, "frames": 100, "height": 0.42}),
        ("two_materials", {"resolution": 16, "frames": 100, "height": 0.42, "melts": 0.1}),  # a third in six steps
    ],
)
def test_the_gradient_by_the_start_of_a_scene_equals_differences(name, options):
    scene = ds.load(name, **options)
    (variable,) = scene.variables.values()

    def loss():
        return scene.loss(scene.rollout(steps=min(scene.steps, 6)))

    (gradient,) = torch.autograd.grad(loss(), [variable])
    direction = gradient / gradient.norm() + 0.3
    with torch.no_grad():
        variable.add_(1e-5 * direction)
        above = loss()
        variable.sub_(2e-5 * direction)
        below = loss()
    torch.testing.assert_close((above - below) / 2e-5, (gradient * direction).sum(), rtol=1e-6, atol=0)


def part(scene, variable):
    """Name of the variable among the parameters of the material."""
    value = scene.variables[variable]
    return next(name for name, known in scene.model.materials[0].named_parameters() if known is value)


@pytest.mark.parametrize("name", SMALL)
def test_a_larger_parameter_keeps_the_heap_closer_to_the_wall(name):
    variable, options = SMALL[name]
    distance = {}
    for factor in (0.7, 1.0, 1.4):
        scene = ds.load(name, **options)
        with torch.no_grad():
            scene.variables[variable].mul_(factor)
            distance[factor] = run_out(scene.rollout()[-1]).item()
    assert distance[0.7] > distance[1.0] > distance[1.4]


@f64_only
def test_the_viscosity_of_honey_and_the_height_of_a_dam_are_found():
    for name, variable, sought in (("honey", "viscosity", 6.0), ("dam_break", "aspect", 1.6)):
        scene = ds.load(
            name, **(SMALL | {"dam_break": (variable, {"per_width": 6, "time": 0.08, "frames": 4})})[name][1]
        )
        result = ds.optimize(scene, method="lbfgs", iterations=8)
        assert scene.variables[variable].item() == pytest.approx(sought, rel=1e-3), result.history[-1]


@pytest.mark.parametrize("name", ["honey", "dam_break"])
def test_in_3d_a_quarter_of_a_square_column_spreads_alike_along_both_walls(name):
    scene = ds.load(name, dim=3, per_width=4, time=0.05, frames=2)
    with torch.no_grad():
        path = scene.rollout()
    x, start = path[-1].x, path[0].x
    assert x[:, 0].mean() > 1.005 * start[:, 0].mean()
    torch.testing.assert_close(x[:, 0].sort().values, x[:, 2].sort().values, rtol=1e-4, atol=0)


@pytest.mark.slow
def test_a_heap_of_sand_comes_to_rest_about_as_far_as_published():
    scene = ds.load("sand_column", frames=6)
    with torch.no_grad():
        figures = scene.measure(scene.rollout())
    assert figures["speed"] < 0.01
    assert figures["run_out"] == pytest.approx(figures["published"], rel=0.25)


def test_a_viscous_material_takes_the_substeps_that_its_bound_asks_for():
    def substeps(eta):
        water = ds.materials.Tait(1e3)
        return substeps_for(ds.Material(water, viscous=ds.materials.Newtonian(eta), density=1e3), 0.01, 0.1)

    assert substeps(0.0) == substeps(1e-3) == 25  # sound of 1 m/s, 0.4 cells in a step
    assert substeps(75.0) == 250  # 4/3 eta dt/(rho dx^2) = 0.4


@pytest.mark.parametrize("options", [{"width": -1.0}, {"time": 0.0}, {"viscosity": 8.0, "sought_viscosity": 8.0}])
def test_nonsense_is_refused(options):
    with pytest.raises(SceneError, match="must be positive|it seeks"):
        ds.load("honey", **options)
