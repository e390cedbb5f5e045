"""Von Mises plasticity: the yield surface, hardening, what the map keeps, and its gradients on each side of yield."""

import math

import pytest
import torch
from bodies import block, model, parameter

import diffsim as ds
from diffsim import materials
from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.testing import gradcheck

DOUBLE = torch.float64
EPS = torch.finfo(context.dtype).eps
E, NU, YIELD, H = 3.0, 0.3, 0.3, 0.8
MU, LAM = E / 2.6, E * 0.3 / (1.3 * 0.4)
K = LAM + 2 * MU / 3
double = pytest.mark.skipif(context.dtype != DOUBLE, reason="differences need f64")
both_dimensions = pytest.mark.parametrize("d", [2, 3])


def strains(F, q):
    """Three principal logarithmic strains (n, 3)."""
    s = torch.linalg.svdvals(F.to(DOUBLE))
    return torch.log(s if F.shape[-1] == 3 else torch.cat([s, q[:, :1].to(DOUBLE)], 1))


def equivalent_stress(F, q):
    """sqrt(3/2) |dev tau| of Hencky elasticity: in uniaxial stress, the stress itself."""
    eps = strains(F, q)
    return math.sqrt(1.5) * 2 * MU * (eps - eps.mean(1, keepdim=True)).norm(dim=1)


@both_dimensions
def test_yielded_states_lie_on_the_yield_surface_and_others_are_unchanged(d, points):
    F, e = points.deformations(d)
    q = points.internal(e, d)
    law = materials.VonMises(E, NU, YIELD)
    new, q_new = law.update(F, q)
    yielding = equivalent_stress(F, q) > YIELD
    assert 4 <= yielding.sum() <= len(F) - 4
    assert torch.equal(law.branch(F, q).bool(), yielding)
    assert torch.equal(new[~yielding], F[~yielding]) and torch.equal(q_new[~yielding], q[~yielding])
    on_surface = equivalent_stress(new, q_new)[yielding]
    torch.testing.assert_close(on_surface, torch.full_like(on_surface, YIELD), rtol=200 * EPS, atol=0)


@both_dimensions
def test_the_map_keeps_volume_and_rotation(d, points):
    F, e = points.deformations(d)
    q = points.internal(e, d)
    new, q_new = materials.VonMises(E, NU, YIELD).update(F, q)
    volume = torch.linalg.det(F) * (q[:, 0] if d == 2 else 1)
    volume_new = torch.linalg.det(new) * (q_new[:, 0] if d == 2 else 1)
    torch.testing.assert_close(volume_new, volume, rtol=30 * EPS, atol=0)
    Q, W = (points.rotation(len(F), d).to(F.dtype) for _ in range(2))
    turned, q_turned = materials.VonMises(E, NU, YIELD).update(Q @ F @ W, q)
    torch.testing.assert_close(turned, Q @ new @ W, rtol=0, atol=50 * EPS)
    torch.testing.assert_close(q_turned, q_new, rtol=0, atol=50 * EPS)


@pytest.mark.parametrize("factor, state", [(0.999, 0), (1.001, 1)])
def test_yield_stress_is_that_of_uniaxial_tension(factor, state):
    """Axial Kirchhoff stress t: eps = (t/E, -nu t/E, -nu t/E) in Hencky elasticity; it yields at t = yield_stress."""
    t = factor * YIELD / E
    F = torch.diag(torch.exp(torch.tensor([t, -NU * t, -NU * t], dtype=DOUBLE)))[None].to(context.dtype)
    assert materials.VonMises(E, NU, YIELD).branch(F).item() == state


@both_dimensions
def test_deviatoric_convention_is_the_uniaxial_one_times_a_constant(d, points):
    F, e = points.deformations(d)
    q = points.internal(e, d)
    a = materials.VonMises(E, NU, YIELD).update(F, q)
    b = materials.VonMises.from_deviatoric(E, NU, math.sqrt(2 / 3) * YIELD).update(F, q)
    torch.testing.assert_close(a, b, rtol=4 * EPS, atol=0)


