"""Elastic energy of finite elements: energy, nodal force, its adjoint, and the exact Hessian by elements.

At a quadrature point p of rest weight w (volume, area, or area times thickness), with the gradients G_a (k, D) of its
element's k shape functions in the rest coordinates,

    F = sum_a x_a (x) G_a,    Psi = sum_p w psi(F),    f_a = dPsi/dx_a = sum_p w P(F) G_a,

where x has d coordinates and the rest state D: d = D for solids, d = 3 and D = 2 for membranes. The law is one of
``diffsim.materials.composite``, with its theta and its internal variables q per point.

Adjoint of the force, for a nodal gradient b: with B = sum_a b_a (x) G_a, the derivative of F along b,

    grad_F = stress_vjp(w B),  grad_x_a = grad_F G_a,  grad_w = <P, B>,  grad_G_a = w P^T b_a + grad_F^T x_a.

Hessian: dP/dF from ``stress_vjp`` of every unit direction; it is symmetric, being a second derivative of psi.

Source: the weak form in rest coordinates, as in Sifakis and Barbic, FEM simulation of 3D deformable solids, SIGGRAPH
course (2012); here with any number of nodes.
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.kernels.arrays import IntegerRows, Integers, Matrices, Rows, Scalars, VectorRows, Vectors, launch
from diffsim.kernels.lang import ti
from diffsim.kernels.svd import inner


@ti.func
def gradient(values: ti.template(), nodes: ti.template(), G: ti.template(), p):
    """sum_a values_a (x) G_a over the nodes of point p."""
    F = values[nodes[p, 0]].outer_product(G[p, 0])
    for a in range(1, nodes.shape[1]):
        F += values[nodes[p, a]].outer_product(G[p, a])
    return F


@ti.func
def volume_ratio(F):
    """det F of a solid; the square of the ratio of areas of a membrane."""
    if ti.static(F.n == F.m):
        return F.determinant()
    else:
        return (F.transpose() @ F).determinant()


@ti.kernel
def energy_forward(
    laws: ti.template(),
    x: Vectors,
    nodes: IntegerRows,
    G: VectorRows,
    w: Scalars,
    q: Vectors,
    theta: Vectors,
    energy: Scalars,
    ratio: Scalars,
):
    for p in range(w.shape[0]):
        F = gradient(x, nodes, G, p)
        ratio[p] = volume_ratio(F)
        energy[p] = w[p] * laws.items[0].energy(F, q[p], theta[p])


@ti.kernel
def force_forward(
    laws: ti.template(),
    x: Vectors,
    nodes: IntegerRows,
    G: VectorRows,
    w: Scalars,
    q: Vectors,
    theta: Vectors,
    corners: Vectors,
    starts: Integers,
    slots: Integers,
    force: Vectors,
):
    for p in range(w.shape[0]):
        F = gradient(x, nodes, G, p)
        L = ti.Matrix.zero(float, F.n, F.n)
        P = laws.items[0].stress(F, q[p], L, theta[p])
        for a in range(nodes.shape[1]):
            corners[p * nodes.shape[1] + a] = w[p] * (P @ G[p, a])
    for i in range(force.shape[0]):
        total = x[i] * 0
        for j in range(starts[i], starts[i + 1]):
            total += corners[slots[j]]
        force[i] = total


@ti.kernel
def force_adjoint(
    laws: ti.template(),
    grad_force: Vectors,
    x: Vectors,
    nodes: IntegerRows,
    G: VectorRows,
    w: Scalars,
    q: Vectors,
    theta: Vectors,
    corners: Vectors,
    starts: Integers,
    slots: Integers,
    grad_x: Vectors,
    grad_G: VectorRows,
    grad_w: Scalars,
    grad_q: Vectors,
    grad_theta: Vectors,
):
    for p in range(w.shape[0]):
        F = gradient(x, nodes, G, p)
        B = gradient(grad_force, nodes, G, p)
        L = ti.Matrix.zero(float, F.n, F.n)
        P = laws.items[0].stress(F, q[p], L, theta[p])
        grad_F, own_q, grad_L, own_theta = laws.items[0].stress_vjp(w[p] * B, F, q[p], L, theta[p])
        grad_w[p] = inner(P, B)
        grad_q[p] = own_q
        grad_theta[p] = own_theta
        for a in range(nodes.shape[1]):
            grad_G[p, a] = w[p] * (P.transpose() @ grad_force[nodes[p, a]]) + grad_F.transpose() @ x[nodes[p, a]]
            corners[p * nodes.shape[1] + a] = grad_F @ G[p, a]
    for i in range(grad_x.shape[0]):
        total = x[i] * 0
        for j in range(starts[i], starts[i + 1]):
            total += corners[slots[j]]
        grad_x[i] = total


@ti.kernel
def tangent_forward(
    laws: ti.template(), x: Vectors, nodes: IntegerRows, G: VectorRows, q: Vectors, theta: Vectors, A: Matrices
):
    # one unit direction of F per iteration: the code of stress_vjp then stands once
    for r in range(A.shape[0] * x[0].n * G[0, 0].n):
        size = ti.static(x[0].n * G[0, 0].n)
        p, c = r // size, r % size
        F = gradient(x, nodes, G, p)
        L = ti.Matrix.zero(float, F.n, F.n)
        E = F * 0
        for i, j in ti.static(ti.ndrange(F.n, F.m)):
            E[i, j] = ti.select(c == i * F.m + j, 1.0, 0.0)
        row, grad_q, grad_L, grad_theta = laws.items[0].stress_vjp(E, F, q[p], L, theta[p])
        for i, j in ti.static(ti.ndrange(F.n, F.m)):
            A[p][c, i * F.m + j] = row[i, j]


@ti.kernel
def blocks_forward(A: Rows, G: VectorRows, w: Scalars, dim: int, blocks: Rows):
    """K_(ai)(bl) = w sum_jm G_aj A_(ij)(lm) G_bm."""
    for r in range(w.shape[0] * G.shape[1]):
        D = ti.static(G[0, 0].n)
        count = G.shape[1]
        p, a = r // count, r % count
        g = w[p] * G[p, a]
        for i in range(dim):
            for b in range(count):
                for l in range(dim):
                    total = 0.0
                    for j, m in ti.static(ti.ndrange(D, D)):
                        total += g[j] * A[p, ((i * D + j) * dim + l) * D + m] * G[p, b][m]
                    blocks[p, ((a * dim + i) * count + b) * dim + l] = total


class Force(torch.autograd.Function):
    """(x, G, w, q, theta) -> nodal dPsi/dx."""

    @staticmethod
    def forward(ctx, topology, laws, x, G, w, q, theta):
        force = torch.empty_like(x)
        corners = x.new_empty(topology.nodes.numel(), x.shape[1])
        tables = (topology.starts, topology.slots)
        launch(force_forward, laws, x, topology.nodes, G, w, q, theta, corners, *tables, force)
        ctx.topology, ctx.laws = topology, laws
        ctx.save_for_backward(x, G, w, q, theta)
        return force

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_force):
        x, G, w, q, theta = ctx.saved_tensors
        topology = ctx.topology
        grads = [torch.empty_like(value) for value in (x, G, w, q, theta)]
        corners = x.new_empty(topology.nodes.numel(), x.shape[1])
        launch(force_adjoint, ctx.laws, grad_force.contiguous(), x, topology.nodes, G, w, q, theta, corners,
               topology.starts, topology.slots, *grads)  # fmt: skip
        return None, None, *grads


class Topology:
    """Nodes of the quadrature points (m, k), and for every node where its points' corners stand, in a fixed order."""

    def __init__(self, nodes: torch.Tensor, node_count: int):
        self.nodes = nodes.to(torch.int32).contiguous()
        flat = self.nodes.reshape(-1).long()
        self.slots = torch.argsort(flat, stable=True).to(torch.int32)
        counts = torch.bincount(flat, minlength=node_count)
        self.starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)


