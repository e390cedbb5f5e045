"""Learned laws: which physical principles each of them guarantees for any weights, and their gradients.

A law is a row of ELASTIC or PLASTIC; a row says which principles hold, and the tests show that the others do not.
"""

import pytest
import torch

from diffsim import materials as M
from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.materials.plane_strain import spatial

DOUBLE = context.dtype == torch.float64
double = pytest.mark.skipif(not DOUBLE, reason="differences need f64")
TOLERANCE = 1e-11 if DOUBLE else 3e-4


def perturbed(law):
    """A law with weights that no training would give."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in law.named_parameters():
            if name not in ("log_T", "log_t_v", "log_t_s"):
                noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight += 0.2 * noise.to(weight.dtype)
    return law


def hyperelastic(d):
    return perturbed(M.HyperelasticNetwork(3.0, 0.3, width=9, seed=0))


def polyconvex(d):
    return perturbed(M.HyperelasticNetwork(3.0, 0.3, width=9, polyconvex=True, seed=0))


def neural(d):
    return M.NeuralElasticity(scale=2.0, width=12, dim=d, seed=1)


def unconstrained(d):
    return M.UnconstrainedElasticity(scale=2.0, width=12, dim=d, seed=1)


def spline(d):
    return perturbed(M.SplineElasticity(scale=1.0))


def spline_at_start(d):
    return M.SplineElasticity(scale=1.0)


# law -> the principles that hold for all its weights
ELASTIC = {
    hyperelastic: {"objective", "isotropic", "symmetric", "rest", "energy"},
    polyconvex: {"objective", "isotropic", "symmetric", "rest", "energy"},
    neural: {"objective", "rest"},
    unconstrained: {"rest"},
    spline: {"objective", "isotropic", "symmetric", "energy"},
    spline_at_start: {"objective", "isotropic", "symmetric", "rest", "energy"},
}


def plasticity(d):
    law = perturbed(M.PlasticityNetwork(strain=0.1, time=1e-3, width=7, seed=0))
    with torch.no_grad():
        law.log_t_v += 0.5
    return law


def neural_plasticity(d):
    return M.NeuralPlasticity(scale=0.3, width=12, dim=d, seed=1)


def unconstrained_plasticity(d):
    return M.UnconstrainedPlasticity(scale=0.3, width=12, dim=d, seed=1)


PLASTIC = {
    plasticity: {"objective", "isotropic", "rest", "dissipative", "volume", "any dt"},
    neural_plasticity: {"objective", "rest"},
    unconstrained_plasticity: {"rest"},
}
DT = 1e-3
name = dict(ids=lambda value: getattr(value, "__name__", None))
every_elastic = pytest.mark.parametrize("make", ELASTIC, **name)
every_plastic = pytest.mark.parametrize("make", PLASTIC, **name)
both_dimensions = pytest.mark.parametrize("d", [2, 3])


def holds(difference, principle, principles):
    """The principle holds to rounding for a row that claims it, and is broken by far for one that does not."""
    if principle in principles:
        assert difference < TOLERANCE, f"{principle}: {difference:.1e}"
    else:
        assert difference > 1e-3, f"{principle} holds to {difference:.1e}, though the row does not claim it"


def turned(points, d, seed=0):
    F, e = points.deformations(d)
    torch.manual_seed(seed)
    return F, points.internal(e, d), points.rotation(len(F), d).to(F.dtype)


def apart(A, B):
    return ((A - B).abs().max() / B.abs().max().clamp_min(1e-30)).item()


@every_elastic
@both_dimensions
def test_stress_turns_with_the_body(make, d, points):
    F, q, Q = turned(points, d)
    law = make(d)
    holds(apart(law.stress(Q @ F, q), Q @ law.stress(F, q)), "objective", ELASTIC[make])


@every_elastic
@both_dimensions
def test_stress_does_not_know_directions_of_the_material(make, d, points):
    F, q, Q = turned(points, d)
    law = make(d)
    holds(apart(law.stress(F @ Q, q) @ Q.mT, law.stress(F, q)), "isotropic", ELASTIC[make])


@every_elastic
@both_dimensions
def test_kirchhoff_stress_is_symmetric(make, d, points):
    F, q, _ = turned(points, d)
    tau = make(d).stress(F, q) @ F.mT
    holds(apart(tau, tau.mT), "symmetric", ELASTIC[make])


@every_elastic
@both_dimensions
def test_rest_is_free_of_stress(make, d):
    law, eye = make(d), torch.eye(d, dtype=context.dtype)[None]
    holds(law.stress(eye, eye.new_ones(1, d == 2)).abs().max().item(), "rest", ELASTIC[make])


@double
@every_elastic
def test_work_around_a_closed_path_vanishes(make):
    """The work of the stress around a circle in the space of F, by the trapezoidal rule: exact to rounding."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64) * 0.15
    angle = torch.arange(200, dtype=torch.float64)[:, None, None] * (2 * torch.pi / 200)
    F = torch.eye(3, dtype=torch.float64) + angle.cos() * first + angle.sin() * second
    path = (angle.cos() * second - angle.sin() * first) * (2 * torch.pi / 200)
    power = (make(3).stress(F) * path).sum((1, 2))
    work = (power.sum() / power.abs().sum()).abs().item()
    if "energy" in ELASTIC[make]:
        # a spline has jumps in its curvature, which the rule sees
        assert work < (1e-3 if "spline" in make.__name__ else 1e-10)
    else:
        assert work > 1e-2


