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


def settle(law, length, depth, cells, load, reach):
    """How far the tip of a strip has moved at rest, (2,) [m]; it is held at x = 0.

    Args:
        law: elastic.
        length, depth: [m]. cells: through the depth.
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
    s = dx / 2
    X = torch.cartesian_prod(*((torch.arange(2 * n).double() + 0.5) * s for n in (columns, cells)))
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
    assert state.v[end].mean(0).norm() / rate < 3e-3 * tip.norm()
    return tip


def bend(cells, alpha):
    """Shortening and deflection of the elastica of L = 1, L/h = 50 in lengths, under alpha = P L^2/(E I)."""
    E, depth = 1e6, 0.02
    force = alpha * E * depth**3 / 12

    def load(X, dx):
        pull = torch.zeros_like(X)
        pull[X[:, 0] > 1 - dx, 1] = -force / (DENSITY * depth * dx)
        return pull

    return -settle(ds.materials.NeoHookean(E, 0.0), 1.0, depth, cells, load, reach=0.8)


@pytest.mark.slow
def test_a_cantilever_that_bends_across_many_cells_is_softer_than_the_elastica(tables, record):
    alpha = 2.0
    row = next(row for row in tables["elastica_end_load"]["rows"] if row[0] == alpha)
    tip = bend(2, alpha)
    for axis, measure in ((1, "deflection"), (0, "shortening")):
        how = "2 cells through the depth, L/h = 50, plane strain, damped to rest"
        record("elastica-cantilever", f"{measure}/L, alpha = 2", tip[axis], row[2 - axis], accept=0.05, how=how)
    assert tip[1].item() == pytest.approx(row[1], rel=0.3) and tip[1] > row[1]


def flag(cells, gravity=2.0):
    """Way of A, the tip of the flag; the arc that holds it, at x = 0.24967 in the mean, is a wall here."""

    def load(X, dx):
        return torch.tensor([0.0, -gravity], dtype=X.dtype).expand(len(X), 2)

    return settle(ds.materials.StVenantKirchhoff(1.4e6, 0.4), 0.35, 0.02, cells, load, reach=0.3)


@pytest.mark.slow
def test_the_flag_of_turek_and_hron_sinks_too_far_and_less_so_under_a_smaller_load(record):
    """Under a hundredth of the load, where it moves by 0.14 cells, it sinks as a slender beam does."""
    coarse, fine = (flag(cells) for cells in (4, 8))
    for axis, exact, name in ((0, -7.187e-3, "u_x of A [m]"), (1, -66.10e-3, "u_y of A [m]")):
        order = math.log2((coarse[axis] / exact - 1) / (fine[axis] / exact - 1))
        how = f"8 cells through the depth, held by the wall, damped to rest; {coarse[axis] / exact - 1:+.1%} with 4"
        record("turek-csm1", name, fine[axis], exact, accept=0.05, order=order, how=how)
    assert coarse[1] < fine[1] < -66.10e-3
    slender = -DENSITY * 0.02 * 0.02 * 0.35**4 / 8 / (1.4e6 / (1 - 0.4**2) * 0.02**3 / 12)
    small = flag(4, gravity=0.02)[1]
    how = "4 cells through the depth; the reference is that of a slender beam"
    assert record("turek-csm1", "u_y of A [m], 0.01 of the load", small, slender, accept=0.05, how=how).met
