"""Compressible neo-Hookean elasticity."""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import cofactor, inner
from diffsim.materials.law import Isotropic


class Functions:
    """theta = (mu, lam); H = F^-T, J = e det F."""

    parameters = 2

    @staticmethod
    @ti.func
    def energy(F, e, theta):
        log_J = ti.log(e * F.determinant())
        # e = 1 in 3-D: |F|^2 + e^2 - 4 there is |F|^2 - 3
        return 0.5 * theta[0] * (inner(F, F) + e * e - (F.n + 1) - 2 * log_J) + 0.5 * theta[1] * log_J * log_J

    @staticmethod
    @ti.func
    def energy_vjp(grad_psi, F, e, theta):
        D = F.determinant()
        log_J = ti.log(e * D)
        grad_F = grad_psi * (theta[0] * F + ((theta[1] * log_J - theta[0]) / D) * cofactor(F))
        grad_e = grad_psi * (theta[0] * e + (theta[1] * log_J - theta[0]) / e)
        grad_theta = grad_psi * ti.Vector([0.5 * (inner(F, F) + e * e - (F.n + 1) - 2 * log_J), 0.5 * log_J * log_J])
        return grad_F, grad_e, grad_theta

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        D = F.determinant()
        H = (1 / D) * cofactor(F)
        return theta[0] * (F - H) + theta[1] * ti.log(e * D) * H

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        D = F.determinant()
        H = (1 / D) * cofactor(F)
        log_J = ti.log(e * D)
        h = inner(grad_P, H)
        grad_F = theta[0] * grad_P + theta[1] * h * H - (theta[1] * log_J - theta[0]) * H @ grad_P.transpose() @ H
        grad_theta = ti.Vector([inner(grad_P, F - H), log_J * h])
        return grad_F, theta[1] * h / e, ti.Matrix.zero(float, F.n, F.n), grad_theta


class NeoHookean(Isotropic):
    """psi = mu/2 (|F|^2 - 3 - 2 log J) + lam/2 log^2 J,   P = mu (F - F^-T) + lam log(J) F^-T.

    In 2-D (plane strain) the third stretch e = F33 counts as a diagonal entry of F: J = e det F, |F|^2 + e^2.

    Source: Bonet and Wood, Nonlinear Continuum Mechanics for Finite Element Analysis.
    Adjoint: mu G + lam <G, H> H - (lam log J - mu) H G^T H with H = F^-T; no decomposition.

    Args:
        E: Young's modulus [Pa], > 0.
        nu: Poisson's ratio, between -1 and 0.5.
    """

    functions = Functions
