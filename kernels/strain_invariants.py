"""Isochoric and volumetric invariants of F, and the stress of an energy that depends on them, in 3-D.

With C = F^T F, I1 = tr C, I2 = (I1^2 - tr C^2)/2, J = det F,

    k1 = J^(-2/3) I1 - 3,    k2 = J^(-4/3) I2 - 3,    k3 = log J,
    P = sum_a g_a dk_a/dF = alpha F + beta F C + gamma cof F,    g_a = d psi/d k_a,
    alpha = 2 (g1 J^(-2/3) + g2 J^(-4/3) I1),    beta = -2 g2 J^(-4/3),
    gamma = (g3 - (2 g1 J^(-2/3) I1 + 4 g2 J^(-4/3) I2)/3)/J.

All are smooth for J > 0, also at F = I, where k1 and k2 are stationary; tau = P F^T is symmetric. No decomposition.
The stress is the adjoint of the invariants (the same kernel); its own adjoint is <G, dk_a/dF> for g_a, and for F the
derivative of alpha, beta, gamma through I1, I2, J plus alpha G + beta (G C + F G^T F + F F^T G) + gamma d cof[G].
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.kernels.arrays import Matrices, Vectors, alone, launch
from diffsim.kernels.lang import ti
from diffsim.kernels.svd import cofactor, cofactor_vjp, inner


@ti.func
def basis(F):
    """C, I1, I2, J, J^(-2/3), J^(-4/3)."""
    C = F.transpose() @ F
    I1 = C.trace()
    I2 = cofactor(C).trace()
    J = F.determinant()
    a = ti.exp(-2.0 / 3.0 * ti.log(J))
    return C, I1, I2, J, a, a * a


@ti.kernel
def invariants_forward(F: Matrices, k: Vectors, serial: ti.template()):
    ti.loop_config(serialize=serial)
    for p in range(F.shape[0]):
        _C, I1, I2, J, a, b = basis(F[p])
        k[p] = ti.Vector([a * I1 - 3, b * I2 - 3, ti.log(J)])


@ti.kernel
def stress_forward(g: Vectors, F: Matrices, P: Matrices, serial: ti.template()):
    """P = sum g_a dk_a/dF: the adjoint of ``invariants_forward`` too."""
    ti.loop_config(serialize=serial)
    for p in range(F.shape[0]):
        A, h = F[p], g[p]
        C, I1, I2, J, a, b = basis(A)
        gamma = (h[2] - (2 * h[0] * a * I1 + 4 * h[1] * b * I2) / 3) / J
        P[p] = 2 * (h[0] * a + h[1] * b * I1) * A - 2 * h[1] * b * (A @ C) + gamma * cofactor(A)


@ti.kernel
def stress_adjoint(grad_P: Matrices, g: Vectors, F: Matrices, grad_g: Vectors, grad_F: Matrices, serial: ti.template()):
    ti.loop_config(serialize=serial)
    for p in range(F.shape[0]):
        A, h, G = F[p], g[p], grad_P[p]
        C, I1, I2, J, a, b = basis(A)
        K, FC = cofactor(A), A @ C
        on_F, on_FC, on_K = inner(G, A), inner(G, FC), inner(G, K)
        alpha = 2 * (h[0] * a + h[1] * b * I1)
        gamma = (h[2] - (2 * h[0] * a * I1 + 4 * h[1] * b * I2) / 3) / J
        grad_g[p] = ti.Vector(
            [
                2 * a * on_F - 2 * a * I1 / (3 * J) * on_K,
                2 * b * (I1 * on_F - on_FC) - 4 * b * I2 / (3 * J) * on_K,
                on_K / J,
            ]
        )
        by_I1 = 2 * h[1] * b * on_F - 2 * h[0] * a / (3 * J) * on_K
        by_I2 = -4 * h[1] * b / (3 * J) * on_K
        by_J = (
            -4 * (h[0] * a + 2 * h[1] * b * I1) / (3 * J) * on_F
            + 8 * h[1] * b / (3 * J) * on_FC
            + ((4 * h[0] * a * I1 + 16 * h[1] * b * I2) / (9 * J) - gamma) / J * on_K
        )
        grad_F[p] = (
            (2 * by_I1 + 2 * by_I2 * I1) * A
            - 2 * by_I2 * FC
            + by_J * K
            + alpha * G
            - 2 * h[1] * b * (G @ C + A @ (G.transpose() @ A) + A @ (A.transpose() @ G))
            + gamma * cofactor_vjp(G, A)
        )


class Invariants(torch.autograd.Function):
    @staticmethod
    def forward(ctx, F):
        k = F.new_empty(len(F), 3)
        launch(invariants_forward, F, k, alone(F))
        ctx.save_for_backward(F)
        return k

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_k):
        (F,) = ctx.saved_tensors
        grad_F = torch.empty_like(F)
        launch(stress_forward, grad_k.contiguous(), F, grad_F, alone(F))
        return grad_F


class InvariantStress(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g, F):
        P = torch.empty_like(F)
        launch(stress_forward, g, F, P, alone(F))
        ctx.save_for_backward(g, F)
        return P

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_P):
        g, F = ctx.saved_tensors
        grad_g, grad_F = torch.empty_like(g), torch.empty_like(F)
        launch(stress_adjoint, grad_P.contiguous(), g, F, grad_g, grad_F, alone(F))
        return grad_g, grad_F


def strain_invariants(F):
    """(k1, k2, k3) of F (n, 3, 3), det F > 0: (n, 3). Adjoint: sum_a g_a dk_a/dF."""
    return Invariants.apply(F.contiguous())


def invariant_stress(g, F):
    """P = sum_a g_a dk_a/dF, (n, 3, 3), of g (n, 3) and F (n, 3, 3); see above for its adjoint."""
    return InvariantStress.apply(g.contiguous(), F.contiguous())
