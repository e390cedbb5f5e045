"""Plastic hinges: the return map and its adjoint on both sides of yield and at it, steps, creases that stay."""

import math

import numpy as np
import pytest
import torch
from taylor import slope
from torch import nn

import diffsim as ds
from diffsim.errors import DataError, SceneError
from diffsim.geometry.surface import hinges, sheet
from diffsim.kernels.arrays import context
from diffsim.testing import gradcheck

if context.dtype != torch.float64 or context.device != "cpu":
    pytest.skip("shells are in f64 on the CPU", allow_module_level=True)

Creases = ds.models.Creases


def number(value):
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


def noise(*shape, seed=0, size=1.0):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(side, seed=0):
    """Eight hinges of both signs, all elastic or all yielding: creases and what ``update`` takes."""
    width, rigidity = 0.1 + noise(8, seed=seed, size=0.02).abs(), 0.5 + noise(8, seed=seed + 1, size=0.1).abs()
    crease = torch.stack([noise(8, seed=seed + 2), noise(8, seed=seed + 3).abs()], 1)
    limit = 2.0 + 0.3 * crease[:, 1] / rigidity
    share = (
        torch.linspace(0.1, 0.9, 8, dtype=torch.float64) if side == "elastic" else torch.linspace(1.1, 3, 8).double()
    )
    sign = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    return crease[:, 0] + sign * share * limit, crease, width, rigidity


