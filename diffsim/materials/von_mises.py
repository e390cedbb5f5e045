"""Von Mises plasticity: a return map in the logarithmic strain, with linear isotropic hardening or without."""

import math

import torch

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import svd
from diffsim.materials.law import NOT_NEGATIVE, POISSON, POSITIVE, Law, Plastic, hold, lame
from diffsim.materials.radial_return import deviator, shorten, shorten_vjp

NORM = math.sqrt(2 / 3)  # |dev| of a uniaxial stress of 1; 1/|dev| of a uniaxial plastic strain of 1 is NORM, too


class Perfect:
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
            F, s_new = shorten(U, V, dev, mean, radius / norm)
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
            zero = norm * 0
            grad_F, grad_e, grad_radius = shorten_vjp(
                grad_F_new, grad_q_new[0], U, s, V, q[0], dev, mean, norm, radius, zero, zero
            )
            if ti.static(F_trial.n == 2):
                grad_q[0] = grad_e
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


class Hardening:
    """theta = (mu, Y, H), q[1] = a: elastic while 2 mu |dev eps| <= Y + sqrt(2/3) H a."""

    parameters = 3
    internals = 1

    @staticmethod
    @ti.func
    def update(F_trial, q, theta):
        U, s, V = svd(F_trial)
        dev, mean, norm = deviator(s, q[0])
        start = 0.5 * (theta[1] + NORM * theta[2] * q[1]) / theta[0]  # radius of the yield surface before the step
        F = F_trial
        q_new = q
        if norm > start:
            stiff = theta[2] / (3 * theta[0])
            excess = norm - start
            F, s_new = shorten(U, V, dev, mean, (start + stiff / (1 + stiff) * excess) / norm)
            q_new[1] = q[1] + NORM * excess / (1 + stiff)
            if ti.static(F.n == 2):
                q_new[0] = s_new[2]
        return F, q_new

    @staticmethod
    @ti.func
    def update_vjp(grad_F_new, grad_q_new, F_trial, q, theta):
        mu, H = theta[0], theta[2]
        U, s, V = svd(F_trial)
        dev, mean, norm = deviator(s, q[0])
        start = 0.5 * (theta[1] + NORM * H * q[1]) / mu
        grad_F = grad_F_new
        grad_q = grad_q_new
        grad_theta = ti.Vector.zero(float, 3)
        if norm > start:
            stiff = H / (3 * mu)
            share = 1 / (1 + stiff)  # of the excess that is plastic; the rest widens the yield surface
            excess = norm - start
            radius = start + stiff * share * excess
            grad_F, grad_e, grad_radius = shorten_vjp(
                grad_F_new, grad_q_new[0], U, s, V, q[0], dev, mean, norm, radius, stiff * share, norm * 0
            )
            # a' = a + NORM share (|dev| - start) depends on F as well
            grad_norm = NORM * share * grad_q_new[1]
            slopes = ti.Matrix.zero(float, F_trial.n, F_trial.n)
            for i in ti.static(range(F_trial.n)):
                slopes[i, i] = grad_norm * dev[i] / (norm * s[i])
            grad_F += U @ slopes @ V.transpose()
            if ti.static(F_trial.n == 2):
                grad_q[0] = grad_e + grad_norm * dev[2] / (norm * q[0])
            grad_share = excess * (NORM * grad_q_new[1] - grad_radius)
            grad_start = share * (grad_radius - NORM * grad_q_new[1])
            grad_q[1] = grad_q_new[1] + grad_start * 0.5 * NORM * H / mu
            grad_theta = ti.Vector(
                [
                    -grad_start * start / mu + grad_share * share * share * H / (3 * mu * mu),
                    0.5 * grad_start / mu,
                    0.5 * grad_start * NORM * q[1] / mu - grad_share * share * share / (3 * mu),
                ]
            )
        return grad_F, grad_q, grad_theta

    @staticmethod
    @ti.func
    def branch(F_trial, q, theta):
        U, s, V = svd(F_trial)
        dev, mean, norm = deviator(s, q[0])
        taken = 0
        if norm > 0.5 * (theta[1] + NORM * theta[2] * q[1]) / theta[0]:
            taken = 1
        return taken


class VonMises(Plastic):
    """eps <- eps - dg dev/|dev|,  a <- a + sqrt(2/3) dg,  where f > 0 and dg = f/(2 mu + 2 H/3); else all stays.

    f = 2 mu |dev eps| - sqrt(2/3) (yield_stress + H a): F_trial = U diag(exp eps) V^T, F = U diag(exp eps') V^T, H the
    hardening and a the accumulated equivalent plastic strain. Volume is kept, and the step is exact: f = 0 after it.
    Pair it with ``Hencky`` of the same E and nu, for which sqrt(3/2) |dev tau| then is yield_stress + H a, tau being
    the Kirchhoff stress. In 2-D (plane strain) the third principal strain is log F33, which changes with the others.
    Evaluated by branch: dev = 0 is elastic.

    q: in 2-D F33 first; then a, unless ``hardening`` is the number 0, which is perfect plasticity and keeps no a.

    Source: the radial return in logarithmic strains of Ma et al., Learning neural constitutive laws (ICML 2023),
    arXiv:2304.14369, for their plasticine (without their floor on the stretches, and with the uniaxial yield stress);
    linear isotropic hardening from the consistency condition f = 0, as textbooks have it (Simo and Hughes,
    Computational Inelasticity; not consulted).
    Adjoint: ``radial_return.shorten_vjp`` with d|dev eps'|/d|dev eps| = (H/3 mu)/(1 + H/3 mu), and d a'/d eps =
    sqrt(2/3)/(1 + H/3 mu) dev/|dev|. At f = 0 the map has a corner; the elastic side counts there.

    Args:
        E: Young's modulus of the map [Pa], > 0.
        nu: Poisson's ratio of the map, between -1 and 0.5.
        yield_stress: uniaxial yield stress of the virgin material [Pa], > 0.
        hardening: H, slope of the uniaxial yield stress over the plastic strain [Pa], >= 0; to learn it from 0, pass a
            tensor or parameter.
    """

    functions = Perfect

    def __init__(self, E, nu, yield_stress, hardening=0.0):
        super().__init__()
        hold(self, "E", E, POSITIVE, " Pa")
        hold(self, "nu", nu, POISSON)
        hold(self, "yield_stress", yield_stress, POSITIVE, " Pa")
        hold(self, "hardening", hardening, NOT_NEGATIVE, " Pa")
        if isinstance(hardening, torch.Tensor) or hardening:
            self.functions = Hardening

    @classmethod
    def from_deviatoric(cls, E, nu, yield_norm):
        """The convention of NCLaw and PlasticineLab: elastic while |2 mu dev eps| <= yield_norm [Pa], no hardening.

        It equals a uniaxial ``yield_stress`` of sqrt(3/2) yield_norm.
        """
        law = cls.__new__(cls)
        Law.__init__(law)
        hold(law, "E", E, POSITIVE, " Pa")
        hold(law, "nu", nu, POISSON)
        hold(law, "yield_norm", yield_norm, POSITIVE, " Pa")
        return law

    def theta(self):
        norm = self.yield_norm if hasattr(self, "yield_norm") else NORM * self.yield_stress
        theta = [lame(self.E, self.nu)[0], norm]
        return theta if self.functions is Perfect else [*theta, self.hardening]
