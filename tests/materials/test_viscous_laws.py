"""Every viscous law: closed forms, objectivity, dissipation, gradients. A new law is one row of LAWS."""

import math

import pytest
import torch

from diffsim import materials
from diffsim.errors import SceneError
from diffsim.kernels.arrays import context

DOUBLE = torch.float64
EPS = torch.finfo(context.dtype).eps
double = pytest.mark.skipif(context.dtype != DOUBLE, reason="differences need f64")
both_dimensions = pytest.mark.parametrize("d", [2, 3])


def rate(number, n, low, high):
    """A parameter per particle."""
    generator = torch.Generator().manual_seed(number)
    return low + (high - low) * torch.rand(n, generator=generator, dtype=DOUBLE).to(context.dtype)


# law -> its parameters, of n particles
LAWS = {
    materials.Newtonian: lambda n: dict(eta=rate(1, n, 0.5, 2.0), kappa=rate(2, n, 0.1, 1.0)),
    materials.KelvinVoigt: lambda n: dict(eta=rate(1, n, 0.5, 2.0), kappa=rate(2, n, 0.1, 1.0)),
    materials.HerschelBulkley: lambda n: dict(
        yield_stress=rate(1, n, 0.5, 2.0),
        consistency=rate(2, n, 0.5, 2.0),
        index=rate(3, n, 0.4, 1.6),
        growth=rate(4, n, 0.5, 2.0),
        rate=rate(5, n, 0.1, 0.3),
        kappa=rate(6, n, 0.1, 1.0),
    ),
}
every_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)


def inputs(law, points, d):
    """States with rates that are random, zero, a spin, a dilation, and almost zero."""
    F, e = points.deformations(d)
    torch.manual_seed(8)
    L = torch.randn(len(F), d, d, dtype=DOUBLE).to(F.dtype)
    L[1] = 0
    L[2] = L[2] - L[2].T
    L[3] = 0.7 * torch.eye(d)
    L[4] *= 1e-5
    return dict(F=F, q=points.internal(e, d), L=L, **LAWS[law](len(F)))


def evaluate(law, F, q, L, **parameters):
    return law(**parameters).stress(F, q, L)


@double
@every_law
@both_dimensions
def test_stress_vjp_equals_differences(law, d, points):
    state = inputs(law, points, d)
    if law is materials.HerschelBulkley:
        state["L"][1:4] += 0.1 * torch.randn(3, d, d, dtype=DOUBLE)  # at rest: see below
        state["L"][4] *= 1e5
    weight = torch.randn(state["F"].shape, generator=torch.Generator().manual_seed(9), dtype=DOUBLE)
    work = lambda **s: (weight * evaluate(law, **s)).sum((1, 2))  # noqa: E731
    for name, value in state.items():
        if value.numel():
            assert points.gradient_error(work, state, name) < 1e-8, name


@double
@pytest.mark.filterwarnings("ignore:.*give fastest")
@both_dimensions
@pytest.mark.parametrize("index", [0.5, 1.0, 1.5])
def test_herschel_bulkley_gradient_at_rest_is_that_of_its_largest_viscosity(index, d):
    """At D' = 0 exactly, in a spin or (3-D) a dilation too, and it is approached linearly in gdot."""
    law = materials.HerschelBulkley(2.0, 0.7, index, growth=3.0, rate=0.1)
    newton = materials.Newtonian(2.0 * 3.0 + 0.7 * 0.1 ** (index - 1))
    assert law.viscosity().item() == pytest.approx(newton.viscosity().item(), rel=1e-14)
    torch.manual_seed(3)
    F = torch.eye(d, dtype=DOUBLE) + 0.1 * torch.randn(4, d, d, dtype=DOUBLE)
    weight, direction = torch.randn_like(F), torch.randn(d, d, dtype=DOUBLE)
    L = torch.zeros_like(F)
    L[1] = direction - direction.T
    if d == 3:  # in plane strain D'33 = -tr(D)/3
        L[2] = 5 * torch.eye(d)
    L[3] = 1e-170 * direction  # too small to be squared
    L = L.requires_grad_()
    found, expected = (torch.autograd.grad((weight * v.stress(F, None, L)).sum(), L)[0] for v in (law, newton))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    errors = []
    for size in (1e-3, 1e-4):
        near = (L.detach() + size * direction).requires_grad_()
        grads = [torch.autograd.grad((weight * v.stress(F, None, near)).sum(), near)[0][0] for v in (law, newton)]
        errors.append((grads[0] - grads[1]).norm().item())
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)


