"""Positions at the edge of the grid and beyond: they must never reach a kernel that would index with them.

Each runs in a process of its own, since an index out of bounds may end it or spoil it.
"""

import json
import subprocess
import sys

import pytest

START = """
import json, sys
import torch
import diffsim as ds

ds.init(precision=sys.argv[1])
dtype = {"f32": torch.float32, "f64": torch.float64}[sys.argv[1]]
material = ds.Material(ds.materials.NeoHookean(1e3, 0.3), density=10.0)
"""
OUTSIDE = """
model = ds.models.MPM(ds.Grid((16, 16), 1 / 16), [material], dt=1e-3)
state = model.initial_state(torch.full((5, 2), 0.5), volume=1e-3)
found = []
for place in (float("nan"), float("inf"), -5.0, 50.0, 1e30):
    x = state.x.clone()
    x[3, 1] = place
    try:
        model(state._replace(x=x))
    except ds.errors.SimulationError as error:
        found.append([error.particle, str(error)])
print(json.dumps(found))
"""
EDGE = """
worst = 0.0
for origin in (0.0, 0.1, -0.3, 1.7):
    for dx in (0.1, 0.10783102969805598, 0.08511013224301577):
        model = ds.models.MPM(ds.Grid((8, 8), dx, (origin, origin)), [material], dt=1e-3, walls=ds.Walls("none"))
        low, high = (torch.tensor([side, side], dtype=dtype) for side in (origin, origin + 8 * dx))
        low, high = low + 0.5 * dx, high - 0.5 * dx
        x = torch.stack([low, torch.nextafter(low, high), torch.nextafter(high, low), (low + high) / 2])
        x = x[model.inside(x)]
        worst = max(worst, float((model(model.initial_state(x, volume=1e-3)).x - x).abs().max()))
print(json.dumps(worst))
"""


def child(code, precision):
    command = [sys.executable, "-c", START + code, precision]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"code {done.returncode}: {done.stderr[-300:]}"
    return json.loads(done.stdout.splitlines()[-1])


def test_a_state_outside_of_the_grid_is_an_error_before_anything_is_computed():
    """A state need not come from initial_state: an optimizer may have moved it."""
    found = child(OUTSIDE, "f64")
    assert [particle for particle, _ in found] == [3] * 5, found
    assert all("particle 3 " in message for _, message in found)


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_a_particle_at_the_very_edge_of_the_grid_is_inside(precision):
    """Half a cell from the first node its support begins with that node, whatever the rounding."""
    assert child(EDGE, precision) < 1e-5
