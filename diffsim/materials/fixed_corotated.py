"""Fixed corotated elasticity."""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import cofactor, cofactor_vjp, inner, polar, polar_vjp
from diffsim.materials.law import Isotropic


class Functions:
    """theta = (mu, lam); R is the polar rotation of F, J = e det F."""

    parameters = 2

    @staticmethod
    @ti.func
    def energy(F, e, theta):
        A = F - polar(F)
        J = e * F.determinant()
        return theta[0] * (inner(A, A) + (e - 1) * (e - 1)) + 0.5 * theta[1] * (J - 1) * (J - 1)

    @staticmethod
    @ti.func
    def energy_vjp(grad_psi, F, e, theta):
        A = F - polar(F)
        D = F.determinant()
        J = e * D
        grad_F = grad_psi * (2 * theta[0] * A + theta[1] * (J - 1) * e * cofactor(F))
        grad_e = grad_psi * (2 * theta[0] * (e - 1) + theta[1] * (J - 1) * D)
        grad_theta = grad_psi * ti.Vector([inner(A, A) + (e - 1) * (e - 1), 0.5 * (J - 1) * (J - 1)])
        return grad_F, grad_e, grad_theta

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        J = e * F.determinant()
        return 2 * theta[0] * (F - polar(F)) + theta[1] * (J - 1) * e * cofactor(F)

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        R = polar(F)
        C = cofactor(F)
        J = e * F.determinant()
        c = inner(grad_P, C)
        grad_F = 2 * theta[0] * (grad_P - polar_vjp(grad_P, F, R)) + theta[1] * e * (
            e * c * C + (J - 1) * cofactor_vjp(grad_P, F)
        )
        grad_e = theta[1] * (2 * J - 1) * c
        grad_theta = ti.Vector([2 * inner(grad_P, F - R), (J - 1) * e * c])
        return grad_F, grad_e, ti.Matrix.zero(float, F.n, F.n), grad_theta


class FixedCorotated(Isotropic):
    """psi = mu |F - R|^2 + lam/2 (J - 1)^2,   P = 2 mu (F - R) + lam (J - 1) dJ/dF.

    In 2-D (plane strain) the third stretch e = F33 counts as a diagonal entry of F. Needs det F > 0.

    Source: Stomakhin et al., Energetically consistent invertible elasticity (SCA 2012).
    Adjoint: 2 mu (G - dR[G]) + lam (<G, dJ> dJ + (J - 1) d2J[G]), dR and d2J being self-adjoint; no decomposition.

    Args:
        E: Young's modulus [Pa], > 0.
        nu: Poisson's ratio, between -1 and 0.5.
    """

    functions = Functions
