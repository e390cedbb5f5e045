"""A weakly compressible liquid with the equation of state of Tait."""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import cofactor, cofactor_vjp, expm1_ratio, inner, log1p_ratio
from diffsim.materials.law import NOT_NEGATIVE, POSITIVE, Elastic, hold
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


@ti.func
def torn(J, theta):
    """Whether the equation of state gives more tension than theta[2]."""
    log_J = logarithm(J)
    return theta[0] * log_J * expm1_ratio(-theta[1] * log_J) > theta[2]


class Limited:
    """theta = (K, gamma, T): -p = min(that of ``Functions``, T).

    Beyond J_c, where that is T, psi = psi(J_c) + T (J - J_c); log J_c = -log(1 - gamma T/K)/gamma. As d psi/d J_c is
    zero there, the gradients by K and gamma are those of psi(J_c), and that by T is J - J_c.
    """

    parameters = 3

    @staticmethod
    @ti.func
    def state(theta):
        return ti.Vector([theta[0], theta[1]])

    @staticmethod
    @ti.func
    def critical(theta):
        """J_c, for a particle beyond it: so gamma T < K."""
        return ti.exp(-ti.log(1 - theta[1] * theta[2] / theta[0]) / theta[1])

    @staticmethod
    @ti.func
    def energy(F, e, theta):
        J = e * F.determinant()
        psi = 0.0 * J
        if torn(J, theta):
            J_c = Limited.critical(theta)
            whole = ti.Matrix.identity(float, F.n)
            psi = Functions.energy(whole, J_c, Limited.state(theta)) + theta[2] * (J - J_c)
        else:
            psi = Functions.energy(F, e, Limited.state(theta))
        return psi

    @staticmethod
    @ti.func
    def energy_vjp(grad_psi, F, e, theta):
        grad_F, grad_e, part = Functions.energy_vjp(grad_psi, F, e, Limited.state(theta))
        grad_T = 0.0 * grad_psi
        D = F.determinant()
        if torn(e * D, theta):
            J_c = Limited.critical(theta)
            grad_F = grad_psi * theta[2] * e * cofactor(F)
            grad_e = grad_psi * theta[2] * D
            whole = ti.Matrix.identity(float, F.n)
            _, _, part = Functions.energy_vjp(grad_psi, whole, J_c, Limited.state(theta))
            grad_T = grad_psi * (e * D - J_c)
        return grad_F, grad_e, ti.Vector([part[0], part[1], grad_T])

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        P = Functions.stress(F, e, L, Limited.state(theta))
        if torn(e * F.determinant(), theta):
            P = theta[2] * e * cofactor(F)
        return P

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        grad_F, grad_e, grad_L, part = Functions.stress_vjp(grad_P, F, e, L, Limited.state(theta))
        grad_theta = ti.Vector([part[0], part[1], 0.0])
        if torn(e * F.determinant(), theta):
            c = inner(grad_P, cofactor(F))
            grad_F = theta[2] * e * cofactor_vjp(grad_P, F)
            grad_e = theta[2] * c
            grad_theta = ti.Vector([0.0, 0.0, e * c])
        return grad_F, grad_e, grad_L, grad_theta


class LimitedMap:
    """``Map`` of the liquid, which tells the branch of the stress after it: 1 where the tension is at its limit."""

    parameters = 3
    internals = 0

    @staticmethod
    @ti.func
    def update(F_trial, q, theta):
        return Map.update(F_trial, q, theta)

    @staticmethod
    @ti.func
    def update_vjp(grad_F_new, grad_q_new, F_trial, q, theta):
        return Map.update_vjp(grad_F_new, grad_q_new, F_trial, q, theta)

    @staticmethod
    @ti.func
    def branch(F_trial, q, theta):
        return ti.select(torn(q[0] * F_trial.determinant(), theta), 1, 0)


class Tait(Elastic):
    """p = K/gamma (J^-gamma - 1),   P = -p dJ/dF,   tau = -p J I;   return map F <- det(F)^(1/d) I, as in ``Liquid``.

    p > 0 is compression (J < 1, rho/rho0 = 1/J); in tension p falls to -K/gamma at most. K = rho0 c^2 is the bulk
    modulus at rest, c the speed of sound. psi = K/gamma (J - 1 + (J^(1 - gamma) - 1)/(gamma - 1)); gamma = 1 gives
    K (J - 1 - log J). In 2-D J = e det F, e = F33 = 1.

    With ``tension`` = T the pressure is cut off, p >= -T, and the energy goes on along its tangent: a liquid that bears
    no tension (T = 0) parts instead of clinging. J is still that of the motion, so drops that have flown apart must
    come together again as far before they push. At the cut-off P has a corner, where the side of the equation of state
    counts; the branch beyond it is reported as yielding, but for the F that a rollout starts with.

    Source: Monaghan, Smoothed particle hydrodynamics, Rep. Prog. Phys. 68 (2005), doi:10.1088/0034-4885/68/8/R01, for
    weakly compressible flow, with c about ten times the largest speed of the flow; gamma = 7 is that of water.
    NCLaw's tau = k (J - J^(1 - g)) is K = g k, gamma = g.
    Adjoint: K J^(-gamma - 1) <G, dJ> dJ - p d2J[G]; beyond the cut-off T d2J[G], and <G, dJ> by T.

    Args:
        K: bulk modulus at rest [Pa], > 0.
        gamma: exponent, > 0.
        tension: largest tension T [Pa], >= 0; None: no cut-off, K/gamma at most.
    """

    functions = Functions
    own_map = Map

    def __init__(self, K, gamma=7.0, *, tension=None):
        super().__init__()
        hold(self, "K", K, POSITIVE, " Pa")
        hold(self, "gamma", gamma, POSITIVE)
        if tension is not None:
            hold(self, "tension", tension, NOT_NEGATIVE, " Pa")
            self.functions, self.own_map = Limited, LimitedMap

    def modulus(self):
        """Bulk modulus K at rest [Pa]: there is no shear."""
        return self.K

    def theta(self):
        if self.functions is Functions:
            return [self.K, self.gamma]
        return [self.K, self.gamma, self.tension] * 2  # the map reads them too, for the branch
