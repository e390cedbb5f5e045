"""`self-weight-column` and `grad-plastic-bar` (b): columns of a solid and of a liquid at rest under their own weight.

Between smooth walls the strain is uniaxial. Stresses are means over the particles of a layer one cell high: within a
cell MPM leaves a part of the stress undetermined, since the grid does not see it.
"""

import math

import pytest
import torch
from bodies import parameter

import diffsim as ds
from diffsim.kernels.arrays import context

if context.dtype != torch.float64:
    pytest.skip("verification in f64", allow_module_level=True)

G, RHO = 9.81, 1000.0
HOW = "APIC, smooth walls of the box, damped"


def column(material, cells, sound, viscosity, *, gravity=G, hanging=False):
    """Column 1 m high and four cells wide on the floor, or hanging from the ceiling, in control steps of 20 ms."""
    dx = 1 / cells
    substeps = math.ceil(0.02 / min(0.4 * dx / sound, 0.35 * dx**2 / viscosity))
    model = ds.models.MPM(
        ds.Grid((8, cells + 6), dx, (-2 * dx, -(4 if hanging else 2) * dx)),
        [material],
        dt=0.02 / substeps,
        substeps=substeps,
        gravity=(0.0, -gravity),
        walls=ds.Walls({"y-": "none"} if hanging else {"y+": "none"}),
    )
    s = dx / 2
    X = torch.cartesian_prod((torch.arange(8) + 0.5) * s, (torch.arange(2 * cells) + 0.5) * s).double()
    return model, model.initial_state(X, volume=s * s)


def settle(model, state, seconds):
    """The states after some seconds, and after two more."""
    with torch.no_grad():
        path = ds.rollout(model, state, steps=50 * (seconds + 2), every=50)
    return path[seconds], path[-1]


def layers(state, values, cells):
    """Means over the layers of one cell, from the floor up."""
    layer = (state.X[:, 1] * cells).long()
    return torch.stack([values[layer == k].mean() for k in range(cells)])


E, NU = 1e6, 0.3
M = E * (1 - NU) / ((1 + NU) * (1 - 2 * NU))


def solid(cells):
    """Settled solid, its drift over the last two seconds, and the settlement of the top."""
    damping = ds.materials.KelvinVoigt.from_relaxation_time(5e-3, E, NU)
    material = ds.Material(ds.materials.NeoHookean(E, NU), viscous=damping, density=RHO)
    model, state = column(material, cells, math.sqrt(M / RHO), M * 5e-3 / RHO)
    early, late = settle(model, state, 1)
    top = state.X[:, 1] > 1 - 0.5 / cells
    drift, down = ((a.x - b.x)[top, 1].mean().item() for a, b in ((early, late), (state, late)))
    # the uppermost particles lie a quarter of a cell below the top: their share of the settlement of the top
    X = 1 - 0.25 / cells
    return model, late, drift, down / (X * (2 - X))


@pytest.mark.slow
def test_a_solid_column_settles_under_its_weight(record):
    exact = RHO * G / (2 * M)
    _, _, _, coarse = solid(8)
    model, state, drift, down = solid(16)
    order = math.log2(abs(coarse - exact) / abs(down - exact))
    name, how = "self-weight-column", f"{HOW}, 16 cells"
    assert record(name, "settlement of the top [m]", down, exact, accept=0.02, order=order, how=how).met
    assert record(name, "drift over 2 s [m]", drift, 0.0, accept=1e-3 * exact, how=how).met

    P = model.materials[0].elastic.stress(state.F)
    sigma = P @ state.F.mT / torch.linalg.det(state.F)[:, None, None]
    across, along = layers(state, sigma[:, 0, 0], 16), layers(state, sigma[:, 1, 1], 16)
    inner = slice(1, -1)
    height = (torch.arange(16) + 0.5)[inner] / 16
    # the weight of a layer as a line through the layers away from floor and surface, down to the floor
    line = torch.stack([torch.ones_like(height), 1 - height], 1).double()
    base = -torch.linalg.lstsq(line, along[inner, None]).solution.sum()
    assert record(name, "stress at the base [Pa]", base, RHO * G, accept=0.02, how=f"{how}, from the layers above").met
    ratio = (across / along)[inner]
    worst = ratio[(ratio - NU / (1 - NU)).abs().argmax()]
    assert record(
        name, "lateral over vertical stress", worst, NU / (1 - NU), accept=0.02, how=f"{how}, worst layer"
    ).met


def test_the_stretch_of_a_hanging_bar_is_inverse_to_its_stiffness(record):
    """du/dE = -u/E of the run itself at rest; strains of 1e-8, where the bar is linear."""
    young = parameter(E)
    damping = ds.materials.KelvinVoigt.from_relaxation_time(1e-2, E, 0.0)
    material = ds.Material(ds.materials.LinearElastic(young, 0.0), viscous=damping, density=RHO)
    model, state = column(material, 4, math.sqrt(E / RHO), E * 1e-2 / RHO, gravity=1e-5 * G, hanging=True)
    end = ds.rollout(model, state, steps=100, every=100)[-1]
    low = state.X[:, 1] < 0.5 / 4
    stretch = (state.x - end.x)[low, 1].mean()
    assert stretch.item() == pytest.approx(1e-5 * RHO * G / (2 * E), rel=0.1)  # four cells
    (slope,) = torch.autograd.grad(stretch, young)
    how = "4 cells, of the run's own u, at rest"
    name = "(b) du/dE of a hanging bar [m/Pa]"
    assert record("grad-plastic-bar", name, slope, -stretch.item() / E, accept=1e-6, how=how).met


K = 1e5


def test_a_liquid_column_settles_to_its_hydrostatic_pressure(record):
    """The lowest layer is left to a finding of its own: its particles share nodes with the floor."""
    cells, kappa = 16, 0.02 * K
    liquid = ds.Material(ds.materials.Tait(K, gamma=1.0), viscous=ds.materials.Newtonian(kappa / 4, kappa), density=RHO)
    model, state = column(liquid, cells, math.sqrt(K / RHO), 4 / 3 * kappa / RHO)
    early, late = settle(model, state, 2)
    scale = K / (RHO * G)
    depth = scale * math.log(1 + 1 / scale)
    top = state.X[:, 1] > 1 - 0.5 / cells
    above = scale * math.log(1 + 0.25 / cells / scale)  # height of the quarter cell above the uppermost particles
    name, how = "self-weight-column", f"{HOW}, 16 cells"
    settled = late.x[top, 1].mean() + above
    assert record(name, "depth of the liquid [m]", settled, depth, accept=0.02, how=how).met
    drift = (late.x - early.x)[top, 1].mean()
    assert record(name, "drift of the liquid over 2 s [m]", drift, 0.0, accept=1e-3 * depth, how=how).met

    pressure = layers(state, K * (1 / torch.linalg.det(late.F) - 1), cells)
    place = late.x[:, 1]
    exact = layers(state, K * torch.expm1((depth - place) / scale), cells)
    deviation = (pressure / exact - 1)[1:-1]
    worst = int(deviation.abs().argmax()) + 1
    how = f"{how}, worst layer but the lowest"
    found = record(name, "pressure of the liquid [Pa]", pressure[worst], exact[worst], accept=0.02, how=how)
    low = record(name, "pressure of the lowest layer [Pa]", pressure[0], exact[0], accept=0.02, how=f"{HOW}, 16 cells")
    assert found.met
    assert not low.met and abs(low.deviation) < 0.1
