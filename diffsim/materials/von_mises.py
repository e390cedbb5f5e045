"""Von Mises plasticity: a return map in the logarithmic strain."""

import math

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import expm1_ratio, isotropic_vjp, log1p_ratio, svd
from diffsim.materials.law import POISSON, POSITIVE, Law, Plastic, hold, lame


@ti.func
def deviator(s, e):
    """eps - tr/3 of the three principal strains (in 2-D the third is log e), their mean, and |dev|."""
    eps = ti.log(ti.Vector([s[0], s[1], e if ti.static(s.n == 2) else s[s.n - 1]]))
    mean = eps.sum() / 3
    dev = eps - mean
    return dev, mean, dev.norm()


class Functions:
    """theta = (mu, Y): elastic while 2 mu |dev eps| <= Y."""

    parameters = 2
    internals = 0

    @staticmethod
    @ti.func
    def update(F_trial, q, theta):
        U, s, V = svd(F_trial)
        dev, mean, norm = deviator(s, q[0])
        radius = 0.5 * theta[1] / theta[0]
        F = F_trial
        q_new = q
        if norm > radius:
            s_new = ti.exp(mean + (radius / norm) * dev)
            for i, j in ti.static(ti.ndrange(F.n, F.n)):
                U[i, j] *= s_new[j]
            F = U @ V.transpose()
            if ti.static(F.n == 2):
                q_new[0] = s_new[2]
        return F, q_new

    @staticmethod
    @ti.func
    def update_vjp(grad_F_new, grad_q_new, F_trial, q, theta):
        U, s, V = svd(F_trial)
        dev, mean, norm = deviator(s, q[0])
        radius = 0.5 * theta[1] / theta[0]
        grad_F = grad_F_new
        grad_q = grad_q_new
        grad_theta = ti.Vector.zero(float, 2)
        if norm > radius:
            kappa = radius / norm
            n = dev / norm
            s_new = ti.exp(mean + kappa * dev)
            # d log s'_i / d log s_j = 1/3 + kappa (delta_ij - 1/3) - kappa n_i n_j
            jacobian = ti.Matrix.zero(float, F_trial.n, F_trial.n)
            a = ti.Matrix.zero(float, F_trial.n, F_trial.n)
            b = ti.Matrix.zero(float, F_trial.n, F_trial.n)
            for i, j in ti.static(ti.ndrange(F_trial.n, F_trial.n)):
                slope = (1 - kappa) / 3 - kappa * n[i] * n[j]
                if ti.static(i == j):
                    slope += kappa
                elif ti.static(i < j):
                    y = kappa * (dev[i] - dev[j])
                    a[i, j] = s_new[j] / s[j] * kappa * expm1_ratio(y) * log1p_ratio(s[i] / s[j])
                    b[i, j] = (s_new[i] + s_new[j]) / (s[i] + s[j])
                    a[j, i] = a[i, j]
                    b[j, i] = b[i, j]
                jacobian[i, j] = s_new[i] * slope / s[j]
            grad_F = isotropic_vjp(grad_F_new, U, V, jacobian, a, b)
            M = U.transpose() @ grad_F_new @ V
            grad_radius = norm * 0
            for i in ti.static(range(F_trial.n)):
                grad_radius += M[i, i] * s_new[i] * n[i]
            if ti.static(F_trial.n == 2):
                g = grad_q_new[0] * s_new[2]  # gradient with respect to log e'
                grad_radius += g * n[2]
                grad_e = g * ((1 - kappa) / 3 + kappa - kappa * n[2] * n[2])
                across = ti.Matrix.zero(float, F_trial.n, F_trial.n)
                for i in ti.static(range(F_trial.n)):
                    slope = (1 - kappa) / 3 - kappa * n[2] * n[i]
                    grad_e += M[i, i] * s_new[i] * slope
                    across[i, i] = g * slope / s[i]
                grad_F += U @ across @ V.transpose()
                grad_q[0] = grad_e / q[0]
            grad_theta = grad_radius * ti.Vector([-radius / theta[0], 0.5 / theta[0]])
        return grad_F, grad_q, grad_theta

    @staticmethod
    @ti.func
    def branch(F_trial, q, theta):
        U, s, V = svd(F_trial)
        dev, mean, norm = deviator(s, q[0])
        taken = 0
        if norm > 0.5 * theta[1] / theta[0]:
            taken = 1
        return taken


class VonMises(Plastic):
    """eps <- eps - dg dev/|dev| where dg = |dev eps| - sqrt(2/3) yield_stress/(2 mu) > 0; else F is unchanged.

    F_trial = U diag(exp eps) V^T, F = U diag(exp eps') V^T; perfect plasticity, volume is kept. In 2-D (plane strain)
    the third principal strain is log F33, and q[0] = F33 changes with the others. Pair it with ``Hencky``, for which
    the stress then lies on the yield surface. Evaluated by branch: dev = 0 is elastic.

    Source: Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369, its plasticine, with a yield
    stress in the uniaxial convention and without its floor on the stretches.
    Adjoint, yielding, with kappa = (sqrt(2/3) yield_stress/(2 mu))/|dev| and n = dev/|dev|:
        d log s'_i / d log s_j = 1/3 + kappa (delta_ij - 1/3) - kappa n_i n_j,
        (s'_i - s'_j)/(s_i - s_j) = (s'_j/s_j) kappa [(exp(y) - 1)/y] [log(x)/(x - 1)], y = kappa log x, x = s_i/s_j.

    Args:
        E: Young's modulus of the map [Pa], > 0.
        nu: Poisson's ratio of the map, between -1 and 0.5.
        yield_stress: uniaxial yield stress [Pa], > 0.
    """

    functions = Functions

    def __init__(self, E, nu, yield_stress):
        super().__init__()
        hold(self, "E", E, POSITIVE, " Pa")
        hold(self, "nu", nu, POISSON)
        hold(self, "yield_stress", yield_stress, POSITIVE, " Pa")

    @classmethod
    def from_deviatoric(cls, E, nu, yield_norm):
        """The convention of NCLaw and PlasticineLab: elastic while |2 mu dev eps| <= yield_norm [Pa].

        It equals a uniaxial ``yield_stress`` of sqrt(3/2) yield_norm.
        """
        law = cls.__new__(cls)
        Law.__init__(law)
        hold(law, "E", E, POSITIVE, " Pa")
        hold(law, "nu", nu, POISSON)
        hold(law, "yield_norm", yield_norm, POSITIVE, " Pa")
        return law

    def theta(self):
        norm = self.yield_norm if hasattr(self, "yield_norm") else math.sqrt(2 / 3) * self.yield_stress
        return [lame(self.E, self.nu)[0], norm]
