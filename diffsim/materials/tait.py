"""A weakly compressible liquid with the equation of state of Tait."""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import cofactor, cofactor_vjp, expm1_ratio, inner, log1p_ratio
from diffsim.materials.law import POSITIVE, Elastic, hold
from diffsim.materials.liquid import Map
from diffsim.materials.series import expm1_ratio_slope


@ti.func
def logarithm(J):
    """log J, accurate to rounding near J = 1 on every backend."""
    return (J - 1) * log1p_ratio(J)


class Functions:
    """theta = (K, gamma); J = e det F; -p = K (1 - J^-gamma)/gamma, written as K log J phi(-gamma log J).

    phi(y) = (exp(y) - 1)/y: nothing cancels in the pressure near J = 1. The energy, of second order there, loses the
    digits of a sum of first order.
    """

    parameters = 2

    @staticmethod
    @ti.func
    def energy(F, e, theta):
        J = e * F.determinant()
        log_J = logarithm(J)
        return theta[0] / theta[1] * (J - 1 - log_J * expm1_ratio((1 - theta[1]) * log_J))

    @staticmethod
    @ti.func
    def energy_vjp(grad_psi, F, e, theta):
        D = F.determinant()
        J = e * D
        log_J = logarithm(J)
        tension = grad_psi * theta[0] * log_J * expm1_ratio(-theta[1] * log_J)
        y = (1 - theta[1]) * log_J
        unit = (J - 1 - log_J * expm1_ratio(y)) / theta[1]
        grad_gamma = theta[0] / theta[1] * (log_J * log_J * expm1_ratio_slope(y) - unit)
        return tension * e * cofactor(F), tension * D, grad_psi * ti.Vector([unit, grad_gamma])

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        log_J = logarithm(e * F.determinant())
        return (theta[0] * log_J * expm1_ratio(-theta[1] * log_J) * e) * cofactor(F)

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        D = F.determinant()
        C = cofactor(F)
        log_J = logarithm(e * D)
        y = -theta[1] * log_J
        tension = theta[0] * log_J * expm1_ratio(y)
        slope = theta[0] * ti.exp(y) / (e * D)  # of the tension by J
        c = inner(grad_P, C)
        grad_F = e * (slope * e * c * C + tension * cofactor_vjp(grad_P, F))
        grad_e = (slope * e * D + tension) * c
        grad_K = log_J * expm1_ratio(y) * e * c
        grad_gamma = -theta[0] * log_J * log_J * expm1_ratio_slope(y) * e * c
        return grad_F, grad_e, ti.Matrix.zero(float, F.n, F.n), ti.Vector([grad_K, grad_gamma])


class Tait(Elastic):
    """p = K/gamma (J^-gamma - 1),   P = -p dJ/dF,   tau = -p J I;   return map F <- det(F)^(1/d) I, as in ``Liquid``.

    p > 0 is compression (J < 1, rho/rho0 = 1/J); in tension p falls to -K/gamma at most. K = rho0 c^2 is the bulk
    modulus at rest, c the speed of sound. psi = K/gamma (J - 1 + (J^(1 - gamma) - 1)/(gamma - 1)); gamma = 1 gives
    K (J - 1 - log J). In 2-D J = e det F, e = F33 = 1.

    Source: Monaghan, Smoothed particle hydrodynamics, Rep. Prog. Phys. 68 (2005), doi:10.1088/0034-4885/68/8/R01, for
    weakly compressible flow, with c about ten times the largest speed of the flow; gamma = 7 is that of water.
    NCLaw's tau = k (J - J^(1 - g)) is K = g k, gamma = g.
    Adjoint: K J^(-gamma - 1) <G, dJ> dJ - p d2J[G].

    Args:
        K: bulk modulus at rest [Pa], > 0.
        gamma: exponent, > 0.
    """

    functions = Functions
    own_map = Map

    def __init__(self, K, gamma=7.0):
        super().__init__()
        hold(self, "K", K, POSITIVE, " Pa")
        hold(self, "gamma", gamma, POSITIVE)

    def modulus(self):
        """Bulk modulus K at rest [Pa]: there is no shear."""
        return self.K

    def theta(self):
        return [self.K, self.gamma]
