"""Snow: fixed corotated elasticity that hardens as it is packed, and stretches that stay within bounds."""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import inner, isotropic_vjp, svd
from diffsim.materials import fixed_corotated
from diffsim.materials.law import NOT_NEGATIVE, Isotropic, hold

SHARE = (lambda value: (value >= 0) & (value < 1), "must be at least 0 and less than 1")
Corotated = fixed_corotated.Functions


class Functions:
    """theta = (mu, lam, xi), q[1] = Jp: the fixed corotated law times h = exp(xi (1 - Jp))."""

    parameters = 3
    stateful = True

    @staticmethod
    @ti.func
    def hardness(q, theta):
        return ti.exp(theta[2] * (1 - q[1]))

    @staticmethod
    @ti.func
    def rest(theta):
        return ti.Vector([theta[0], theta[1]])

    @staticmethod
    @ti.func
    def energy(F, q, theta):
        return Functions.hardness(q, theta) * Corotated.energy(F, q[0], Functions.rest(theta))

    @staticmethod
    @ti.func
    def energy_vjp(grad_psi, F, q, theta):
        h = Functions.hardness(q, theta)
        grad_F, grad_e, part = Corotated.energy_vjp(h * grad_psi, F, q[0], Functions.rest(theta))
        grad_log_h = h * grad_psi * Corotated.energy(F, q[0], Functions.rest(theta))
        grad_q, grad_theta = Functions.shares(grad_e, part, grad_log_h, q, theta)
        return grad_F, grad_q, grad_theta

    @staticmethod
    @ti.func
    def stress(F, q, L, theta):
        return Functions.hardness(q, theta) * Corotated.stress(F, q[0], L, Functions.rest(theta))

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, q, L, theta):
        h = Functions.hardness(q, theta)
        grad_F, grad_e, grad_L, part = Corotated.stress_vjp(h * grad_P, F, q[0], L, Functions.rest(theta))
        grad_log_h = h * inner(grad_P, Corotated.stress(F, q[0], L, Functions.rest(theta)))
        grad_q, grad_theta = Functions.shares(grad_e, part, grad_log_h, q, theta)
        return grad_F, grad_q, grad_L, grad_theta

    @staticmethod
    @ti.func
    def shares(grad_e, part, grad_log_h, q, theta):
        """Gradients in q and theta; log h = xi (1 - Jp)."""
        grad_q = q * 0
        grad_q[0] = grad_e
        grad_q[1] = -theta[2] * grad_log_h
        return grad_q, ti.Vector([part[0], part[1], (1 - q[1]) * grad_log_h])


@ti.func
def side(s, theta):
    """0 within the bounds, 1 below, 2 above."""
    return ti.select(s < theta[0], 1, ti.select(s > theta[1], 2, 0))


@ti.func
def bounded(s, theta):
    return ti.min(ti.max(s, theta[0]), theta[1])