def test_two_dimensions_are_plane_strain(points):
    F, e = points.deformations(2)
    solid = F.new_zeros(len(F), 3, 3)
    solid[:, :2, :2] = F
    solid[:, 2, 2] = e
    law = materials.VonMises(E, NU, YIELD)
    plane, q = law.update(F, e[:, None])
    new, _ = law.update(solid)
    torch.testing.assert_close(plane, new[:, :2, :2].clone(), rtol=0, atol=50 * EPS)
    torch.testing.assert_close(q[:, 0], new[:, 2, 2].clone(), rtol=0, atol=50 * EPS)


@double
@both_dimensions
@pytest.mark.parametrize("name", ["F", "q", "E", "nu", "yield_stress"])
def test_update_vjp_equals_differences_on_each_side_of_yield(name, d, points):
    F, e = points.deformations(d)
    q = points.internal(e, d)
    torch.manual_seed(8)
    state = dict(F=F, q=q, E=3 + torch.rand(len(F), dtype=F.dtype), nu=0.2 + 0.1 * torch.rand(len(F), dtype=F.dtype))
    state["yield_stress"] = torch.full((len(F),), YIELD, dtype=F.dtype)
    away = (equivalent_stress(F, q) - YIELD).abs() > 0.1  # no difference may cross the surface
    state = {key: value[away].contiguous() for key, value in state.items()}
    taken = materials.VonMises(E, NU, YIELD).branch(state["F"], state["q"])
    assert taken.sum() >= 3 and (1 - taken).sum() >= 3
    weight, weight_q = torch.randn_like(state["F"]), torch.randn_like(state["q"])

    def work(F, q, E, nu, yield_stress):
        new, q_new = materials.VonMises(E, nu, yield_stress).update(F, q)
        return (weight * new).sum((1, 2)) + (weight_q * q_new).sum(1)

    if state[name].numel() == 0:
        pytest.skip("no internal variables in 3-D")
    assert points.gradient_error(work, state, name) < 1e-8


def test_update_vjp_is_exact_where_two_stretches_are_equal_and_yield():
    """F = diag(1.5, 0.9, 0.9): the divided difference of the equal pair is J_11 - J_12 of the principal map."""
    radius = math.sqrt(2 / 3) * YIELD / (2 * MU)

    def principal(s):
        eps = torch.log(s)
        dev = eps - eps.mean()
        return torch.exp(eps.mean() + radius * dev / dev.norm())

    torch.manual_seed(9)
    F = torch.diag(torch.tensor([1.5, 0.9, 0.9], dtype=context.dtype))[None].requires_grad_()
    M = torch.randn(3, 3, dtype=context.dtype)
    new, _ = materials.VonMises(E, NU, YIELD).update(F)
    grad = torch.autograd.grad((M * new[0]).sum(), F)[0][0].to(DOUBLE)
    s = F.detach()[0].diagonal().to(DOUBLE)
    M = M.to(DOUBLE)
    p, J = principal(s), torch.autograd.functional.jacobian(principal, s)
    expected = torch.diag(J.T @ M.diagonal())
    for i in range(3):
        for j in set(range(3)) - {i}:
            a = J[1, 1] - J[1, 2] if s[i] == s[j] else (p[i] - p[j]) / (s[i] - s[j])
            b = (p[i] + p[j]) / (s[i] + s[j])
            expected[i, j] = (a + b) / 2 * M[i, j] + (a - b) / 2 * M[j, i]
    assert (grad - expected).abs().max() <= 60 * EPS * expected.abs().max()


def hardened(points, d):
    """F (n, d, d), and q with accumulated plastic strains from 0 to 0.1."""
    F, e = points.deformations(d)
    a = torch.linspace(0, 0.1, len(F), dtype=F.dtype).flip(0)[:, None]
    return F, torch.cat([points.internal(e, d), a], 1)


