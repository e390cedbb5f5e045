"""Node masses: a plain scatter of particle masses on a regular grid.

    m_i = sum_p w_i(x_p) m_p,      w_i the quadratic B-spline of node i (bspline.py)

Source: Huang et al., PlasticineLab (ICLR 2021), arXiv:2104.03311, the density of its shape matching losses. Its grid
has 64^3 nodes, 0 .. 63, in the unit box; here a grid of N cells has N + 1 nodes per axis like the engine's own. The
last plane stays empty wherever walls keep the particles inside, so that sums are the same.

Adjoint, for node adjoints g_i:  grad_m_p = sum_i w_i g_i,   grad_x_p = m_p sum_i dw_i/dx g_i.
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.errors import DataError
from diffsim.kernels.arrays import Integers, Scalars, Vectors, context, launch
from diffsim.kernels.bspline import slopes, support, weights
from diffsim.kernels.lang import ti


@ti.func
def first_node(base, nodes: ti.template()):
    """Index of the first node of the support in the flat array."""
    index = 0
    for a in ti.static(range(base.n)):
        index = index * nodes[a] + base[a]
    return index


@ti.kernel
def density_forward(x: Vectors, mass: Scalars, nodes: Integers, density: Scalars, inv_dx: float, atomic: ti.template()):
    # on the CPU one thread: the sum is then the same for any number of them, and 10,000 particles take a millisecond
    ti.loop_config(serialize=not atomic)
    for p in range(x.shape[0]):
        base, f = support(x[p] * inv_dx)
        w = weights(f)
        first = first_node(base, nodes)
        for offset in ti.static(ti.grouped(ti.ndrange(*(3,) * f.n))):
            weight = mass[p]
            step = 0
            for a in ti.static(range(f.n)):
                weight *= w[offset[a], a]
                step = step * nodes[a] + offset[a]
            if ti.static(atomic):
                ti.atomic_add(density[first + step], weight)
            else:
                density[first + step] = density[first + step] + weight


@ti.kernel
def density_adjoint(
    x: Vectors,
    mass: Scalars,
    nodes: Integers,
    grad_density: Scalars,
    inv_dx: float,
    grad_x: Vectors,
    grad_mass: Scalars,
):
    for p in range(x.shape[0]):
        base, f = support(x[p] * inv_dx)
        w, s = weights(f), slopes(f)
        first = first_node(base, nodes)
        total = 0.0
        slope = f * 0.0
        for offset in ti.static(ti.grouped(ti.ndrange(*(3,) * f.n))):
            step = 0
            for a in ti.static(range(f.n)):
                step = step * nodes[a] + offset[a]
            g = grad_density[first + step]
            weight = g
            for a in ti.static(range(f.n)):
                weight *= w[offset[a], a]
                along = g * s[offset[a], a]
                for b in ti.static(range(f.n)):
                    if ti.static(b != a):
                        along *= w[offset[b], b]
                slope[a] += along
            total += weight
        grad_mass[p] = total
        grad_x[p] = (mass[p] * inv_dx) * slope


class Density(torch.autograd.Function):
    """(x relative to node 0, mass) -> flat node masses."""

    @staticmethod
    def forward(ctx, x, mass, nodes, inv_dx):
        density = x.new_zeros(int(nodes.prod()))
        launch(density_forward, x, mass, nodes, density, inv_dx, context.device != "cpu")
        ctx.save_for_backward(x, mass, nodes)
        ctx.inv_dx = inv_dx
        return density

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_density):
        x, mass, nodes = ctx.saved_tensors
        grad_x, grad_mass = torch.empty_like(x), torch.empty_like(mass)
        launch(density_adjoint, x, mass, nodes, grad_density.contiguous(), ctx.inv_dx, grad_x, grad_mass)
        return grad_x, grad_mass, None, None


def node_mass(x, mass, cells, dx, origin=None):
    """Masses of the nodes of a grid, differentiable in positions and masses.

    Args:
        x: positions (n, d) [m].
        mass: a number or (n,) [kg].
        cells: of the grid per axis.
        dx: cell size [m].
        origin: position of node 0 [m]; the coordinate origin when None.

    Returns:
        (cells[0] + 1, ...) [kg]; their sum is the mass of the particles.

    Raises:
        DataError: a particle whose support is not inside the grid, or shapes that do not fit.
    """
    if x.ndim != 2 or x.shape[1] != len(cells):
        raise DataError(f"node_mass: x has shape {tuple(x.shape)}; a grid of {len(cells)} axes needs (n, {len(cells)})")
    if origin is not None:
        x = x - x.new_tensor(origin)
    mass = torch.as_tensor(mass, dtype=x.dtype, device=x.device)
    if mass.shape not in ((), (len(x),)):
        raise DataError(f"node_mass: mass has shape {tuple(mass.shape)}; give a number or ({len(x)},)")
    node = x.detach() * (1.0 / dx)  # as the kernel computes it, so that rounding cannot let a point slip through
    inside = ((node >= 0.5) & (node < x.new_tensor(cells) - 0.5)).all(1)
    if not inside.all():
        p = int((~inside).nonzero()[0])
        where = tuple(round(value, 6) for value in x[p].tolist())
        raise DataError(
            f"node_mass: particle {p}, {where} from node 0, is not half a cell inside the grid ({int((~inside).sum())} "
            "are not): enlarge the grid or move the particles"
        )
    nodes = torch.tensor([cell + 1 for cell in cells], dtype=torch.int32, device=x.device)
    density = Density.apply(x.contiguous(), mass.expand(len(x)).contiguous(), nodes, 1.0 / dx)
    return density.reshape([cell + 1 for cell in cells])
