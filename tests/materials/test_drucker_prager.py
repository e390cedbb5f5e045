"""Drucker-Prager sand: the cone, its apex, volume, and gradients in each branch and on each side of the corners."""

import math

import pytest
import torch
from bodies import block, model, parameter

import diffsim as ds
from diffsim import materials
from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.materials.drucker_prager import APEX, CONE, ELASTIC, DruckerPrager
from diffsim.testing import gradcheck

DOUBLE = torch.float64
EPS = torch.finfo(context.dtype).eps
E, NU, PHI, C = 3.0, 0.3, 30.0, 0.1
MU, LAM = E / 2.6, E * 0.3 / (1.3 * 0.4)
K = LAM + 2 * MU / 3
ALPHA = math.sqrt(2 / 3) * 2 * 0.5 / 2.5  # sin phi = 1/2
TENSION = C * math.sqrt(3)  # c cot phi
double = pytest.mark.skipif(context.dtype != DOUBLE, reason="differences need f64")
both_dimensions = pytest.mark.parametrize("d", [2, 3])
LAWS = {
    "cohesionless": lambda **o: DruckerPrager(**dict(E=E, nu=NU, friction_angle=PHI) | o),
    "cohesive": lambda **o: DruckerPrager(**dict(E=E, nu=NU, friction_angle=PHI, cohesion=C) | o),
    "uncorrected": lambda **o: DruckerPrager(
        **dict(E=E, nu=NU, friction_angle=PHI, cohesion=C) | o, volume_correction=False
    ),
}
every_law = pytest.mark.parametrize("name", LAWS)


def tension(law):
    return 0.0 if law == "cohesionless" else TENSION


# deviators, among them equal strains within the plane of 2-D and across it, almost equal ones, and none
DIRECTIONS = [(2, -1, -1), (-1, -1, 2), (1, -2, 1), (1, 0, -1), (4, -1, -3), (-1, 2, -1 + 1e-9), (0, 0, 0)]
# trace and size of the deviator: well inside the cone, well outside, and well beyond the apex, of every law here
PLACES = {ELASTIC: (-0.6, 0.3), CONE: (-0.2, 0.6), APEX: (0.3, 0.4)}


def states(points, d, name):
    """F, q, and the branch to be taken; v from 0.01 to 0.05 where the law keeps it."""
    rows = []
    for branch, (trace, norm) in PLACES.items():
        for direction in DIRECTIONS:
            size = math.sqrt(sum(x * x for x in direction))
            dev = [norm * x / size if size else 0.0 for x in direction]
            rows.append([*(trace / 3 + x for x in dev), branch if size or branch == APEX else ELASTIC])
    table = torch.tensor(rows, dtype=DOUBLE)
    n, eps, taken = len(table), table[:, :3], table[:, 3].int()
    q = torch.empty(n, 0, dtype=DOUBLE)
    if name != "uncorrected":
        q = torch.linspace(0.01, 0.05, n, dtype=DOUBLE)[:, None]
        eps = eps - q / 3
    torch.manual_seed(7)
    F = points.rotation(n, d) @ torch.diag_embed(torch.exp(eps[:, :d])) @ points.rotation(n, d)
    if d == 2:
        q = torch.cat([torch.exp(eps[:, 2:]), q], 1)
    return F.to(context.dtype).contiguous(), q.to(context.dtype), taken


def strains(F, q):
    """Three principal logarithmic strains (n, 3), in the order of the singular values, F33 last."""
    s = torch.linalg.svdvals(F.to(DOUBLE))
    return torch.log(s if F.shape[-1] == 3 else torch.cat([s, q[:, :1].to(DOUBLE)], 1))


def correction(q, d):
    """v, 0 where it is not kept."""
    return q[:, -1].to(DOUBLE) if q.shape[1] == 3 - d + 1 else torch.zeros(len(q), dtype=DOUBLE)


def stresses(eps):
    """Pressure p, |dev tau|, and principal Kirchhoff stresses."""
    tau = 2 * MU * eps + LAM * eps.sum(1, keepdim=True)
    return -tau.mean(1), (tau - tau.mean(1, keepdim=True)).norm(dim=1), tau


