"""Stable neo-Hookean elasticity: defined for every F, inverted ones too."""

from functools import cache

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import cofactor, cofactor_vjp, inner
from diffsim.materials.law import NOT_NEGATIVE, POSITIVE, Isotropic, Law, hold, lame


@cache
def functions(logarithm: bool):
    """The law with the term -m/2 log(I + 1), or without it."""
    slope = 0.75 if logarithm else 1.0  # what makes F = I free of stress

    class Functions:
        """theta = (m, k); J = e det F."""

        parameters = 2

        @staticmethod
        @ti.func
        def raised(F, e):
            """I + 1; in 3-D e = 1 supplies the 1."""
            return inner(F, F) + e * e + (3 - F.n)

        @staticmethod
        @ti.func
        def density(F, e):
            """The factors of m and k in the energy."""
            r = Functions.raised(F, e)
            A = e * F.determinant() - 1
            m = 0.5 * (r - 4) - slope * A
            if ti.static(logarithm):
                m -= 0.5 * ti.log(0.25 * r)
            return ti.Vector([m, 0.5 * A * A])

        @staticmethod
        @ti.func
        def energy(F, e, theta):
            part = Functions.density(F, e)
            return theta[0] * part[0] + theta[1] * part[1]

        @staticmethod
        @ti.func
        def energy_vjp(grad_psi, F, e, theta):
            D = F.determinant()
            shear = theta[0]
            if ti.static(logarithm):
                shear -= theta[0] / Functions.raised(F, e)
            volume = theta[1] * (e * D - 1) - slope * theta[0]
            grad_F = grad_psi * (shear * F + volume * e * cofactor(F))
            return grad_F, grad_psi * (shear * e + volume * D), grad_psi * Functions.density(F, e)

        @staticmethod
        @ti.func
        def stress(F, e, L, theta):
            shear = theta[0]
            if ti.static(logarithm):
                shear -= theta[0] / Functions.raised(F, e)
            return shear * F + (theta[1] * (e * F.determinant() - 1) - slope * theta[0]) * e * cofactor(F)

        @staticmethod
        @ti.func
        def stress_vjp(grad_P, F, e, L, theta):
            C = cofactor(F)
            D = F.determinant()
            A = e * D - 1
            volume = theta[1] * A - slope * theta[0]
            c = inner(grad_P, C)
            f = inner(grad_P, F)
            grad_F = theta[0] * grad_P + e * (theta[1] * e * c * C + volume * cofactor_vjp(grad_P, F))
            grad_e = (theta[1] * e * D + volume) * c
            grad_m = f - slope * e * c
            if ti.static(logarithm):
                r = 1 / Functions.raised(F, e)
                grad_F += (2 * theta[0] * r * r * f) * F - (theta[0] * r) * grad_P
                grad_e += 2 * theta[0] * r * r * e * f
                grad_m -= r * f
            return grad_F, grad_e, ti.Matrix.zero(float, F.n, F.n), ti.Vector([grad_m, A * e * c])

    return Functions


class StableNeoHookean(Isotropic):
    """psi = m/2 (I - 3) - m/2 log((I + 1)/4) - 3/4 m (J - 1) + k/2 (J - 1)^2,   I = |F|^2.

    P = m (1 - 1/(I + 1)) F + (k (J - 1) - 3/4 m) dJ/dF. Without the logarithm 1/(I + 1) vanishes and 3/4 becomes 1.
    It is the energy m/2 (I - 3) + k/2 (J - a)^2 - m/2 log(I + 1) with its a that leaves F = I unstressed, made zero at
    rest and free of the division by k. m and k follow from E and nu so that small strains obey Hooke's law:

        with the logarithm  m = 4/3 mu, k = lam + 5/6 mu;    without  m = mu, k = lam + mu.

    In 2-D (plane strain) I = |F|^2 + e^2 and J = e det F, e = F33. Energy and stress are smooth for all F; the material
    point method stops at det F <= 0 all the same.

    Source: Smith, de Goes and Kim, Stable neo-Hookean flesh simulation, ACM TOG 37 (2018), doi:10.1145/3180491.
    Adjoint: m (1 - r) G + 2 m r^2 <G, F> F + k <G, dJ> dJ + (k (J - 1) - 3/4 m) d2J[G], r = 1/(I + 1).

    Args:
        E: Young's modulus [Pa], > 0.
        nu: Poisson's ratio, between -1 and 0.5.
        logarithm: False leaves the logarithm out: softer where a body is crushed to nothing.
    """

    def __init__(self, E, nu, *, logarithm=True):
        super().__init__(E, nu)
        self.functions = functions(bool(logarithm))

    @classmethod
    def from_coefficients(cls, m, k, *, logarithm=True):
        """The coefficients of the energy themselves [Pa], m > 0 and k >= 0, as DiffTactile and ThinShellLab give them.

        Small strains then have mu = 3/4 m, lam = k - 5/8 m; without the logarithm mu = m, lam = k - m.
        """
        law = cls.__new__(cls)
        Law.__init__(law)
        hold(law, "m", m, POSITIVE, " Pa")
        hold(law, "k", k, NOT_NEGATIVE, " Pa")
        law.functions = functions(bool(logarithm))
        return law

    def modulus(self):
        """P-wave modulus at rest [Pa]."""
        m, k = self.theta()
        return k + 0.875 * m if self.functions is functions(True) else k + m

    def theta(self):
        if hasattr(self, "m"):
            return [self.m, self.k]
        mu, lam = lame(self.E, self.nu)
        if self.functions is functions(True):
            return [4 / 3 * mu, lam + 5 / 6 * mu]
        return [mu, lam + mu]
