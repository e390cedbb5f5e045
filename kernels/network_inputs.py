"""Inputs and output of a network that turns with the material: invariants of F, and a rotated symmetric answer.

With F = U diag(s) V^T (rotations U, V), R = U V^T and J = det F, in d dimensions,

    inputs   z = (s - 1,  F^T F - I,  J - 1)         (n, d + d^2 + 1), unchanged under F -> Q F
    head     Y = base F + R (X + X^T)/2              X: the network's answer, (n, d^2)

Adjoint: with g = (g_s, G, g_J) the gradient of z, U diag(g_s) V^T + F (G + G^T) + g_J cof F; of the head base Y_bar,
sym(R^T Y_bar) for X, and for F the adjoint of the polar rotation, U N V^T with N_ij = (M_ij - M_ji)/(s_i + s_j),
M = U^T Y_bar sym(X) V. The singular values are sorted: where two are equal, z has a corner, and the derivative is that
of the order in which the decomposition returned them. R and the rest of z are smooth there.
"""

import torch

from diffsim.kernels.arrays import Matrices, Rows, alone, launch
from diffsim.kernels.lang import ti
from diffsim.kernels.particle_step import read_matrix, read_vector, write_matrix, write_vector
from diffsim.kernels.svd import cofactor, svd


@ti.func
def read_factors(factors: ti.template(), p, d: ti.template()):
    """U, s, V of a particle."""
    return read_matrix(factors, p, 0, d), read_vector(factors, p, d * d, d), read_matrix(factors, p, d * d + d, d)


@ti.func
def write_factors(factors: ti.template(), p, U, s, V):
    write_matrix(factors, p, 0, U)
    write_vector(factors, p, U.n * U.n, s)
    write_matrix(factors, p, U.n * U.n + U.n, V)


def factors_like(F):
    """Memory for U, s and V of each particle, (n, 2 d^2 + d)."""
    d = F.shape[-1]
    return F.new_empty(len(F), 2 * d * d + d)


@ti.kernel
def inputs_forward(F: Matrices, factors: Rows, z: Rows, serial: ti.template()):
    ti.loop_config(serialize=serial)
    for p in range(F.shape[0]):
        A = F[p]
        U, s, V = svd(A)
        write_factors(factors, p, U, s, V)
        S = A.transpose() @ A
        for i in ti.static(range(A.n)):
            z[p, i] = s[i] - 1
            S[i, i] -= 1
        write_matrix(z, p, ti.static(A.n), S)
        z[p, ti.static(A.n + A.n * A.n)] = A.determinant() - 1


@ti.kernel
def inputs_adjoint(grad_z: Rows, F: Matrices, factors: Rows, grad_F: Matrices, serial: ti.template()):
    """Adds to grad_F."""
    ti.loop_config(serialize=serial)
    for p in range(F.shape[0]):
        A = F[p]
        U, s, V = read_factors(factors, p, A.n)
        g = read_vector(grad_z, p, 0, A.n)
        G = read_matrix(grad_z, p, ti.static(A.n), A.n)
        W = U
        for i, j in ti.static(ti.ndrange(A.n, A.n)):
            W[i, j] = U[i, j] * g[j]
        grad_F[p] += W @ V.transpose() + A @ (G + G.transpose()) + grad_z[p, ti.static(A.n + A.n * A.n)] * cofactor(A)


@ti.kernel
def head_forward(X: Rows, F: Matrices, factors: Rows, base: float, Y: Matrices, serial: ti.template()):
    ti.loop_config(serialize=serial)
    for p in range(F.shape[0]):
        A = F[p]
        U, s, V = read_factors(factors, p, A.n)
        B = read_matrix(X, p, 0, A.n)
        Y[p] = base * A + 0.5 * U @ (V.transpose() @ (B + B.transpose()))


@ti.kernel
def head_adjoint(
    grad_Y: Matrices, X: Rows, factors: Rows, base: float, grad_X: Rows, grad_F: Matrices, serial: ti.template()
):
    """Writes both."""
    ti.loop_config(serialize=serial)
    for p in range(grad_Y.shape[0]):
        G = grad_Y[p]
        U, s, V = read_factors(factors, p, G.n)
        B = read_matrix(X, p, 0, G.n)
        H = V @ (U.transpose() @ G)
        write_matrix(grad_X, p, 0, 0.5 * (H + H.transpose()))
        M = 0.5 * (U.transpose() @ G) @ (B + B.transpose()) @ V
        N = M
        for i, j in ti.static(ti.ndrange(G.n, G.n)):
            N[i, j] = (M[i, j] - M[j, i]) / (s[i] + s[j])
        grad_F[p] = base * G + U @ N @ V.transpose()


def inputs(F):
    """z (n, d + d^2 + 1) and the factors of F (n, d, d), as plain tensors: see ``invariant_network`` for gradients."""
    d = F.shape[-1]
    z, factors = F.new_empty(len(F), d + d * d + 1), factors_like(F)
    launch(inputs_forward, F, factors, z, alone(F))
    return z, factors


def head(X, F, factors, base: float):
    """Y (n, d, d) from X (n, d^2), as a plain tensor."""
    Y = torch.empty_like(F)
    launch(head_forward, X, F, factors, base, Y, alone(F))
    return Y


def grad_head(grad_Y, X, factors, base: float):
    """Gradients of X (n, d^2) and, through R and base F, of F (n, d, d)."""
    grad_X, grad_F = torch.empty_like(X), torch.empty_like(grad_Y)
    launch(head_adjoint, grad_Y, X, factors, base, grad_X, grad_F, alone(grad_F))
    return grad_X, grad_F


def grad_inputs(grad_z, F, factors, grad_F):
    """Adds the gradient through z to grad_F (n, d, d)."""
    launch(inputs_adjoint, grad_z, F, factors, grad_F, alone(grad_F))
    return grad_F