def yields(eps, law):
    """|dev tau| - 3 alpha (p + c cot phi), and p + c cot phi."""
    p, shear, _ = stresses(eps)
    return shear - 3 * ALPHA * (p + tension(law)), p + tension(law)


@every_law
@both_dimensions
def test_branches_are_those_of_the_stress(name, d, points):
    F, q, taken = states(points, d, name)
    f, room = yields(strains(F, q) + correction(q, d)[:, None] / 3, name)
    assert ((f <= 0) & (room > 0) == (taken == ELASTIC)).all() and ((room <= 0) == (taken == APEX)).all()
    assert torch.equal(LAWS[name]().branch(F, q), taken)


@every_law
@both_dimensions
def test_states_end_on_the_cone_on_its_apex_or_inside(name, d, points):
    F, q, taken = states(points, d, name)
    law = LAWS[name]()
    new, q_new = law.update(F, q)
    f, room = yields(strains(new, q_new), name)
    tolerance = 100 * EPS * E
    assert (f[taken == CONE].abs() <= tolerance).all() and (room[taken == CONE] > 0).all()
    assert (f[taken == APEX].abs() <= tolerance).all() and (room[taken == APEX].abs() <= tolerance).all()
    assert (f[taken == ELASTIC] <= 0).all()
    grown = torch.exp(correction(q, d) / 3).to(F.dtype)[:, None]
    stays = taken == ELASTIC
    torch.testing.assert_close(new[stays], (grown[..., None] * F)[stays], rtol=4 * EPS, atol=0)


@both_dimensions
def test_elastic_states_without_a_gap_stay_bit_for_bit(d, points):
    F, q, taken = states(points, d, "cohesive")
    q[:, -1] = 0
    new, q_new = LAWS["cohesive"]().update(F, q)
    stays = taken == ELASTIC
    assert torch.equal(new[stays], F[stays]) and torch.equal(q_new[stays], q[stays])


@every_law
@both_dimensions
def test_the_cone_keeps_volume_and_the_correction_keeps_it_everywhere(name, d, points):
    """log J + v is kept; without correction log J is kept but at the apex, where it becomes 3 log of its stretch."""
    F, q, taken = states(points, d, name)
    new, q_new = LAWS[name]().update(F, q)
    before = strains(F, q).sum(1) + correction(q, d)
    after = strains(new, q_new).sum(1) + correction(q_new, d)
    if name == "uncorrected":
        before = torch.where(taken == APEX, TENSION / K, before)
    torch.testing.assert_close(after, before, rtol=0, atol=30 * EPS)
    if name != "uncorrected":
        assert (correction(q_new, d)[taken != APEX] == 0).all()
        assert (correction(q_new, d)[taken == APEX] > 0).all()


def test_torn_sand_resists_only_when_its_gap_is_closed(points):
    """Stretched by 0.3 and pressed by 0.4 in steps: with the correction log J is -0.1 in the end, without it -0.4."""
    eye = torch.eye(3, dtype=context.dtype)[None]
    for corrected, expected in [(True, -0.1), (False, -0.4)]:
        law = DruckerPrager(E, NU, PHI, volume_correction=corrected)
        F, q = eye, law.initial(1, 3)
        for step in [0.1] * 3 + [-0.1] * 4:
            F, q = law.update(math.exp(step / 3) * F, q)
        assert torch.log(torch.linalg.det(F)).item() == pytest.approx(expected, rel=50 * EPS)


@every_law
@both_dimensions
def test_the_map_is_objective_and_isotropic(name, d, points):
    F, q, _ = states(points, d, name)
    law = LAWS[name]()
    new, q_new = law.update(F, q)
    Q, W = (points.rotation(len(F), d).to(F.dtype) for _ in range(2))
    turned, q_turned = law.update(Q @ F @ W, q)
    torch.testing.assert_close(turned, Q @ new @ W, rtol=0, atol=100 * EPS)
    torch.testing.assert_close(q_turned, q_new, rtol=0, atol=100 * EPS)


