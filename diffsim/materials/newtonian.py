"""Newtonian viscosity of the current configuration."""

import torch

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import cofactor, cofactor_vjp, inner
from diffsim.materials.law import NOT_NEGATIVE, Viscous, hold


@ti.func
def deviatoric(A):
    """sym(A) - tr(A)/3 I, the in-plane part of it in 2-D (plane strain, A33 = 0). It is its own transpose."""
    return 0.5 * (A + A.transpose()) - (A.trace() / 3) * ti.Matrix.identity(float, A.n)


@ti.func
def linear(A, eta, kappa):
    """2 eta dev sym A + kappa tr(A) I. It is its own transpose."""
    return 2 * eta * deviatoric(A) + kappa * A.trace() * ti.Matrix.identity(float, A.n)


class Functions:
    """theta = (eta, kappa); P = sigma e cof F, since J F^-T = e cof F."""

    parameters = 2

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        return e * (linear(L, theta[0], theta[1]) @ cofactor(F))

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        sigma = linear(L, theta[0], theta[1])
        grad_sigma = grad_P @ cofactor(F).transpose()  # without the factor e
        grad_F = e * cofactor_vjp(sigma @ grad_P, F)
        grad_theta = e * ti.Vector([2 * inner(grad_sigma, deviatoric(L)), grad_sigma.trace() * L.trace()])
        return grad_F, inner(grad_sigma, sigma), e * linear(grad_sigma, theta[0], theta[1]), grad_theta


class Newtonian(Viscous):
    """sigma = 2 eta dev(D) + kappa tr(D) I,   P = J sigma F^-T,   D = sym L.

    Cauchy stress of the current configuration: the viscosity of a fluid does not depend on how far it has come. In 2-D
    (plane strain) L33 = 0: dev(D) = D - tr(D)/3 I in the plane.

    Source: the compressible Navier-Stokes equations with both viscosities, as in Landau and Lifshitz, Fluid Mechanics,
    section 15.
    Adjoint, with S = G (J F^-T)^T: to L 2 eta dev(sym S) + kappa tr(S) I; to F d2J[sigma G].

    Args:
        eta: dynamic viscosity [Pa s], >= 0; water 1e-3.
        kappa: bulk (second) viscosity [Pa s], >= 0.
    """

    functions = Functions

    def __init__(self, eta, kappa=0.0):
        super().__init__()
        hold(self, "eta", eta, NOT_NEGATIVE, " Pa s")
        hold(self, "kappa", kappa, NOT_NEGATIVE, " Pa s")

    def viscosity(self) -> torch.Tensor:
        """4/3 eta + kappa [Pa s]."""
        return longitudinal(self.eta, self.kappa)

    def theta(self):
        return [self.eta, self.kappa]


def longitudinal(eta: torch.Tensor, kappa: torch.Tensor) -> torch.Tensor:
    """Viscosity of uniaxial straining [Pa s]."""
    return 4 / 3 * eta + kappa
