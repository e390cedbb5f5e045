"""Small strains, equations of state and coefficients: what the common tests of elastic laws do not ask."""

import math

import pytest
import torch
from bodies import block, model, parameter

import diffsim as ds
from diffsim import materials
from diffsim.errors import SceneError
from diffsim.kernels import constitutive
from diffsim.kernels.arrays import context
from diffsim.kernels.lang import ti
from diffsim.materials.composite import combine
from diffsim.materials.law import pack, stretch
from diffsim.materials.series import expm1_ratio_slope
from diffsim.testing import gradcheck

DOUBLE = torch.float64
EPS = torch.finfo(context.dtype).eps
double = pytest.mark.skipif(context.dtype != DOUBLE, reason="differences need f64")
both_dimensions = pytest.mark.parametrize("d", [2, 3])
E, NU = 3.0, 0.3
MU, LAM = E / 2.6, E * 0.3 / (1.3 * 0.4)

SOLIDS = [
    materials.LinearElastic(E, NU),
    materials.FixedCorotated(E, NU),
    materials.NeoHookean(E, NU),
    materials.Hencky(E, NU),
    materials.StVenantKirchhoff(E, NU),
    materials.StableNeoHookean(E, NU),
    materials.StableNeoHookean(E, NU, logarithm=False),
    materials.StableNeoHookean.from_coefficients(4 / 3 * MU, LAM + 5 / 6 * MU),
    materials.StableNeoHookean.from_coefficients(MU, LAM + MU, logarithm=False),
]
LIQUIDS = [materials.Liquid(E, NU), materials.Tait(LAM), materials.Tait(LAM, 1.0)]


def tangent(law, d):
    """dP/dF at rest, (d, d, d, d)."""
    F = torch.eye(d, dtype=context.dtype)[None].requires_grad_()
    P = law.stress(F)[0]
    rows = [torch.autograd.grad(P[i, j], F, retain_graph=True)[0][0] for i in range(d) for j in range(d)]
    return torch.stack(rows).reshape(d, d, d, d)


@pytest.mark.parametrize("law", SOLIDS + LIQUIDS, ids=lambda law: type(law).__name__)
@both_dimensions
def test_at_rest_the_tangent_is_that_of_linear_elasticity_and_the_modulus_is_its_first_entry(law, d):
    one = torch.eye(d, dtype=context.dtype)
    mu = MU if law in SOLIDS else 0.0
    expected = LAM * torch.einsum("ij,kl->ijkl", one, one)
    expected += mu * (torch.einsum("ik,jl->ijkl", one, one) + torch.einsum("il,jk->ijkl", one, one))
    found = tangent(law, d)
    assert (found - expected).abs().max() <= 20 * EPS * E
    assert law.modulus().item() == pytest.approx(found[0, 0, 0, 0].item(), rel=20 * EPS)


@both_dimensions
def test_linear_elastic_stress_is_linear_and_symmetric(d, points):
    F, e = points.deformations(d)
    q = points.internal(e, d)
    law, one = materials.LinearElastic(E, NU), torch.eye(d, dtype=F.dtype)
    P = law.stress(F, q)
    twice = law.stress(one + 2 * (F - one), 1 + 2 * (q - 1))
    torch.testing.assert_close(twice, 2 * P, rtol=0, atol=40 * EPS * E)
    torch.testing.assert_close(P, P.mT, rtol=0, atol=0)