@pytest.mark.parametrize("name", ["cohesionless", "uncorrected"])
@both_dimensions
def test_plastic_work_is_not_negative(name, d, points):
    """tau' . (eps - eps'), eps being the trial strains; it is |dev tau'| |eps - eps'| on the cone."""
    F, q, taken = states(points, d, name)
    new, q_new = LAWS[name]().update(F, q)
    eps, trial = strains(new, q_new), strains(F, q)
    work = (stresses(eps)[2] * (trial - eps)).sum(1)
    assert (work >= -50 * EPS).all() and (work[taken == CONE] > 0).all()


def test_opening_and_closing_a_gap_against_cohesion_dissipates_in_all():
    """Closing gives back less than opening took, at every step of the way back."""
    law = LAWS["cohesive"]()
    F, q = torch.eye(3, dtype=context.dtype)[None], law.initial(1, 3)
    total = 0.0
    for step in [0.05] * 6 + [-0.05] * 8:
        trial = math.exp(step / 3) * F
        F, q = law.update(trial, q)
        eps = strains(F, q)
        total += (stresses(eps)[2] * (strains(trial, q) - eps)).sum().item()
        assert total >= -50 * EPS
    assert total > 0


def test_two_dimensions_are_plane_strain(points):
    F, q, _ = states(points, 2, "cohesive")
    solid = F.new_zeros(len(F), 3, 3)
    solid[:, :2, :2] = F
    solid[:, 2, 2] = q[:, 0]
    law = LAWS["cohesive"]()
    plane, q_new = law.update(F, q)
    new, v = law.update(solid, q[:, 1:])
    torch.testing.assert_close(plane, new[:, :2, :2].clone(), rtol=0, atol=100 * EPS)
    torch.testing.assert_close(q_new[:, 0], new[:, 2, 2].clone(), rtol=0, atol=100 * EPS)
    torch.testing.assert_close(q_new[:, 1:], v, rtol=0, atol=100 * EPS)


@pytest.mark.parametrize("strain", [0.0, 0.05])
@both_dimensions
def test_the_sand_of_nclaw_is_the_uncorrected_cone(strain, d, points):
    """Its formulas in torch: tr' = tr - 3 c, eps' = c at the apex, dg = |dev| + (3 lam + 2 mu)/(2 mu) tr' alpha."""
    F, q, _ = states(points, d, "uncorrected")
    eps = strains(F, q)
    shifted = eps.sum(1, keepdim=True) - 3 * strain
    dev = eps - eps.mean(1, keepdim=True)
    norm = dev.norm(dim=1, keepdim=True)
    excess = (norm + (3 * LAM + 2 * MU) / (2 * MU) * shifted * ALPHA).clamp_min(0)
    expected = torch.where(shifted >= 0, strain, eps - torch.where(excess > 0, excess / norm, 0) * dev)
    law = DruckerPrager.from_apex_strain(E, NU, PHI, strain)
    new, q_new = law.update(F, q)
    torch.testing.assert_close(strains(new, q_new), expected, rtol=0, atol=50 * EPS)
    same = DruckerPrager(E, NU, PHI, 3 * K * math.tan(math.radians(PHI)) * strain, volume_correction=False)
    torch.testing.assert_close(same.update(F, q)[0], new, rtol=0, atol=50 * EPS)


@double
@every_law
@both_dimensions
@pytest.mark.parametrize("by", ["F", "q", "E", "nu", "friction_angle", "cohesion"])
def test_update_vjp_equals_differences_in_each_branch(by, name, d, points):
    F, q, taken = states(points, d, name)
    n = len(F)
    state = dict(F=F, q=q) | {
        key: torch.full((n,), value, dtype=F.dtype)
        for key, value in dict(E=E, nu=NU, friction_angle=PHI, cohesion=C).items()
    }
    if name == "cohesionless":
        del state["cohesion"]
    if by not in state or state[by].numel() == 0:
        pytest.skip("no internal variables in 3-D without correction, and no cohesion below 0")
    for branch in PLACES:
        assert (taken == branch).sum() >= 0.1 * n
    torch.manual_seed(8)
    weight, weight_q = torch.randn_like(F), torch.randn_like(q)

    def work(F, q, **parameters):
        new, q_new = LAWS[name](**parameters).update(F, q)
        return (weight * new).sum((1, 2)) + (weight_q * q_new).sum(1)

    assert points.gradient_error(work, state, by) < 1e-8


