"""Snow: what hardening and the bounds do, what the map keeps, and gradients on every side of the bounds."""

import pytest
import torch
from bodies import block, model, parameter

import diffsim as ds
from diffsim import materials
from diffsim.errors import SceneError
from diffsim.kernels import constitutive
from diffsim.kernels.arrays import context
from diffsim.materials.composite import combine
from diffsim.materials.law import pack, stretch
from diffsim.materials.snow import Snow
from diffsim.testing import gradcheck

DOUBLE = torch.float64
EPS = torch.finfo(context.dtype).eps
E, NU, BELOW, ABOVE, XI = 3.0, 0.3, 0.2, 0.1, 4.0
LOW, HIGH = 1 - BELOW, 1 + ABOVE
double = pytest.mark.skipif(context.dtype != DOUBLE, reason="differences need f64")
both_dimensions = pytest.mark.parametrize("d", [2, 3])


def snow(E=E, nu=NU, theta_c=BELOW, theta_s=ABOVE, hardening=XI):
    return Snow(E, nu, theta_c, theta_s, hardening)


def sides(stretches):
    """-1, 0, 1: below, within, above the bounds."""
    return (stretches > HIGH).int() - (stretches < LOW).int()


def states(points, d):
    """F and q. Stretches of every pair of sides, equal ones on each side, and almost equal ones, turned at random."""
    kept = [(1.0, 1.0, 1.0), (0.9, 0.9, 0.9), (0.9, 1.05, 0.85), (1.05, 1.05, 0.9), (0.95, 0.95 + 1e-9, 1.0)]
    beyond = [
        (1.3, 1.0, 0.95),
        (1.3, 0.9, 1.3),
        (1.3, 1.3, 1.3),
        (1.2, 1.2 + 1e-9, 0.6),
        (1.4, 1.2, 0.5),
        (1.4, 0.6, 1.2),
        (1.25, 0.6, 0.95),
        (0.6, 0.6, 0.6),
        (0.7, 0.5, 1.3),
        (0.6, 1.05, 0.6),
        (0.6, 1.0, 1.0),
    ]
    torch.manual_seed(3)
    s = torch.tensor(kept + beyond, dtype=DOUBLE)
    n = len(s)
    F = points.rotation(n, d) @ torch.diag_embed(s[:, :d]) @ points.rotation(n, d)
    Jp = 0.8 + 0.4 * torch.rand(n, 1, dtype=DOUBLE)
    q = torch.cat([s[:, 2:], Jp], 1) if d == 2 else Jp
    return F.to(context.dtype).contiguous(), q.to(context.dtype), s


def branch(law, F, q):
    laws = combine(((law.functions, law.own_map),))
    kind = torch.zeros(len(F), dtype=torch.int32)
    return constitutive.branch(laws, F, stretch(F, q, 1), pack(law.theta(), len(F)), kind)


def volume(F, q):
    """J Jp."""
    return torch.linalg.det(F) * q.prod(1)


def test_undeformed_snow_has_unit_plastic_volume():
    assert snow().initial(2, 2).tolist() == [[1, 1], [1, 1]]
    assert snow().initial(2, 3).tolist() == [[1], [1]]


@both_dimensions
def test_stress_and_energy_are_fixed_corotated_times_the_hardness(d, points):
    F, e = points.deformations(d)
    stretched = points.internal(e, d)
    Jp = torch.linspace(0.7, 1.2, len(F), dtype=F.dtype)
    q = torch.cat([stretched, Jp[:, None]], 1)
    hardness = torch.exp(XI * (1 - Jp))
    plain = materials.FixedCorotated(E, NU)
    tolerance = dict(rtol=20 * EPS, atol=20 * EPS)
    torch.testing.assert_close(snow().energy(F, q), hardness * plain.energy(F, stretched), **tolerance)
    torch.testing.assert_close(snow().stress(F, q), hardness[:, None, None] * plain.stress(F, stretched), **tolerance)


@both_dimensions
def test_stretches_stay_within_the_bounds_and_those_within_stay_as_they_are(d, points):
    F, q, s = states(points, d)
    new, q_new = snow().update(F, q)
    expected = s.clamp(LOW, HIGH)
    found = torch.linalg.svdvals(new.to(DOUBLE))
    torch.testing.assert_close(found, expected[:, :d].sort(1, descending=True)[0], rtol=20 * EPS, atol=0)
    if d == 2:
        torch.testing.assert_close(q_new[:, 0].to(DOUBLE), expected[:, 2], rtol=2 * EPS, atol=0)
    kept = (sides(s)[:, :3] == 0).all(1)
    assert 5 <= kept.sum() <= len(F) - 10
    assert torch.equal(branch(snow(), F, q) == 0, kept)
    assert torch.equal(new[kept], F[kept]) and torch.equal(q_new[kept], q[kept])


