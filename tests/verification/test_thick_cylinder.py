"""`thick-cylinder-j2`: pressure in an elastic, perfectly plastic cylinder against the displacement of its outer face.

A quarter in plane strain between two planes of symmetry. The pressure comes from an elastic core that is made to swell
(its deformation gradient is scaled down) slowly and with damping, and then held: in the core the stress in the plane
is uniform, and it is the pressure on the inner face. Lengths in mm, stresses in GPa.
"""

import math

import numpy as np
import pytest
import torch

import diffsim as ds
from diffsim.kernels.arrays import context

if context.dtype != torch.float64:
    pytest.skip("verification in f64", allow_module_level=True)

INNER, OUTER, E, NU, YIELD, RHO = 100.0, 200.0, 210.0, 0.3, 0.24, 1.0
M = E * (1 - NU) / ((1 + NU) * (1 - 2 * NU))
SOUND = math.sqrt(M / RHO)
RAMP, HOLD = 60, 20  # control steps
FRAME = OUTER / SOUND  # in each of them a wave crosses the cylinder once


def quarter(cells):
    """Model and state with ``cells`` cells over the thickness of the wall; material 0 is the cylinder, 1 the core."""
    dx, relaxation = INNER / cells, 20 / SOUND
    damping = ds.materials.KelvinVoigt.from_relaxation_time(relaxation, E, NU)
    elastic = ds.materials.Hencky(E, NU)
    metal = ds.Material(elastic, ds.materials.VonMises(E, NU, YIELD), viscous=damping, density=RHO)
    core = ds.Material(elastic, viscous=damping, density=RHO)
    substeps = math.ceil(FRAME / min(0.5 * dx / SOUND, 0.35 * dx**2 / (M * relaxation / RHO)))
    model = ds.models.MPM(
        ds.Grid((2 * cells + 6,) * 2, dx, (-2 * dx,) * 2),
        [metal, core],
        dt=FRAME / substeps,
        substeps=substeps,
        walls=ds.Walls({"x+": "none", "y+": "none"}),
    )
    axis = (torch.arange(4 * cells).double() + 0.5) * dx / 2
    X = torch.cartesian_prod(axis, axis)
    X = X[X.norm(dim=1) < OUTER]
    return model, model.initial_state(X, volume=dx * dx / 4, material=(X.norm(dim=1) < INNER).long())


def swell(cells, stretch):
    """Pressure in the core and radial displacement of the outer face, at rest after the core swelled by a stretch."""
    model, state = quarter(cells)
    core, radius = state.material == 1, state.X.norm(dim=1)
    for k in range(RAMP + HOLD):
        if k < RAMP:
            share = (math.cos(math.pi * k / RAMP) - math.cos(math.pi * (k + 1) / RAMP)) / 2
            smaller = torch.where(core, math.exp(-stretch * share), 1.0)
            state = state._replace(F=state.F * smaller[:, None, None])
        with torch.no_grad():
            state = model(state)
    deep = radius < 0.7 * INNER
    F, e = state.F[deep], state.q[deep, :1]
    sigma = model.materials[1].elastic.stress(F, e) @ F.mT / (torch.linalg.det(F) * e[:, 0])[:, None, None]
    pressure = -sigma.diagonal(dim1=1, dim2=2).mean().item()
    outward = ((state.x - state.X) * state.X).sum(1) / radius
    rim = radius > OUTER - 3 * model.grid.dx
    line = torch.stack([torch.ones_like(radius), radius - OUTER], 1)[rim]
    return pressure, torch.linalg.lstsq(line, outward[rim, None]).solution[0].item()


@pytest.mark.slow
def test_a_thick_cylinder_yields_at_the_pressure_of_hill(tables, record):
    rows = np.array([row for row in tables["thick_cylinder_j2"]["rows"] if row[3] is not None])
    for stretch in (0.0015, 0.0026):
        deviations = []
        for cells in (8, 16):
            pressure, outward = swell(cells, stretch)
            assert rows[0, 2] < outward < rows[-1, 2]
            exact = np.interp(outward, rows[:, 2], rows[:, 3])  # true J2
            deviations.append(abs(pressure / exact - 1))
        how = "16 cells over the wall, swelling core, at rest, APIC"
        order = math.log2(deviations[0] / deviations[1])
        measure = f"P [GPa] at u_b = {outward:.4f} mm"
        assert record("thick-cylinder-j2", measure, pressure, exact, accept=0.03, order=order, how=how).met