def test_update_vjp_is_exact_where_two_stretches_are_equal_on_the_cone():
    """F = diag(1.52, 0.71, 0.71): the divided difference of the equal pair is J_11 - J_12 of the principal map."""
    slope = ALPHA * 1.3 / 0.4

    def principal(s):
        eps = torch.log(s)
        dev = eps - eps.mean()
        return torch.exp(eps.mean() - slope * eps.sum() * dev / dev.norm())

    torch.manual_seed(9)
    F = torch.diag(torch.tensor([1.52, 0.71, 0.71], dtype=context.dtype))[None].requires_grad_()
    M = torch.randn(3, 3, dtype=context.dtype)
    law = LAWS["cohesionless"]()
    assert law.branch(F.detach()).item() == CONE
    grad = torch.autograd.grad((M * law.update(F)[0][0]).sum(), F)[0][0].to(DOUBLE)
    s = F.detach()[0].diagonal().to(DOUBLE)
    M = M.to(DOUBLE)
    p, J = principal(s), torch.autograd.functional.jacobian(principal, s)
    expected = torch.diag(J.T @ M.diagonal())
    for i in range(3):
        for j in set(range(3)) - {i}:
            a = J[1, 1] - J[1, 2] if s[i] == s[j] else (p[i] - p[j]) / (s[i] - s[j])
            b = (p[i] + p[j]) / (s[i] + s[j])
            expected[i, j] = (a + b) / 2 * M[i, j] + (a - b) / 2 * M[j, i]
    assert (grad - expected).abs().max() <= 100 * EPS * expected.abs().max()


def slopes(law, F, q, direction):
    """Derivatives of F' and of log J' along a direction of F, by the adjoint, of the branch taken at F."""
    leaf = F.clone().requires_grad_()
    new, q_new = law.update(leaf, q)
    entries = [torch.autograd.grad(new[0, i, j], leaf, retain_graph=True)[0] for i in range(3) for j in range(3)]
    moved = torch.stack([(g * direction).sum() for g in entries])
    (by_volume,) = torch.autograd.grad(torch.logdet(new[0]), leaf)
    return moved, (by_volume * direction).sum()


def one_sided(law, F, q, direction, h=1e-6):
    """Forward differences, extrapolated."""
    at = [law.update(F + k * h * direction, q)[0][0] for k in (0, 1, 2)]
    return ((4 * at[1] - 3 * at[0] - at[2]) / (2 * h)).reshape(-1)


@double
@pytest.mark.parametrize("sign, volume_slope", [(1, 0.0), (-1, 1.0)], ids=["to the apex", "to the cone"])
def test_on_the_edge_of_cone_and_apex_each_side_has_its_own_derivative(sign, volume_slope):
    """Sheared, tr eps = 0: expansion leaves log J' as it is, compression takes it along; both sides are exact."""
    law = DruckerPrager(E, NU, PHI, volume_correction=False)
    F = torch.diag(torch.tensor([1.25, 1.0, 0.8], dtype=DOUBLE))[None]
    direction = sign * (F / 3 + 0.1 * torch.tensor([[0.0, 1, 2], [0, 0, 1], [3, 0, 0]], dtype=DOUBLE))
    start = F + 1e-9 * direction
    q = law.initial(1, 3)
    assert law.branch(start).item() == (APEX if sign > 0 else CONE)
    moved, by_volume = slopes(law, start, q, direction)
    torch.testing.assert_close(moved, one_sided(law, start, q, direction), rtol=0, atol=1e-7)
    assert by_volume.item() == pytest.approx(sign * volume_slope, abs=1e-7)


