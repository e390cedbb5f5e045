"""The logarithmic strain of F in principal space: its invariants, and the return of F towards less strain, in 3-D.

F = U diag(exp eps) V^T, tr = sum eps = log det F, dev = eps - tr/3:

    invariants   (tr, |dev|^2)
    return       F' = U diag(exp eps') V^T,    eps'_i = tr/3 + shift + kappa dev_i

where kappa = 1 and shift = 0 give F' = F to the last bit. Adjoints: U diag((g_tr + 2 g dev_i)/s_i) V^T; of the return
``isotropic_vjp`` with d eps'_i/d eps_j = kappa delta_ij + (1 - kappa)/3 and (s'_i - s'_j)/(s_i - s_j) in the form of
radial_return.py, without cancellation, and for (kappa, shift) the sums of M_ii s'_i (dev_i, 1), M = U^T G V. Both are
smooth for det F > 0 also where stretches are equal. The decomposition is made once and passed on.
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.kernels.arrays import Matrices, Rows, Vectors, alone, launch
from diffsim.kernels.lang import ti
from diffsim.kernels.network_inputs import factors_like, read_factors, write_factors
from diffsim.kernels.svd import expm1_ratio, isotropic_vjp, log1p_ratio, svd


@ti.func
def split(s):
    """tr/3 and dev of the logarithmic strains."""
    eps = ti.log(s)
    mean = eps.sum() / 3
    return mean, eps - mean


@ti.kernel
def invariants_forward(F: Matrices, factors: Rows, k: Vectors, serial: ti.template()):
    ti.loop_config(serialize=serial)
    for p in range(F.shape[0]):
        U, s, V = svd(F[p])
        write_factors(factors, p, U, s, V)
        mean, dev = split(s)
        k[p] = ti.Vector([3 * mean, dev.dot(dev)])


@ti.kernel
def invariants_adjoint(grad_k: Vectors, factors: Rows, grad_F: Matrices, serial: ti.template()):
    ti.loop_config(serialize=serial)
    for p in range(grad_F.shape[0]):
        U, s, V = read_factors(factors, p, 3)
        _mean, dev = split(s)
        W = U
        for i, j in ti.static(ti.ndrange(3, 3)):
            W[i, j] = U[i, j] * (grad_k[p][0] + 2 * grad_k[p][1] * dev[j]) / s[j]
        grad_F[p] = W @ V.transpose()


@ti.kernel
def return_forward(F: Matrices, factors: Rows, change: Vectors, F_new: Matrices, serial: ti.template()):
    ti.loop_config(serialize=serial)
    for p in range(F.shape[0]):
        kappa, shift = change[p][0], change[p][1]
        F_new[p] = F[p]
        if kappa != 1.0 or shift != 0.0:
            U, s, V = read_factors(factors, p, 3)
            mean, dev = split(s)
            W = U
            for i, j in ti.static(ti.ndrange(3, 3)):
                W[i, j] = U[i, j] * ti.exp(mean + shift + kappa * dev[j])
            F_new[p] = W @ V.transpose()


@ti.kernel
def return_adjoint(
    grad_F_new: Matrices, factors: Rows, change: Vectors, grad_F: Matrices, grad_change: Vectors, serial: ti.template()
):
    ti.loop_config(serialize=serial)
    for p in range(grad_F.shape[0]):
        kappa, shift = change[p][0], change[p][1]
        U, s, V = read_factors(factors, p, 3)
        mean, dev = split(s)
        s_new = ti.exp(mean + shift + kappa * dev)
        jacobian = ti.Matrix.zero(float, 3, 3)
        a = ti.Matrix.zero(float, 3, 3)
        b = ti.Matrix.zero(float, 3, 3)
        for i, j in ti.static(ti.ndrange(3, 3)):
            jacobian[i, j] = s_new[i] * (1 - kappa) / (3 * s[j])
            if ti.static(i == j):
                jacobian[i, j] += s_new[i] * kappa / s[j]
            elif ti.static(i < j):
                y = kappa * (dev[i] - dev[j])
                a[i, j] = s_new[j] / s[j] * kappa * expm1_ratio(y) * log1p_ratio(s[i] / s[j])
                b[i, j] = (s_new[i] + s_new[j]) / (s[i] + s[j])
                a[j, i] = a[i, j]
                b[j, i] = b[i, j]
        grad_F[p] = isotropic_vjp(grad_F_new[p], U, V, jacobian, a, b)
        M = U.transpose() @ grad_F_new[p] @ V
        m = ti.Vector([M[0, 0] * s_new[0], M[1, 1] * s_new[1], M[2, 2] * s_new[2]])
        grad_change[p] = ti.Vector([m.dot(dev), m.sum()])


class Invariants(torch.autograd.Function):
    @staticmethod
    def forward(ctx, F):
        k, factors = F.new_empty(len(F), 2), factors_like(F)
        launch(invariants_forward, F, factors, k, alone(F))
        ctx.save_for_backward(factors)
        ctx.mark_non_differentiable(factors)
        return k, factors

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_k, _grad_factors):
        (factors,) = ctx.saved_tensors
        grad_F = factors.new_empty(len(factors), 3, 3)
        launch(invariants_adjoint, grad_k.contiguous(), factors, grad_F, alone(grad_F))
        return grad_F


class Return(torch.autograd.Function):
    @staticmethod
    def forward(ctx, F, factors, change):
        F_new = torch.empty_like(F)
        launch(return_forward, F, factors, change, F_new, alone(F))
        ctx.save_for_backward(factors, change)
        return F_new

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_F_new):
        factors, change = ctx.saved_tensors
        grad_F, grad_change = torch.empty_like(grad_F_new), torch.empty_like(change)
        launch(return_adjoint, grad_F_new.contiguous(), factors, change, grad_F, grad_change, alone(grad_F))
        return grad_F, None, grad_change


def log_invariants(F):
    """(tr eps, |dev eps|^2), (n, 2), of F (n, 3, 3), det F > 0; and the factors of F for ``log_return``."""
    return Invariants.apply(F.contiguous())


def log_return(F, factors, change):
    """F' (n, 3, 3) of F and change = (kappa, shift), (n, 2); factors from ``log_invariants`` of the same F."""
    return Return.apply(F.contiguous(), factors, change.contiguous())
