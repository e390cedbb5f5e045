"""Transfers: scatter and gather are moments of the weights, and each adjoint is the transpose of its forward."""

import pytest
import torch

from diffsim.kernels import transfer
from diffsim.kernels.arrays import Rows, Vectors, context, launch
from diffsim.kernels.bspline import slope, slopes, support, weight, weights
from diffsim.kernels.lang import ti
from diffsim.kernels.tiles import NODES

EXACT = context.dtype == torch.float64
TOLERANCE = 1e-12 if EXACT else 1e-4
needs_f64 = pytest.mark.skipif(not EXACT, reason="differences to 1e-6 need f64")
DX = 0.3
COUNT = 20


@ti.func
def place(x, dim: ti.template()):
    """Index of the first node and fraction, for a single tile whose node 0 is the origin."""
    base, f = support(x)
    return transfer.local_node(0, base), f


@ti.func
def matrix(rows: ti.template(), p, dim: ti.template()):
    return ti.Matrix([[rows[p, dim * a + b] for b in range(dim)] for a in range(dim)])


@ti.kernel
def scatter_forward(x: Vectors, momentum: Vectors, affine: Rows, mass: Rows, nodes: Vectors, dx: float):
    ti.loop_config(serialize=True)
    for p in x:
        first, f = place(x[p], x[p].n)
        transfer.scatter(nodes, first, f, momentum[p], matrix(affine, p, x[p].n), mass[p, 0], dx, False)


@ti.kernel
def scatter_backward(
    grad: Vectors, x: Vectors, momentum: Vectors, affine: Rows, mass: Rows,
    grad_momentum: Vectors, grad_affine: Rows, grad_mass: Rows, grad_x: Vectors, sums: Vectors, dx: float,
):  # fmt: skip
    for p in x:
        first, f = place(x[p], x[p].n)
        a, b, c, e = transfer.scatter_adjoint(
            grad, first, f, momentum[p], matrix(affine, p, x[p].n), mass[p, 0], dx, sums, p
        )
        grad_momentum[p], grad_mass[p, 0], grad_x[p] = a, c, e
        for i, j in ti.static(ti.ndrange(x[p].n, x[p].n)):
            grad_affine[p, x[p].n * i + j] = b[i, j]


@ti.kernel
def gather_forward(x: Vectors, nodes: Vectors, v: Vectors, C: Rows, sums: Vectors, dx: float):
    for p in x:
        first, f = place(x[p], x[p].n)
        a, b = transfer.gather(nodes, first, f, dx, sums, p)
        v[p] = a
        for i, j in ti.static(ti.ndrange(x[p].n, x[p].n)):
            C[p, x[p].n * i + j] = b[i, j]


@ti.kernel
def gather_backward(
    grad_v: Vectors, grad_C: Rows, x: Vectors, nodes: Vectors, v: Vectors,
    grad_nodes: Vectors, grad_x: Vectors, sums: Vectors, dx: float,
):  # fmt: skip
    ti.loop_config(serialize=True)
    for p in x:
        first, f = place(x[p], x[p].n)
        grad_x[p] = transfer.gather_adjoint(
            nodes, grad_nodes, first, f, grad_v[p], matrix(grad_C, p, x[p].n), v[p], dx, sums, p, False
        )


@ti.kernel
def spline(x: Rows, out: Rows):
    """Weights and slopes, both ways of computing them, at fractions x."""
    for p in range(x.shape[0]):
        base, f = support(ti.Vector([x[p, 0]]))
        w, s = weights(f), slopes(f)
        for a in ti.static(range(3)):
            out[p, a], out[p, 3 + a] = w[a, 0], s[a, 0]
        for a in range(3):
            out[p, 6 + a], out[p, 9 + a] = weight(a, f[0]), slope(a, f[0])
        out[p, 12], out[p, 13] = f[0], ti.cast(base[0], float)


def normal(seed, *shape):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(context.dtype)


