"""Mutations of the laws: stress, energy and return map, each with its adjoint."""

from mutation import mutations

ELASTIC = "tests/materials/test_elastic_laws.py"
LIQUID = (ELASTIC, "-k", "Liquid or liquid")
VON_MISES = ("tests/materials/test_von_mises.py",)

LAWS = [
    *mutations(
        "diffsim/materials/fixed_corotated.py",
        (ELASTIC, "-k", "FixedCorotated"),
        (
            "2 * theta[0] * A + theta[1] * (J - 1) * e * cofactor(F)",
            "2 * theta[0] * A - theta[1] * (J - 1) * e * cofactor(F)",
        ),
        ("2 * theta[0] * (e - 1) + theta[1] * (J - 1) * D", "2 * theta[0] * (e - 1)"),
        ("ti.Vector([inner(A, A) + (e - 1) * (e - 1), 0.5 *", "ti.Vector([inner(A, A), 0.5 *"),
        ("(grad_P - polar_vjp(grad_P, F, R))", "grad_P"),
        ("e * c * C + (J - 1) * cofactor_vjp(grad_P, F)", "c * C + (J - 1) * cofactor_vjp(grad_P, F)"),
        ("e * c * C + (J - 1) * cofactor_vjp(grad_P, F)", "e * c * C - (J - 1) * cofactor_vjp(grad_P, F)"),
        ("grad_e = theta[1] * (2 * J - 1) * c", "grad_e = theta[1] * (J - 1) * c"),
        ("2 * inner(grad_P, F - R), (J - 1) * e * c", "2 * inner(grad_P, F - R), (J - 1) * c"),
        ("2 * inner(grad_P, F - R), (J - 1) * e * c", "2 * inner(grad_P, F), (J - 1) * e * c"),
    ),
    *mutations(
        "diffsim/materials/neo_hookean.py",
        (ELASTIC, "-k", "NeoHookean"),
        ("(theta[1] * log_J - theta[0]) / D) * cofactor(F)", "(theta[1] * log_J + theta[0]) / D) * cofactor(F)"),
        ("theta[0] * e + (theta[1] * log_J - theta[0]) / e", "theta[0] * e"),
        (
            "(inner(F, F) + e * e - (F.n + 1) - 2 * log_J), 0.5 * log_J * log_J",
            "(inner(F, F) + e * e - (F.n + 1) - log_J), 0.5 * log_J * log_J",
        ),
        ("theta[1] * h * H -", "theta[1] * h * H +"),
        ("H @ grad_P.transpose() @ H", "H @ grad_P @ H"),
        ("(theta[1] * log_J - theta[0]) * H @", "theta[1] * log_J * H @"),
        ("ti.Vector([inner(grad_P, F - H), log_J * h])", "ti.Vector([inner(grad_P, F + H), log_J * h])"),
        ("return grad_F, theta[1] * h / e,", "return grad_F, theta[1] * h,"),
    ),
    *mutations(
        "diffsim/materials/hencky.py",
        (ELASTIC, "-k", "Hencky"),
        ("grad_e = grad_psi * (2 * theta[0] * e33 + theta[1] * trace) / e", "grad_e = grad_psi * theta[1] * trace / e"),
        (
            "grad_theta = grad_psi * ti.Vector([eps.dot(eps) + e33 * e33,",
            "grad_theta = grad_psi * ti.Vector([eps.dot(eps),",
        ),
        ("jacobian[i, i] += (2 * mu - t[i])", "jacobian[i, i] += (2 * mu + t[i])"),
        ("(2 * mu * log1p_ratio(s[i] / s[j]) - t[j])", "(2 * mu * log1p_ratio(s[i] / s[j]) - t[i])"),
        ("2 * mu * log1p_ratio(s[i] / s[j])", "2 * mu"),
        ("b[i, j] = (t[i] / s[i] + t[j] / s[j])", "b[i, j] = (t[i] / s[i] - t[j] / s[j])"),
        ("grad_e += lam / e * m", "grad_e += lam * m"),
        ("grad_mu += 2 * eps[i] * m", "grad_mu += eps[i] * m"),
        ("grad_lam += trace * m", "grad_lam += eps[i] * m"),
        ("m = M[i, i] / s[i]", "m = M[i, i]"),
    ),
    *mutations(
        "diffsim/materials/liquid.py",
        LIQUID,
        ("return p * e * cofactor(F), p * D,", "return p * cofactor(F), p * D,"),
        ("return p * e * cofactor(F), p * D,", "return p * e * cofactor(F), p * J,"),
        ("(e * c * C + (J - 1) * cofactor_vjp(grad_P, F))", "(e * c * C)"),
        ("theta[0] * (2 * J - 1) * c", "theta[0] * (J - 1) * c"),
        ("ti.Vector([(J - 1) * e * c])", "ti.Vector([(J - 1) * c])"),
        ("ti.pow(D, 1 / F_trial.n) / (F_trial.n * D)", "ti.pow(D, 1 / F_trial.n) / D"),
        ("return slope * cofactor(F_trial),", "return -slope * cofactor(F_trial),"),
    ),
    *mutations(
        "diffsim/materials/von_mises.py",
        VON_MISES,
        ("slope = (1 - kappa) / 3 - kappa * n[i] * n[j]", "slope = (1 - kappa) / 3 + kappa * n[i] * n[j]"),
        ("                    slope += kappa\n", ""),
        ("y = kappa * (dev[i] - dev[j])", "y = kappa * (dev[j] - dev[i])"),
        ("s_new[j] / s[j] * kappa * expm1_ratio(y)", "s_new[j] / s[j] * expm1_ratio(y)"),
        ("b[i, j] = (s_new[i] + s_new[j])", "b[i, j] = (s_new[i] - s_new[j])"),
        ("jacobian[i, j] = s_new[i] * slope / s[j]", "jacobian[i, j] = s_new[j] * slope / s[j]"),
        ("grad_radius += M[i, i] * s_new[i] * n[i]", "grad_radius -= M[i, i] * s_new[i] * n[i]"),
        ("grad_radius += g * n[2]", "grad_radius += g"),
        ("kappa - kappa * n[2] * n[2])", "kappa)"),
        ("slope = (1 - kappa) / 3 - kappa * n[2] * n[i]", "slope = (1 - kappa) / 3"),
        ("grad_F += U @ across @ V.transpose()", "grad_F -= U @ across @ V.transpose()"),
        ("grad_q[0] = grad_e / q[0]", "grad_q[0] = grad_e"),
        ("ti.Vector([-radius / theta[0], 0.5 / theta[0]])", "ti.Vector([radius / theta[0], 0.5 / theta[0]])"),
    ),
]
