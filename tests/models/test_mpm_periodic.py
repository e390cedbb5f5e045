"""Periodic boxes: a body that crosses the border moves as one in the open, with the same gradients."""

import pytest
import torch
from bodies import CELLS, DX, block, neo_hookean, tensor

import diffsim as ds
from diffsim.testing import gradcheck

NOWHERE = ds.Walls("none")


def simulated(dim, periodic, cells=None, materials=None, substeps=20, **options):
    grid = ds.Grid(cells or (CELLS,) * dim, DX, periodic=periodic)
    materials = [neo_hookean()] if materials is None else materials
    return ds.models.MPM(grid, materials, dt=1e-3, substeps=substeps, **options)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_body_that_crosses_the_border_moves_as_one_in_the_open(dim):
    opened = simulated(dim, False, walls=NOWHERE, substeps=60)
    repeated = simulated(dim, True, substeps=60)
    v = (3.0, -2.0, 1.0)[:dim]  # three cells per control step, so that it is sorted anew within one
    state = block(opened, 200, v=v, jitter=0.3)
    shift = DX * tensor((6.0, -7.0, 23.0)[:dim])  # across the upper, the lower border and a whole period
    moved = state._replace(x=state.x + shift, X=state.X + shift)
    state, moved = opened(state), repeated(moved)
    torch.testing.assert_close(moved.x - shift, state.x, rtol=0, atol=1e-12)
    torch.testing.assert_close(moved.v, state.v, rtol=0, atol=1e-10)
    torch.testing.assert_close(moved.F, state.F, rtol=0, atol=1e-10)


@pytest.mark.parametrize("cells", [4, 8])
def test_a_full_box_keeps_its_momentum_and_repeats_every_period(cells):
    size = cells * DX
    simulation = simulated(2, (True, True), cells=(cells, cells))
    spots = (torch.arange(2 * cells, dtype=torch.float64) + 0.5) * DX / 2
    x = torch.cartesian_prod(spots, spots)
    phase = 2 * torch.pi * x / size
    v = torch.stack([0.4 + 0.1 * phase[:, 1].sin(), 0.1 * phase[:, 0].cos()], 1)
    state = simulation.initial_state(x, v=v, volume=DX**2 / 4)
    far = state._replace(x=state.x + size * tensor((3.0, -2.0)))
    for _ in range(5):
        state, far = simulation(state), simulation(far)
    assert (state.v - v).abs().max() > 0.01
    torch.testing.assert_close(state.v.sum(0), v.sum(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(far.v, state.v, rtol=0, atol=1e-9)


def test_only_the_other_axis_has_walls():
    simulation = simulated(2, (True, False), gravity=(0.0, -9.8))
    state = block(simulation, 100, low=(0.9, 2.2 * DX), v=(1.0, -1.0))
    for _ in range(5):
        state = simulation(state)
    assert state.x[:, 0].max() > 1.1 and state.x[:, 1].min() > 1.5 * DX


@pytest.mark.parametrize("dim, periodic", [(2, (True, True)), (2, (True, False)), (3, (True, False, True))])
def test_gradients_through_the_border(dim, periodic):
    simulation = simulated(dim, periodic, gravity=(0.0, -9.8, 0.0)[:dim])
    state = block(simulation, 60, low=(0.88, 0.4, -0.1)[:dim], v=(3.0, 0.2, -2.0)[:dim])
    report = gradcheck(simulation, state, steps=2)
    assert report.ok, report


def test_a_periodic_axis_takes_multiples_of_four_cells_and_no_walls():
    with pytest.raises(ds.errors.SceneError, match="18 cells along the periodic axis y; give a multiple of 4"):
        ds.Grid((16, 18), DX, periodic=(False, True))
    with pytest.raises(ds.errors.SceneError, match="periodic="):
        ds.Grid((16, 16), DX, periodic=(True, False, True))
    with pytest.raises(ds.errors.SceneError, match="'x-', but the grid is periodic along x"):
        simulated(2, (True, False), walls=ds.Walls({"x-": "sticky"}))


def test_a_stray_coordinate_is_still_reported():
    simulation = simulated(2, (True, False), walls=NOWHERE)
    state = block(simulation, 30)
    state.x[3, 0] = float("nan")
    with pytest.raises(ds.errors.SimulationError, match="particle 3 .* is not finite"):
        simulation(state)
    state = block(simulation, 30, v=(0.0, 40.0))
    with pytest.raises(ds.errors.SimulationError, match="left the grid"):
        for _ in range(5):
            state = simulation(state)
