"""St. Venant-Kirchhoff elasticity: linear in Green's strain. F may have three rows and two columns (a membrane)."""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import inner
from diffsim.materials.law import Isotropic


@ti.func
def green(F):
    """E = (F^T F - I)/2; for a square F from H = F - I, so that nothing cancels at small strain."""
    E = 0.5 * (F.transpose() @ F - ti.Matrix.identity(float, F.m))
    if ti.static(F.n == F.m):
        H = F - ti.Matrix.identity(float, F.n)
        E = 0.5 * (H + H.transpose() + H.transpose() @ H)
    return E


@ti.func
def green_of_stretch(e):
    """E33 = (e^2 - 1)/2."""
    return 0.5 * (e - 1) * (e + 1)


class Functions:
    """theta = (mu, lam); E = (F^T F - I)/2, tr = tr E + E33; second Piola-Kirchhoff stress S = 2 mu E + lam tr I."""

    parameters = 2

    @staticmethod
    @ti.func
    def second(E, trace, theta):
        return 2 * theta[0] * E + theta[1] * trace * ti.Matrix.identity(float, E.n)

    @staticmethod
    @ti.func
    def energy(F, e, theta):
        E = green(F)
        E33 = green_of_stretch(e)
        trace = E.trace() + E33
        return theta[0] * (inner(E, E) + E33 * E33) + 0.5 * theta[1] * trace * trace

    @staticmethod
    @ti.func
    def energy_vjp(grad_psi, F, e, theta):
        E = green(F)
        E33 = green_of_stretch(e)
        trace = E.trace() + E33
        grad_F = grad_psi * (F @ Functions.second(E, trace, theta))
        grad_e = grad_psi * (2 * theta[0] * E33 + theta[1] * trace) * e
        grad_theta = grad_psi * ti.Vector([inner(E, E) + E33 * E33, 0.5 * trace * trace])
        return grad_F, grad_e, grad_theta

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        E = green(F)
        return F @ Functions.second(E, E.trace() + green_of_stretch(e), theta)

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        E = green(F)
        trace = E.trace() + green_of_stretch(e)
        T = F.transpose() @ grad_P  # <grad_P, F dS> = <T, dS>
        T_trace = T.trace()
        grad_E = theta[0] * (T + T.transpose()) + theta[1] * T_trace * ti.Matrix.identity(float, F.m)
        grad_F = grad_P @ Functions.second(E, trace, theta) + F @ grad_E
        grad_theta = ti.Vector([2 * inner(T, E), trace * T_trace])
        return grad_F, theta[1] * T_trace * e, ti.Matrix.zero(float, F.n, F.n), grad_theta


class StVenantKirchhoff(Isotropic):
    """psi = mu |E|^2 + lam/2 tr(E)^2,   P = F S,   S = 2 mu E + lam tr(E) I,   E = (F^T F - I)/2.

    For small strains and any rotation. It is smooth for every F, flat and inverted ones too, but weak in compression:
    P of a bar under a free stretch s is E s (s^2 - 1)/2, largest in magnitude at s = 1/sqrt(3) and zero at s = 0, so a
    strong load crushes it; take ``NeoHookean`` there. In 2-D (plane strain) E33 = (F33^2 - 1)/2.

    Source: Sifakis, FEM simulation of 3D deformable solids (SIGGRAPH 2012 course), section 3.3. It is the law of the
    flag of Turek and Hron, Proposal for numerical benchmarking of fluid-structure interaction (2006).
    Adjoint, with T = F^T G: G S + F (2 mu sym(T) + lam tr(T) I).

    Args:
        E: Young's modulus [Pa], > 0.
        nu: Poisson's ratio, between -1 and 0.5.
    """

    functions = Functions
