"""St. Venant-Kirchhoff elasticity: Hooke's law in the Green strain, of solids and of membranes."""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import inner
from diffsim.materials.law import Isotropic


class Functions:
    """theta = (mu, lam); E = (F^T F - I)/2, E33 = (e^2 - 1)/2. F may have three rows and two columns (a membrane)."""

    parameters = 2

    @staticmethod
    @ti.func
    def strain(F):
        return 0.5 * (F.transpose() @ F - ti.Matrix.identity(float, F.m))

    @staticmethod
    @ti.func
    def second(E, e, theta):
        """Second Piola-Kirchhoff stress of the plane or of space."""
        trace = E.trace() + 0.5 * (e * e - 1)
        return 2 * theta[0] * E + theta[1] * trace * ti.Matrix.identity(float, E.n)

    @staticmethod
    @ti.func
    def energy(F, e, theta):
        E = Functions.strain(F)
        E33 = 0.5 * (e * e - 1)
        trace = E.trace() + E33
        return theta[0] * (inner(E, E) + E33 * E33) + 0.5 * theta[1] * trace * trace

    @staticmethod
    @ti.func
    def energy_vjp(grad_psi, F, e, theta):
        E = Functions.strain(F)
        E33 = 0.5 * (e * e - 1)
        trace = E.trace() + E33
        grad_F = grad_psi * F @ Functions.second(E, e, theta)
        grad_e = grad_psi * e * (2 * theta[0] * E33 + theta[1] * trace)
        grad_theta = grad_psi * ti.Vector([inner(E, E) + E33 * E33, 0.5 * trace * trace])
        return grad_F, grad_e, grad_theta

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        return F @ Functions.second(Functions.strain(F), e, theta)

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        E = Functions.strain(F)
        T = F.transpose() @ grad_P
        T = 0.5 * (T + T.transpose())
        trace = T.trace()
        identity = ti.Matrix.identity(float, F.m)
        grad_F = grad_P @ Functions.second(E, e, theta) + F @ (2 * theta[0] * T + theta[1] * trace * identity)
        grad_theta = ti.Vector([2 * inner(T, E), (E.trace() + 0.5 * (e * e - 1)) * trace])
        return grad_F, theta[1] * e * trace, ti.Matrix.zero(float, F.n, F.n), grad_theta


class StVenantKirchhoff(Isotropic):
    """psi = mu |E|^2 + lam/2 tr(E)^2,   P = F (2 mu E + lam tr(E) I),   E = (F^T F - I)/2.

    For large rotations and small strains: crushed to about 0.6 of its length it gives way. In 2-D (plane strain)
    E33 = (F33^2 - 1)/2.

    Source: Bonet and Wood, Nonlinear Continuum Mechanics for Finite Element Analysis.
    Adjoint: G S + F (2 mu T + lam tr(T) I), T = sym(F^T G), S the second Piola-Kirchhoff stress.

    Args:
        E: Young's modulus [Pa], > 0.
        nu: Poisson's ratio, between -1 and 0.5.
    """

    functions = Functions