@pytest.mark.parametrize("side", ["elastic", "yielding"])
@pytest.mark.parametrize("K", [0.0, 0.3])
def test_the_adjoint_of_the_return_map_agrees_with_differences_on_each_side_of_yield(side, K):
    creases = Creases(number(2.0), hardening=number(K))
    kappa, crease, width, rigidity = points(side)
    if K == 0:
        crease[:, 1] = 0  # the threshold of ``points`` is that of K = 0.3
        kappa = crease[:, 0] + (kappa - crease[:, 0]) * (0.5 if side == "elastic" else 2.0)
    assert (creases.yields(kappa, crease, width, rigidity) == (side == "yielding")).all()
    leaves = [value.clone().requires_grad_() for value in (kappa, crease, rigidity)]
    wrt = (*leaves, creases.yield_curvature, creases.hardening) if K else (*leaves, creases.yield_curvature)

    def update(kappa, crease, rigidity, *parameters):
        return creases.update(kappa, crease, width, rigidity)

    assert torch.autograd.gradcheck(update, wrt, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("side", ["elastic", "yielding"])
def test_the_derivatives_are_those_of_the_closed_form(side):
    """c = D/(D + K): kappa gets c, kappa_p 1 - c, alpha -s(1 - c) of the new kappa_p when it yields; else 0, 1, 0."""
    K = 0.3
    creases = Creases(2.0, hardening=K)
    kappa, crease, width, rigidity = points(side)
    kappa, crease = kappa.requires_grad_(), crease.requires_grad_()
    by_kappa, by_crease = torch.autograd.grad(
        creases.update(kappa, crease, width, rigidity)[:, 0].sum(), [kappa, crease]
    )
    c, s = rigidity / (rigidity + K), (kappa - crease[:, 0]).sign()
    expected = (c, 1 - c, -s * (1 - c)) if side == "yielding" else (0 * c, 1 + 0 * c, 0 * c)
    for found, value in zip((by_kappa, *by_crease.unbind(1)), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-13, atol=1e-13)


def test_after_yield_the_moment_lies_on_the_yield_surface_and_unloading_is_elastic():
    K, D = 0.3, torch.full((8,), 0.5, dtype=torch.float64)
    creases = Creases(2.0, hardening=K)
    kappa, crease, width, _ = points("yielding")
    kappa = crease[:, 0] + 10 * (kappa - crease[:, 0])
    after = creases.update(kappa, crease, width, D)
    moment = D * (kappa - after[:, 0])
    torch.testing.assert_close(moment.abs(), D * 2.0 + K * after[:, 1], rtol=1e-12, atol=0)
    assert torch.equal(creases.update(kappa - 0.5 * moment / D, after, width, D), after)


def test_at_yield_the_map_takes_the_elastic_branch_and_its_derivatives_are_one_sided():
    creases, one = Creases(2.0), torch.ones(1, dtype=torch.float64)
    for kappa, plastic in ((2.0, 1.0), (2.0 - 1e-9, 1.0), (2.0 + 1e-9, 0.0)):
        crease = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
        new = creases.update(kappa * one, crease, one, one)
        (grad,) = torch.autograd.grad(new[:, 0].sum(), crease)
        assert float(grad[0, 0]) == plastic and abs(float(new[0, 0].detach())) <= 1.1e-9


def strip(*, learn=False, speed=1.0, bending="hinge", creases=None, **options):
    """A strip of 100 x 20 mm, held at two rows; the controls turn or push two more at the other end."""
    cells = (6, 1)
    V, F = sheet(cells, (0.1, 0.02), pattern="diagonal")
    V = V + 2e-3 * np.stack([0 * V[:, 0], 0 * V[:, 0], np.sin(30 * V[:, 0])], 1)
    value = number if learn else float
    held = np.flatnonzero((V[:, 0] < 0.02) | (V[:, 0] > 0.08))
    creases = Creases(value(4.0), hardening=value(1e-3)) if creases is None else creases
    model = ds.models.Shell(
        (V, F), E=value(1e7), nu=value(0.3), thickness=value(1e-3), density=value(300.0), dt=5e-3, prescribed=held,
        creases=creases, bending=bending, **({"tolerance": 1e-9, "rest_angles": torch.zeros(len(hinges(F)))} | options),
    )  # fmt: skip
    controls = torch.zeros(1, len(held), 3, dtype=torch.float64)
    controls[0, V[held, 0] > 0.08, 0] = -speed
    return model, controls


@pytest.mark.parametrize("bending", ["hinge", pytest.param("shape", marks=pytest.mark.slow)])
@pytest.mark.parametrize("speed, yields", [(0.1, False), (1.0, True)])
def test_gradients_of_steps_agree_with_differences_on_each_side_of_yield(speed, yields, bending):
    creases = Creases(number(4.0 if yields else 40.0), hardening=number(1e-3))
    model, controls = strip(learn=True, speed=speed, bending=bending, creases=creases)
    controls = controls.repeat(2, 1, 1)
    crease = torch.stack([noise(len(model.hinges.nodes), size=0.5), torch.full((len(model.hinges.nodes),), 0.2)], 1)
    state = model.initial_state(crease=crease)
    with torch.no_grad():
        path = ds.rollout(model, state, controls)
    moved = (path[-1].crease[:, 1] > path[0].crease[:, 1] + 1e-3).double().mean()
    assert moved > 0.3 if yields else moved == 0
    weight, own = noise(len(model.X), 3), noise(*crease.shape, seed=1, size=0.01)
    wrt = ["x", "X", "crease", "controls", "thickness", "creases.yield_curvature", "creases.hardening"]
    report = gradcheck(
        model, state, controls, wrt=wrt if yields else wrt[:5], entries=1, directions=1, taylor=False,
        objective=lambda path: (path[-1].x * weight).sum() + (path[-1].crease * own).sum(),
    )  # fmt: skip
    assert report.ok, f"\n{report}"


def test_twenty_steps_that_yield_have_a_taylor_slope_of_two():
    model, controls = strip(learn=True, speed=0.5)
    controls = controls.repeat(20, 1, 1).requires_grad_()
    state, weight = model.initial_state(), noise(len(model.X), 3)

    def loss():
        last = ds.rollout(model, state, controls)[-1]
        return (last.x * weight).sum() + 0.01 * last.crease[:, 0].square().sum()

    with torch.no_grad():
        assert (ds.rollout(model, state, controls)[-1].crease[:, 1] > 0.1).double().mean() > 0.3
    assert abs(slope(loss, controls, noise(*controls.shape, seed=2, size=2e-3)) - 2) <= 0.05
    assert abs(slope(loss, model.creases.yield_curvature, 0.05) - 2) <= 0.05


def test_a_crease_stays_when_the_load_is_gone_and_is_kept_in_the_file(tmp_path):
    model, controls = strip()
    with torch.no_grad():
        path = ds.rollout(
            model, model.initial_state(), torch.cat([controls.repeat(5, 1, 1), -controls.repeat(5, 1, 1)])
        )
        last = path[-1]
        free = ds.models.Shell((model.X.numpy(), model.faces), E=1e7, nu=0.3, thickness=1e-3, density=300.0, dt=5e-3,
                               bending="hinge", creases=Creases(4.0), prescribed=[0, 1, 2, 3],
                               rest_angles=torch.zeros(len(hinges(model.faces))))  # fmt: skip
        rest = free.solve_static(free.initial_state(x=last.x, crease=last.crease))
    angles = free.rest_angles_of(rest)
    assert angles.abs().max() > 0.1
    assert (free.hinges.angles(rest.x) - angles).abs().max() < 0.2 * angles.abs().max()
    ds.trajectory.write_trajectory(tmp_path / "t.h5", path)
    found = ds.trajectory.read_trajectory(tmp_path / "t.h5")
    assert torch.equal(found.crease[-1], last.crease) and found.units["crease"] == "1/m"


def test_forces_of_the_supports_are_those_of_the_creases_that_the_step_was_solved_with():
    model, controls = strip()
    with torch.no_grad():
        state = ds.rollout(model, model.initial_state(), controls)[-1]
        assert (state.crease[:, 1] > 0.1).any()
        held, model.support.held = model.support.held, torch.ones_like(model.support.held)
        total = model.reactions(state)  # of all nodes now: a free one needs no support
    assert total[~held].abs().max() < 1e-9 * total[held].abs().max()


def test_forces_of_explicit_steps_with_creases_are_refused():
    model, controls = strip(integrator="explicit")
    with torch.no_grad():
        state = model(model.initial_state(), 0 * controls[0])
    with pytest.raises(SceneError, match="shell with creases"):
        model.reactions(state)


@pytest.mark.parametrize("speed, yields", [(0.1, False), (1.0, True)])
def test_which_hinges_yield_is_recorded(speed, yields):
    model, controls = strip(speed=speed, creases=Creases(4.0 if yields else 40.0))
    model.trace = []
    with torch.no_grad():
        state = model(model.initial_state(), controls[0])
        assert (model.trace[-1][-1] > 0) == yields == bool((state.crease[:, 1] > 0).any())
        model.solve_static(state)
    assert model.trace[-1][-1] == 0


def test_a_threshold_by_the_angle_is_that_of_the_mesh():
    by_angle, width = Creases(yield_angle=0.5), torch.tensor([0.1, 0.2], dtype=torch.float64)
    zero = torch.zeros(2, 2, dtype=torch.float64)
    after = by_angle.update(torch.tensor([0.7, -0.7]) / width, zero, width, torch.ones(2))
    torch.testing.assert_close(after[:, 0] * width, torch.tensor([0.2, -0.2], dtype=torch.float64))


def test_newmark_starts_from_the_creased_rest_shape():
    model, _ = strip(integrator="newmark")
    crease = torch.zeros(len(model.hinges.nodes), 2, dtype=torch.float64)
    crease[3, 0] = 5.0
    state = model.initial_state(crease=crease)
    assert state.a.abs().max() > 0 and math.isclose(float(model.rest_angles_of(state)[3]),
                                                    5 * float(model.hinge_widths(model.X)[3]))  # fmt: skip
    assert model.reactions(state).abs().max() > 0


def test_creases_that_do_not_fit_are_refused():
    for options in ({}, {"yield_curvature": 1.0, "yield_angle": 1.0}):
        with pytest.raises(SceneError, match="give either yield_curvature"):
            Creases(**options)
    for options in ({"yield_curvature": -1.0}, {"yield_angle": 0.0}, {"yield_curvature": 1.0, "hardening": -1.0}):
        with pytest.raises(SceneError, match="must be"):
            Creases(**options)
    model, controls = strip(creases=Creases(torch.tensor([1.0, 2.0])))
    with pytest.raises(SceneError, match="one for each of the"):
        model(model.initial_state(), controls[0])
    with pytest.raises(DataError, match=r"crease has shape \(2,\)"):
        model.initial_state(crease=torch.zeros(2))
    with pytest.raises(SceneError, match="creases need a bending energy"):
        strip(bending=None)
