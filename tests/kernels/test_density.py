"""Node masses: what they add up to, their adjoint, what is refused."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from diffsim.errors import DataError
from diffsim.kernels.arrays import context
from diffsim.kernels.density import node_mass

CELLS = {2: (6, 9), 3: (5, 6, 7)}
DX = 0.25
ORIGIN = {2: (-0.5, 0.25), 3: (-0.5, 0.25, 1.0)}
ROUNDING = 1e-12 if context.dtype == torch.float64 else 1e-5
f64_only = pytest.mark.skipif(context.dtype != torch.float64, reason="gradients are compared in f64")

CHILD = """
import sys, torch, diffsim
diffsim.init(device="cpu", precision=sys.argv[1], threads=int(sys.argv[2]))
from diffsim.kernels.density import node_mass
generator = torch.Generator().manual_seed(0)
x = (0.2 + 0.6 * torch.rand(4000, 3, generator=generator)).to(diffsim.kernels.arrays.context.dtype)
print(node_mass(x, 0.1, (8, 8, 8), 0.125).numpy().tobytes().hex())
"""


def particles(dim, count=12):
    """Positions spread over all of the grid, and masses."""
    generator = torch.Generator().manual_seed(dim)
    share = torch.rand(count, dim, generator=generator, dtype=torch.float64)
    share[0], share[1] = 0.0, 1 - 1e-6  # the first and the last support of the grid
    x = torch.tensor(ORIGIN[dim]) + DX * (0.5 + share * (torch.tensor(CELLS[dim]) - 1))
    return x.to(context.dtype), (0.5 + torch.rand(count, generator=generator, dtype=torch.float64)).to(context.dtype)


def b_spline(u):
    """The centered quadratic B-spline, from its definition by pieces."""
    u = abs(u)
    return 0.75 - u**2 if u < 0.5 else 0.5 * (1.5 - u) ** 2 if u < 1.5 else 0.0


@pytest.mark.parametrize("dim", [2, 3])
def test_every_node_holds_the_masses_weighted_by_its_spline(dim):
    x, mass = particles(dim)
    density = node_mass(x, mass, CELLS[dim], DX, ORIGIN[dim])
    assert density.shape == tuple(cell + 1 for cell in CELLS[dim])
    points = (x.double() - torch.tensor(ORIGIN[dim], dtype=torch.float64)) / DX
    expected = np.zeros(density.shape)
    for node in itertools.product(*(range(n) for n in density.shape)):
        for p in range(len(x)):
            expected[node] += mass[p].item() * np.prod([b_spline(points[p, a].item() - node[a]) for a in range(dim)])
    np.testing.assert_allclose(density.numpy(), expected, atol=5 * ROUNDING)


@pytest.mark.parametrize("dim", [2, 3])
def test_mass_and_center_of_mass_are_kept(dim):
    x, mass = particles(dim)
    density = node_mass(x, mass, CELLS[dim], DX, ORIGIN[dim]).double()
    nodes = torch.stack(torch.meshgrid(*(torch.arange(n) for n in density.shape), indexing="ij"), -1)
    center = (density[..., None] * (torch.tensor(ORIGIN[dim]) + DX * nodes)).flatten(0, -2).sum(0)
    assert density.sum() == pytest.approx(mass.sum().item(), rel=ROUNDING)
    torch.testing.assert_close(center, (mass[:, None] * x).double().sum(0), rtol=10 * ROUNDING, atol=10 * ROUNDING)


@f64_only
@pytest.mark.parametrize("dim", [2, 3])
def test_the_adjoint_is_the_derivative(dim):
    x, mass = particles(dim)
    x = x[2:]  # not those on the rim, where a difference quotient would leave the grid
    inputs = (x.requires_grad_(), mass[2:].requires_grad_())

    def squared(x, mass):
        return node_mass(x, mass, CELLS[dim], DX, ORIGIN[dim]).square()

    assert torch.autograd.gradcheck(squared, inputs, rtol=1e-6, atol=1e-9)


@pytest.mark.skipif(context.device != "cpu", reason="sums on a GPU are atomic")
def test_the_sum_does_not_depend_on_the_number_of_threads():
    def run(threads):
        command = [sys.executable, "-c", CHILD, context.precision, str(threads)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert run(1) == run(4)


@pytest.mark.parametrize("place", [(-0.01, 0.5), (0.5, 0.99), (0.5, float("nan"))])
def test_a_particle_outside_the_grid_is_refused_by_its_index(place):
    x = torch.full((3, 2), 0.5, dtype=context.dtype)
    x[2] = torch.tensor(place)
    with pytest.raises(DataError, match="particle 2"):
        node_mass(x, 1.0, (8, 8), 0.125)


@pytest.mark.parametrize("x, mass", [((4, 3), 1.0), ((4, 2), (5,)), ((4,), 1.0)])
def test_shapes_that_do_not_fit_are_refused(x, mass):
    mass = torch.ones(mass) if isinstance(mass, tuple) else mass
    with pytest.raises(DataError, match="shape"):
        node_mass(torch.full(x, 0.5, dtype=context.dtype), mass, (8, 8), 0.125)
