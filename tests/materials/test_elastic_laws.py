"""Every elastic law: energy, stress and their gradients. A new law is one row of LAWS."""

import pytest
import torch

from diffsim import materials
from diffsim.kernels.arrays import context
from diffsim.materials.law import lame

DOUBLE = torch.float64
EPS = torch.finfo(context.dtype).eps
double = pytest.mark.skipif(context.dtype != DOUBLE, reason="differences need f64")


def log_det(s, e):
    return torch.log(s).sum() + torch.log(e)


def stable_neo_hookean_without_logarithm(E, nu):
    return materials.StableNeoHookean(E, nu, logarithm=False)


def tait(E, nu):
    """Bulk modulus lam; the small exponent keeps stresses of all states alike."""
    return materials.Tait(lame(*(torch.as_tensor(value, dtype=DOUBLE) for value in (E, nu)))[1], gamma=2.0)


def stable(s, e, m, k, slope, logarithm):
    square, A = (s**2).sum() + e**2, s.prod() * e - 1
    # |F|^2 of three axes: in 3-D e = 1 is a fourth
    square = square - (len(s) - 2)
    return m / 2 * (square - 3) - logarithm * m / 2 * torch.log((square + 1) / 4) - slope * m * A + k / 2 * A**2


# law -> its energy as a function of principal stretches s (d,), F33 = e, mu, lam: an oracle that shares no code
LAWS = {
    materials.FixedCorotated: lambda s, e, mu, lam: (
        mu * (((s - 1) ** 2).sum() + (e - 1) ** 2) + lam / 2 * (s.prod() * e - 1) ** 2
    ),
    materials.NeoHookean: lambda s, e, mu, lam: (
        mu / 2 * ((s**2 - 1).sum() + e**2 - 1 - 2 * log_det(s, e)) + lam / 2 * log_det(s, e) ** 2
    ),
    materials.Hencky: lambda s, e, mu, lam: (
        mu * ((torch.log(s) ** 2).sum() + torch.log(e) ** 2) + lam / 2 * log_det(s, e) ** 2
    ),
    materials.StVenantKirchhoff: lambda s, e, mu, lam: (
        mu / 4 * (((s**2 - 1) ** 2).sum() + (e**2 - 1) ** 2) + lam / 8 * ((s**2 - 1).sum() + e**2 - 1) ** 2
    ),
    materials.Liquid: lambda s, e, mu, lam: lam / 2 * (s.prod() * e - 1) ** 2,
    materials.StableNeoHookean: lambda s, e, mu, lam: stable(s, e, 4 / 3 * mu, lam + 5 / 6 * mu, 0.75, 1),
    stable_neo_hookean_without_logarithm: lambda s, e, mu, lam: stable(s, e, mu, lam + mu, 1, 0),
    tait: lambda s, e, mu, lam: lam / 2 * (s.prod() * e + 1 / (s.prod() * e) - 2),
}
E, NU = 3.0, 0.3
MU, LAM = E / 2.6, E * 0.3 / (1.3 * 0.4)
every_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
both_dimensions = pytest.mark.parametrize("d", [2, 3])


def inputs(points, d):
    F, e = points.deformations(d)
    torch.manual_seed(5)
    young = 3 + torch.rand(len(F), dtype=F.dtype)
    poisson = 0.2 + 0.1 * torch.rand(len(F), dtype=F.dtype)
    return dict(F=F, q=points.internal(e, d), E=young, nu=poisson), torch.randn_like(F)


@every_law
@both_dimensions
def test_energy_is_that_of_the_principal_stretches(law, d, points):
    F, e = points.deformations(d)
    psi = law(E, NU).energy(F, points.internal(e, d)).to(DOUBLE)
    s = torch.linalg.svdvals(F.to(DOUBLE))
    expected = torch.stack([LAWS[law](si, ei, MU, LAM) for si, ei in zip(s, e.to(DOUBLE), strict=True)])
    torch.testing.assert_close(psi, expected, rtol=30 * EPS, atol=30 * EPS)


@double
@every_law
@both_dimensions
def test_stress_is_the_gradient_of_the_energy(law, d, points):
    state, _ = inputs(points, d)

    def energy(F, q, E, nu):
        return law(E, nu).energy(F, q)

    for name in state:
        assert points.gradient_error(energy, state, name) < 1e-8, name
    F = state["F"].clone().requires_grad_()
    P = torch.autograd.grad(energy(**{**state, "F": F}).sum(), F)[0]
    torch.testing.assert_close(P, law(state["E"], state["nu"]).stress(F, state["q"]), rtol=1e-12, atol=1e-12)


