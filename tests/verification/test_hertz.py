"""`hertz`, `grad-hertz`: half a sphere between two smooth plates, at rest.

The lower plate touches the sphere half a cell above a plane of nodes, the last that it holds; the upper one moves down
on the flat face. The approach is the mean way of the particles at that face, the force that on the upper plate.
"""

import math

import pytest
import torch
from bodies import parameter
from torch.utils.checkpoint import checkpoint

import diffsim as ds
from diffsim.kernels.arrays import context

if context.dtype != torch.float64:
    pytest.skip("verification in f64", allow_module_level=True)

RADIUS, E, NU, DENSITY = 0.1, 1e5, 0.3, 1000.0
UP = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)  # quaternion wxyz: the normal of a half space from y to z
DOWN = (math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0)
STAGE, KEEP = (20, 40), (0.6, 0.4)  # control steps of pressing and of rest, and what they leave of the velocity


def force(approach, E=E):
    """Hertz: 4/3 E* sqrt(R) delta^(3/2) [N]."""
    return 4 / 3 * E / (1 - NU**2) * math.sqrt(RADIUS) * approach**1.5


def half_sphere(cells, stiffness=E):
    """Model and state of the half z < 0, ``cells`` cells to the radius."""
    dx, pad = RADIUS / cells, 4
    s = dx / 2
    side = (torch.arange(-2 * cells, 2 * cells).double() + 0.5) * s
    X = torch.cartesian_prod(side, side, side[: 2 * cells])
    X = X[X.norm(dim=1) < RADIUS].clone()
    sound = math.sqrt(E * (1 - NU) / (1 + NU) / (1 - 2 * NU) / DENSITY)
    plates = [
        ds.Tool(ds.HalfSpace(), pose=((0.0, 0.0, -RADIUS), UP), friction=0.0),
        ds.Tool(ds.HalfSpace(), pose=((0.0, 0.0, 0.0), DOWN), friction=0.0),
    ]
    around, low = 2 * (cells + pad), -(cells + pad) * dx
    model = ds.models.MPM(
        ds.Grid((around, around, cells + 2 * pad), dx, (low, low, low - dx / 2)),
        [ds.Material(ds.materials.NeoHookean(stiffness, NU), density=DENSITY)],
        dt=0.5 * dx / sound,
        substeps=10,
        walls=ds.Walls("none"),
        tools=plates,
    )
    return model, model.initial_state(X, volume=s**3)


def press(model, state, way):
    """Approach and force after the upper plate has gone ``way`` and everything has come to rest."""
    speed = way / (STAGE[0] * model.substeps * model.dt)

    def step(speed, keep, *state):
        twist = torch.stack([speed * 0, speed * 0, -speed, *[speed * 0] * 3])
        after = model(ds.models.State(*state), torch.stack([twist * 0, twist]))
        return tuple(after._replace(v=keep * after.v, C=keep * after.C))

    for count, keep, now in zip(STAGE, KEEP, (speed, speed * 0), strict=True):
        for _ in range(count):
            state = ds.models.State(*checkpoint(step, now, keep, *state, use_reentrant=False))
    top = state.X[:, 2] > -model.grid.dx / 2
    return state, (state.X - state.x)[top, 2].mean(), state.wrench[1, 2]


def curve(cells, stages=7):
    """(approach, force) after each of the stages of 1 mm."""
    model, state = half_sphere(cells)
    points = []
    with torch.no_grad():
        for _ in range(stages):
            state, approach, push = press(model, state, torch.tensor(1e-3, dtype=torch.float64))
            points.append((approach.item(), push.item()))
    return points


def at(points, approach):
    """Force at an approach, between two points linear in F^(2/3)."""
    for (a, f), (b, g) in zip(points, points[1:], strict=False):
        if a <= approach <= b:
            share = (approach - a) / (b - a)
            return (f ** (2 / 3) * (1 - share) + g ** (2 / 3) * share) ** 1.5
    raise AssertionError(points)


@pytest.mark.slow
def test_the_force_on_a_sphere_is_too_large_by_a_gap_that_falls_with_the_cells(record):
    """The plate holds nodes that particles within a cell of it share: a patch wider than that of the contact."""
    coarse, fine = curve(8), curve(16)
    errors = [at(points, 0.005) / force(0.005) - 1 for points in (coarse, fine)]
    order = math.log2(errors[0] / errors[1])
    how = f"16 cells to the radius, 4 to the radius of contact; {errors[0]:+.0%} with 8"
    record("hertz", "force [N], delta = 5 mm", at(fine, 0.005), force(0.005), accept=0.1, order=order, how=how)
    (a, f), (b, g) = fine[1], fine[-1]
    power = math.log(g / f) / math.log(b / a)
    record("hertz", "power of F in delta, 2 to 6 mm", power, 1.5, accept=(1.45, 1.55), how=how.partition(";")[0])
    assert 1.2 < power < 1.5
    gaps = [(p[-1][1] / force(1.0)) ** (2 / 3) - p[-1][0] for p in (coarse, fine)]
    print(coarse, fine, errors, gaps)
    assert 0.3 < order < 1.2 and errors[1] < 0.5
    assert all(0 < gap < 0.5 * RADIUS / cells for gap, cells in zip(gaps, (8, 16), strict=True))


@pytest.mark.slow
def test_the_gradients_of_the_force_on_a_sphere_are_those_of_its_run(record):
    """dF/dE is F/E but for what the rest depends on the way there; dF/d(delta) through the way of the plate."""
    cells = 6
    stiffness, way = parameter(E), parameter(5e-3)
    _, approach, push = press(*half_sphere(cells, stiffness), way)
    by_E, by_way = torch.autograd.grad(push, (stiffness, way), retain_graph=True)
    approach_by_E, approach_by_way = torch.autograd.grad(approach, (stiffness, way))
    slope = by_way / approach_by_way
    found = by_E - slope * approach_by_E  # at a given approach
    push = push.detach()
    how = f"{cells} cells to the radius"
    record("grad-hertz", "dF/dE [N/Pa]", found, push / E, accept=1e-6, how=f"{how}, of the run's own F")
    # 3/2 F/delta of Hertz at the approach of the run
    exact = 1.5 * force(approach.item()) / approach.item()
    record(
        "grad-hertz", f"dF/d(delta) [N/m], delta = {1e3 * approach.item():.2f} mm", slope, exact, accept=0.08, how=how
    )
    with torch.no_grad():
        pair = [press(*half_sphere(cells, E * (1 + h)), way)[2].item() for h in (1e-4, -1e-4)]
    print(by_E.item(), (pair[0] - pair[1]) / (2e-4 * E))
    assert by_E.item() == pytest.approx((pair[0] - pair[1]) / (2e-4 * E), rel=1e-6)
    assert found.item() == pytest.approx(push.item() / E, rel=0.01)
