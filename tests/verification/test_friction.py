"""`incline-friction`, `sliding-stop`, `grad-friction`: a block on the Coulomb floor of the box, in plane strain.

The floor is the wall y-; gravity is tilted. The closed forms are those of a rigid block. Near the limit of sticking
(30 degrees with mu = 0.5 and 0.6) the block must be damped well, or it trembles and creeps; docs/verification.md has
the figures.
"""

import math

import pytest
import torch
from bodies import parameter

import diffsim as ds
from diffsim.kernels.arrays import context

if context.dtype != torch.float64:
    pytest.skip("verification in f64", allow_module_level=True)

G, DX, WALL = 9.81, 0.025, 2 * 0.025
STEP, SUBSTEPS = 1e-2, 25
RELAXATION = 5e-4  # [s] of the damping: a rigid block has no waves


def block(mu, angle, relaxation=RELAXATION):
    """Model and state of the block 0.2 x 0.1 on the floor, without stress; the damping limits the substep."""
    damping = ds.materials.KelvinVoigt.from_relaxation_time(relaxation, 1e6, 0.3)
    substeps = round(SUBSTEPS * max(1, relaxation / RELAXATION))
    solid = ds.Material(ds.materials.NeoHookean(1e6, 0.3), viscous=damping, density=1000.0)
    model = ds.models.MPM(
        ds.Grid((90, 14), DX),
        [solid],
        dt=STEP / substeps,
        substeps=substeps,
        gravity=torch.stack([G * angle.sin(), -G * angle.cos()]),
        walls=ds.Walls({"y-": "separating"}, friction={"y-": mu}),
    )
    s = DX / 2
    x = torch.cartesian_prod(torch.arange(0.1 + s / 2, 0.3, s), torch.arange(WALL + s / 2, WALL + 0.1, s)).double()
    return model, model.initial_state(x, volume=s * s)


def slide(mu, angle=0.0, v0=0.0, steps=100, relaxation=RELAXATION):
    """Mean displacement [m] along the floor after steps of 10 ms, and all states; the block first comes to rest."""
    mu, angle, v0 = (torch.as_tensor(value, dtype=torch.float64) for value in (mu, angle, v0))
    with torch.no_grad():
        start = ds.rollout(*block(torch.tensor(10.0, dtype=torch.float64), angle, relaxation), steps=20)[-1]
    model, _ = block(mu, angle, relaxation)
    v = torch.stack([v0, torch.zeros_like(v0)]).expand(len(start.x), 2)
    path = ds.rollout(model, start._replace(v=v.contiguous()), steps=steps)
    return (path[-1].x - start.x)[:, 0].mean(), path


@pytest.mark.parametrize("degrees, mu", [(30, 0.3), (45, 0.5)])
def test_a_block_slides_down_an_incline_as_coulomb_says(degrees, mu, record):
    angle = math.radians(degrees)
    with torch.no_grad():
        distance, _ = slide(mu, angle)
    exact = G * (math.sin(angle) - mu * math.cos(angle)) / 2
    assert record("incline-friction", f"way in 1 s [m], {degrees} degrees, mu = {mu}", distance, exact, accept=0.01).met


def test_a_block_sticks_well_below_the_angle_of_friction(record):
    with torch.no_grad():
        distance, _ = slide(0.7, math.radians(30))
    assert record("incline-friction", "creep in 1 s [m], 30 degrees, mu = 0.7", distance, 0.0, accept=1e-3).met


@pytest.mark.slow
def test_near_the_limit_of_sticking_a_block_sticks_or_slides_when_its_vibrations_are_damped(record):
    """A relaxation time of 2 ms damps its lowest vibrations to 0.3 (shear) and 0.6 (up and down) of critical.

    With 0.5 ms, a quarter of that, it creeps.
    """
    angle = math.radians(30)
    with torch.no_grad():
        slow, creep = (slide(mu, angle, relaxation=2e-3)[0] for mu in (0.5, 0.6))
        trembling = slide(0.6, angle)[0]
    exact = G * (math.sin(angle) - 0.5 * math.cos(angle)) / 2
    how = f"relaxation time of the block 2 ms; with 0.5 ms it creeps {100 * trembling.item():.1f} cm at mu = 0.6"
    assert record("incline-friction", "way in 1 s [m], 30 degrees, mu = 0.5", slow, exact, accept=0.01, how=how).met
    assert record("incline-friction", "creep in 1 s [m], 30 degrees, mu = 0.6", creep, 0.0, accept=1e-3, how=how).met
    assert 0.02 < trembling < 0.1


def test_a_sliding_block_stops_where_and_when_coulomb_says(record):
    with torch.no_grad():
        distance, path = slide(0.4, v0=2.0, steps=80)
    exact = 2.0**2 / (2 * 0.4 * G)
    assert record("sliding-stop", "stopping distance [m]", distance, exact, accept=0.01).met
    speeds = torch.stack([state.v[:, 0].mean() for state in path])
    # the time of the stop, from the mean deceleration over the middle of the way
    k, m = 10, 40
    slowing = (speeds[k] - speeds[m]) / ((m - k) * STEP)
    how = "from the mean deceleration over the middle of the way"
    assert record("sliding-stop", "stopping time [s]", 2.0 / slowing, 2.0 / (0.4 * G), accept=0.01, how=how).met
    assert (path[-1].x - path[70].x).abs().max() < 1e-4


def test_the_gradients_of_the_distance_on_the_incline_are_those_of_the_closed_form(record):
    mu, angle = parameter(0.3), parameter(math.radians(30))
    slide(mu, angle)[0].backward()
    assert record("grad-friction", "(a) d way/d mu", mu.grad, -G * math.cos(math.radians(30)) / 2, accept=0.02).met
    assert record("grad-friction", "(a) d way/d angle", angle.grad, 4.983605, accept=0.02).met


def test_the_gradients_of_the_stopping_distance_are_those_of_the_closed_form(record):
    mu, v0 = parameter(0.4), parameter(2.0)
    slide(mu, v0=v0, steps=80)[0].backward()
    assert record("grad-friction", "(b) d distance/d mu", mu.grad, -1.274210, accept=0.02).met
    assert record("grad-friction", "(b) d distance/d v0", v0.grad, 0.509684, accept=0.02).met


def test_a_stuck_block_does_not_feel_its_friction(record):
    mu = parameter(0.7)
    slide(mu, math.radians(30))[0].backward()
    assert record("grad-friction", "(c) d way/d mu, stuck", mu.grad, 0.0, accept=1e-3 * 4.247855).met
