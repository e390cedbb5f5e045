"""A stress given by its principal values: P = U diag(p) V^T for F = U diag(s) V^T, in 3-D.

``singular_values`` hands out s (its adjoint: U diag(g) V^T), a law turns them into p(s) in torch, and
``principal_stress`` puts P together. Its adjoint is diag(U^T G V) for p, and for F the turning of the axes alone,
U N V^T with zero diagonal and N_ij = (a_ij + b_ij)/2 M_ij + (a_ij - b_ij)/2 M_ji, M = U^T G V,

    a_ij = (p_i - p_j)/(s_i - s_j), which the law supplies in a form that holds for s_i = s_j,
    b_ij = (p_i + p_j)/(s_i + s_j).

Together they are exact for every isotropic function, also at equal singular values: there p is a symmetric function.
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.kernels.arrays import Matrices, Rows, Vectors, alone, launch
from diffsim.kernels.lang import ti
from diffsim.kernels.network_inputs import factors_like, read_factors, write_factors
from diffsim.kernels.svd import isotropic_vjp, svd


@ti.func
def compose(U, p, V):
    W = U
    for i, j in ti.static(ti.ndrange(3, 3)):
        W[i, j] = U[i, j] * p[j]
    return W @ V.transpose()


@ti.kernel
def values_forward(F: Matrices, factors: Rows, values: Vectors, serial: ti.template()):
    ti.loop_config(serialize=serial)
    for p in range(F.shape[0]):
        U, s, V = svd(F[p])
        write_factors(factors, p, U, s, V)
        values[p] = s


@ti.kernel
def stress_forward(stress: Vectors, factors: Rows, P: Matrices, serial: ti.template()):
    """Also the adjoint of ``values_forward``."""
    ti.loop_config(serialize=serial)
    for p in range(P.shape[0]):
        U, _s, V = read_factors(factors, p, 3)
        P[p] = compose(U, stress[p], V)


@ti.kernel
def stress_adjoint(
    grad_P: Matrices,
    stress: Vectors,
    factors: Rows,
    quotients: Vectors,
    grad_F: Matrices,
    grad_stress: Vectors,
    serial: ti.template(),
):
    ti.loop_config(serialize=serial)
    for p in range(grad_P.shape[0]):
        U, s, V = read_factors(factors, p, 3)
        t, q = stress[p], quotients[p]
        a = ti.Matrix([[q[0] * 0, q[0], q[1]], [q[0], q[0] * 0, q[2]], [q[1], q[2], q[0] * 0]])
        b = a
        for i, j in ti.static(ti.ndrange(3, 3)):
            b[i, j] = (t[i] + t[j]) / (s[i] + s[j])
        grad_F[p] = isotropic_vjp(grad_P[p], U, V, ti.Matrix.zero(float, 3, 3), a, b)
        M = U.transpose() @ grad_P[p] @ V
        grad_stress[p] = ti.Vector([M[0, 0], M[1, 1], M[2, 2]])


class SingularValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx, F):
        values, factors = F.new_empty(len(F), 3), factors_like(F)
        launch(values_forward, F, factors, values, alone(F))
        ctx.save_for_backward(factors)
        ctx.mark_non_differentiable(factors)
        return values, factors

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_values, _grad_factors):
        (factors,) = ctx.saved_tensors
        grad_F = factors.new_empty(len(factors), 3, 3)
        launch(stress_forward, grad_values.contiguous(), factors, grad_F, alone(grad_F))
        return grad_F


class PrincipalStress(torch.autograd.Function):
    @staticmethod
    def forward(ctx, F, factors, stress, quotients):
        P = torch.empty_like(F)
        launch(stress_forward, stress, factors, P, alone(F))
        ctx.save_for_backward(factors, stress, quotients)
        return P

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_P):
        factors, stress, quotients = ctx.saved_tensors
        grad_F, grad_stress = torch.empty_like(grad_P), torch.empty_like(stress)
        launch(stress_adjoint, grad_P.contiguous(), stress, factors, quotients, grad_F, grad_stress, alone(grad_F))
        return grad_F, None, grad_stress, None


def singular_values(F):
    """s (n, 3) of F (n, 3, 3), and the factors for ``principal_stress``. Differentiate symmetric functions of it."""
    return SingularValues.apply(F.contiguous())


def principal_stress(F, factors, stress, quotients):
    """P (n, 3, 3) of principal stresses (n, 3); quotients (n, 3): a_01, a_02, a_12, which carry no gradient."""
    return PrincipalStress.apply(F.contiguous(), factors, stress.contiguous(), quotients.detach().contiguous())
