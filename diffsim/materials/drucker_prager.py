"""Drucker-Prager plasticity for sand: a return map in the logarithmic strain, with cohesion and volume correction."""

import math

from diffsim.kernels.lang import ti
from diffsim.kernels.reduction import repeat
from diffsim.kernels.svd import cofactor, inner, polar, polar_vjp, svd
from diffsim.materials.law import NOT_NEGATIVE, POISSON, POSITIVE, Law, Plastic, hold
from diffsim.materials.radial_return import deviator, shorten, shorten_vjp

ACUTE = (lambda value: (value > 0) & (value < 90), "must lie between 0 and 90 degrees, both excluded")
ELASTIC, CONE, APEX = 0, 1, 2


@ti.func
def log_volume(F, q):
    """tr eps. It alone decides on the apex, so that torn sand needs no singular values."""
    return ti.log(F.determinant() * q[0])


class Cone:
    """theta = (slope, tip): elastic while tr eps < tip and |dev eps| <= slope (tip - tr eps)."""

    parameters = 2
    internals = 0

    @staticmethod
    @ti.func
    def update(F_trial, q, theta):
        trace = log_volume(F_trial, q)
        F = F_trial
        q_new = q
        if trace >= theta[1]:
            stretch = ti.exp(theta[1] / 3)
            F = stretch * polar(F_trial)
            if ti.static(F.n == 2):
                q_new[0] = stretch
        else:
            U, s, V = svd(F_trial)
            dev, mean, norm = deviator(s, q[0])
            radius = theta[0] * (theta[1] - trace)
            if norm > radius:
                F, s_new = shorten(U, V, dev, mean, radius / norm)
                if ti.static(F.n == 2):
                    q_new[0] = s_new[2]
        return F, q_new

    @staticmethod
    @ti.func
    def update_vjp(grad_F_new, grad_q_new, F_trial, q, theta):
        trace = log_volume(F_trial, q)
        grad_F = grad_F_new
        grad_q = grad_q_new
        grad_theta = ti.Vector.zero(float, 2)
        if trace >= theta[1]:
            stretch = ti.exp(theta[1] / 3)
            R = polar(F_trial)
            grad_F = stretch * polar_vjp(grad_F_new, F_trial, R)
            grad_stretch = inner(grad_F_new, R)
            if ti.static(F_trial.n == 2):
                grad_stretch += grad_q_new[0]
                grad_q[0] = trace * 0
            grad_theta = ti.Vector([trace * 0, grad_stretch * stretch / 3])
        else:
            U, s, V = svd(F_trial)
            dev, mean, norm = deviator(s, q[0])
            radius = theta[0] * (theta[1] - trace)
            if norm > radius:
                grad_F, grad_e, grad_radius = shorten_vjp(
                    grad_F_new, grad_q_new[0], U, s, V, q[0], dev, mean, norm, radius, trace * 0, -theta[0]
                )
                if ti.static(F_trial.n == 2):
                    grad_q[0] = grad_e
                grad_theta = grad_radius * ti.Vector([theta[1] - trace, theta[0]])
        return grad_F, grad_q, grad_theta

    @staticmethod
    @ti.func
    def branch(F_trial, q, theta):
        trace = log_volume(F_trial, q)
        taken = ELASTIC
        if trace >= theta[1]:
            taken = APEX
        else:
            U, s, V = svd(F_trial)
            dev, mean, norm = deviator(s, q[0])
            if norm > theta[0] * (theta[1] - trace):
                taken = CONE
        return taken


class CorrectedCone:
    """theta = (slope, tip), q[1] = v: the cone's map of exp(v/3) F_trial, whose trace beyond the tip is the new v."""

    parameters = 2
    internals = 1

    @staticmethod
    @ti.func
    def grown(F_trial, q):
        """exp(v/3) F_trial, q with exp(v/3) F33, and the factor."""
        factor = ti.exp(q[1] / 3)
        q_grown = q
        if ti.static(F_trial.n == 2):
            q_grown[0] = factor * q[0]
        return factor * F_trial, q_grown, factor

    @staticmethod
    @ti.func
    def update(F_trial, q, theta):
        G, q_grown, factor = CorrectedCone.grown(F_trial, q)
        F, q_new = Cone.update(G, q_grown, theta)
        beyond = log_volume(G, q_grown) - theta[1]
        q_new[1] = ti.max(beyond, 0.0)
        return F, q_new

    @staticmethod
    @ti.func
    def update_vjp(grad_F_new, grad_q_new, F_trial, q, theta):
        G, q_grown, factor = CorrectedCone.grown(F_trial, q)
        grad_G, grad_q, grad_theta = Cone.update_vjp(grad_F_new, grad_q_new, G, q_grown, theta)
        if log_volume(G, q_grown) >= theta[1]:
            grad_G += grad_q_new[1] / G.determinant() * cofactor(G)
            grad_theta[1] -= grad_q_new[1]
            if ti.static(F_trial.n == 2):
                grad_q[0] += grad_q_new[1] / q_grown[0]
        grad_q[1] = inner(grad_G, G) / 3
        if ti.static(F_trial.n == 2):
            grad_q[1] += grad_q[0] * q_grown[0] / 3
            grad_q[0] *= factor
        return factor * grad_G, grad_q, grad_theta

    @staticmethod
    @ti.func
    def branch(F_trial, q, theta):
        G, q_grown, factor = CorrectedCone.grown(F_trial, q)
        return Cone.branch(G, q_grown, theta)


