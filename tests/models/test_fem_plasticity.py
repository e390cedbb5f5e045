"""Von Mises solids by finite elements: the potential of a step, the bar in tension, cycles, gradients."""

import math

import numpy as np
import pytest
import torch
from taylor import slope
from test_hessians import check_term
from torch import nn

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.geometry.solid import block
from diffsim.kernels import constitutive
from diffsim.kernels.arrays import context
from diffsim.testing import gradcheck

if context.dtype != torch.float64 or context.device != "cpu":
    pytest.skip("finite elements are in f64 on the CPU", allow_module_level=True)

M = ds.materials
E, NU, Y = 1e5, 0.3, 1.5e3
STEP = 1e-3  # [m], with which some points yield and others unload


def number(value):
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


def noise(*shape, seed=0, size=1.0):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def metal(E=E, nu=NU, yield_stress=Y, hardening=2e4, density=1e3):
    return ds.Material(M.Hencky(E, nu), M.VonMises(E, nu, yield_stress, hardening), density=density)


def body(dim=2, *, material=None, cells=(3, 1, 1), quadratic=False, **options):
    mesh = block(cells[:dim], (1.0, 0.4, 0.3)[:dim], quadratic=quadratic)
    options = {"dt": 2e-2, "tolerance": 1e-10} | options
    return ds.models.FEM(mesh, material or metal(), **options)


def strained(model, size=0.03, steps=2):
    """A plastic state with history, made of random deformations."""
    state = model.initial_state()
    for k in range(steps):
        x = model.X + noise(*model.X.shape, seed=k, size=size)
        state = state._replace(q=model.flowed(state, x)[0], x=x)
    return state


