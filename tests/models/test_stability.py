"""Warnings of an unstable step, at numbers where runs are indeed stable and unstable."""

import warnings

import pytest
import torch

import diffsim as ds
from diffsim.kernels.arrays import context

DX, RHO = 1 / 16, 10.0


def run(elastic, dt, viscous):
    """Root mean square velocity [m/s] after 60 substeps per step of a block that starts with 1 mm/s of noise."""
    material = ds.Material(elastic, viscous=viscous, density=RHO)
    model = ds.models.MPM(ds.Grid((16, 16), DX), [material], dt=dt, substeps=60, walls=ds.Walls("none"))
    side = torch.arange(0.3, 0.7, DX / 2, dtype=context.dtype)
    x = torch.cartesian_prod(side, side)
    noise = 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = model.initial_state(x, v=noise.to(x), volume=(DX / 2) ** 2)
    return model(state).v.square().mean().sqrt().item()


def viscous_material(number, dt=1e-3):
    """A liquid whose viscous number is as given."""
    return ds.materials.Liquid(1e-2, 0.3), dt, ds.materials.Newtonian(0.75 * number * RHO * DX**2 / dt)


def test_a_viscous_step_above_the_bound_warns_and_blows_up():
    with pytest.warns(UserWarning, match=r"material 0: the viscous number is 0\.90"):
        try:
            grown = run(*viscous_material(0.9))
        except ds.errors.SimulationError:
            grown = float("inf")
    assert grown > 1e-2


def test_a_viscous_step_below_the_bound_is_silent_and_stable():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(*viscous_material(0.45)) < 1e-3


def test_a_sound_wave_of_more_than_a_cell_per_step_warns():
    law = ds.materials.NeoHookean(1e3, 0.3)
    speed = (law.modulus().item() / RHO) ** 0.5
    model = ds.models.MPM(ds.Grid((16, 16), DX), [ds.Material(law, density=RHO)], dt=1.2 * DX / speed)
    with pytest.warns(UserWarning, match=r"acoustic Courant number is 1\.20"):
        model.initial_state(torch.full((1, 2), 0.5), volume=1e-3)
