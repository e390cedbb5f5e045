"""Herschel-Bulkley viscosity: fluids with a yield stress that thin or thicken in shear."""

import warnings

import torch

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import cofactor, cofactor_vjp, expm1_ratio, inner
from diffsim.materials.law import NOT_NEGATIVE, POSITIVE, Viscous, hold
from diffsim.materials.newtonian import deviatoric, longitudinal
from diffsim.materials.series import expm1_ratio_slope


@ti.func
def shear_rate(dev):
    """sqrt(2 D':D') of the deviatoric rate D'; in 2-D with its third entry, -tr D'."""
    square = inner(dev, dev)
    if ti.static(dev.n == 2):
        square += dev.trace() * dev.trace()
    return ti.sqrt(2 * square)


class Functions:
    """theta = (yield_stress, k, n, m, rate, kappa)."""

    parameters = 6

    @staticmethod
    @ti.func
    def viscosity(gdot, theta):
        """eta; yield (1 - exp(-m gdot))/gdot = yield m phi(-m gdot), phi(y) = (exp(y) - 1)/y."""
        base = gdot * gdot + theta[4] * theta[4]
        return theta[0] * theta[3] * expm1_ratio(-theta[3] * gdot) + theta[1] * ti.pow(base, 0.5 * (theta[2] - 1))

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        dev = deviatoric(L)
        eta = Functions.viscosity(shear_rate(dev), theta)
        sigma = 2 * eta * dev + theta[5] * L.trace() * ti.Matrix.identity(float, F.n)
        return e * (sigma @ cofactor(F))

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        dev = deviatoric(L)
        gdot = shear_rate(dev)
        eta = Functions.viscosity(gdot, theta)
        one = ti.Matrix.identity(float, F.n)
        sigma = 2 * eta * dev + theta[5] * L.trace() * one
        grad_sigma = e * (grad_P @ cofactor(F).transpose())

        base = gdot * gdot + theta[4] * theta[4]
        power = ti.pow(base, 0.5 * (theta[2] - 1))
        slope = theta[1] * (theta[2] - 1) * power / base  # (d eta/d gdot)/gdot
        if gdot > 0:  # at rest D' (D' : dD)/gdot is zero
            slope -= theta[0] * theta[3] * theta[3] * expm1_ratio_slope(-theta[3] * gdot) / gdot
        work = 2 * inner(grad_sigma, dev)
        grad_L = 2 * eta * deviatoric(grad_sigma) + (2 * slope * work) * dev + theta[5] * grad_sigma.trace() * one
        grad_theta = work * ti.Vector(
            [
                theta[3] * expm1_ratio(-theta[3] * gdot),
                power,
                0.5 * theta[1] * power * ti.log(base),
                theta[0] * ti.exp(-theta[3] * gdot),
                theta[1] * (theta[2] - 1) * power / base * theta[4],
                0.0,
            ]
        )
        grad_theta[5] = grad_sigma.trace() * L.trace()
        return e * cofactor_vjp(sigma @ grad_P, F), inner(grad_P, sigma @ cofactor(F)), grad_L, grad_theta


class HerschelBulkley(Viscous):
    """sigma = 2 eta D' + kappa tr(D) I,   P = J sigma F^-T,   D' = dev(sym L),   gdot = sqrt(2 D':D'),

        eta = yield_stress (1 - exp(-m gdot))/gdot + k (gdot^2 + rate^2)^((n - 1)/2).

    Two regularizations of the ideal law tau = yield_stress + k gdot^n, whose viscosity is infinite at rest: that of
    Papanastasiou for the yield stress (exact as m grows; the body creeps at eta = yield_stress m below yield), and for
    the power (exact as rate falls; it matters only for n other than 1) the root gdot^2 + rate^2 in place of gdot^2, as
    Bercovier and Engelman have it for the yield stress. The stress is
    continuously differentiable at rest, with the tangent 2 eta(0) there. Its limits are

        n = 1                       Bingham              yield_stress = 0             power law (that of Carreau)
        n = 1 and yield_stress = 0  Newton, for any m and rate.

    Beside ``Liquid`` or ``Tait``. In 2-D (plane strain) D'33 = -tr(D)/3 counts in gdot.

    Source: Papanastasiou, Flows of materials with yield, J. Rheol. 31 (1987), doi:10.1122/1.549926; for the root
    Bercovier and Engelman, J. Comput. Phys. 36 (1980), doi:10.1016/0021-9991(80)90163-1, as later work quotes it.
    Adjoint, with S = G (J F^-T)^T: to L 2 eta dev(sym S) + 4 (eta'/gdot) <S, D'> D' + kappa tr(S) I, eta' in a form
    without cancellation; to F d2J[sigma G].

    Args:
        yield_stress: in shear [Pa], >= 0.
        consistency: k [Pa s^n], >= 0.
        index: n, > 0; below 1 it thins in shear.
        growth: m [s], > 0: yielding is sharp for gdot >> 1/m.
        rate: [1/s], > 0: the power holds for gdot >> rate.
        kappa: bulk viscosity [Pa s], >= 0.
        fastest: largest shear rate that the flow will reach [1/s], >= 0: with n > 1 the viscosity grows with the shear
            rate, and only this says by how much. It counts in ``viscosity()`` alone.
    """

    functions = Functions

    def __init__(self, yield_stress, consistency, index=1.0, *, growth, rate=1e-2, kappa=0.0, fastest=None):
        super().__init__()
        hold(self, "yield_stress", yield_stress, NOT_NEGATIVE, " Pa")
        hold(self, "consistency", consistency, NOT_NEGATIVE, " Pa s^n")
        hold(self, "index", index, POSITIVE)
        hold(self, "growth", growth, POSITIVE, " s")
        hold(self, "rate", rate, POSITIVE, " 1/s")
        hold(self, "kappa", kappa, NOT_NEGATIVE, " Pa s")
        self.fastest = None
        if fastest is not None:
            del self.fastest
            hold(self, "fastest", fastest, NOT_NEGATIVE, " 1/s")

    def viscosity(self) -> torch.Tensor:
        """4/3 eta + kappa [Pa s], eta a bound of d tau/d gdot in shear, which limits dt, up to the rate ``fastest``.

        For n <= 1 it is the viscosity at rest, the largest. For n > 1 the power law's share is that at ``fastest``,

            k (gdot^2 + rate^2)^((n - 3)/2) (rate^2 + n gdot^2),

        and without ``fastest`` that at rest, the smallest, with a warning: there is no bound.
        """
        gdot = self.rate * 0 if self.fastest is None else self.fastest
        thickens = self.index > 1
        if self.fastest is None and thickens.any():
            warnings.warn(
                f"HerschelBulkley: with index {self.index.detach().max().item():g} the viscosity grows with the shear "
                "rate, but a check of dt sees that at rest alone; give fastest=, the largest shear rate expected [1/s]",
                stacklevel=2,
            )
        base = gdot**2 + self.rate**2
        power = base ** (0.5 * (self.index - 3)) * (self.rate**2 + self.index * gdot**2)
        eta = torch.where(thickens, power, self.rate ** (self.index - 1))
        return longitudinal(self.yield_stress * self.growth + self.consistency * eta, self.kappa)

    def theta(self):
        return [self.yield_stress, self.consistency, self.index, self.growth, self.rate, self.kappa]
