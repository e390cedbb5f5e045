"""The potential of a step of von Mises plasticity in logarithmic strains, for implicit solves.

With the trial strains eps = log s of F = U diag(s) V^T, their deviator of norm n, the bulk modulus k = lam + 2/3 mu,
the radius y = sqrt(2/3) (Y + H a) of the yield surface before the step and beta = H/(3 mu + H),

    W = k/2 tr(eps)^2 + mu n^2                                                                where 2 mu n <= y, else
    W = k/2 tr(eps)^2 + mu n0^2 + y (n - n0) + mu beta (n - n0)^2,     n0 = y/(2 mu),

is the elastic energy after the step with what flows and hardens in it, at the plastic flow that makes this least. Its
derivative is the stress of the return map ``von_mises.VonMises``: that of Hencky's law at the trial strains with the
modulus mu' = mu beta + y (1 - beta)/(2 n) in place of mu and the same k. So a step of a plastic body is a minimum, as
an elastic one is, and its Hessian is symmetric. At 2 mu n = y the second derivative jumps; the elastic side counts.

Source: derived from the return map; the idea is that of Ortiz and Stainier, The variational formulation of viscoplastic
constitutive updates, Comput. Methods Appl. Mech. Eng. 171 (1999), not consulted.
"""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import svd
from diffsim.materials.hencky import Functions as Hencky
from diffsim.materials.radial_return import deviator
from diffsim.materials.von_mises import NORM


class Potential:
    """theta = (mu, lam, sqrt(2/3) Y, H); q = (F33 of the trial state, a)."""

    parameters = 4
    stateful = True

    @staticmethod
    @ti.func
    def energy(F, q, theta):
        mu, H = theta[0], theta[3]
        U, s, V = svd(F)
        dev, mean, norm = deviator(s, q[0])
        y = theta[2] + NORM * H * q[1]
        own = mu * norm * norm
        if 2 * mu * norm > y:
            start = 0.5 * y / mu
            more = norm - start
            own = mu * start * start + y * more + mu * H / (3 * mu + H) * more * more
        return own + (4.5 * theta[1] + 3 * mu) * mean * mean

    @staticmethod
    @ti.func
    def secant(norm, y, mu, H):
        """mu' of the trial strains, and its derivatives by n, y, mu and H."""
        value, by_norm, by_y, by_mu, by_H = mu, mu * 0, mu * 0, mu * 0 + 1, mu * 0
        if 2 * mu * norm > y:
            beta = H / (3 * mu + H)
            ratio = 0.5 * y / norm
            value = mu * beta + ratio * (1 - beta)
            by_norm = -ratio * (1 - beta) / norm
            by_y = 0.5 * (1 - beta) / norm
            slope = (mu - ratio) / ((3 * mu + H) * (3 * mu + H))  # of mu' by beta, over the square
            by_mu = beta - 3 * H * slope
            by_H = 3 * mu * slope
        return value, by_norm, by_y, by_mu, by_H

    @staticmethod
    @ti.func
    def stress(F, q, L, theta):
        U, s, V = svd(F)
        dev, mean, norm = deviator(s, q[0])
        own, by_norm, by_y, by_mu, by_H = Potential.secant(norm, theta[2] + NORM * theta[3] * q[1], theta[0], theta[3])
        return Hencky.stress(F, q[0], L, ti.Vector([own, theta[1] + 2 / 3 * (theta[0] - own)]))

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, q, L, theta):
        U, s, V = svd(F)
        dev, mean, norm = deviator(s, q[0])
        own, by_norm, by_y, by_mu, by_H = Potential.secant(norm, theta[2] + NORM * theta[3] * q[1], theta[0], theta[3])
        grad_F, grad_e, grad_L, part = Hencky.stress_vjp(
            grad_P, F, q[0], L, ti.Vector([own, theta[1] + 2 / 3 * (theta[0] - own)])
        )
        grad_own = part[0] - 2 / 3 * part[1]
        grad_q = q * 0
        grad_q[0] = grad_e
        grad_q[1] = grad_own * by_y * NORM * theta[3]
        if by_norm != 0:  # then n > 0
            slopes = ti.Matrix.zero(float, F.n, F.n)
            for i in ti.static(range(F.n)):
                slopes[i, i] = grad_own * by_norm * dev[i] / (norm * s[i])
            grad_F += U @ slopes @ V.transpose()
            if ti.static(F.n == 2):
                grad_q[0] += grad_own * by_norm * dev[2] / (norm * q[0])
        grad_theta = ti.Vector(
            [
                grad_own * by_mu + 2 / 3 * part[1],
                part[1],
                grad_own * by_y,
                grad_own * (by_H + by_y * NORM * q[1]),
            ]
        )
        return grad_F, grad_q, grad_L, grad_theta
