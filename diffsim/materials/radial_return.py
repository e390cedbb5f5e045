"""Return along the deviator in principal logarithmic strains: what the laws of plastic shear share.

F_trial = U diag(exp eps) V^T; with eps = mean + dev the map shortens dev to a radius r and keeps the mean, so that

    eps'_i = mean + kappa dev_i,    kappa = r/|dev|,    F' = U diag(exp eps') V^T.

Only ti.funcs. In 2-D (plane strain) the third principal strain is log e, e = F33. Needs det F > 0 and |dev| > r >= 0.
"""

from diffsim.kernels.lang import ti
from diffsim.kernels.svd import expm1_ratio, isotropic_vjp, log1p_ratio


@ti.func
def deviator(s, e):
    """eps - tr/3 of the three principal strains (in 2-D the third is log e), their mean, and |dev|."""
    eps = ti.log(ti.Vector([s[0], s[1], e if ti.static(s.n == 2) else s[s.n - 1]]))
    mean = eps.sum() / 3
    dev = eps - mean
    return dev, mean, dev.norm()


@ti.func
def shorten(U, V, dev, mean, kappa):
    """F' (d x d) and the three stretches s' = exp(eps')."""
    s_new = ti.exp(mean + kappa * dev)
    W = U
    for i, j in ti.static(ti.ndrange(U.n, U.n)):
        W[i, j] = U[i, j] * s_new[j]
    return W @ V.transpose(), s_new


@ti.func
def shorten_vjp(grad_F_new, grad_e_new, U, s, V, e, dev, mean, norm, radius, by_norm, by_trace):
    """Gradient of <grad_F_new, F'> + grad_e_new e' with respect to F_trial, to e (0 in 3-D), and to the radius.

    With n = dev/|dev|, and the slopes of the radius by |dev| and by tr eps,

        d log s'_i / d log s_j = 1/3 + kappa (delta_ij - 1/3) + (by_norm - kappa) n_i n_j + by_trace n_i,
        (s'_i - s'_j)/(s_i - s_j) = (s'_j/s_j) kappa [(exp(y) - 1)/y] [log(x)/(x - 1)], y = kappa log x, x = s_i/s_j,

    the second without cancellation at equal stretches. The gradient by the radius counts its direct influence only.
    """
    kappa = radius / norm
    n = dev / norm
    s_new = ti.exp(mean + kappa * dev)
    jacobian = ti.Matrix.zero(float, U.n, U.n)
    a = ti.Matrix.zero(float, U.n, U.n)
    b = ti.Matrix.zero(float, U.n, U.n)
    for i, j in ti.static(ti.ndrange(U.n, U.n)):
        slope = (1 - kappa) / 3 + (by_norm - kappa) * n[i] * n[j] + by_trace * n[i]
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
    grad_e = norm * 0
    grad_radius = norm * 0
    for i in ti.static(range(U.n)):
        grad_radius += M[i, i] * s_new[i] * n[i]
    if ti.static(U.n == 2):
        g = grad_e_new * s_new[2]  # gradient with respect to log e'
        grad_radius += g * n[2]
        grad_log_e = g * ((1 - kappa) / 3 + kappa + (by_norm - kappa) * n[2] * n[2] + by_trace * n[2])
        across = ti.Matrix.zero(float, U.n, U.n)
        for i in ti.static(range(U.n)):
            grad_log_e += M[i, i] * s_new[i] * ((1 - kappa) / 3 + (by_norm - kappa) * n[2] * n[i] + by_trace * n[i])
            across[i, i] = g * ((1 - kappa) / 3 + (by_norm - kappa) * n[2] * n[i] + by_trace * n[2]) / s[i]
        grad_F += U @ across @ V.transpose()
        grad_e = grad_log_e / e
    return grad_F, grad_e, grad_radius
