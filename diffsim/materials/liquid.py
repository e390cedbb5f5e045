"""A weakly compressible liquid that knows only its volume."""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import cofactor, cofactor_vjp, inner
from diffsim.materials.law import POISSON, POSITIVE, Elastic, hold, lame


class Functions:
    """theta = (lam,); J = e det F."""

    parameters = 1

    @staticmethod
    @ti.func
    def energy(F, e, theta):
        J = e * F.determinant()
        return 0.5 * theta[0] * (J - 1) * (J - 1)

    @staticmethod
    @ti.func
    def energy_vjp(grad_psi, F, e, theta):
        D = F.determinant()
        J = e * D
        p = grad_psi * theta[0] * (J - 1)
        return p * e * cofactor(F), p * D, ti.Vector([grad_psi * 0.5 * (J - 1) * (J - 1)])

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        return theta[0] * (e * F.determinant() - 1) * e * cofactor(F)

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        C = cofactor(F)
        J = e * F.determinant()
        c = inner(grad_P, C)
        grad_F = theta[0] * e * (e * c * C + (J - 1) * cofactor_vjp(grad_P, F))
        return grad_F, theta[0] * (2 * J - 1) * c, ti.Matrix.zero(float, F.n, F.n), ti.Vector([(J - 1) * e * c])


class Map:
    """F <- det(F)^(1/d) I."""

    parameters = 0
    internals = 0

    @staticmethod
    @ti.func
    def update(F_trial, q, theta):
        return ti.pow(F_trial.determinant(), 1 / F_trial.n) * ti.Matrix.identity(float, F_trial.n), q

    @staticmethod
    @ti.func
    def update_vjp(grad_F_new, grad_q_new, F_trial, q, theta):
        D = F_trial.determinant()
        slope = grad_F_new.trace() * ti.pow(D, 1 / F_trial.n) / (F_trial.n * D)
        return slope * cofactor(F_trial), grad_q_new, ti.Vector.zero(float, theta.n)

    @staticmethod
    @ti.func
    def branch(F_trial, q, theta):
        return 0


class Liquid(Elastic):
    """psi = lam/2 (J - 1)^2,   P = lam (J - 1) dJ/dF,   tau = lam J (J - 1) I;   return map F <- det(F)^(1/d) I.

    The map forgets shear and keeps volume, so F stays a multiple of the identity. In 2-D J = e det F, e = F33 = 1.

    Source: Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369, its water.
    Adjoint: lam (<G, dJ> dJ + (J - 1) d2J[G]); of the map tr(G) det(F)^(1/d - 1)/d cof F.

    Args:
        E, nu: Young's modulus [Pa], > 0, and Poisson's ratio; only lam = E nu/((1 + nu)(1 - 2 nu)) is used.
    """

    functions = Functions
    own_map = Map

    def __init__(self, E, nu):
        super().__init__()
        hold(self, "E", E, POSITIVE, " Pa")
        hold(self, "nu", nu, POISSON)

    def modulus(self):
        """Bulk modulus lam [Pa]: there is no shear."""
        return lame(self.E, self.nu)[1]

    def theta(self):
        return [lame(self.E, self.nu)[1]]
