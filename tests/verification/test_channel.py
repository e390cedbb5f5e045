"""`channel-startup`, `herschel-bulkley-channel`, `grad-viscous`: viscous flow between two sticky walls.

The channel is periodic; only a strip of it is simulated. The walls hold the nodes up to their faces (sticky); the
moving wall of Couette flow is a tool that sticks.
"""

import math

import numpy as np
import pytest
import torch
from bodies import parameter
from scipy.integrate import cumulative_simpson, simpson
from scipy.optimize import brentq

import diffsim as ds
from diffsim.kernels.arrays import context

if context.dtype != torch.float64:
    pytest.skip("verification in f64", allow_module_level=True)

FRAME, BULK = 0.01, 100.0  # [s], [Pa]: sound is 80 times as fast as the flow
PERIOD = 8  # cells along the channel
UPSIDE_DOWN = (0.0, 0.0, 0.0, 1.0)  # quaternion wxyz: half a turn about z


def stable_substeps(viscous, cells):
    """Substeps of a control step so that sound and viscosity keep well below their bounds."""
    dx = 1 / cells
    return math.ceil(FRAME / min(0.4 * dx / math.sqrt(BULK), 0.35 * dx**2 / viscous.viscosity().item()))


def channel(viscous, cells, *, substeps=None, force=0.0, lid=False, profile=None):
    """Model and state of a liquid of unit density in a gap of 1 m, at rest or in a flow profile u(y)."""
    dx = 1 / cells
    substeps = substeps or stable_substeps(viscous, cells)
    tools = [ds.Tool(ds.HalfSpace(), pose=((0.0, 1.0), UPSIDE_DOWN), friction=math.inf)] if lid else []
    model = ds.models.MPM(
        ds.Grid((PERIOD, cells + 4), dx, (0.0, -2 * dx), periodic=(True, False)),
        [ds.Material(ds.materials.Tait(BULK, gamma=1.0), viscous=viscous, density=1.0)],
        dt=FRAME / substeps,
        substeps=substeps,
        gravity=(force, 0.0),
        walls=ds.Walls({"y-": "sticky", "y+": "none" if lid else "sticky"}),
        tools=tools,
    )
    s = dx / 2
    axes = (torch.arange(2 * PERIOD) + 0.5) * s, (torch.arange(2 * cells) + 0.5) * s
    X = torch.cartesian_prod(*axes).double()
    v = torch.zeros_like(X)
    if profile is not None:
        v[:, 0] = profile(X[:, 1])
    return model, model.initial_state(X, v=v, volume=s * s)


def core(state, dx):
    """Mean speed of the two rows at the middle of the gap."""
    return state.v[(state.X[:, 1] - 0.5).abs() < dx / 2, 0].mean()


def flow_rate(state):
    """Flow rate through the gap per unit width [m^2/s]: the particles fill it evenly."""
    return state.v[:, 0].mean()


@pytest.mark.parametrize("flow", ["poiseuille", "couette"])
def test_viscous_flow_starts_between_walls_as_the_fourier_series_says(flow, tables, record):
    lid = flow == "couette"
    model, state = channel(ds.materials.Newtonian(1.0, 1.0), 16, force=0.0 if lid else 1.0, lid=lid)
    controls = torch.zeros(50, 1, 6, dtype=context.dtype) if lid else None
    if lid:
        controls[:, 0, 0] = 1.0
    with torch.no_grad():
        path = ds.rollout(model, state, controls, steps=50)
    how = "16 cells, sticky " + ("wall and tool, periodic" if lid else "walls, periodic")
    for time, speed in tables[f"startup_{flow}"]["rows"]:
        if time <= 0.5:
            found = core(path[round(time / FRAME)], model.grid.dx)
            assert record("channel-startup", f"{flow}, t = {time}", found, speed, accept=0.05, how=how).met


def steady_rate(viscosity, cells):
    """Flow rate in steady Poiseuille flow; it starts in the exact profile, which has 0.6 s to change."""
    model, state = channel(
        ds.materials.Newtonian(viscosity, 1.0),
        cells,
        substeps=stable_substeps(ds.materials.Newtonian(1.0, 1.0), cells),  # also where the viscosity is another
        force=1.0,
        profile=lambda y: y * (1 - y) / 2,
    )
    return flow_rate(ds.rollout(model, state, steps=60, every=60)[-1])


@pytest.mark.slow
def test_the_flow_rate_falls_with_the_viscosity_but_by_less_than_its_reciprocal(record):
    """A viscosity of the transfers themselves, near the walls and independent of eta, takes part of the drag."""
    rates, slopes = [], []
    for cells in (8, 16):
        eta = parameter(1.0)
        rate = steady_rate(eta, cells)
        rates.append(rate.item())
        slopes.append(torch.autograd.grad(rate, eta)[0].item())
    with torch.no_grad():
        step = 1e-3
        near, far = ((steady_rate(1 + h, 8) - steady_rate(1 - h, 8)).item() / (2 * h) for h in (step, 2 * step))
    assert slopes[0] == pytest.approx((4 * near - far) / 3, rel=1e-5)
    order = math.log2((slopes[0] * -12 - 1) / (slopes[1] * -12 - 1))
    how = "16 cells, sticky walls, periodic"
    assert record("grad-viscous", "(a) q", rates[1], 1 / 12, accept=0.05, how=how).met
    assert not record("grad-viscous", "(a) dq/d eta", slopes[1], -1 / 12, accept=1e-3, order=order, how=how).met
    assert slopes[1] == pytest.approx(-1 / 12, rel=0.15)


YIELD, CONSISTENCY, RATE = 0.2, 1.0, 1e-2