@both_dimensions
def test_the_map_keeps_the_whole_volume_and_rotation(d, points):
    F, q, _ = states(points, d)
    new, q_new = snow().update(F, q)
    torch.testing.assert_close(volume(new, q_new), volume(F, q), rtol=30 * EPS, atol=0)
    Q, W = (points.rotation(len(F), d).to(F.dtype) for _ in range(2))
    turned, q_turned = snow().update(Q @ F @ W, q)
    torch.testing.assert_close(turned, Q @ new @ W, rtol=0, atol=50 * EPS)
    torch.testing.assert_close(q_turned, q_new, rtol=0, atol=50 * EPS)


def test_snow_that_is_packed_hardens():
    """Pressed to half its length, with the bound at 0.8: Jp = 0.5/0.8, and the stress at the bound has grown by h."""
    law = snow()
    F = torch.diag(torch.tensor([1.0, 0.5, 1.0], dtype=context.dtype))[None]
    new, Jp = law.update(F)
    assert Jp.item() == pytest.approx(0.5 / LOW, rel=4 * EPS)
    grown = law.stress(new, Jp)[0, 1, 1] / law.stress(new, torch.ones_like(Jp))[0, 1, 1]
    assert grown.item() == pytest.approx(torch.tensor(XI * (1 - 0.5 / LOW)).exp().item(), rel=1e-6)


def test_two_dimensions_are_plane_strain(points):
    """Also a third stretch beyond the bounds is treated as in 3-D; one that starts as 1 stays 1."""
    F, q, _ = states(points, 2)
    solid = F.new_zeros(len(F), 3, 3)
    solid[:, :2, :2] = F
    solid[:, 2, 2] = q[:, 0]
    plane, q_new = snow().update(F, q)
    new, Jp = snow().update(solid, q[:, 1:])
    torch.testing.assert_close(plane, new[:, :2, :2].clone(), rtol=0, atol=50 * EPS)
    torch.testing.assert_close(q_new[:, 0], new[:, 2, 2].clone(), rtol=0, atol=50 * EPS)
    torch.testing.assert_close(q_new[:, 1:], Jp, rtol=50 * EPS, atol=0)
    q[:, 0] = 1
    assert (snow().update(F, q)[1][:, 0] == 1).all()


@both_dimensions
def test_without_lateral_contraction_plastic_work_is_not_negative(d, points):
    """tau_i log(s_i/s'_i) >= 0 for each stretch, tau_i = 2 mu s'_i (s'_i - 1)."""
    F, q, s = states(points, d)
    new, q_new = snow(nu=0.0).update(F, q)
    P = snow(nu=0.0).stress(new, q_new)
    U, trial, Vh = torch.linalg.svd(F.to(DOUBLE))
    stretches = torch.linalg.svdvals(new.to(DOUBLE))
    tau = (U.mT @ P.to(DOUBLE) @ new.to(DOUBLE).mT @ U).diagonal(dim1=1, dim2=2)
    work = (tau * torch.log(trial / stretches)).sum(1)
    assert (work >= -50 * EPS).all() and (work > 1e-3).sum() >= 8


@double
@both_dimensions
@pytest.mark.parametrize("name", ["F", "q", "E", "nu", "hardening"])
def test_stress_and_energy_vjp_equal_differences(name, d, points):
    F, e = points.deformations(d)
    torch.manual_seed(4)
    n = len(F)
    q = torch.cat([points.internal(e, d), 0.7 + 0.5 * torch.rand(n, 1, dtype=F.dtype)], 1)
    state = dict(F=F, q=q, E=3 + torch.rand(n, dtype=F.dtype), nu=0.2 + 0.1 * torch.rand(n, dtype=F.dtype))
    state["hardening"] = 3 + torch.rand(n, dtype=F.dtype)
    weight = torch.randn_like(F)

    def work(F, q, E, nu, hardening):
        law = snow(E, nu, hardening=hardening)
        return (weight * law.stress(F, q)).sum((1, 2)) + law.energy(F, q)

    assert points.gradient_error(work, state, name) < 1e-8


