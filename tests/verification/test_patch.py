"""`patch-and-rigid-modes` for the transfers: a uniform stress leaves no force on the nodes inside of a block.

After one substep from rest the velocity and the affine velocity of a particle are moments of the nodes' forces around
it, so both vanish for every particle whose nodes lie inside.
"""

import pytest
import torch
from bodies import normal

import diffsim as ds
from diffsim.kernels.arrays import context


@pytest.mark.parametrize("dim", [2, 3])
def test_a_uniform_stress_leaves_no_force_inside_a_regular_block(dim, record):
    """Accept: 1e-11 in f64 and 1e-5 in f32, relative to stress times the area of a cell's face."""
    cells, dx, dt, rho = 10, 0.1, 1e-3, 7.0
    model = ds.models.MPM(
        ds.Grid((cells + 8,) * dim, dx),
        [ds.Material(ds.materials.NeoHookean(1.0, 0.3), density=rho)],
        dt=dt,
        walls=ds.Walls("none"),
    )
    axis = (torch.arange(2 * cells, dtype=context.dtype) + 0.5) * dx / 2 + 4 * dx
    x = torch.cartesian_prod(*(axis,) * dim)
    F = torch.eye(dim, dtype=context.dtype) + 0.2 * normal(dim, dim)
    state = model.initial_state(x, volume=(dx / 2) ** dim, F=F.expand(len(x), dim, dim))
    after = model(state)
    stress = model.materials[0].elastic.stress(state.F[:1])[0] @ F.T
    assert stress.norm() > 0.1
    scale = stress.norm() * dx ** (dim - 1)
    # the nodes of a particle reach 1.5 cells, and their splines as far again
    low, high = 4 * dx, (4 + cells) * dx
    inside = ((x > low + 3.5 * dx) & (x < high - 3.5 * dx)).all(1)
    mass = rho * dx**dim
    force = mass / dt * torch.maximum(after.v[inside].abs().max(), dx * after.C[inside].abs().max()) / scale
    assert inside.sum() >= 16
    limit = 1e-11 if context.dtype == torch.float64 else 1e-5
    if context.dtype == torch.float64:
        how = "two particles per cell and axis, relative to the load"
        record("patch-and-rigid-modes", f"force on inner nodes, {dim}-D", force, 0.0, accept=limit, how=how)
    assert force <= limit
    total = (rho * state.volume[:, None] * after.v).sum(0).abs().max() / dt / scale
    assert total <= limit * len(x)
    assert after.v.abs().max() * mass / dt / scale > 1e-3  # the free faces move