@double
@every_law
@both_dimensions
@pytest.mark.parametrize("name", ["F", "q", "E", "nu"])
def test_stress_vjp_equals_differences_of_the_stress(name, law, d, points):
    state, weight = inputs(points, d)

    def work(F, q, E, nu):
        return (weight * law(E, nu).stress(F, q)).sum((1, 2))

    if state[name].numel() == 0:  # q in 3-D
        pytest.skip("no internal variables in 3-D")
    assert points.gradient_error(work, state, name) < 1e-8


@every_law
@both_dimensions
@pytest.mark.parametrize("c", [1.0, 1.2, 0.8])
def test_stress_vjp_is_exact_at_a_multiple_of_the_identity(c, law, d):
    """N_ii = A M_ii + B sum_{j != i} M_jj and N_ij = (a + b)/2 M_ij + (a - b)/2 M_ji.

    A and B are the diagonal and off-diagonal second derivatives of the energy by the stretches, a = A - B, b = psi'/c.
    """
    torch.manual_seed(6)
    M = torch.randn(d, d, dtype=context.dtype)
    F = (c * torch.eye(d, dtype=context.dtype))[None].requires_grad_()
    grad = torch.autograd.grad((law(E, NU).stress(F)[0] * M).sum(), F)[0][0].to(DOUBLE)
    M = M.to(DOUBLE)
    s = F.detach()[0].diagonal().to(DOUBLE).clone().requires_grad_()
    one = torch.ones((), dtype=DOUBLE)
    first = torch.autograd.functional.jacobian(lambda s: LAWS[law](s, one, MU, LAM), s)
    second = torch.autograd.functional.hessian(lambda s: LAWS[law](s, one, MU, LAM), s)
    A, B, b = second[0, 0], second[0, 1], first[0] / s[0].detach()
    a = A - B
    expected = (a + b) / 2 * M + (a - b) / 2 * M.T
    expected.diagonal().copy_(a * M.diagonal() + B * M.trace())
    assert (grad - expected).abs().max() <= 50 * EPS * expected.abs().max()


@every_law
@both_dimensions
def test_stress_is_objective_and_isotropic(law, d, points):
    """P(Q F) = Q P(F) and P(F Q) = P(F) Q for rotations Q."""
    F, e = points.deformations(d)
    q = points.internal(e, d)
    Q = points.rotation(len(F), d).to(F.dtype)
    P = law(E, NU).stress(F, q)
    tolerance = dict(rtol=0, atol=100 * EPS * E)
    torch.testing.assert_close(law(E, NU).stress(Q @ F, q), Q @ P, **tolerance)
    torch.testing.assert_close(law(E, NU).stress(F @ Q, q), P @ Q, **tolerance)


@every_law
@both_dimensions
def test_a_rotated_body_has_no_stress_and_no_energy(law, d, points):
    Q = points.rotation(20, d).to(context.dtype)
    assert law(E, NU).stress(Q).abs().max() <= 20 * EPS * E
    assert law(E, NU).energy(Q).abs().max() <= 20 * EPS * E


@every_law
@both_dimensions
def test_tangent_is_symmetric(law, d, points):
    F, e = points.deformations(d)
    q = points.internal(e, d)
    F.requires_grad_()
    P = law(E, NU).stress(F, q).reshape(len(F), -1)
    rows = [torch.autograd.grad(P[:, k].sum(), F, retain_graph=True)[0].reshape(len(F), -1) for k in range(d * d)]
    tangent = torch.stack(rows, 1)
    assert (tangent - tangent.mT).abs().max() <= 100 * EPS * tangent.abs().max()


@every_law
def test_two_dimensions_are_plane_strain(law, points):
    """F in 2-D with F33 = e gives the stress of diag(F, e) in 3-D."""
    F, e = points.deformations(2)
    solid = F.new_zeros(len(F), 3, 3)
    solid[:, :2, :2] = F
    solid[:, 2, 2] = e
    plane = law(E, NU).stress(F, e[:, None])
    torch.testing.assert_close(plane, law(E, NU).stress(solid)[:, :2, :2].clone(), rtol=0, atol=100 * EPS * E)


@both_dimensions
def test_map_of_the_liquid_keeps_volume_and_forgets_shear(d, points):
    F, _ = points.deformations(d)
    new, q = materials.Liquid(E, NU).update(F)
    J = torch.linalg.det(F)
    torch.testing.assert_close(torch.linalg.det(new), J, rtol=20 * EPS, atol=0)
    eye = torch.eye(d, dtype=F.dtype)
    torch.testing.assert_close(new, new[:, :1, :1] * eye, rtol=0, atol=0)
    assert q.shape == (len(F), 0)


@double
@both_dimensions
def test_map_vjp_of_the_liquid_equals_differences(d, points):
    F, _ = points.deformations(d)
    weight = torch.randn(len(F), d, d, dtype=F.dtype, generator=torch.Generator().manual_seed(7))

    def work(F):
        return (weight * materials.Liquid(E, NU).update(F)[0]).sum((1, 2))

    assert points.gradient_error(work, dict(F=F), "F") < 1e-8
