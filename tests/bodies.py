"""Small bodies and models that the tests of MPM share."""

import torch
from torch import nn

import diffsim as ds
from diffsim.kernels.arrays import context

CELLS = 16
DX = 1 / CELLS


def tensor(*numbers):
    return torch.tensor(numbers[0] if len(numbers) == 1 else numbers, dtype=context.dtype)


def parameter(number):
    return nn.Parameter(tensor(number))


def uniform(*shape, seed=0, low=0.0, high=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)).to(context.dtype)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(context.dtype)


def neo_hookean(E=1e3, nu=0.3, density=10.0):
    return ds.Material(ds.materials.NeoHookean(parameter(E), parameter(nu)), density=parameter(density))


def model(materials=None, dim=2, *, dt=1e-3, substeps=5, gravity=0.0, **options):
    """A box of 16 cells of 1/16 m per axis, gravity [m/s^2] downward."""
    down = torch.zeros(dim, dtype=context.dtype)
    down[1] = -gravity
    grid = ds.Grid((CELLS,) * dim, DX)
    materials = [neo_hookean()] if materials is None else materials
    return ds.models.MPM(grid, materials, dt=dt, substeps=substeps, gravity=down, **options)


def block(simulation, count=40, *, low=None, size=0.2, v=None, jitter=0.1, strain=0.02, material=0, seed=0):
    """Particles at random in a cube of ``size`` [m] from ``low``: random C and F, and velocity v + jitter [m/s]."""
    dim = simulation.grid.dim
    low = (0.4,) * dim if low is None else low
    x = tensor(low) + size * uniform(count, dim, seed=seed)
    v = tensor((0.0,) * dim if v is None else v) + jitter * normal(count, dim, seed=seed + 1)
    F = torch.eye(dim, dtype=context.dtype) + strain * normal(count, dim, dim, seed=seed + 2)
    C = jitter / DX * 0.3 * normal(count, dim, dim, seed=seed + 3)
    volume = size**dim / count * uniform(count, seed=seed + 4, low=0.8, high=1.2)
    return simulation.initial_state(x, v=v, volume=volume, F=F, C=C, material=material)