def pairs(s):
    """How many states have two stretches on a given pair of sides, by that pair."""
    counts = {}
    for row in sides(s).tolist():
        for pair in {tuple(sorted((row[i], row[j]))) for i in range(len(row)) for j in range(i)}:
            counts[pair] = counts.get(pair, 0) + 1
    return counts


@double
@both_dimensions
@pytest.mark.parametrize("name", ["F", "q", "theta_c", "theta_s"])
def test_update_vjp_equals_differences_for_every_pair_of_sides(name, d, points):
    F, q, s = states(points, d)
    n = len(F)
    assert (torch.stack([s - LOW, s - HIGH]).abs() > 0.01).all()  # no difference may cross a bound
    counts = pairs(s[:, :d])
    assert len(counts) == 6 and min(counts.values()) >= 0.1 * n
    state = dict(F=F, q=q, theta_c=torch.full((n,), BELOW, dtype=F.dtype))
    state["theta_s"] = torch.full((n,), ABOVE, dtype=F.dtype)
    weight, weight_q = torch.randn_like(F), torch.randn_like(q)

    def work(F, q, theta_c, theta_s):
        new, q_new = snow(theta_c=theta_c, theta_s=theta_s).update(F, q)
        return (weight * new).sum((1, 2)) + (weight_q * q_new).sum(1)

    assert points.gradient_error(work, state, name) < 1e-8


@pytest.mark.parametrize("s, slope", [(1.3, 0.0), (0.6, 0.0), (0.9, 1.0)])
@both_dimensions
def test_update_vjp_is_exact_at_equal_stretches(s, slope, d):
    """F = s I: both divided differences are exact, a the slope of the bounded stretch, b = s'/s; Jp held out."""
    torch.manual_seed(6)
    M = torch.randn(d, d, dtype=context.dtype)
    F = (s * torch.eye(d, dtype=context.dtype))[None].requires_grad_()
    grad = torch.autograd.grad((M * snow().update(F)[0][0]).sum(), F)[0][0].to(DOUBLE)
    M, b = M.to(DOUBLE), min(max(s, LOW), HIGH) / s
    expected = (slope + b) / 2 * M + (slope - b) / 2 * M.T
    expected.diagonal().copy_(slope * M.diagonal())
    assert (grad - expected).abs().max() <= 20 * EPS


@double
@both_dimensions
@pytest.mark.parametrize("bound, inner", [(LOW, 1), (HIGH, -1)])
def test_at_a_bound_each_side_has_its_own_derivative(bound, inner, d):
    """Stretch s' of a bar: slope 1 within and 0 beyond. Plastic volume Jp: slope 0 within and 1/s beyond."""
    for side, slope, growth in [(inner, 1, 0), (-inner, 0, 1 / bound)]:
        F = torch.eye(d, dtype=context.dtype)[None].clone()
        F[0, 0, 0] = bound + side * 1e-9
        F.requires_grad_()
        new, q = snow().update(F)
        (a,) = torch.autograd.grad(new[0, 0, 0], F, retain_graph=True)
        (b,) = torch.autograd.grad(q[0, -1], F)
        assert a[0, 0, 0].item() == pytest.approx(slope, abs=1e-8)
        assert b[0, 0, 0].item() == pytest.approx(growth, abs=1e-8)


@double
def test_gradients_of_a_rollout_equal_differences():
    law = Snow(parameter(1e3), parameter(0.2), parameter(0.02), parameter(0.01), parameter(5.0))
    simulation = model([ds.Material(law, density=parameter(10.0))])
    state = block(simulation, strain=0.05, jitter=0.05)
    report = gradcheck(simulation, state, steps=2, entries=2, directions=1, taylor=False)
    print(f"\n{report}")
    assert report.ok, report
    assert report.shares["yielding"] >= 0.1
    assert all(row.switched <= 1 for row in report.rows), report
    names = {row.input.rsplit(".", 1)[-1] for row in report.rows}
    assert {"F", "q", "E", "nu", "theta_c", "theta_s", "hardening"} <= names


@pytest.mark.parametrize(
    "options, words", [(dict(theta_c=1.0), "theta_c is 1"), (dict(theta_s=-0.1), "theta_s is -0.1")]
)
def test_bounds_that_make_no_sense_are_refused(options, words):
    with pytest.raises(SceneError, match=words):
        snow(**options)
