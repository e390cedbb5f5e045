"""The decomposition, the polar rotation and the ratios behind the divided differences, in both precisions."""

import pytest
import torch

from diffsim.kernels.arrays import Matrices, Scalars, Vectors, context, launch
from diffsim.kernels.lang import ti
from diffsim.kernels.svd import cofactor, cofactor_vjp, expm1_ratio, log1p_ratio, polar, polar_vjp, svd

DOUBLE = torch.float64
EPS = torch.finfo(context.dtype).eps


@ti.kernel
def decompose(F: Matrices, U: Matrices, s: Vectors, V: Matrices):
    for p in range(F.shape[0]):
        a, b, c = svd(F[p])
        U[p] = a
        s[p] = b
        V[p] = c


@ti.kernel
def rotate(F: Matrices, grad: Matrices, R: Matrices, grad_F: Matrices):
    for p in range(F.shape[0]):
        R[p] = polar(F[p])
        grad_F[p] = polar_vjp(grad[p], F[p], R[p])


@ti.kernel
def cofactors(F: Matrices, grad: Matrices, C: Matrices, grad_F: Matrices):
    for p in range(F.shape[0]):
        C[p] = cofactor(F[p])
        grad_F[p] = cofactor_vjp(grad[p], F[p])


@ti.kernel
def ratios(x: Scalars, log_ratio: Scalars, exp_ratio: Scalars):
    for p in range(x.shape[0]):
        log_ratio[p] = log1p_ratio(1 + x[p])
        exp_ratio[p] = expm1_ratio(x[p])


def rotations(n, d):
    Q = torch.linalg.qr(torch.randn(n, d, d, dtype=DOUBLE))[0]
    Q[:, :, 0] *= torch.linalg.det(Q)[:, None]
    return Q


def families(d):
    """Name -> matrices (n, d, d) of the kinds that break decompositions."""
    torch.manual_seed(0)
    n = 200
    eye = torch.eye(d, dtype=DOUBLE).repeat(n, 1, 1)
    noise = torch.randn(n, d, d, dtype=DOUBLE)
    Q, W = rotations(n, d), rotations(n, d)
    values = torch.tensor([2.0, 2.0, 0.5][:d], dtype=DOUBLE)
    wide = torch.logspace(0, -4, d, dtype=DOUBLE)
    return {
        "random, of either sign": noise,
        "the identity": eye,
        "multiples of the identity": torch.linspace(0.1, 10, n, dtype=DOUBLE)[:, None, None] * eye,
        "rotations": Q,
        "reflections": -Q if d == 3 else Q.flip(1),
        "two equal values": Q @ torch.diag(values) @ W,
        "two almost equal values": Q @ torch.diag(values) @ W + 1e-9 * noise,
        "almost the identity": eye + 1e-7 * noise,
        "identity with traces of shear": eye
        + 1e-19 * noise
        + torch.tril(noise, -1) * (torch.arange(n) % 2)[:, None, None],
        "diagonal, unsorted": torch.diag_embed(noise[:, 0]),
        "wide range of values": Q @ torch.diag(wide) @ W,
        "rank d - 1": Q @ torch.diag(torch.tensor([3.0, 1.0, 0.0][3 - d :], dtype=DOUBLE)) @ W,
        "small": 1e-3 * noise,
    }


FAMILIES = list(families(2))


def run_svd(F):
    F = F.to(context.dtype).contiguous()
    U, s, V = torch.empty_like(F), F.new_empty(F.shape[:2]), torch.empty_like(F)
    launch(decompose, F, U, s, V)
    return tuple(t.to(DOUBLE) for t in (F, U, s, V))


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_svd_rebuilds_the_matrix_from_rotations_and_descending_values(family, d):
    F, U, s, V = run_svd(families(d)[family])
    eye = torch.eye(d, dtype=DOUBLE)
    largest = s[:, :1].abs()
    assert ((U * s[:, None] @ V.mT - F).abs().amax((1, 2)) <= 12 * EPS * largest[:, 0]).all()
    for Q in (U, V):
        assert (Q @ Q.mT - eye).abs().max() <= 20 * EPS
        assert (torch.linalg.det(Q) > 0).all()
    assert (s[:, :-1] >= 0).all()
    assert (s.abs().diff(dim=1) <= 4 * EPS * largest).all()
    expected = torch.linalg.svdvals(F)
    assert ((s.abs() - expected).abs() <= 12 * EPS * largest).all()