def bingham_profile(y):
    """Steady speed of the Bingham fluid at a height y in the gap, for a unit body force."""
    sheared = ((y - 0.5).abs() - YIELD).clamp(min=0)
    return ((0.5 - YIELD) ** 2 - sheared**2) / (2 * CONSISTENCY)


def plastic_flow(
    growth, cells, index=1.0, yield_stress=YIELD, consistency=CONSISTENCY, substeps=None, profile=bingham_profile
):
    """State of a channel 0.3 s after it was in an exact profile, that of the Bingham fluid."""
    fluid = ds.materials.HerschelBulkley(yield_stress, consistency, index, growth=growth, rate=RATE, fastest=1.0)
    model, state = channel(fluid, cells, substeps=substeps, force=1.0, profile=profile)
    return ds.rollout(model, state, steps=30, every=30)[-1]


def ideal(index, yield_stress):
    """Steady speed at a height in the gap, plug speed and flow rate of the law without regularization, K = G = 1."""
    yielded = 0.5 - yield_stress
    plug = index / (index + 1) * yielded ** (1 + 1 / index)

    def profile(y):
        sheared = ((y - 0.5).abs() - yield_stress).clamp(min=0)
        return plug * (1 - (sheared / yielded) ** (1 + 1 / index))

    return profile, plug, 2 * plug * (0.5 - index / (2 * index + 1) * yielded)


def regularized(index, yield_stress, growth):
    """Steady plug speed and flow rate of the law as it is: the shear rate where the stress is |y| for a unit force."""

    def excess(gdot, stress):
        power = (gdot**2 + RATE**2) ** ((index - 1) / 2) * gdot
        return power - yield_stress * math.expm1(-growth * gdot) - stress

    y = np.linspace(0, 0.5, 1001)
    gdot = [brentq(excess, 0, 10, args=(stress,)) for stress in y]
    speed = simpson(gdot, x=y) - cumulative_simpson(gdot, x=y, initial=0)
    return speed[0], 2 * simpson(speed, x=y)


@pytest.mark.slow
@pytest.mark.parametrize("index, yield_stress, growth", [(0.5, 0.0, 1.0), (0.5, YIELD, 50.0), (1.5, YIELD, 50.0)])
def test_fluids_that_thin_or_thicken_flow_as_their_regularized_law_says(index, yield_stress, growth, tables, record):
    """To 8 % of the law as it is; what it creeps beyond the ideal law is a matter of growth and rate alone."""
    profile, plug, rate = ideal(index, yield_stress)
    (row,) = (r for r in tables["herschel_bulkley_channel"]["rows"] if r[:2] == [index, yield_stress / 0.5])
    assert row[2:] == pytest.approx([plug, rate], rel=1e-6)
    with torch.no_grad():
        state = plastic_flow(growth, 32, index, yield_stress, profile=profile)
    found = core(state, 1 / 32).item(), flow_rate(state).item()
    creeping = regularized(index, yield_stress, growth)
    name = f"n = {index}, yield stress {yield_stress:g}"
    for measure, value, exact, own in zip(("plug speed", "flow rate"), found, (plug, rate), creeping, strict=True):
        how = f"32 cells, growth {growth:g} s, rate {RATE:g} 1/s; the law as it is gives {own / exact - 1:+.1%}"
        record("herschel-bulkley-channel", f"{measure}, {name}", value, exact, accept=0.03, how=how)
        assert value == pytest.approx(own, rel=0.08)


@pytest.mark.slow
def test_a_bingham_fluid_creeps_in_its_plug_and_drags_at_the_walls(record):
    """The regularization adds creep that falls with its growth; its viscosity at rest shortens the substep.

    At the shorter substep the transfers drag more at the walls, so neither growth meets the numbers.
    """
    plugs = []
    for growth in (50.0, 100.0):
        with torch.no_grad():
            state = plastic_flow(growth, 32)
        how = f"n = 1, 32 cells, growth {growth:g} s (Papanastasiou), sticky walls, periodic"
        name = f"growth {growth:g} s"
        plug = record(
            "herschel-bulkley-channel", f"plug speed, {name}", core(state, 1 / 32), 0.045, accept=0.03, how=how
        )
        record("herschel-bulkley-channel", f"flow rate, {name}", flow_rate(state), 0.036, accept=0.03, how=how)
        plugs.append(plug.result)
    assert 1.05 * 0.045 > plugs[0] > 0.045 > plugs[1] > 0.9 * 0.045


@pytest.mark.slow
def test_the_flow_rate_of_a_bingham_fluid_is_differentiable_by_its_parameters(record):
    """Against differences of the same run; the closed forms stand in the record beside them."""
    values = {"yield_stress": YIELD, "consistency": CONSISTENCY, "index": 1.0}
    substeps = stable_substeps(ds.materials.HerschelBulkley(YIELD, CONSISTENCY, 1.0, growth=50.0), 16)

    def rate(**changed):
        return flow_rate(plastic_flow(50.0, 16, substeps=substeps, **(values | changed)))

    inputs = {name: parameter(value) for name, value in values.items()}
    slopes = torch.autograd.grad(rate(**inputs), list(inputs.values()))
    exact = {"yield_stress": -0.21, "consistency": -0.036, "index": 0.058343}
    for name, slope in zip(exact, slopes, strict=True):
        how = "(b) 16 cells, growth 50 s, sticky walls, periodic"
        record("grad-viscous", f"(b) dq/d {name}", slope, exact[name], accept=0.05, how=how)
    h = 1e-4
    with torch.no_grad():
        pair = [rate(consistency=CONSISTENCY + s * h).item() for s in (1, -1)]
    assert slopes[1].item() == pytest.approx((pair[0] - pair[1]) / (2 * h), rel=1e-5)