class Map:
    """theta = (low, high), q[1] = Jp: s'_i = clamp(s_i), Jp' = Jp prod s_i/s'_i; in 2-D e is the third stretch."""

    parameters = 2
    internals = 1
    start = (1.0,)

    @staticmethod
    @ti.func
    def update(F_trial, q, theta):
        U, s, V = svd(F_trial)
        F = F_trial
        q_new = q
        if Map.branch(F_trial, q, theta) != 0:
            for i in ti.static(range(F.n)):
                bound = bounded(s[i], theta)
                q_new[1] *= s[i] / bound
                for k in ti.static(range(F.n)):
                    U[k, i] *= bound
            F = U @ V.transpose()
            if ti.static(F.n == 2):
                q_new[0] = bounded(q[0], theta)
                q_new[1] *= q[0] / q_new[0]
        return F, q_new

    @staticmethod
    @ti.func
    def update_vjp(grad_F_new, grad_q_new, F_trial, q, theta):
        U, s, V = svd(F_trial)
        grad_F = grad_F_new
        grad_q = grad_q_new
        grad_theta = ti.Vector.zero(float, 2)
        if Map.branch(F_trial, q, theta) != 0:
            growth = 1.0  # Jp'/Jp
            jacobian = ti.Matrix.zero(float, F_trial.n, F_trial.n)
            a = ti.Matrix.zero(float, F_trial.n, F_trial.n)
            b = ti.Matrix.zero(float, F_trial.n, F_trial.n)
            for i in ti.static(range(F_trial.n)):
                growth *= s[i] / bounded(s[i], theta)
                if side(s[i], theta) == 0:
                    jacobian[i, i] = 1
                for j in ti.static(range(i + 1, F_trial.n)):
                    # on the same side the quotient is 1 or 0 also for equal stretches; else they differ
                    if side(s[i], theta) != side(s[j], theta):
                        a[i, j] = (bounded(s[i], theta) - bounded(s[j], theta)) / (s[i] - s[j])
                    elif side(s[i], theta) == 0:
                        a[i, j] = 1
                    b[i, j] = (bounded(s[i], theta) + bounded(s[j], theta)) / (s[i] + s[j])
                    a[j, i] = a[i, j]
                    b[j, i] = b[i, j]
            if ti.static(F_trial.n == 2):
                growth *= q[0] / bounded(q[0], theta)
            grad_F = isotropic_vjp(grad_F_new, U, V, jacobian, a, b)
            grad_log_Jp = grad_q_new[1] * q[1] * growth
            grad_q[1] = grad_q_new[1] * growth
            M = U.transpose() @ grad_F_new @ V
            slopes = ti.Matrix.zero(float, F_trial.n, F_trial.n)
            for i in ti.static(range(F_trial.n)):
                for k in ti.static(range(2)):
                    if side(s[i], theta) == 1 + k:
                        slopes[i, i] = grad_log_Jp / s[i]
                        grad_theta[k] += M[i, i] - grad_log_Jp / theta[k]
            grad_F += U @ slopes @ V.transpose()
            if ti.static(F_trial.n == 2):
                for k in ti.static(range(2)):
                    if side(q[0], theta) == 1 + k:
                        grad_q[0] = grad_log_Jp / q[0]
                        grad_theta[k] += grad_q_new[0] - grad_log_Jp / theta[k]
        return grad_F, grad_q, grad_theta

    @staticmethod
    @ti.func
    def branch(F_trial, q, theta):
        """0 where no stretch leaves the bounds, else the sides of all, a base-3 digit each."""
        U, s, V = svd(F_trial)
        taken = 0
        if ti.static(F_trial.n == 2):
            taken = side(q[0], theta)
        for i in ti.static(range(F_trial.n)):
            taken = 3 * taken + side(s[i], theta)
        return taken


class Snow(Isotropic):
    """psi = exp(xi (1 - Jp)) [mu |F - R|^2 + lam/2 (J - 1)^2], the stretches of F kept in [1 - theta_c, 1 + theta_s].

    F = U diag(s) V^T is the elastic part of the deformation. The return map, of this law alone, is

        s'_i = min(max(s_i, 1 - theta_c), 1 + theta_s),    Jp' = Jp prod s_i/s'_i,

    so that J Jp, the whole change of volume, is kept. Packed snow (Jp < 1) is stiffer, loosened snow softer. With
    xi = 0 it is a plasto-elastic solid without hardening. Jp itself is not bounded. In 2-D (plane strain) e = F33 is a
    third stretch, bounded as the others; one that starts as 1 stays 1, since nothing strains it.

    q: in 2-D F33 first; then Jp, 1 at the start.

    Bounds on strains are no yield surface in stress: where nu > 0, a stretch at its upper bound can be under pressure
    if the others are compressed, and that plastic step then gains energy. For nu = 0 the plastic work at a given
    hardness is never negative; hardening itself stores energy where 3 theta_c xi Jp > 2 (1 - theta_c), at the defaults
    and Jp = 1 0.75 against 1.95.

    Source: Stomakhin et al., A material point method for snow simulation (2013), doi:10.1145/2461912.2461948; its snow
    has E = 1.4e5 Pa, nu = 0.2, the bounds and hardening given here as defaults, and a density of 400 kg/m^3.
    Adjoint: that of ``FixedCorotated`` times h = exp(xi (1 - Jp)), and d log h = (1 - Jp) dxi - xi dJp. Of the map:
    ds'_i/ds_i is 1 within the bounds and 0 beyond; (s'_i - s'_j)/(s_i - s_j) is 1 where both are within and 0 where
    both are beyond the same bound, be they equal or not, and else the quotient itself, as the two then differ;
    d log Jp' = sum d log s_i - d log s'_i over the stretches beyond. At a bound the map has a corner, and the inner
    side counts.

    Args:
        E: Young's modulus at Jp = 1 [Pa], > 0.
        nu: Poisson's ratio, between -1 and 0.5.
        theta_c: critical compression, from 0 to 1 (excluded).
        theta_s: critical stretch, >= 0.
        hardening: xi, >= 0.
    """

    functions = Functions
    own_map = Map

    def __init__(self, E, nu, theta_c=2.5e-2, theta_s=7.5e-3, hardening=10.0):
        super().__init__(E, nu)
        hold(self, "theta_c", theta_c, SHARE)
        hold(self, "theta_s", theta_s, NOT_NEGATIVE)
        hold(self, "hardening", hardening, NOT_NEGATIVE)

    def theta(self):
        return [*super().theta(), self.hardening, 1 - self.theta_c, 1 + self.theta_s]