@every_law
@both_dimensions
def test_stress_is_objective_and_a_spin_adds_none(law, d, points):
    """P(Q F, Q L Q^T + W) = Q P(F, L) for rotations Q and spins W."""
    state = inputs(law, points, d)
    Q = points.rotation(len(state["F"]), d).to(context.dtype)
    W = torch.randn(Q.shape, generator=torch.Generator().manual_seed(2), dtype=DOUBLE).to(Q.dtype)
    W = 3 * (W - W.mT)
    P = evaluate(law, **state)
    turned = evaluate(law, **{**state, "F": Q @ state["F"], "L": Q @ state["L"] @ Q.mT + W})
    torch.testing.assert_close(turned, Q @ P, rtol=0, atol=100 * EPS * P.abs().max().item() + 1000 * EPS)
    assert evaluate(law, **{**state, "L": W}).abs().max() <= 200 * EPS * W.abs().max()


@every_law
@both_dimensions
def test_no_motion_gains_energy(law, d, points):
    """The power P : L F per rest volume is positive, and tau = P F^T is symmetric."""
    state = inputs(law, points, d)
    P = evaluate(law, **state)
    power = (P * (state["L"] @ state["F"])).sum((1, 2))
    assert (power >= -100 * EPS).all() and (power[5:] > 0).all()
    tau = P @ state["F"].mT
    torch.testing.assert_close(tau, tau.mT, rtol=0, atol=100 * EPS * tau.abs().max().item())


@every_law
def test_two_dimensions_are_plane_strain(law, points):
    """F and L in 2-D with F33 = e give the stress of diag(F, e) and diag(L, 0) in 3-D."""
    state = inputs(law, points, 2)
    n = len(state["F"])
    solid, flow = torch.zeros(2, n, 3, 3, dtype=context.dtype)
    solid[:, :2, :2], solid[:, 2, 2] = state["F"], state["q"][:, 0]
    flow[:, :2, :2] = state["L"]
    plane = evaluate(law, **state)
    full = evaluate(law, **{**state, "F": solid, "q": None, "L": flow})[:, :2, :2].clone()
    if law is materials.KelvinVoigt:
        torch.testing.assert_close(plane, full, rtol=0, atol=300 * EPS)
    else:
        torch.testing.assert_close(plane, full, rtol=0, atol=300 * EPS * full.abs().max().item())


def shear(gdot, stretch=1.0):
    """Simple shear at gdot of a body stretched before, (F, L)."""
    F = torch.diag(torch.tensor([1.0, stretch, 1.0], dtype=context.dtype))[None]
    L = torch.zeros(1, 3, 3, dtype=context.dtype)
    L[0, 0, 1] = gdot
    return F, L


@pytest.mark.parametrize("stretch", [1.0, 0.5])
def test_newtonian_shear_stress_is_eta_times_rate_in_the_current_configuration(stretch):
    F, L = shear(3.0, stretch)
    P = materials.Newtonian(0.2).stress(F, None, L)
    sigma = (P @ F.mT)[0] / torch.linalg.det(F)
    assert sigma[0, 1].item() == pytest.approx(0.6, rel=10 * EPS)
    assert sigma[1, 0].item() == pytest.approx(0.6, rel=10 * EPS) and sigma[0, 0].item() == 0


def test_newtonian_dilation_meets_bulk_viscosity_only():
    L = 0.4 * torch.eye(3, dtype=context.dtype)[None]
    F = 1.1 * torch.eye(3, dtype=context.dtype)[None]
    sigma = (materials.Newtonian(2.0, 0.5).stress(F, None, L) @ F.mT)[0] / 1.1**3
    torch.testing.assert_close(sigma, 0.5 * 1.2 * torch.eye(3, dtype=sigma.dtype), rtol=0, atol=20 * EPS)


def test_kelvin_voigt_of_a_relaxation_time_adds_the_elastic_stress_of_the_rate():
    """tau = C : (time D), and it does not depend on the strain: linear elasticity at eps = time D is the oracle."""
    E, nu, time = 3.0, 0.3, 0.25
    torch.manual_seed(1)
    L = torch.randn(4, 3, 3, dtype=context.dtype)
    F = torch.eye(3, dtype=L.dtype) + 0.2 * torch.randn(4, 3, 3, dtype=L.dtype)
    tau = materials.KelvinVoigt.from_relaxation_time(time, E, nu).stress(F, None, L) @ F.mT
    expected = materials.LinearElastic(E, nu).stress(torch.eye(3, dtype=L.dtype) + time * L)
    torch.testing.assert_close(tau, expected, rtol=0, atol=100 * EPS * E)
    law = materials.KelvinVoigt.from_relaxation_time(time, E, nu)
    assert law.viscosity().item() == pytest.approx(time * materials.LinearElastic(E, nu).modulus().item(), rel=1e-6)


def test_kelvin_voigt_relaxation_time_and_stiffness_are_learned():
    E, nu, time = (torch.tensor(v, dtype=context.dtype, requires_grad=True) for v in (3.0, 0.3, 0.25))
    F, L = shear(3.0)
    P = materials.KelvinVoigt.from_relaxation_time(time, E, nu).stress(F, None, L)[0, 0, 1]
    grads = [g.item() for g in torch.autograd.grad(P, (E, nu, time))]  # P = E/(2 (1 + nu)) time gdot
    assert grads == pytest.approx([P.item() / 3, -P.item() / 1.3, P.item() / 0.25], rel=50 * EPS)


