"""A hundred sheets dropped and folded at random, with self-contact: free of intersections, bounded in energy."""

import ipctk
import numpy as np
import pytest
import torch
import trimesh

import diffsim as ds
from diffsim.geometry.surface import sheet
from diffsim.kernels.arrays import context

if context.dtype != torch.float64 or context.device != "cpu":
    pytest.skip("shells are in f64 on the CPU", allow_module_level=True)


def turned(points, angle, axis):
    c, s = np.cos(angle), np.sin(angle)
    i, j = [k for k in range(3) if k != axis]
    out = points.copy()
    out[:, i], out[:, j] = c * points[:, i] - s * points[:, j], s * points[:, i] + c * points[:, j]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_a_sheet_dropped_or_folded_at_random(seed):
    """Even seeds fall on a ball; odd ones, plastic, are clapped together by the speeds of their halves."""
    rng = np.random.default_rng(seed)
    cells, side, folds = 6, 0.2, seed % 2 == 1
    V, F = sheet((cells, cells), (side, side), (-side / 2, -side / 2, 0.0), pattern="alternating")
    v = np.zeros_like(V)
    if folds:
        axis = rng.uniform(0, np.pi)
        away = V[:, 0] * np.cos(axis) + V[:, 1] * np.sin(axis) - rng.uniform(-0.03, 0.03)
        v[:, 2] = rng.uniform(20, 60) * np.abs(away)
    V = turned(turned(V, rng.uniform(-1, 1), 0), rng.uniform(0, 2 * np.pi), 2)
    v = turned(v, 0.0, 2) + [*rng.uniform(-0.5, 0.5, 2), -2.0 * (not folds)]
    V = V + [*rng.uniform(-0.04, 0.04, 2), 0.17]
    contact = ds.models.Contact(3e-3, 1e4, friction=0.3 * (seed % 4 > 1),
                                obstacles=[trimesh.creation.icosphere(1, 0.06)])  # fmt: skip
    model = ds.models.Shell(
        (V, F), E=3e5, nu=0.3, thickness=1e-3, density=300.0, dt=1e-2, gravity=(0, 0, -9.8), contact=contact,
        creases=ds.models.Creases(5.0, hardening=1e-6) if folds else None,
    )  # fmt: skip
    state = model.initial_state(v=torch.from_numpy(v))
    mass, _ = model.nodal(model.X)

    def total(s):
        return sum(model.energy(s).values()) + 9.8 * float((mass * s.x[:, 2]).sum())

    before = first = total(state)
    with torch.no_grad():
        for _ in range(40):
            state = model(state)
            corners = contact.vertices(state.x, contact.obstacles_at(float(state.time), state.x))
            assert not ipctk.has_intersections(contact._collision_mesh(state.X), corners)
            after = total(state)
            assert after <= (first if folds else before) + 1e-6 * abs(first)
            before = after
    assert torch.isfinite(state.x).all()
