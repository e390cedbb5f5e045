"""Constitutive laws on torch tensors: energy, stress, return map, each with its adjoint kernel beside it.

``laws`` is a class made by ``diffsim.materials.composite``: its items hold the laws' static ti.funcs. Every function
takes, per particle, the deformation gradient F (n, d, d), the internal variables q (n, 1 + laws.internals) with
q[:, 0] = F33 (1 in 3-D), the packed parameters theta (n, laws.parameters) and kind (n,), the index of its item.
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.errors import SceneError
from diffsim.kernels.arrays import Integers, Matrices, Scalars, Vectors, launch
from diffsim.kernels.lang import ti


@ti.kernel
def energy_forward(laws: ti.template(), F: Matrices, q: Vectors, theta: Vectors, kind: Integers, psi: Scalars):
    for p in range(F.shape[0]):
        for m in ti.static(range(laws.count)):
            if kind[p] == m:
                psi[p] = laws.items[m].energy(F[p], q[p], theta[p])


@ti.kernel
def energy_adjoint(
    laws: ti.template(),
    grad_psi: Scalars,
    F: Matrices,
    q: Vectors,
    theta: Vectors,
    kind: Integers,
    grad_F: Matrices,
    grad_q: Vectors,
    grad_theta: Vectors,
):
    for p in range(F.shape[0]):
        for m in ti.static(range(laws.count)):
            if kind[p] == m:
                a, b, c = laws.items[m].energy_vjp(grad_psi[p], F[p], q[p], theta[p])
                grad_F[p] = a
                grad_q[p] = b
                grad_theta[p] = c


class Energy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, laws, F, q, theta, kind):
        psi = F.new_empty(len(F))
        launch(energy_forward, laws, F, q, theta, kind, psi)
        ctx.laws = laws
        ctx.save_for_backward(F, q, theta, kind)
        return psi

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_psi):
        F, q, theta, kind = ctx.saved_tensors
        grads = torch.empty_like(F), torch.empty_like(q), torch.empty_like(theta)
        launch(energy_adjoint, ctx.laws, grad_psi.contiguous(), F, q, theta, kind, *grads)
        return None, *grads, None


def energy(laws, F, q, theta, kind):
    """Energy density psi(F, q; theta) per particle, (n,) [J/m^3 of the rest state].

    Raises:
        SceneError: a law among ``laws`` has no energy.
    """
    if not laws.energetic:
        raise SceneError("the energy of a material whose stress is prescribed or learned is not defined; leave it out")
    return Energy.apply(laws, F.contiguous(), q.contiguous(), theta.contiguous(), kind)


@ti.kernel
def stress_forward(
    laws: ti.template(), F: Matrices, q: Vectors, L: Matrices, theta: Vectors, kind: Integers, P: Matrices
):
    for p in range(F.shape[0]):
        for m in ti.static(range(laws.count)):
            if kind[p] == m:
                P[p] = laws.items[m].stress(F[p], q[p], L[p], theta[p])


@ti.kernel
def stress_adjoint(
    laws: ti.template(),
    grad_P: Matrices,
    F: Matrices,
    q: Vectors,
    L: Matrices,
    theta: Vectors,
    kind: Integers,
    grad_F: Matrices,
    grad_q: Vectors,
    grad_L: Matrices,
    grad_theta: Vectors,
):
    for p in range(F.shape[0]):
        for m in ti.static(range(laws.count)):
            if kind[p] == m:
                a, b, c, e = laws.items[m].stress_vjp(grad_P[p], F[p], q[p], L[p], theta[p])
                grad_F[p] = a
                grad_q[p] = b
                grad_L[p] = c
                grad_theta[p] = e


class Stress(torch.autograd.Function):
    @staticmethod
    def forward(ctx, laws, F, q, L, theta, kind):
        P = torch.empty_like(F)
        launch(stress_forward, laws, F, q, L, theta, kind, P)
        ctx.laws = laws
        ctx.save_for_backward(F, q, L, theta, kind)
        return P

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_P):
        F, q, L, theta, kind = ctx.saved_tensors
        grads = torch.empty_like(F), torch.empty_like(q), torch.empty_like(L), torch.empty_like(theta)
        launch(stress_adjoint, ctx.laws, grad_P.contiguous(), F, q, L, theta, kind, *grads)
        return None, *grads, None


def stress(laws, F, q, L, theta, kind):
    """First Piola-Kirchhoff stress P(F, q, L; theta) per particle, (n, d, d) [Pa]; L (n, d, d) [1/s]."""
    return Stress.apply(laws, F.contiguous(), q.contiguous(), L.contiguous(), theta.contiguous(), kind)


@ti.kernel
def update_forward(
    laws: ti.template(),
    F: Matrices,
    q: Vectors,
    theta: Vectors,
    kind: Integers,
    F_new: Matrices,
    q_new: Vectors,
):
    for p in range(F.shape[0]):
        for m in ti.static(range(laws.count)):
            if kind[p] == m:
                a, b = laws.items[m].update(F[p], q[p], theta[p])
                F_new[p] = a
                q_new[p] = b


@ti.kernel
def update_adjoint(
    laws: ti.template(),
    grad_F_new: Matrices,
    grad_q_new: Vectors,
    F: Matrices,
    q: Vectors,
    theta: Vectors,
    kind: Integers,
    grad_F: Matrices,
    grad_q: Vectors,
    grad_theta: Vectors,
):
    for p in range(F.shape[0]):
        for m in ti.static(range(laws.count)):
            if kind[p] == m:
                a, b, c = laws.items[m].update_vjp(grad_F_new[p], grad_q_new[p], F[p], q[p], theta[p])
                grad_F[p] = a
                grad_q[p] = b
                grad_theta[p] = c


class Update(torch.autograd.Function):
    @staticmethod
    def forward(ctx, laws, F, q, theta, kind):
        F_new, q_new = torch.empty_like(F), torch.empty_like(q)
        launch(update_forward, laws, F, q, theta, kind, F_new, q_new)
        ctx.laws = laws
        ctx.save_for_backward(F, q, theta, kind)
        return F_new, q_new

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_F_new, grad_q_new):
        F, q, theta, kind = ctx.saved_tensors
        grads = torch.empty_like(F), torch.empty_like(q), torch.empty_like(theta)
        launch(update_adjoint, ctx.laws, grad_F_new.contiguous(), grad_q_new.contiguous(), F, q, theta, kind, *grads)
        return None, *grads, None


def update(laws, F_trial, q, theta, kind):
    """Return map (F, q) <- (F_trial, q) per particle."""
    return Update.apply(laws, F_trial.contiguous(), q.contiguous(), theta.contiguous(), kind)


@ti.kernel
def branch_forward(laws: ti.template(), F: Matrices, q: Vectors, theta: Vectors, kind: Integers, taken: Integers):
    for p in range(F.shape[0]):
        for m in ti.static(range(laws.count)):
            if kind[p] == m:
                taken[p] = laws.items[m].branch(F[p], q[p], theta[p])


def branch(laws, F_trial, q, theta, kind):
    """Branch that the return map takes per particle, (n,) int32: 0 elastic, 1 yielding."""
    taken = torch.empty_like(kind)
    launch(branch_forward, laws, F_trial.contiguous(), q.contiguous(), theta.contiguous(), kind, taken)
    return taken