def positions(dim):
    """In grid coordinates, with supports anywhere in a tile."""
    u = torch.rand(COUNT, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (0.5 + u * (NODES - 2)).to(context.dtype)


def particles(dim):
    return normal(1, COUNT, dim), normal(2, COUNT, dim * dim), normal(3, COUNT, 1).abs()


def scratch(x):
    return torch.zeros(transfer.SUMS * COUNT, x.shape[1] + 1, dtype=context.dtype)


def scatter(x, momentum, affine, mass):
    nodes = torch.zeros(NODES ** x.shape[1], x.shape[1] + 1, dtype=context.dtype)
    launch(scatter_forward, x, momentum, affine, mass, nodes, DX)
    return nodes


def gather(x, nodes):
    v, C = torch.zeros_like(x), torch.zeros(COUNT, x.shape[1] ** 2, dtype=context.dtype)
    launch(gather_forward, x, nodes, v, C, scratch(x), DX)
    return v, C


def scatter_adjoint(grad, x, momentum, affine, mass):
    grads = [torch.zeros_like(part) for part in (momentum, affine, mass, x)]
    launch(scatter_backward, grad, x, momentum, affine, mass, *grads, scratch(x), DX)
    return grads


def gather_adjoint(grad_v, grad_C, x, nodes):
    grad_nodes, grad_x = torch.zeros_like(nodes), torch.zeros_like(x)
    launch(gather_backward, grad_v, grad_C, x, nodes, gather(x, nodes)[0], grad_nodes, grad_x, scratch(x), DX)
    return grad_nodes, grad_x


def dot(a, b):
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


def node_positions(dim):
    axes = [torch.arange(NODES, dtype=context.dtype)] * dim
    return DX * torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_adjoint_of_scatter_is_its_transpose(dim):
    x, parts = positions(dim), particles(dim)
    g = normal(4, NODES**dim, dim + 1)
    left, right = dot([scatter(x, *parts)], [g]), dot(parts, scatter_adjoint(g, x, *parts)[:3])
    assert left == pytest.approx(right, rel=TOLERANCE)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_adjoint_of_gather_is_its_transpose(dim):
    x, nodes = positions(dim), normal(4, NODES**dim, dim + 1)
    grad_v, grad_C = normal(5, COUNT, dim), normal(6, COUNT, dim * dim)
    grad_nodes, _ = gather_adjoint(grad_v, grad_C, x, nodes)
    assert dot(gather(x, nodes), (grad_v, grad_C)) == pytest.approx(dot([nodes], [grad_nodes]), rel=TOLERANCE)
    assert not grad_nodes[:, dim].any()  # the mass of a node is not gathered


@pytest.mark.parametrize("dim", [2, 3])
def test_scatter_and_gather_are_transposes_of_each_other(dim):
    """<scatter(m, A), u> = sum m . v + dx^2 / 4 A : C for (v, C) = gather(u)."""
    x, (momentum, affine, mass) = positions(dim), particles(dim)
    u = normal(4, NODES**dim, dim + 1)
    v, C = gather(x, u)
    left = dot([scatter(x, momentum, affine, mass)[:, :dim]], [u[:, :dim]])
    assert left == pytest.approx(dot((momentum, affine), (v, DX * DX / 4 * C)), rel=TOLERANCE)


@needs_f64
@pytest.mark.parametrize("dim", [2, 3])
def test_the_gradients_by_position_equal_differences(dim):
    x, parts = positions(dim), particles(dim)
    x = x.round() + 0.9 * (x - x.round()).clamp(-0.49, 0.49)  # no support may change
    nodes, h = normal(4, NODES**dim, dim + 1), 1e-6
    grad_v, grad_C = normal(5, COUNT, dim), normal(6, COUNT, dim * dim)
    by_scatter, by_gather = scatter_adjoint(nodes, x, *parts)[3], gather_adjoint(grad_v, grad_C, x, nodes)[1]
    for axis in range(dim):
        change = torch.zeros_like(x)
        change[:, axis] = h
        for p in (0, COUNT // 2, COUNT - 1):
            only = torch.zeros_like(x)
            only[p] = change[p]
            moved = [dot([scatter(x + s * only, *parts)], [nodes]) for s in (1, -1)]
            assert by_scatter[p, axis].item() == pytest.approx((moved[0] - moved[1]) / (2 * h * DX), rel=1e-6, abs=1e-7)
            moved = [dot(gather(x + s * only, nodes), (grad_v, grad_C)) for s in (1, -1)]
            assert by_gather[p, axis].item() == pytest.approx((moved[0] - moved[1]) / (2 * h * DX), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_scatter_keeps_mass_momentum_and_angular_momentum(dim):
    x, (momentum, affine, mass) = positions(dim), particles(dim)
    nodes, r = scatter(x, momentum, affine, mass), node_positions(dim)
    assert torch.allclose(nodes[:, dim].sum(), mass.sum(), rtol=TOLERANCE)
    assert torch.allclose(nodes[:, :dim].sum(0), momentum.sum(0), rtol=TOLERANCE, atol=TOLERANCE * 10)
    A = affine.reshape(-1, dim, dim)
    angular = DX * torch.einsum("pa,pb->ab", x, momentum) + DX * DX / 4 * A.sum(0).T
    total = torch.einsum("ia,ib->ab", r, nodes[:, :dim])
    assert torch.allclose(total, angular, rtol=TOLERANCE, atol=TOLERANCE * 10)


@pytest.mark.parametrize("dim", [2, 3])
def test_gather_is_exact_for_an_affine_velocity(dim):
    x, r = positions(dim), node_positions(dim)
    A, b = normal(7, dim, dim), normal(8, dim)
    v, C = gather(x, torch.cat([r @ A.T + b, r[:, :1]], 1).contiguous())
    assert torch.allclose(v, DX * x @ A.T + b, rtol=TOLERANCE, atol=TOLERANCE * 10)
    assert torch.allclose(C, A.reshape(1, -1).expand_as(C), rtol=TOLERANCE, atol=TOLERANCE * 100)


def test_the_weights_are_a_partition_of_unity_and_both_forms_agree():
    x = torch.linspace(0.5, 6.49, 200, dtype=torch.float64).to(context.dtype)[:, None].contiguous()
    out = torch.zeros(200, 14, dtype=context.dtype)
    launch(spline, x, out)
    w, s, f, base = out[:, :3], out[:, 3:6], out[:, 12], out[:, 13]
    tolerance = 1e-14 if EXACT else 1e-5
    assert torch.allclose(w.sum(1), torch.ones_like(f), atol=tolerance)
    assert torch.allclose(s.sum(1), torch.zeros_like(f), atol=10 * tolerance)
    assert torch.allclose(w @ torch.arange(3).to(w), f, atol=tolerance * 10)
    assert torch.equal(out[:, 6:9], w) and torch.allclose(out[:, 9:12], s, atol=tolerance)
    assert torch.allclose(base + f, x[:, 0], atol=tolerance * 10) and f.min() >= 0.5 and f.max() < 1.5
