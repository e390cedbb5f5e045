"""Mutations of finite elements, contact, and implicit solves."""

from mutation import mutations

HESSIANS = ("tests/models/test_hessians.py", "-k", "law_through or membrane", "-m", "not slow")
FORCES = ("tests/models/test_fem.py", "-k", "adjoint_of_the_force or equilibrium_agree")
PLASTIC = ("tests/models/test_fem_plasticity.py", "-k", "gradients_of_plastic_steps_agree and euler")
CONTACT = ("tests/models/test_contact_gradients.py", "-m", "not slow", "-k", "stick_and_slip or controls")
ROOT = ("tests/solvers/test_implicit.py",)

DEFORMABLES = [
    *mutations(
        "kernels/elements.py",
        FORCES,
        ("grad_w[p] = inner(P, B)", "grad_w[p] = inner(P, F)"),
        (
            "corners[p * nodes.shape[1] + a] = grad_F @ G[p, a]",
            "corners[p * nodes.shape[1] + a] = P @ G[p, a]",
        ),
        ("grad_F.transpose() @ x[nodes[p, a]]", "grad_F @ x[nodes[p, a]]"),
        ("w[p] * (P.transpose() @ grad_force", "w[p] * (P @ grad_force"),
        ("* G[p, b][m]", "* G[p, b][j]", HESSIANS),
    ),
    *mutations(
        "diffsim/materials/plastic_potential.py",
        PLASTIC,
        ("by_norm = -ratio * (1 - beta) / norm", "by_norm = ratio * (1 - beta) / norm"),
        ("by_y = 0.5 * (1 - beta) / norm", "by_y = 0.5 / norm"),
        ("by_mu = beta - 3 * H * slope", "by_mu = beta"),
        ("by_H = 3 * mu * slope", "by_H = -3 * mu * slope"),
        ("grad_own = part[0] - 2 / 3 * part[1]", "grad_own = part[0]"),
        ("grad_q[1] = grad_own * by_y * NORM * theta[3]", "grad_q[1] = grad_own * by_y * theta[3]"),
        ("grad_own * by_norm * dev[i] / (norm * s[i])", "grad_own * by_norm * dev[i] / norm"),
        ("grad_q[0] += grad_own * by_norm * dev[2]", "grad_q[0] -= grad_own * by_norm * dev[2]"),
        ("grad_own * by_mu + 2 / 3 * part[1]", "grad_own * by_mu"),
        ("grad_own * (by_H + by_y * NORM * q[1])", "grad_own * by_H"),
    ),
    *mutations(
        "diffsim/models/contact.py",
        CONTACT,
        ("grad_V = grad_V + K @ b", "grad_V = grad_V - K @ b"),
        ("grad_old = -(lagged.T @ b) - K @ b", "grad_old = -K @ b"),
        ("forces += potential.gradient", "forces -= potential.gradient"),
        ("grad_mu = -float(bare @ b)", "grad_mu = float(bare @ b)"),
        ("total = total - (moved - lagged).T @ b", "total = total - moved.T @ b"),
        ("scaled += _moment(V_old, lagged.T @ b)", "scaled -= _moment(V_old, lagged.T @ b)"),
        ("(contact.dim - 1) * forces", "contact.dim * forces"),
        ("as_tensor(forces / kappa)", "as_tensor(forces)"),
    ),
    *mutations(
        "diffsim/models/plastic_flow.py",
        PLASTIC,
        ("torch.linalg.solve(F, flowed)", "torch.linalg.solve(F.detach(), flowed)"),
    ),
    *mutations(
        "diffsim/solvers/implicit.py",
        ROOT,
        ("J.solve_transposed(", "J.solve("),
        ("torch.autograd.grad(g, chosen, -z", "torch.autograd.grad(g, chosen, z"),
    ),
]