@double
@pytest.mark.parametrize(
    "direction, branch, volume_slope",
    [
        (torch.eye(3), APEX, 0.0),
        (-torch.eye(3), ELASTIC, -3.0),
        (torch.tensor([[-1.0, 8, 0], [8, -1, 0], [0, 0, -1]]), CONE, -3.0),
    ],
    ids=["expanding", "compressing", "shearing"],
)
def test_at_rest_cohesionless_sand_has_three_derivatives(direction, branch, volume_slope):
    """F = I is the apex. A little off it, in each branch, the adjoint is the derivative in that direction."""
    law = DruckerPrager(E, NU, PHI, volume_correction=False)
    direction = direction.to(DOUBLE)[None]
    start = torch.eye(3, dtype=DOUBLE)[None] + 1e-7 * direction
    q = law.initial(1, 3)
    assert law.branch(start).item() == branch
    moved, by_volume = slopes(law, start, q, direction)
    torch.testing.assert_close(moved, one_sided(law, start, q, direction, h=1e-5), rtol=0, atol=1e-4)
    assert by_volume.item() == pytest.approx(volume_slope, abs=1e-4)


@both_dimensions
def test_at_rest_the_apex_counts_and_its_derivative_is_that_of_the_rotation(d):
    """F = I, cohesionless: dF' is the skew part of dF, and dv' = tr dF."""
    law = LAWS["cohesionless"]()
    F = torch.eye(d, dtype=context.dtype)[None].requires_grad_()
    assert law.branch(F.detach()).item() == APEX
    new, q_new = law.update(F)
    M = torch.arange(1.0, d * d + 1, dtype=context.dtype).reshape(d, d)
    (grad,) = torch.autograd.grad((M * new[0]).sum() + 2 * q_new[0, -1], F)
    torch.testing.assert_close(grad[0], (M - M.T) / 2 + 2 * torch.eye(d, dtype=F.dtype), rtol=0, atol=20 * EPS)


@double
def test_without_cohesion_its_derivative_is_one_sided(points):
    F, q, _ = states(points, 3, "cohesionless")
    c = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    work = lambda c: (DruckerPrager(E, NU, PHI, c).update(F, q)[0] ** 2).sum((1, 2))  # noqa: E731
    value = work(c)
    slope = torch.stack([torch.autograd.grad(v, c, retain_graph=True)[0] for v in value])
    with torch.no_grad():
        at = [work(torch.tensor(k * 1e-6, dtype=DOUBLE)) for k in (0, 1, 2)]
    torch.testing.assert_close(slope, (4 * at[1] - 3 * at[0] - at[2]) / 2e-6, rtol=1e-7, atol=1e-7)


def sand(cohesion):
    law = DruckerPrager(parameter(1e3), parameter(0.3), parameter(35.0), parameter(cohesion))
    return ds.Material(materials.Hencky(parameter(1e3), parameter(0.3)), law, density=parameter(10.0))


@double
@pytest.mark.parametrize(
    "start, cohesion, taken",
    [((0.9, 0.9), 300.0, ELASTIC), ((1.25, 0.7), 2.0, CONE), ((1.2, 1.1), 2.0, APEX)],
    ids=["elastic", "cone", "apex"],
)
def test_gradients_of_a_rollout_equal_differences_in_each_branch(start, cohesion, taken):
    simulation = model([sand(cohesion)])
    state = block(simulation, strain=0.03, jitter=0.05)
    state = state._replace(F=state.F @ torch.diag(torch.tensor(start, dtype=context.dtype)))
    law = simulation.materials[0].plastic
    assert (law.branch(state.F, state.q) == taken).all()
    report = gradcheck(simulation, state, steps=2, entries=2, directions=1, taylor=False)
    print(f"\n{report}")
    assert report.ok, report
    assert all(row.switched <= 1 for row in report.rows), report
    assert (report.shares["yielding"] == 0) == (taken == ELASTIC)
    if taken == APEX:
        assert (simulation(state).q[:, 1] > 0).sum() >= 0.1 * len(state.x)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(friction_angle=0.0), "friction_angle is 0 degrees"),
        (dict(friction_angle=90.0), "friction_angle is 90 degrees"),
        (dict(cohesion=-1.0), "cohesion is -1 Pa"),
    ],
)
def test_angles_and_cohesions_that_make_no_cone_are_refused(options, words):
    with pytest.raises(SceneError, match=words):
        DruckerPrager(**dict(E=E, nu=NU, friction_angle=PHI) | options)