def energy(topology, laws, x, G, w, q, theta):
    """Energy w psi of every point (m,) [J], and its volume ratio det F (m,); not differentiable."""
    psi, ratio = torch.empty_like(w), torch.empty_like(w)
    launch(energy_forward, laws, x, topology.nodes, G, w, q, theta, psi, ratio)
    return psi, ratio


def force(topology, laws, x, G, w, q, theta):
    """dPsi/dx (n, d) [N], differentiable in x, G (m, k, D), w (m,), q and theta.

    Args:
        topology: nodes of the points.
        laws: of one item, ``composite.combine``.
    """
    return Force.apply(topology, laws, x.contiguous(), G.contiguous(), w.contiguous(), q, theta.contiguous())


def stiffness(topology, laws, x, G, w, q, theta, project=False):
    """Hessian of every point's energy, (m, k d, k d) [N/m].

    Args:
        project: clamp the negative eigenvalues of dP/dF, for a Newton direction.
    """
    m, k, D = G.shape
    d = x.shape[1]
    A = x.new_empty(m, d * D, d * D)
    launch(tangent_forward, laws, x, topology.nodes, G, q, theta, A)
    if project:
        A = positive_part(A)
    blocks = x.new_empty(m, (k * d) ** 2)
    launch(blocks_forward, A.reshape(m, -1), G, w, d, blocks)
    return blocks.reshape(m, k * d, k * d)


def positive_part(A):
    """Symmetric matrices (m, n, n) with their negative eigenvalues set to zero; those without any stay as they are."""
    scale = A.diagonal(dim1=1, dim2=2).abs().sum(1)
    shifted = A + (1e-10 * scale + torch.finfo(A.dtype).tiny)[:, None, None] * torch.eye(A.shape[1], dtype=A.dtype)
    bad = torch.linalg.cholesky_ex(shifted).info.nonzero().flatten()
    if len(bad):
        values, vectors = torch.linalg.eigh(A[bad])
        A = A.index_copy(0, bad, (vectors * values.clamp_min(0)[:, None]) @ vectors.transpose(1, 2))
    return A