@double
@both_dimensions
@pytest.mark.parametrize("name", ["F", "q", "E", "nu"])
def test_linear_elastic_gradients_equal_differences(name, d, points):
    F, e = points.deformations(d)
    torch.manual_seed(5)
    weight = torch.randn_like(F)
    young, poisson = 3 + torch.rand(len(F), dtype=F.dtype), 0.2 + 0.1 * torch.rand(len(F), dtype=F.dtype)
    inputs = dict(F=F, q=points.internal(e, d), E=young, nu=poisson)
    if inputs[name].numel() == 0:
        pytest.skip("no internal variables in 3-D")
    energy = lambda F, q, E, nu: materials.LinearElastic(E, nu).energy(F, q)  # noqa: E731
    work = lambda F, q, E, nu: (weight * materials.LinearElastic(E, nu).stress(F, q)).sum((1, 2))  # noqa: E731
    assert points.gradient_error(energy, inputs, name) < 1e-8
    assert points.gradient_error(work, inputs, name) < 1e-8
    leaf = F.clone().requires_grad_()
    P = torch.autograd.grad(energy(**{**inputs, "F": leaf}).sum(), leaf)[0]
    torch.testing.assert_close(P, materials.LinearElastic(young, poisson).stress(F, inputs["q"]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("gamma", [1.0, 1.4, 7.0])
@pytest.mark.parametrize("J", [0.8, 0.999, 1 - 2**-16, 1.0, 1.0001, 1.3])
def test_tait_pressure_is_its_formula_and_compression_is_positive(J, gamma):
    """J and 1/J^gamma are formed in exact arithmetic of 1 - J, so that small pressures count with every digit."""
    J = torch.tensor(J, dtype=context.dtype).item()  # as the law sees it
    expected = E / gamma * math.expm1(-gamma * math.log1p(J - 1))
    F = torch.diag(torch.tensor([1.0, J], dtype=context.dtype))[None]
    P = materials.Tait(E, gamma).stress(F)[0]
    assert P[1, 1].item() == pytest.approx(-expected, rel=20 * EPS, abs=0)
    assert P[0, 0].item() == pytest.approx(-expected * J, rel=20 * EPS, abs=0)
    assert (expected > 0) == (J < 1)


def test_tait_in_tension_has_at_most_its_limit():
    F = 1e3 * torch.eye(3, dtype=context.dtype)[None]
    tau = (materials.Tait(E, 7.0).stress(F) @ F.mT)[0, 0, 0] / torch.linalg.det(F)[0]
    assert tau.item() == pytest.approx(E / 7, rel=20 * EPS)


@double
@both_dimensions
@pytest.mark.parametrize("name", ["F", "q", "K", "gamma"])
def test_tait_gradients_equal_differences_and_stress_is_that_of_the_energy(name, d, points):
    F, e = points.deformations(d)
    torch.manual_seed(5)
    weight = torch.randn_like(F)
    K, gamma = 3 + torch.rand(len(F), dtype=F.dtype), 0.5 + 4 * torch.rand(len(F), dtype=F.dtype)
    gamma[0] = 1.0
    inputs = dict(F=F, q=points.internal(e, d), K=K, gamma=gamma)
    if inputs[name].numel() == 0:
        pytest.skip("no internal variables in 3-D")
    energy = lambda F, q, K, gamma: materials.Tait(K, gamma).energy(F, q)  # noqa: E731
    work = lambda F, q, K, gamma: (weight * materials.Tait(K, gamma).stress(F, q)).sum((1, 2))  # noqa: E731
    assert points.gradient_error(energy, inputs, name) < 1e-8
    assert points.gradient_error(work, inputs, name) < 1e-8
    leaf = F.clone().requires_grad_()
    P = torch.autograd.grad(energy(**{**inputs, "F": leaf}).sum(), leaf)[0]
    torch.testing.assert_close(P, materials.Tait(K, gamma).stress(F, inputs["q"]), rtol=1e-12, atol=1e-12)


def test_tait_gradient_by_the_exponent_keeps_its_digits_near_rest():
    """dp/dgamma = K log(J)^2/2 + ...: the quotient of the formula would lose all digits."""
    small = 2.0**-10
    F = torch.diag(torch.tensor([1.0, 1 + small], dtype=context.dtype))[None]
    gamma = torch.tensor(3.0, dtype=context.dtype, requires_grad=True)
    P = materials.Tait(E, gamma).stress(F)[0, 1, 1]
    found = torch.autograd.grad(P, gamma)[0].item()
    a = math.log1p(small)
    series = -E * a * a * (0.5 - 3 * a / 3 + 9 * a * a / 8 - 27 * a**3 / 30 + 81 * a**4 / 144)
    assert found == pytest.approx(series, rel=max(30 * EPS, 1e-13))


TENSION = 0.3  # of K = 3 and gamma = 2: beyond J = 1.118


def limited(points, d):
    """States, their J, and which of them lie beyond the cut-off; five at least on each side."""
    F, e = points.deformations(d)
    torch.manual_seed(5)
    F[:2] *= 1.2
    F[5:7] *= 0.8
    K, gamma = E + 0.1 * torch.rand(2, len(F), dtype=F.dtype)
    inputs = dict(F=F, q=points.internal(e, d), K=K, gamma=gamma - 1, tension=torch.full_like(K, TENSION))
    J = torch.linalg.det(F) * (e if d == 2 else 1)
    beyond = K / inputs["gamma"] * (1 - J ** -inputs["gamma"]) > TENSION
    assert beyond.sum() >= 5 and (~beyond).sum() >= 5
    return inputs, J, beyond


def tait_branch(law, F, q):
    laws = combine(((law.functions, law.own_map),))
    kind = torch.zeros(len(F), dtype=torch.int32)
    return constitutive.branch(laws, F, stretch(F, q, 0), pack(law.theta(), len(F)), kind)


@both_dimensions
def test_tait_pressure_is_cut_off_beyond_its_largest_tension_and_the_branch_says_where(d, points):
    inputs, J, beyond = limited(points, d)
    F, q = inputs.pop("F"), inputs.pop("q")
    law, free = materials.Tait(**inputs), materials.Tait(inputs["K"], inputs["gamma"])
    torch.testing.assert_close(law.stress(F, q)[~beyond], free.stress(F, q)[~beyond], rtol=0, atol=0)
    tension = (law.stress(F, q) @ F.mT)[beyond, 0, 0] / J[beyond]
    torch.testing.assert_close(tension, torch.full_like(tension, TENSION), rtol=50 * EPS, atol=0)
    assert torch.equal(tait_branch(law, F, q) == 1, beyond)
    assert torch.equal(law.update(F, q)[0], free.update(F, q)[0])


@double
@both_dimensions
@pytest.mark.parametrize("name", ["F", "q", "K", "gamma", "tension"])
def test_tait_gradients_equal_differences_on_both_sides_of_the_cut_off(name, d, points):
    inputs, _, _ = limited(points, d)
    if inputs[name].numel() == 0:
        pytest.skip("no internal variables in 3-D")
    weight = torch.randn_like(inputs["F"])

    def energy(F, q, K, gamma, tension):
        return materials.Tait(K, gamma, tension=tension).energy(F, q)

    def work(F, q, K, gamma, tension):
        return (weight * materials.Tait(K, gamma, tension=tension).stress(F, q)).sum((1, 2))

    assert points.gradient_error(energy, inputs, name) < 1e-8
    assert points.gradient_error(work, inputs, name) < 1e-8
    leaf = inputs["F"].clone().requires_grad_()
    P = torch.autograd.grad(energy(**{**inputs, "F": leaf}).sum(), leaf)[0]
    law = materials.Tait(inputs["K"], inputs["gamma"], tension=inputs["tension"])
    torch.testing.assert_close(P, law.stress(inputs["F"], inputs["q"]), rtol=1e-12, atol=1e-12)


@double
@both_dimensions
def test_a_liquid_without_tension_has_the_slope_of_its_modulus_below_rest_and_none_above(d):
    """At J = 1 itself the side of the equation of state counts."""
    law = materials.Tait(E, 2.0, tension=0.0)
    for J, slope in [(1 - 1e-9, E), (1.0, E), (1 + 1e-9, 0.0)]:
        F = torch.eye(d, dtype=context.dtype)[None].clone()
        F[0, 0, 0] = J
        F.requires_grad_()
        grad = torch.autograd.grad(law.stress(F)[0, 0, 0], F)[0]
        assert grad[0, 0, 0].item() == pytest.approx(slope, abs=1e-7)


@double
def test_gradients_of_a_rollout_equal_differences_where_a_part_of_the_liquid_is_torn():
    law = materials.Tait(parameter(1e3), parameter(7.0), tension=parameter(10.0))
    simulation = model([ds.Material(law, density=parameter(10.0))])
    report = gradcheck(simulation, block(simulation, strain=0.05), steps=2, entries=2, directions=1, taylor=False)
    assert report.ok, report
    assert 0.1 <= report.shares["yielding"] <= 0.9, report
    assert all(row.switched <= 1 for row in report.rows) and report["materials.0.elastic.tension"].norm > 0, report


def test_a_tension_that_cannot_be_is_refused():
    with pytest.raises(SceneError, match="tension is -1 Pa; it must be 0 or greater"):
        materials.Tait(1.0, tension=-1.0)


def test_stable_neo_hookean_is_defined_and_pushes_back_for_flat_and_inverted_bodies():
    for law in (materials.StableNeoHookean(E, NU), materials.StableNeoHookean(E, NU, logarithm=False)):
        s = torch.tensor([0.0, -0.5], dtype=context.dtype)
        F = torch.diag_embed(torch.stack([s, torch.ones_like(s), torch.ones_like(s)], 1)).requires_grad_()
        P = law.stress(F)
        (grad,) = torch.autograd.grad(law.energy(F).sum(), F)
        torch.testing.assert_close(grad, P)
        assert (P[:, 0, 0] < 0).all()


def test_coefficients_of_the_identified_elastomer_give_its_modulus():
    """mu = 1294.01, lam = 9201.11 of DiffTactile are E = 3722 Pa and nu = 0.438 at small strain."""
    law = materials.StableNeoHookean.from_coefficients(1294.01, 9201.11)
    mu, lam = 0.75 * 1294.01, 9201.11 - 0.625 * 1294.01
    assert law.modulus().item() == pytest.approx(lam + 2 * mu, rel=20 * EPS)
    with pytest.raises(SceneError, match="k is -1 Pa"):
        materials.StableNeoHookean.from_coefficients(1.0, -1.0)


@ti.kernel
def evaluate(y: ti.types.ndarray(ndim=1), r: ti.types.ndarray(ndim=1)):
    for i in range(y.shape[0]):
        r[i] = expm1_ratio_slope(y[i])


def test_slope_of_the_exponential_ratio_is_accurate_to_rounding():
    """Against sum of y^k (k + 1)/(k + 2)! for small y, and the formula elsewhere."""
    y = torch.tensor([-40.0, -5.0, -1.0, -0.999, -0.3, -1e-3, -1e-9, 0.0, 1e-9, 0.01, 0.7, 0.999, 1.0, 3.0])
    y = y.to(context.dtype)
    r = torch.empty_like(y)
    evaluate(y, r)
    for value, found in zip(y.tolist(), r.tolist(), strict=True):
        if abs(value) < 6:
            expected = math.fsum(value**k * (k + 1) / math.factorial(k + 2) for k in range(60))
        else:
            expected = (math.exp(value) * (value - 1) + 1) / value**2
        assert found == pytest.approx(expected, rel=12 * EPS)