@pytest.mark.parametrize("dim, quadratic", [(2, False), (2, True), pytest.param(3, False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("hardening", [0.0, 2e4])
def test_the_hessian_of_the_potential_of_a_plastic_step(dim, quadratic, hardening):
    model = body(dim, material=metal(hardening=hardening), quadratic=quadratic)
    state = strained(model, 0.01 if quadratic else 0.03)
    x = state.x + noise(*model.X.shape, seed=9, size=STEP)
    _, branches, _ = model.flowed(state, x)
    assert 0.2 < np.mean(branches) < 1
    check_term(model.elements, model.material_inputs(state, False)[0], x, h=2e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_stress_of_the_potential_is_that_of_the_return_map(dim):
    model = body(dim)
    state = strained(model)
    x = model.X + noise(*model.X.shape, seed=9, size=0.03)
    trial = model.elements.force(x, *model.material_inputs(state, False)[0])
    after = state._replace(x=x, q=model.flowed(state, x)[0])
    torch.testing.assert_close(model.elements.force(x, *model.material_inputs(after, True)[0]), trial, rtol=1e-9,
                               atol=1e-9 * float(trial.abs().max()))  # fmt: skip
    A, own = model.flow.split(after.q, dim)
    F = model.deformation(after) @ A
    tau = model.material.elastic.stress(F, own[:, :1] if dim == 2 else None) @ F.mT
    J = torch.linalg.det(F) * own[:, 0]
    torch.testing.assert_close(model.stress(after) * torch.linalg.det(model.deformation(after))[:, None, None], tau)
    # flow keeps the volume, and ends on the yield surface
    torch.testing.assert_close(J, torch.linalg.det(model.deformation(after)), rtol=1e-10, atol=0.0)
    _, again, _ = model.flowed(after, x)
    theta = model.flow.theta(model.elements, False)
    kind = torch.zeros(len(F), dtype=torch.int32)
    new, _ = constitutive.update(model.elements.laws, F, own, theta, kind)
    torch.testing.assert_close(new, F, rtol=1e-9, atol=1e-12)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("newmark", "bdf2", "explicit")]


@pytest.mark.parametrize("integrator", ["euler", *SLOW])
def test_gradients_of_plastic_steps_agree_with_differences(integrator):
    material = metal(number(E), number(NU), number(Y), number(2e4), number(1e3))
    material.plastic.E, material.plastic.nu = material.elastic.E, material.elastic.nu
    steps = dict(dt=1e-3, substeps=10) if integrator == "explicit" else dict(dt=1e-2)
    model = body(material=material, integrator=integrator, prescribed=[0, 1], damping=0.5, **steps)
    v = noise(*model.X.shape, size=0.3) + 3.0 * model.X[:, :1] * torch.tensor([1.0, 0.4], dtype=torch.float64)
    with torch.no_grad():
        state = ds.rollout(model, model.initial_state(v=v), steps=2)[-1]
    report = gradcheck(model, state, steps=2, entries=2, directions=1, taylor=False)
    assert {"x", "v", "X", "q", "material.elastic.E", "material.elastic.nu", "material.plastic.yield_stress",
            "material.plastic.hardening", "material.density"} <= {row.input for row in report.rows}  # fmt: skip
    assert report.ok and report.shares["yielding"] > 0.1, f"\n{report}"


@pytest.mark.slow
def test_gradients_of_plastic_steps_in_three_dimensions():
    model = body(3, cells=(2, 1, 1), material=metal(yield_stress=number(Y), hardening=0.0), prescribed=[0, 1, 2, 3])
    v = 4.0 * model.X[:, :1] * torch.tensor([1.0, 0.3, -0.2], dtype=torch.float64)
    state = model.initial_state(v=v)
    report = gradcheck(model, state, steps=2, entries=0, directions=1, taylor=False)
    assert report.ok and report.shares["yielding"] > 0.1, f"\n{report}"


def tension(material, stretches, dim=3):
    """A bar that is drawn between rollers: axial force per rest area, accumulated strain, the last state."""
    mesh = block((1, 1, 1)[:dim], (1.0, 0.5, 0.5)[:dim])
    P, at = ds.models.Prescribed, lambda axis, value: mesh.select(lambda X: X[:, axis] == value)
    right = at(0, 1.0)
    state, found = None, []
    for stretch in stretches:
        pull = P(right, lambda X, t, s=stretch: X + (s - 1) * X * (torch.arange(dim) == 0), axes=(0,))
        model = ds.models.FEM(mesh, material, dt=1.0,
                              prescribed=[*(P(at(axis, 0.0), axes=(axis,)) for axis in range(dim)), pull])  # fmt: skip
        state = model.initial_state() if state is None else state
        state = model.solve_static(state)
        force = model.reactions(state)[right, 0].sum() / 0.5 ** (dim - 1)
        found.append((force * stretch_area(model, state), model.plastic_strain(state)[0]))
    return found, model, state


def stretch_area(model, state):
    """Rest area over current area, times the volume ratio: from nominal to Kirchhoff stress."""
    return model.deformation(state)[0, 0, 0]


@pytest.mark.parametrize("hardening", [0.0, 2e4])
def test_a_bar_in_tension_yields_as_the_closed_form_says(hardening):
    """tau = E (Y + H eps)/(E + H), a = (E eps - Y)/(E + H), and derivatives, at three times the strain of yield."""
    eps = 3 * Y / E
    material = metal(yield_stress=number(Y), hardening=hardening)
    found, _, _ = tension(material, [math.exp(eps / 2), math.exp(eps)])
    (tau, a) = found[-1]
    assert tau.item() == pytest.approx(E * (Y + hardening * eps) / (E + hardening), rel=1e-9)
    assert a.item() == pytest.approx((E * eps - Y) / (E + hardening), rel=1e-9)
    (by_tau,) = torch.autograd.grad(tau, material.plastic.yield_stress, retain_graph=True)
    (by_a,) = torch.autograd.grad(a, material.plastic.yield_stress)
    assert by_tau.item() == pytest.approx(E / (E + hardening), rel=1e-8)
    assert by_a.item() == pytest.approx(-1 / (E + hardening), rel=1e-8)


def test_a_cycle_of_tension_and_compression_hardens_isotropically():
    """Loaded to eps, back to 0, to -eps: each time it yields at the stress that it has reached."""
    H, eps = 2e4, 4 * Y / E
    found, _, _ = tension(metal(hardening=H), [math.exp(s) for s in (eps, 0.0, -eps)])
    tau, a = E * (Y + H * eps) / (E + H), (E * eps - Y) / (E + H)
    for strain, (found_tau, found_a) in zip((eps, 0.0, -eps), found, strict=True):
        if strain < eps:  # the elastic part runs back by (tau + tau)/E, the rest flows
            before, turn = strain + eps, 2 * (Y + H * a) / E
            flow = max(0.0, before - turn) * E / (E + H) if strain == 0.0 else max(0.0, 2 * eps - turn) * E / (E + H)
            tau_now, a_now = -(Y + H * (a + flow)), a + flow
        else:
            tau_now, a_now = tau, a
        assert found_tau.item() == pytest.approx(tau_now, rel=1e-8) and found_a.item() == pytest.approx(a_now, rel=1e-8)


def test_what_has_yielded_keeps_its_shape_and_elastic_loads_leave_no_trace():
    for stretch, stays in ((1 + 0.5 * Y / E, False), (1.1, True)):
        _, model, state = tension(metal(hardening=0.0), [stretch])
        loose = ds.models.FEM(model.mesh, model.material, dt=1.0, prescribed=model_rollers(model.mesh))
        rest = loose.solve_static(state)
        residual = float((rest.x - rest.X).abs().max())
        assert residual == pytest.approx(math.exp(math.log(1.1) - Y / E) - 1, rel=1e-6) if stays else residual < 1e-12


def model_rollers(mesh):
    return [ds.models.Prescribed(mesh.select(lambda X, k=k: X[:, k] == 0.0), axes=(k,)) for k in range(3)]


def test_thirty_plastic_steps_have_a_taylor_slope_of_two():
    material = metal(hardening=number(2e4))
    model = body(material=material, cells=(2, 1), prescribed=[0, 1], dt=1e-2)
    v = 4.0 * model.X[:, :1] * torch.tensor([1.0, 0.5], dtype=torch.float64)
    weight = noise(*model.X.shape)

    def loss():
        return (ds.rollout(model, model.initial_state(v=v), steps=30)[-1].x * weight).sum()

    assert abs(slope(loss, material.plastic.hardening, 2e2) - 2) <= 0.05


def test_materials_that_do_not_belong_together_are_refused():
    mesh = block((1, 1), (1.0, 1.0))
    for elastic, plastic, word in (
        (M.NeoHookean(E, NU), M.VonMises(E, NU, Y), "VonMises beside Hencky"),
        (M.Hencky(E, NU), M.DruckerPrager(E, NU, 30.0), "VonMises beside Hencky"),
        (M.Hencky(E, NU), M.VonMises(2 * E, NU, Y), "another E each"),
        (M.Hencky(number(E), NU), M.VonMises(E, NU, Y), "another E each"),
    ):
        with pytest.raises(SceneError, match=word):
            ds.models.FEM(mesh, ds.Material(elastic, plastic, density=1.0), dt=1.0)
    model = body()
    with pytest.raises(SceneError, match="explicit steps of a plastic body"):
        explicit = body(integrator="explicit", dt=1e-4)
        explicit.reactions(explicit(explicit.initial_state()))
    with pytest.raises(SceneError, match="depends on the way"):
        model.solve_static(model.initial_state(), load_steps=3)
