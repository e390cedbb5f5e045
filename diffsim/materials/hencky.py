"""Hencky elasticity: St. Venant-Kirchhoff in the logarithmic strain."""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import isotropic_vjp, log1p_ratio, svd
from diffsim.materials.law import Isotropic


class Functions:
    """theta = (mu, lam); eps = log s, tr = sum eps + log e."""

    parameters = 2

    @staticmethod
    @ti.func
    def energy(F, e, theta):
        U, s, V = svd(F)
        eps = ti.log(s)
        e33 = ti.log(e)
        trace = eps.sum() + e33
        return theta[0] * (eps.dot(eps) + e33 * e33) + 0.5 * theta[1] * trace * trace

    @staticmethod
    @ti.func
    def energy_vjp(grad_psi, F, e, theta):
        U, s, V = svd(F)
        eps = ti.log(s)
        e33 = ti.log(e)
        trace = eps.sum() + e33
        W = U
        for i, j in ti.static(ti.ndrange(F.n, F.n)):
            W[i, j] = U[i, j] * (2 * theta[0] * eps[j] + theta[1] * trace) / s[j]
        grad_e = grad_psi * (2 * theta[0] * e33 + theta[1] * trace) / e
        grad_theta = grad_psi * ti.Vector([eps.dot(eps) + e33 * e33, 0.5 * trace * trace])
        return grad_psi * W @ V.transpose(), grad_e, grad_theta

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        U, s, V = svd(F)
        eps = ti.log(s)
        trace = eps.sum() + ti.log(e)
        W = U
        for i, j in ti.static(ti.ndrange(F.n, F.n)):
            W[i, j] = U[i, j] * (2 * theta[0] * eps[j] + theta[1] * trace) / s[j]
        return W @ V.transpose()

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        mu, lam = theta[0], theta[1]
        U, s, V = svd(F)
        eps = ti.log(s)
        trace = eps.sum() + ti.log(e)
        t = 2 * mu * eps + lam * trace  # principal Kirchhoff stresses; p_i = t_i / s_i
        jacobian = ti.Matrix.zero(float, F.n, F.n)
        a = ti.Matrix.zero(float, F.n, F.n)
        b = ti.Matrix.zero(float, F.n, F.n)
        for i, j in ti.static(ti.ndrange(F.n, F.n)):
            jacobian[i, j] = lam / (s[i] * s[j])
            if ti.static(i == j):
                jacobian[i, i] += (2 * mu - t[i]) / (s[i] * s[i])
            elif ti.static(i < j):
                a[i, j] = (2 * mu * log1p_ratio(s[i] / s[j]) - t[j]) / (s[i] * s[j])
                b[i, j] = (t[i] / s[i] + t[j] / s[j]) / (s[i] + s[j])
                a[j, i] = a[i, j]
                b[j, i] = b[i, j]
        M = U.transpose() @ grad_P @ V
        grad_e = s[0] * 0
        grad_mu = s[0] * 0
        grad_lam = s[0] * 0
        for i in ti.static(range(F.n)):
            m = M[i, i] / s[i]
            grad_e += lam / e * m
            grad_mu += 2 * eps[i] * m
            grad_lam += trace * m
        grad_F = isotropic_vjp(grad_P, U, V, jacobian, a, b)
        return grad_F, grad_e, ti.Matrix.zero(float, F.n, F.n), ti.Vector([grad_mu, grad_lam])


class Hencky(Isotropic):
    """psi = mu |eps|^2 + lam/2 tr(eps)^2,   P = U diag((2 mu eps_i + lam tr)/s_i) V^T.

    F = U diag(s) V^T, eps = log s. In 2-D (plane strain) the third principal strain is log e, e = F33. Needs det F > 0.

    Source: Klar et al., Drucker-Prager elastoplasticity for sand animation (2016), doi:10.1145/2897824.2925906, its
    elasticity. Adjoint: divided differences in principal space, with log(s_i/s_j)/(s_i/s_j - 1) in place of the
    quotient, so that equal stretches need no special case.

    Args:
        E: Young's modulus [Pa], > 0.
        nu: Poisson's ratio, between -1 and 0.5.
    """

    functions = Functions