@both_dimensions
def test_hardened_states_lie_on_the_widened_yield_surface_and_others_are_unchanged(d, points):
    F, q = hardened(points, d)
    law = materials.VonMises(E, NU, YIELD, H)
    assert law.initial(3, d).tolist() == [[1.0, 0.0] if d == 2 else [0.0]] * 3
    new, q_new = law.update(F, q)
    yielding = equivalent_stress(F, q) > YIELD + H * q[:, -1].to(DOUBLE)
    assert 4 <= yielding.sum() <= len(F) - 4
    assert torch.equal(law.branch(F, q).bool(), yielding)
    assert torch.equal(new[~yielding], F[~yielding]) and torch.equal(q_new[~yielding], q[~yielding])
    on_surface = equivalent_stress(new, q_new)[yielding]
    expected = YIELD + H * q_new[yielding][:, -1].to(DOUBLE)
    torch.testing.assert_close(on_surface, expected, rtol=200 * EPS, atol=0)


@both_dimensions
def test_accumulated_strain_is_the_equivalent_of_the_plastic_strain_and_dissipates_the_yield_stress(d, points):
    """da = sqrt(2/3) |eps - eps'|, the plastic strain has no trace, and tau . (eps - eps') = (yield + H a') da."""
    F, q = hardened(points, d)
    new, q_new = materials.VonMises(E, NU, YIELD, H).update(F, q)
    eps, plastic = strains(new, q_new), strains(F, q) - strains(new, q_new)
    grown = (q_new - q)[:, -1].to(DOUBLE)
    tolerance = dict(rtol=0, atol=30 * EPS)
    torch.testing.assert_close(math.sqrt(2 / 3) * plastic.norm(dim=1), grown, **tolerance)
    torch.testing.assert_close(plastic.sum(1), torch.zeros_like(grown), **tolerance)
    dissipated = ((2 * MU * eps + LAM * eps.sum(1, keepdim=True)) * plastic).sum(1)
    torch.testing.assert_close(dissipated, (YIELD + H * q_new[:, -1].to(DOUBLE)) * grown, **tolerance)
    assert (grown >= 0).all() and (grown > 0.01).sum() >= 4


@both_dimensions
@pytest.mark.parametrize("hardening", [0.0, H])
def test_uniaxial_strain_follows_its_closed_form_in_any_number_of_steps(hardening, d):
    """F = diag(exp eps, 1, 1) yields at 2 mu eps = yield_stress: a = (2 mu eps - yield)/(3 mu + H), stress K eps +
    2/3 (yield + H a). Unloading is elastic, and loading again yields at the raised stress.
    """
    law, elastic = materials.VonMises(E, NU, YIELD, hardening), materials.Hencky(E, NU)
    F, q = torch.eye(d, dtype=context.dtype)[None], law.initial(1, d)
    total = largest = 0.0
    for step in [0.05, 0.05, 0.1, 0.07, -0.02, -0.03, 0.04, 0.06, 0.1]:
        total += step
        grow = torch.eye(d, dtype=context.dtype)
        grow[0, 0] = math.exp(step)
        F, q = law.update(grow @ F, q)
        P = elastic.stress(F, q[:, :1] if d == 2 else None)
        tau = (P @ F.mT)[0, 0, 0].item()
        largest = max(largest, total)
        a = max(0.0, (2 * MU * largest - YIELD) / (3 * MU + hardening))
        expected = K * total + 4 * MU / 3 * (total - 1.5 * a)
        assert tau == pytest.approx(expected, rel=100 * EPS)
        if largest == total and a > 0:
            assert expected == pytest.approx(K * total + 2 / 3 * (YIELD + hardening * a))
        if hardening:
            assert q[0, -1].item() == pytest.approx(a, rel=200 * EPS, abs=10 * EPS)


