"""Scenes of thin sheets: what they seek is found, and what their docstrings claim holds."""

import pytest
import torch

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.kernels.arrays import context

if context.dtype != torch.float64 or context.device != "cpu":
    pytest.skip("shells are in f64 on the CPU", allow_module_level=True)


def test_the_bending_stiffness_is_recovered_from_the_motion_of_a_springing_sheet():
    scene = ds.load("bouncing", cells=3, steps=4)
    result = ds.optimize(scene, iterations=8)
    assert result.history[0]["deviation"] > 2
    assert min(record["deviation"] for record in result.history) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("start", [30.0, 60.0, 200.0, 400.0, 800.0])
def test_the_bending_stiffness_is_recovered_from_five_starts(start):
    result = ds.optimize(ds.load("bouncing", stiffness_start=start))
    assert min(record["deviation"] for record in result.history) < 1e-4


def test_a_mesh_without_the_creases_is_refused():
    with pytest.raises(SceneError, match="cells is 16; the creases need a multiple of 3"):
        ds.load("bouncing", cells=16)


def test_a_strip_that_has_buckled_carries_the_load_of_euler():
    scene = ds.load("buckling_strip", cells=20, flaw=2e-5)
    scene.variables["push"].data.fill_(2e-3)
    with torch.no_grad():
        path = scene.rollout()
    found = scene.measure(path)
    # the ends come together by the shortening of the buckled shape, height^2 pi^2/(4 l)
    assert found["height"] == pytest.approx((4 * 0.2 * 20 * 0.02 * 2e-3) ** 0.5 / torch.pi, rel=0.05)
    assert found["load"] == pytest.approx(1.0, rel=0.01)


def test_named_materials_have_the_rigidity_and_weight_that_their_source_gives():
    for name, own in ds.models.SHEETS.items():
        given = ds.models.sheet_material(name)
        E, nu, h = given["E"], given["nu"], given["thickness"]
        assert E * h**3 / (12 * (1 - nu**2)) == pytest.approx(own.rigidity, rel=1e-12)
        assert E * h == pytest.approx(own.stretching, rel=1e-12)
        assert given["density"] * h == pytest.approx(own.area_density, rel=1e-12) and own.source
    with pytest.raises(SceneError, match="copy paper"):
        ds.models.sheet_material("paper bag")


@pytest.mark.slow
def test_friction_is_recovered_from_a_cloth_on_a_ball():
    result = ds.optimize(ds.load("drape"))
    assert result.history[0]["deviation"] > 0.5
    assert min(record["deviation"] for record in result.history) < 1e-3


def test_a_number_of_steps_that_the_parts_do_not_divide_is_refused():
    with pytest.raises(SceneError, match="steps=7, parts=5"):
        ds.load("folding_sheet", steps=7)


@pytest.mark.slow
@pytest.mark.parametrize("angle", [1.2, 1.4])
def test_a_path_of_the_finger_is_found_that_leaves_the_wanted_crease(angle):
    scene = ds.load("folding_sheet", angle=angle)
    result = ds.optimize(scene)
    assert result.history[0]["miss"] > 0.1
    assert min(record["miss"] for record in result.history) < 1e-4
    with torch.no_grad():
        path = scene.rollout()
    assert abs(scene.measure(path)["crease"] - angle) < 1e-4
