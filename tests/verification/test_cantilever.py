"""`elastica-cantilever`, `turek-csm1`: a thin strip that bends far under a load and comes to rest, in plane strain.

The velocities are scaled down after each control step, as by a drag that damps the first bending mode critically. The
rest position does not depend on it.
"""

import math

import pytest
import torch

import diffsim as ds
from diffsim.kernels.arrays import context

if context.dtype != torch.float64:
    pytest.skip("verification in f64", allow_module_level=True)

DENSITY = 1000.0
SUBSTEPS = 100


def settle(law, length, depth, cells, load, reach, per=2):
    """The settled strip with ``cells`` through its depth, from x = 0 where it is held to its tip, and the tip's way.

    Args:
        law: elastic.
        length, depth: [m].
        load: (X, dx) -> acceleration [m/s^2].
        reach: how far down the tip may get, in lengths.
    """
    dx = depth / cells
    columns, down = round(length / dx), math.ceil(reach * length / dx)
    sound = math.sqrt(law.modulus().item() / DENSITY)
    model = ds.models.MPM(
        ds.Grid((columns + 8, down + cells + 8), dx, (-2 * dx, -(down + 4) * dx)),
        [ds.Material(law, density=DENSITY)],
        dt=0.6 * dx / sound,
        substeps=SUBSTEPS,
        walls=ds.Walls({"x-": "sticky", "x+": "none", "y-": "none", "y+": "none"}),
        body_force=lambda X, t: load(X, dx),
    )
    s = dx / per
    X = torch.cartesian_prod(*((torch.arange(per * n).double() + 0.5) * s for n in (columns, cells)))
    state = model.initial_state(X, volume=s * s)
    # the first mode of a slender strip
    rate = 3.516 * depth / length**2 * math.sqrt(law.E.item() / (1 - law.nu.item() ** 2) / DENSITY / 12)
    keep = math.exp(-2 * rate * SUBSTEPS * model.dt)
    with torch.no_grad():
        for _ in range(math.ceil(14 / (rate * SUBSTEPS * model.dt))):
            state = model(state)
            state = state._replace(v=keep * state.v, C=keep * state.C)
        end = state.X[:, 0] > length - dx
        # the last cell turns as a whole; its middle lies half a cell before the tip
        tip = (state.x - state.X)[end].mean(0) + (state.F[end].mean(0)[:, 0] - torch.tensor([1.0, 0.0])) * dx / 2
        still = state.v[end].mean(0).norm().item() / rate  # particles themselves tremble a little
    return tip, still


def bend(cells, alpha):
    """Shortening and deflection of the elastica of L = 1, L/h = 50 in lengths, under alpha = P L^2/(E I)."""
    E, depth = 1e6, 0.02
    force = alpha * E * depth**3 / 12

    def load(X, dx):
        pull = torch.zeros_like(X)
        pull[X[:, 0] > 1 - dx, 1] = -force / (DENSITY * depth * dx)
        return pull

    tip, still = settle(ds.materials.NeoHookean(E, 0.0), 1.0, depth, cells, load, reach=0.8)
    print("still", still)
    return -tip


@pytest.mark.slow
def test_the_tip_of_a_cantilever_moves_as_the_elastica_says(tables, record):
    alpha = 2.0
    row = next(row for row in tables["elastica_end_load"]["rows"] if row[0] == alpha)
    found = [bend(cells, alpha) for cells in (2, 4)]
    print(found, row)
    for axis, measure in ((1, "deflection"), (0, "shortening")):
        exact = row[2 - axis]
        coarse, fine = (tip[axis].item() for tip in found)
        order = math.log2(abs(coarse - exact) / abs(fine - exact))
        how = (
            f"4 cells through the depth, L/h = 50, plane strain, damped to rest; {coarse / exact - 1:+.1%} with 2 cells"
        )
        name = "elastica-cantilever"
        assert record(name, f"{measure}/L, alpha = 2", fine, exact, accept=0.05, order=order, how=how).met


def flag(cells, per=2):
    def load(X, dx):
        return torch.tensor([0.0, -2.0], dtype=X.dtype).expand(len(X), 2)

    # the arc that holds it lies at x = 0.24967 in the mean
    tip, still = settle(ds.materials.StVenantKirchhoff(1.4e6, 0.4), 0.35, 0.02, cells, load, reach=0.3, per=per)
    print("still", still)
    return tip


@pytest.mark.slow
def test_the_flag_of_turek_and_hron_bends_under_gravity(record):
    found = [flag(cells) for cells in (4, 8)]
    print(found)
    for axis, exact, name in ((0, -7.187e-3, "u_x of A [m]"), (1, -66.10e-3, "u_y of A [m]")):
        coarse, fine = (tip[axis].item() for tip in found)
        order = math.log2(abs(coarse - exact) / abs(fine - exact))
        how = f"8 cells through the depth, held by the wall, damped to rest; {coarse / exact - 1:+.1%} with 4 cells"
        record("turek-csm1", name, fine, exact, accept=0.05, order=order, how=how)
