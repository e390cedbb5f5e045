"""Kelvin-Voigt damping of solids: a viscous stress beside the elastic one."""

import torch

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import cofactor, inner
from diffsim.materials.law import NOT_NEGATIVE, POISSON, POSITIVE, Law, Viscous, hold, lame
from diffsim.materials.newtonian import deviatoric, linear, longitudinal


class Functions:
    """theta = (eta, kappa); H = F^-T, P = tau H."""

    parameters = 2

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        return (1 / F.determinant()) * (linear(L, theta[0], theta[1]) @ cofactor(F))

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        tau = linear(L, theta[0], theta[1])
        H = (1 / F.determinant()) * cofactor(F)
        grad_tau = grad_P @ H.transpose()
        grad_theta = ti.Vector([2 * inner(grad_tau, deviatoric(L)), grad_tau.trace() * L.trace()])
        return -(H @ grad_P.transpose() @ tau @ H), e * 0, linear(grad_tau, theta[0], theta[1]), grad_theta


class KelvinVoigt(Viscous):
    """tau = 2 eta dev(D) + kappa tr(D) I,   P = tau F^-T,   D = sym L.

    The Kirchhoff stress is linear in the rate of deformation D: objective (a superposed rotation, however fast, adds no
    stress), dissipative (tau : D >= 0 per rest volume), isotropic at any strain. At small strain D is the strain rate.
    L is that of the total motion: beside a return map the plastic part of the rate is damped too. In 2-D (plane strain)
    L33 = 0: dev(D) = D - tr(D)/3 I in the plane.

    Source: Landau and Lifshitz, Theory of Elasticity, section 34 (small strains), with D as the strain rate.
    Adjoint, with S = G F^-1: to L 2 eta dev(sym S) + kappa tr(S) I; to F -F^-T G^T tau F^-T.

    Args:
        eta: viscosity of shear [Pa s], >= 0.
        kappa: viscosity of volume [Pa s], >= 0.
    """

    functions = Functions

    def __init__(self, eta, kappa=0.0):
        super().__init__()
        hold(self, "eta", eta, NOT_NEGATIVE, " Pa s")
        hold(self, "kappa", kappa, NOT_NEGATIVE, " Pa s")

    @classmethod
    def from_relaxation_time(cls, time, E, nu):
        """eta = mu time, kappa = (lam + 2/3 mu) time: damping in proportion to the stiffness.

        A free vibration of angular frequency w then has the damping ratio w time/2. ``time`` [s], >= 0.
        """
        law = cls.__new__(cls)
        Law.__init__(law)
        hold(law, "time", time, NOT_NEGATIVE, " s")
        hold(law, "E", E, POSITIVE, " Pa")
        hold(law, "nu", nu, POISSON)
        return law

    def viscosity(self) -> torch.Tensor:
        """4/3 eta + kappa [Pa s]."""
        return longitudinal(*self.theta())

    def theta(self):
        if not hasattr(self, "time"):
            return [self.eta, self.kappa]
        mu, lam = lame(self.E, self.nu)
        return [mu * self.time, (lam + 2 / 3 * mu) * self.time]