@pytest.mark.parametrize("gdot", [0.0, 1e-12, 1e-3, 0.1, 5.0, 1e4])
@pytest.mark.parametrize("index", [0.5, 1.0, 2.0])
def test_herschel_bulkley_shear_stress_is_its_formula(gdot, index):
    gdot = torch.tensor(gdot, dtype=context.dtype).item()
    law = materials.HerschelBulkley(2.0, 0.7, index, growth=10.0, rate=0.05)
    F, L = shear(gdot)
    power = 0.7 * (gdot**2 + 0.05**2) ** ((index - 1) / 2) * gdot
    expected = power - 2.0 * math.expm1(-10.0 * gdot)
    assert law.stress(F, None, L)[0, 0, 1].item() == pytest.approx(expected, rel=50 * EPS)


def test_herschel_bulkley_without_yield_stress_and_with_index_1_is_newtonian():
    torch.manual_seed(2)
    F = torch.eye(2, dtype=context.dtype) + 0.2 * torch.randn(6, 2, 2, dtype=context.dtype)
    L = torch.randn(6, 2, 2, dtype=context.dtype)
    law = materials.HerschelBulkley(0.0, 0.7, growth=3.0, rate=0.5, kappa=0.2)
    expected = materials.Newtonian(0.7, 0.2).stress(F, None, L)
    torch.testing.assert_close(law.stress(F, None, L), expected, rtol=0, atol=20 * EPS)


@double
def test_herschel_bulkley_tends_to_bingham_and_to_the_power_law():
    """Regularizations vanish: exponentially in growth, quadratically in rate."""
    F, L = shear(2.0)
    bingham = [materials.HerschelBulkley(3.0, 0.5, growth=m).stress(F, None, L)[0, 0, 1].item() for m in (2.0, 4.0)]
    errors = [4.0 - value for value in bingham]
    assert errors == pytest.approx([3 * math.exp(-4), 3 * math.exp(-8)], rel=1e-10)
    ideal = 0.5 * 2**0.4
    errors = [
        ideal - materials.HerschelBulkley(0.0, 0.5, 0.4, growth=1.0, rate=r).stress(F, None, L)[0, 0, 1].item()
        for r in (2e-2, 1e-2)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=1e-3)


@double
@pytest.mark.parametrize("index", [0.5, 1.0, 1.5, 4.0])
def test_herschel_bulkley_viscosity_bounds_the_tangent_up_to_the_fastest_shear_rate(index):
    """3/4 of it is d tau/d gdot where that is largest, at rest or at the end, but for the sum of two maxima."""
    options = dict(growth=3.0, rate=0.1, fastest=5.0)
    L = torch.zeros(400, 3, 3, dtype=DOUBLE)
    L[:, 0, 1] = gdot = torch.linspace(1e-9, 5.0, 400, dtype=DOUBLE, requires_grad=True)
    F = torch.eye(3, dtype=DOUBLE).repeat(400, 1, 1)

    def steepest(law):
        return torch.autograd.grad(law.stress(F, None, L)[:, 0, 1].sum(), gdot, retain_graph=True)[0].max().item()

    power = materials.HerschelBulkley(0.0, 0.7, index, **options)
    assert 0.75 * power.viscosity().item() == pytest.approx(steepest(power), rel=1e-12)
    both = materials.HerschelBulkley(2.0, 0.7, index, **options)
    assert 0.75 * both.viscosity().item() >= steepest(both)


def test_a_fluid_that_thickens_says_that_its_viscosity_has_no_bound():
    law = materials.HerschelBulkley(1.0, 2.0, 1.5, growth=1.0, rate=0.25)
    with pytest.warns(UserWarning, match="index 1.5 .* give fastest="):
        assert law.viscosity().item() == pytest.approx(4 / 3 * (1.0 + 2.0 * 0.5))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: materials.HerschelBulkley(1.0, 1.0, 1.5, growth=1.0, fastest=-1.0), "fastest is -1 1/s"),
        (lambda: materials.Newtonian(-1.0), "eta is -1 Pa s; it must be 0 or greater"),
        (lambda: materials.KelvinVoigt(1.0, -2.0), "kappa is -2 Pa s"),
        (lambda: materials.KelvinVoigt.from_relaxation_time(-1.0, 1.0, 0.3), "time is -1 s"),
        (lambda: materials.HerschelBulkley(1.0, 1.0, 0.0, growth=1.0), "index is 0; it must be greater than 0"),
        (lambda: materials.HerschelBulkley(1.0, 1.0, growth=1.0, rate=0.0), "rate is 0 1/s"),
        (lambda: materials.Material(materials.Newtonian(1.0), viscous=materials.Hencky(1, 0.3), density=1), "elastic"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(SceneError, match=words):
        make()