@pytest.mark.parametrize("d", [2, 3])
def test_the_sign_of_a_reflection_goes_to_the_last_value(d):
    F, _, s, _ = run_svd(families(d)["random, of either sign"])
    assert torch.equal(s[:, -1] < 0, torch.linalg.det(F) < 0)


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("scale", [1e-7, 0.1, 1.0])
def test_polar_rotation_is_that_of_the_decomposition(scale, d):
    torch.manual_seed(1)
    F = rotations(300, d) @ (torch.eye(d, dtype=DOUBLE) + scale * torch.randn(300, d, d, dtype=DOUBLE))
    F = F[torch.linalg.det(F) > 0.1 * scale]
    F, U, s, V = run_svd(F)
    single = F.to(context.dtype)
    R, unused = torch.empty_like(single), torch.empty_like(single)
    launch(rotate, single, torch.zeros_like(single), R, unused)
    R = R.to(DOUBLE)
    condition = s[:, 0] / (s[:, -1] + s[:, -2])
    assert ((R - U @ V.mT).abs().amax((1, 2)) <= 20 * EPS * condition).all()
    assert (R @ R.mT - torch.eye(d, dtype=DOUBLE)).abs().max() <= 10 * EPS


@pytest.mark.parametrize("d", [2, 3])
def test_derivative_of_the_polar_rotation_solves_its_definition(d):
    """F = R S: for dF = R (W S + dS) with W skew and dS symmetric, dR = R W; dR/dF is self-adjoint, so vjp = jvp."""
    torch.manual_seed(2)
    R = rotations(50, d)
    A, B, W = torch.randn(3, 50, d, d, dtype=DOUBLE)
    S = torch.eye(d, dtype=DOUBLE) + 0.2 * (A + A.mT)
    S = torch.where((torch.linalg.eigvalsh(S)[:, 0] < 0.2)[:, None, None], torch.eye(d, dtype=DOUBLE), S)
    W = W - W.mT
    F, dF = (t.to(context.dtype) for t in (R @ S, R @ (W @ S + B + B.mT)))
    rotation, dR = torch.empty_like(F), torch.empty_like(F)
    launch(rotate, F, dF, rotation, dR)
    expected = R @ W
    assert (dR.to(DOUBLE) - expected).abs().max() <= 200 * EPS * expected.abs().max()


@pytest.mark.parametrize("d", [2, 3])
def test_cofactor_is_the_gradient_of_the_determinant_and_its_adjoint_the_hessian(d):
    torch.manual_seed(3)
    F, G = torch.randn(2, 20, d, d, dtype=DOUBLE).to(context.dtype)

    def evaluate(F):
        C, grad_F = torch.empty_like(F), torch.empty_like(F)
        launch(cofactors, F, G.contiguous(), C, grad_F)
        return C.to(DOUBLE), grad_F.to(DOUBLE)

    C, grad_F = evaluate(F)
    leaf = F.to(DOUBLE).requires_grad_()
    expected = torch.autograd.grad(torch.linalg.det(leaf).sum(), leaf)[0]
    torch.testing.assert_close(C, expected, rtol=0, atol=100 * EPS)
    # cof is at most quadratic, so this difference is exact; the Hessian of det is symmetric, so it is the adjoint
    torch.testing.assert_close(grad_F, (evaluate(F + G)[0] - evaluate(F - G)[0]) / 2, rtol=0, atol=100 * EPS)


def test_ratios_have_their_limits_and_full_accuracy_beside_them():
    units = 8 if context.device == "cpu" else 64  # a GPU's exp and log are less accurate
    steps = torch.logspace(-12, 0.3, 200, dtype=DOUBLE)
    x = torch.cat([torch.zeros(1, dtype=DOUBLE), steps, -steps[steps < 0.95], torch.tensor([0.1, -0.1, 1.0])])
    single = x.to(context.dtype)
    log_ratio, exp_ratio = torch.empty_like(single), torch.empty_like(single)
    launch(ratios, single, log_ratio, exp_ratio)
    assert log_ratio[0] == 1 and exp_ratio[0] == 1
    x = single.to(DOUBLE)[1:]
    u = (1 + single).to(DOUBLE)[1:] - 1  # the argument as the kernel sees it
    expected = torch.where(u == 0, torch.ones_like(u), torch.log1p(u) / torch.where(u == 0, 1.0, u))
    assert ((log_ratio.to(DOUBLE)[1:] - expected).abs() <= units * EPS * expected).all()
    expected = torch.expm1(x) / x
    assert ((exp_ratio.to(DOUBLE)[1:] - expected).abs() <= units * EPS * expected).all()