def together(*values):
    """The same values; scalars are repeated if another is given per particle."""
    count = max(value.numel() for value in values)
    return [repeat(value.reshape(()), count) if value.numel() < count else value for value in values]


class DruckerPrager(Plastic):
    """Elastic while |dev tau| <= 3 alpha (p + c cot phi): friction and cohesion; flow on the cone keeps volume.

    alpha = sqrt(2/3) 2 sin phi/(3 - sin phi): the cone through the Mohr-Coulomb strengths in triaxial compression.
    tau is the Kirchhoff stress of ``Hencky`` of the same E and nu, p = -tr tau/3 = -K tr eps, K = lam + 2 mu/3. With
    eps the logarithmic strains of F_trial = U diag(exp eps) V^T, slope = alpha (1 + nu)/(1 - 2 nu) and
    tip = c cot phi/K, the map has three branches:

        apex     tr eps >= tip                           eps' = tip/3          torn apart: p = -c cot phi, no shear
        cone     |dev eps| > slope (tip - tr eps) = r    eps' = tr/3 + r dev/|dev|
        elastic  otherwise                               eps' = eps

    Volume correction: what the apex takes from the volume is kept as v and closed before the material resists again,

        the map acts on eps + v/3,    v' = v + tr eps - tr eps',

    so that log det F' + v' accounts for the whole change of volume (without it, sand that is torn apart and pressed
    together again ends with more volume). v' is 0 on the other branches. With cohesion, closing a gap under tension
    gives back work that opening it took; over the cycle, dissipation is not negative. In 2-D (plane strain) the third
    principal strain is log F33, which changes with the others; the sums run over all three strains there as well.

    q: in 2-D F33 first; then v, unless ``volume_correction`` is False.

    Source: Klar et al., Drucker-Prager elastoplasticity for sand animation (2016), doi:10.1145/2897824.2925906; the
    correction after Tampubolon et al., Multi-species simulation of porous sand and water mixtures (2017),
    doi:10.1145/3072959.3073651, as the online book Physics-Based Simulation states it under Drucker-Prager; there v is
    spread over d strains, here over three also in 2-D, where F33 is one of them. Cohesion enters as in
    Mohr-Coulomb: in triaxial compression |dev tau| = sqrt(2/3) (6 p sin phi + 6 c cos phi)/(3 - sin phi).
    Adjoint: on the cone ``radial_return.shorten_vjp`` with dr/dtr = -slope; at the apex exp(tip/3) dR, R the rotation
    of F_trial, which still depends on it, and dv'/dF = F^-T. The map has corners, where the branch taken counts:
    - the edge tr eps = tip between cone and apex: F' is continuous, det F' follows det F on one side alone; the
      apex counts on the edge itself;
    - the surface of the cone; the elastic side counts;
    - the apex, eps = tip/3, where all three meet, and, without cohesion, every particle at rest (F = I): the apex
      counts, as if all neighboring states were expanded.

    Args:
        E: Young's modulus of the map [Pa], > 0.
        nu: Poisson's ratio of the map, between -1 and 0.5.
        friction_angle: phi [degrees], between 0 and 90; of triaxial compression. In plane simple shear the cone yields
            at a ratio of shear to normal stress of 3 alpha/sqrt(2), for 30 degrees 0.693 and not tan phi = 0.577.
        cohesion: c [Pa], >= 0.
        volume_correction: whether to keep v.
    """

    functions = CorrectedCone

    def __init__(self, E, nu, friction_angle, cohesion=0.0, *, volume_correction=True):
        super().__init__()
        hold(self, "E", E, POSITIVE, " Pa")
        hold(self, "nu", nu, POISSON)
        hold(self, "friction_angle", friction_angle, ACUTE, " degrees")
        hold(self, "cohesion", cohesion, NOT_NEGATIVE, " Pa")
        if not volume_correction:
            self.functions = Cone

    @classmethod
    def from_apex_strain(cls, E, nu, friction_angle, strain=0.0):
        """The sand of NCLaw: no volume correction; cohesion as the principal logarithmic strain at the apex, >= 0.

        It equals a ``cohesion`` of 3 K tan(phi) strain. Its floor on the stretches (0.05) is left out.

        Source: Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369.
        """
        law = cls.__new__(cls)
        Law.__init__(law)
        hold(law, "E", E, POSITIVE, " Pa")
        hold(law, "nu", nu, POISSON)
        hold(law, "friction_angle", friction_angle, ACUTE, " degrees")
        hold(law, "apex_strain", strain, NOT_NEGATIVE)
        law.functions = Cone
        return law

    def theta(self):
        nu, phi = together(self.nu, self.friction_angle * (math.pi / 180))
        slope = math.sqrt(2 / 3) * 2 * phi.sin() / (3 - phi.sin()) * (1 + nu) / (1 - 2 * nu)
        if hasattr(self, "apex_strain"):
            return [slope, 3 * self.apex_strain]
        E, nu, tangent, cohesion = together(self.E, self.nu, phi.tan(), self.cohesion)
        return [slope, 3 * (1 - 2 * nu) * cohesion / (E * tangent)]