@double
@both_dimensions
@pytest.mark.parametrize("name", ["F", "q", "E", "nu", "yield_stress", "hardening"])
def test_update_vjp_with_hardening_equals_differences_on_each_side_of_yield(name, d, points):
    F, q = hardened(points, d)
    torch.manual_seed(8)
    n = len(F)
    state = dict(F=F, q=q, E=3 + torch.rand(n, dtype=F.dtype), nu=0.2 + 0.1 * torch.rand(n, dtype=F.dtype))
    state["yield_stress"] = torch.full((n,), YIELD, dtype=F.dtype)
    state["hardening"] = H + torch.rand(n, dtype=F.dtype)
    away = (equivalent_stress(F, q) - YIELD - H * q[:, -1]).abs() > 0.1  # no difference may cross the surface
    state = {key: value[away].contiguous() for key, value in state.items()}
    state["q"][:, -1] += 0.01  # differences need room below
    taken = materials.VonMises(E, NU, YIELD, H).branch(state["F"], state["q"])
    assert taken.sum() >= 3 and (1 - taken).sum() >= 3
    weight, weight_q = torch.randn_like(state["F"]), torch.randn_like(state["q"])

    def work(F, q, E, nu, yield_stress, hardening):
        new, q_new = materials.VonMises(E, nu, yield_stress, hardening).update(F, q)
        return (weight * new).sum((1, 2)) + (weight_q * q_new).sum(1)

    assert points.gradient_error(work, state, name) < 1e-8


@both_dimensions
def test_a_hardening_of_zero_is_perfect_plasticity_bit_for_bit(d, points):
    F, e = points.deformations(d)
    q = points.internal(e, d)
    perfect, learned = materials.VonMises(E, NU, YIELD, 0), materials.VonMises(E, NU, YIELD, torch.tensor(0.0))
    assert perfect.initial(1, d).shape[1] == q.shape[1] and learned.initial(1, d).shape[1] == q.shape[1] + 1
    results = []
    for law, internal in [(perfect, q), (learned, torch.cat([q, torch.zeros_like(e)[:, None]], 1))]:
        leaf = F.clone().requires_grad_()
        new, q_new = law.update(leaf, internal)
        grad = torch.autograd.grad((new**2).sum() + (q_new[:, : q.shape[1]] ** 2).sum(), leaf)[0]
        results.append((new.detach(), q_new[:, : q.shape[1]].detach(), grad))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_a_negative_hardening_is_refused():
    with pytest.raises(SceneError, match="hardening is -1"):
        materials.VonMises(E, NU, YIELD, hardening=-1.0)


@double
@pytest.mark.parametrize("strain, share", [(1e-3, 0.0), (0.05, 0.1)], ids=["below yield", "yielding"])
def test_gradients_of_a_rollout_with_hardening_equal_differences(strain, share):
    law = materials.VonMises(parameter(1e3), parameter(0.3), parameter(20.0), parameter(200.0))
    material = ds.Material(materials.Hencky(parameter(1e3), parameter(0.3)), law, density=parameter(10.0))
    simulation = model([material])
    state = block(simulation, strain=strain, jitter=strain)
    report = gradcheck(simulation, state, steps=2, entries=2, directions=1, taylor=False)
    print(f"\n{report}")
    assert report.ok, report
    assert report.shares["yielding"] >= share
    assert all(row.switched <= 1 for row in report.rows), report
    assert share == 0 or report["materials.0.plastic.hardening"].norm > 0


@both_dimensions
def test_hydrostatic_states_are_elastic_and_their_gradient_is_the_identity(d):
    F = (1.5 * torch.eye(d, dtype=context.dtype))[None].requires_grad_()
    q = torch.full((1, 1), 1.5, dtype=context.dtype) if d == 2 else torch.empty(1, 0, dtype=context.dtype)
    new, _ = materials.VonMises(E, NU, YIELD).update(F, q)
    M = torch.arange(d * d, dtype=context.dtype).reshape(1, d, d)
    assert torch.equal(torch.autograd.grad((M * new).sum(), F)[0], M)