@double
@both_dimensions
@pytest.mark.parametrize("make", [hyperelastic, polyconvex], **name)
def test_stress_of_a_network_is_the_gradient_of_its_energy(make, d, points):
    F, q, _ = turned(points, d)
    law = make(d)
    expected = points.difference(lambda F: law.energy(F, q), {"F": F}, "F")
    P = law.stress(F, q)
    assert ((P - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1).clamp_min(1e-2)).max() < 1e-8
    eye = torch.eye(d, dtype=F.dtype)[None]
    assert law.energy(eye, q[:1] * 0 + 1).abs().item() < 1e-14


@double
def test_the_polyconvex_network_is_convex_along_rank_one_lines(points):
    """Rank-one convexity, which follows from polyconvexity; the free form breaks it."""
    F, q, _ = turned(points, 3)
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 40, 1, 3, generator=generator, dtype=torch.float64)
    line = a.mT @ b
    step = 1e-3

    def curvature(law):
        found = []
        for shift in (-1, 0, 1):
            moved = (F[:, None] + shift * step * line).reshape(-1, 3, 3)
            found.append(law.energy(moved))
        return (found[0] - 2 * found[1] + found[2]) / step**2

    def wild(law):
        with torch.no_grad():
            for weight in (law.W1, law.W2, law.w):
                weight.copy_(3 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
        return law

    assert curvature(wild(polyconvex(3))).min() > 0
    assert curvature(wild(hyperelastic(3))).min() < -1


@both_dimensions
@pytest.mark.parametrize("make", [hyperelastic, polyconvex], **name)
def test_an_untrained_network_has_the_moduli_that_it_is_given(make, d):
    law = M.HyperelasticNetwork(5.0, 0.3, width=8, polyconvex=make is polyconvex, seed=0)
    with torch.no_grad():
        law.w.fill_(-torch.inf if law.polyconvex else 0.0)  # the reference part alone
    eye = torch.eye(d, dtype=context.dtype)
    h = 1e-5 if DOUBLE else 1e-3
    stretched = eye.clone()
    stretched[0, 0] += h
    P = law.stress(stretched[None])[0] / h
    mu, lam = 5 / 2.6, 5 * 0.3 / (1.3 * 0.4)
    assert P[0, 0].item() == pytest.approx(lam + 2 * mu, rel=3 * h)
    assert P[1, 1].item() == pytest.approx(lam, rel=3 * h)
    assert law.modulus().item() == pytest.approx(lam + 2 * mu)


@double
@both_dimensions
@every_elastic
def test_gradients_of_stress_by_deformation_and_weights(make, d, points):
    law = make(d)
    F, q, _ = turned(points, d)
    if "spline" in make.__name__:  # away from the knots, equal stretches among them
        F = 1.0137 * F
        q = 1.0137 * torch.ones_like(q)
    if make is neural:  # its corner: equal singular values
        F, q = distinct(points, d)
    torch.manual_seed(2)
    weight = torch.randn_like(F)

    def work(F):
        return (weight * law.stress(F, q)).sum((1, 2))

    smooth = apart_from_knots(law, F, q) if "spline" in make.__name__ else torch.ones(len(F), dtype=torch.bool)
    assert smooth.sum() >= 5
    expected, leaf = points.difference(work, {"F": F}, "F"), F.clone().requires_grad_()
    (found,) = torch.autograd.grad(work(leaf).sum(), leaf)
    error = (found - expected)[smooth].flatten(1).norm(dim=1)
    assert (error / expected[smooth].flatten(1).norm(dim=1).clamp_min(1e-2)).max() < 1e-7
    check_weights(law, lambda: work(F).sum())


def apart_from_knots(law, F, q):
    """Where no argument of a spline is nearer to a knot than the differences reach: curvatures jump there."""
    s = torch.linalg.svdvals(spatial(F, q))
    pairs = s[:, [0, 0, 1]] * s[:, [1, 2, 2]]
    arguments = torch.cat([s, pairs, s.prod(1, keepdim=True)], 1)
    return ((arguments[:, :, None] - law.knots).abs() > 2e-3).flatten(1).all(1)


def check_weights(law, loss):
    """Gradient by every parameter along a random direction, against central differences."""
    values = dict(law.named_parameters())
    grads = torch.autograd.grad(loss(), list(values.values()))
    generator = torch.Generator().manual_seed(5)
    for (label, value), grad in zip(values.items(), grads, strict=True):
        direction = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        ends = []
        for h in (-2, -1, 1, 2):
            with torch.no_grad():
                value += 1e-4 * h * direction
                ends.append(loss().item())
                value -= 1e-4 * h * direction
        expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / 12e-4
        assert (grad * direction).sum().item() == pytest.approx(expected, rel=1e-6, abs=1e-9), label


@double
@pytest.mark.parametrize("make", [neural, neural_plasticity], **name)
def test_gradient_by_the_output_scale(make, points):
    law = make(3)
    F, q, _ = turned(points, 3)
    scale = torch.nn.Parameter(law.scale.clone())
    del law.scale
    law.scale = scale

    def loss():
        return (law.stress(F, q) if make is neural else law.update(F, q)[0]).square().sum()

    (grad,) = torch.autograd.grad(loss(), scale)
    with torch.no_grad():
        ends = []
        for h in (-1e-4, 1e-4):
            scale += h
            ends.append(loss().item())
            scale -= h
    assert grad.item() == pytest.approx((ends[1] - ends[0]) / 2e-4, rel=1e-7)


@both_dimensions
@every_plastic
def test_plastic_deformation_turns_with_the_body(make, d, points):
    F, q, Q = turned(points, d)
    law = make(d)
    holds(apart(law.update(Q @ F, q, None, DT)[0], Q @ law.update(F, q, None, DT)[0]), "objective", PLASTIC[make])


@both_dimensions
@every_plastic
def test_plastic_deformation_does_not_know_directions_of_the_material(make, d, points):
    F, q, Q = turned(points, d)
    law = make(d)
    difference = apart(law.update(F @ Q, q, None, DT)[0], law.update(F, q, None, DT)[0] @ Q)
    holds(difference, "isotropic", PLASTIC[make])


@both_dimensions
@every_plastic
def test_a_body_at_rest_stays(make, d):
    eye = torch.eye(d, dtype=context.dtype)[None]
    F, _ = make(d).update(eye, eye.new_ones(1, d == 2), None, DT)
    assert torch.equal(F, eye)


def strained(points, d, count=400):
    """F with logarithmic strains of up to 0.4, and q."""
    torch.manual_seed(6)
    s = torch.exp(0.8 * torch.rand(count, d, dtype=torch.float64) - 0.4)
    F = points.rotation(count, d) @ (s[:, :, None] * points.rotation(count, d))
    q = torch.exp(0.4 * torch.rand(count, 1, dtype=torch.float64) - 0.2)
    return F.to(context.dtype), q.to(context.dtype) if d == 2 else F.new_empty(count, 0).to(context.dtype)


@both_dimensions
@every_plastic
def test_flow_takes_energy_and_never_gives_it(make, d, points):
    F, q = strained(points, d)
    law, elastic = make(d), M.Hencky(3.0, 0.3)
    after, q_after = law.update(F, q, None, DT)
    gain = (elastic.energy(after, q_after) - elastic.energy(F, q)).max().item()
    if "dissipative" in PLASTIC[make]:
        assert gain < TOLERANCE
        flows = (law.branch(F, q) == 1).float().mean()
        assert 0.5 < flows < 1
    else:
        assert gain > 1e-3


def distinct(points, d):
    """States whose singular values differ by 1e-2 at least."""
    F, q = strained(points, d, 20)
    chosen = torch.linalg.svdvals(F).diff(dim=1).abs().min(1).values > 1e-2
    assert chosen.sum() > 10
    return F[chosen], q[chosen]


@both_dimensions
def test_volume_is_kept_below_the_limit_and_shrinks_towards_it_above(d, points):
    law = plasticity(d)
    F, q = strained(points, d)
    after, q_after = law.update(F, q, None, DT)

    def trace(F, q):
        return torch.linalg.det(F.double()).log() + (q[:, 0].double().log() if d == 2 else 0)

    before, now, limit = trace(F, q), trace(after, q_after), law.limit().item()
    below = before < limit
    assert 0.2 < below.double().mean() < 0.8
    assert (now - before)[below].abs().max() < TOLERANCE
    decay = torch.exp(-DT / law.time * torch.exp(-law.log_t_v)).item()
    torch.testing.assert_close((now - limit)[~below], decay * (before - limit)[~below], rtol=1e-4, atol=TOLERANCE)


def test_two_halves_of_a_time_step_are_the_whole(points):
    """Where the volume's limit takes nothing; the network of NCLaw belongs to the step that it was trained with."""
    F, q = strained(points, 3)
    F = F / torch.linalg.det(F)[:, None, None] ** (1 / 3) * 0.97
    for make, principles in PLASTIC.items():
        law = make(3)
        half = law.update(F, q, None, DT / 2)[0]
        twice = law.update(half, q, None, DT / 2)[0]
        holds(apart(twice, law.update(F, q, None, DT)[0]), "any dt", principles)


def test_inside_the_yield_surface_nothing_changes(points):
    law = M.PlasticityNetwork(strain=0.5, seed=0)
    F, q = strained(points, 3)
    after, _ = law.update(F, q, None, DT)
    inside = law.branch(F, q) == 0
    assert 0.1 < inside.float().mean() < 0.9
    assert torch.equal(after[inside], F[inside])
    assert ((after - F).flatten(1).abs().max(1).values[~inside] > 0).all()


@double
@both_dimensions
@every_plastic
def test_gradients_of_a_map_by_deformation_and_weights(make, d, points):
    law = make(d)
    F, q, _ = turned(points, d)
    if make is neural_plasticity:
        F, q = distinct(points, d)
    if make is plasticity:  # not on a corner: rest lies inside, and none is as near as a difference
        assert (law.branch(F, q) == 1).float().mean() > 0.1
        assert (law.branch(F, q) == 0).float().mean() > 0.1
    torch.manual_seed(2)
    weight, other = torch.randn_like(F), torch.randn_like(q)

    def work(F, q):
        after, q_after = law.update(F, q, None, DT)
        return (weight * after).sum((1, 2)) + (other * q_after).sum(1)

    for input_ in ("F", "q"):
        assert points.gradient_error(work, {"F": F, "q": q}, input_) < 1e-6, input_
    check_weights(law, lambda: work(F, q).sum())


@double
def test_spline_is_the_one_of_its_knots():
    """Values x^2 at the knots: exact at them and close between, up to the last knot."""
    law = M.SplineElasticity(scale=1.0)
    with torch.no_grad():
        law.values.copy_(law.knots**2 * torch.ones(3, 1))
    (f, _, _), left = law.pieces()
    at = torch.cat([law.knots, torch.tensor([0.45, 2.0, 5.0], dtype=torch.float64)])
    value = law.evaluate(f, left, law.knots, at)
    torch.testing.assert_close(value[:-3], law.knots**2)
    torch.testing.assert_close(value[-3:], at[-3:] ** 2, rtol=0.03, atol=0)
    x, y = torch.rand(2, 300, dtype=torch.float64) * 11
    y[:50] = x[:50] + 1e-9
    quotient = law.quotient(f, left, law.knots, x, y)
    expected = (law.evaluate(f, left, law.knots, x) - law.evaluate(f, left, law.knots, y)) / (x - y)
    torch.testing.assert_close(quotient[50:], expected[50:], rtol=1e-9, atol=1e-9)
    leaf = x[:50].clone().requires_grad_()
    (slope,) = torch.autograd.grad(law.evaluate(f, left, law.knots, leaf).sum(), leaf)
    torch.testing.assert_close(quotient[:50], slope, rtol=1e-6, atol=1e-6)


def test_networks_have_the_size_of_the_publication():
    for law in (M.NeuralElasticity(), M.NeuralPlasticity()):
        assert sum(weight.numel() for weight in law.parameters()) == 5504
        bound = (6 / (13 + 64)) ** 0.5
        assert 0.9 * bound < law.W1.abs().max() <= bound


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: M.NeuralElasticity(width=0), "width=0"),
        (lambda: M.NeuralElasticity(dim=4), "dim=4"),
        (lambda: M.NeuralPlasticity(scale=-1.0), "scale is -1"),
        (lambda: M.HyperelasticNetwork(nu=0.5), "nu is 0.5"),
        (lambda: M.PlasticityNetwork(time=0), "time=0"),
        (lambda: M.NeuralElasticity(dim=2, seed=0).stress(torch.eye(3, dtype=context.dtype)[None]), "dim=2"),
        (lambda: M.UnconstrainedElasticity(dim=3).stress(torch.eye(2, dtype=context.dtype)[None]), "dim=3"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(SceneError, match=message):
        make()


@pytest.mark.parametrize("law", ["NeuralElasticity", "HyperelasticNetwork"])
def test_weights_that_change_between_forward_and_backward_are_noticed(law):
    network = getattr(M, law)()
    F = (torch.eye(3) + 0.1 * torch.rand(5, 3, 3, generator=torch.Generator().manual_seed(0))).to(context.dtype)
    loss = network.stress(F.requires_grad_()).square().sum()
    with torch.no_grad():
        next(p for p in network.parameters() if p.ndim == 2).mul_(2)
    with pytest.raises(RuntimeError, match="changed in place between forward and backward"):
        loss.backward()
