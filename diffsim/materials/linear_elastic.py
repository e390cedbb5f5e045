"""Linear elasticity of small strains."""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import inner
from diffsim.materials.law import Isotropic


@ti.func
def strain(F):
    return 0.5 * (F + F.transpose()) - ti.Matrix.identity(float, F.n)


class Functions:
    """theta = (mu, lam); eps = sym(F - I), tr = tr eps + e - 1."""

    parameters = 2

    @staticmethod
    @ti.func
    def energy(F, e, theta):
        eps = strain(F)
        trace = eps.trace() + (e - 1)
        return theta[0] * (inner(eps, eps) + (e - 1) * (e - 1)) + 0.5 * theta[1] * trace * trace

    @staticmethod
    @ti.func
    def energy_vjp(grad_psi, F, e, theta):
        eps = strain(F)
        trace = eps.trace() + (e - 1)
        grad_F = grad_psi * (2 * theta[0] * eps + theta[1] * trace * ti.Matrix.identity(float, F.n))
        grad_e = grad_psi * (2 * theta[0] * (e - 1) + theta[1] * trace)
        grad_theta = grad_psi * ti.Vector([inner(eps, eps) + (e - 1) * (e - 1), 0.5 * trace * trace])
        return grad_F, grad_e, grad_theta

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        eps = strain(F)
        return 2 * theta[0] * eps + theta[1] * (eps.trace() + (e - 1)) * ti.Matrix.identity(float, F.n)

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        eps = strain(F)
        trace = grad_P.trace()
        grad_F = theta[0] * (grad_P + grad_P.transpose()) + theta[1] * trace * ti.Matrix.identity(float, F.n)
        grad_theta = ti.Vector([2 * inner(grad_P, eps), (eps.trace() + (e - 1)) * trace])
        return grad_F, theta[1] * trace, ti.Matrix.zero(float, F.n, F.n), grad_theta


class LinearElastic(Isotropic):
    """psi = mu |eps|^2 + lam/2 tr(eps)^2,   P = 2 mu eps + lam tr(eps) I,   eps = sym(F - I).

    For small strains and small rotations only: a rotated body is stressed, the law is not objective. In 2-D (plane
    strain) eps33 = F33 - 1.

    Source: Landau and Lifshitz, Theory of Elasticity, section 4, eq. 4.1 and 4.6.
    Adjoint: 2 mu sym(G) + lam tr(G) I.

    Args:
        E: Young's modulus [Pa], > 0.
        nu: Poisson's ratio, between -1 and 0.5.
    """

    functions = Functions
