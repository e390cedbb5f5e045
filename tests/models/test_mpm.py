"""MPM: what it conserves, what it refuses, and that laws evaluated in torch do the same as laws in the kernel."""

import pytest
import torch
from bodies import DX, block, model, neo_hookean, normal, parameter, tensor, uniform
from torch import nn

import diffsim as ds
from diffsim.errors import DataError, SceneError, SimulationError


def momentum(simulation, state):
    """Linear (d,) and angular momentum; the affine velocity carries angular momentum dx^2 / 4 (C - C^T)."""
    mass = simulation.materials[0].density * state.volume
    spin = DX**2 / 4 * (state.C[:, 1, 0] - state.C[:, 0, 1])
    angular = state.x[:, 0] * state.v[:, 1] - state.x[:, 1] * state.v[:, 0] + spin
    return (mass[:, None] * state.v).sum(0).detach(), (mass * angular).sum().detach()


def fields(state):
    return {name: getattr(state, name) for name in ("x", "v", "C", "F", "q", "wrench")}


def test_a_free_body_keeps_linear_and_angular_momentum():
    """Internal forces are pairwise: they deform the body and change no sum."""
    simulation = model(walls=ds.Walls("none"))
    state = block(simulation, 60, v=(0.3, 0.2), strain=0.1)
    after = ds.rollout(simulation, state, steps=10)[-1]
    assert (after.v - state.v).abs().max() > 0.1
    before, now = momentum(simulation, state), momentum(simulation, after)
    assert torch.allclose(now[0], before[0], rtol=1e-12)
    assert torch.allclose(now[1], before[1], rtol=1e-12)


def test_the_wrench_on_a_tool_is_the_momentum_that_the_body_loses():
    """Without gravity and walls the mean force times the step equals the change of momentum; torques likewise."""
    tool = ds.Tool(ds.Sphere(0.1), pose=((0.5, 0.32), (1, 0, 0, 0)), friction=0.3)
    simulation = model(walls=ds.Walls("none"), tools=[tool])
    state = block(simulation, v=(0.2, -2.0))
    path = ds.rollout(simulation, state, tensor([(0.1, 0.3, 0, 0, 0, 0.5)] * 4)[:, None])
    step = simulation.substeps * simulation.dt
    for before, after in zip(path, list(path)[1:], strict=False):
        (p0, _), (p1, _) = momentum(simulation, before), momentum(simulation, after)
        assert torch.allclose(after.wrench[0, :2] * step, p0 - p1, rtol=1e-9, atol=1e-14)
    assert path.wrench[1:, 0, 1].max() < -1e-3


def test_the_torque_on_a_tool_is_the_angular_momentum_that_the_body_loses():
    """About the tool's origin; the lost angular momentum is exact, since the transfers keep it."""
    place = tensor((0.45, 0.32))
    tool = ds.Tool(ds.Sphere(0.1), pose=(place, (1, 0, 0, 0)), friction=0.5)
    simulation = model(walls=ds.Walls("none"), tools=[tool])
    state, step = block(simulation, v=(0.5, -2.0)), simulation.substeps * simulation.dt
    for _ in range(4):
        after = simulation(state)
        (p0, l0), (p1, l1) = momentum(simulation, state), momentum(simulation, after)
        force, lost = (p0 - p1) / step, (l0 - l1) / step
        assert after.wrench[0, 5].item() == pytest.approx(
            float(lost - place[0] * force[1] + place[1] * force[0]), rel=1e-9, abs=1e-13
        )
        state = after
    assert state.wrench[0, 5].abs() > 1e-3


def test_the_order_of_the_particles_changes_nothing_but_roundoff():
    simulation = model(gravity=9.8)
    state = block(simulation, 60, low=(0.4, 0.11), v=(1.0, -1.0))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    permuted = state._replace(
        **{name: getattr(state, name)[order] for name in ("x", "v", "C", "F", "q", "X", "volume", "material")}
    )
    after, other = (ds.rollout(simulation, s, steps=5)[-1] for s in (state, permuted))
    for name in ("x", "v", "C", "F"):
        assert torch.allclose(getattr(after, name)[order], getattr(other, name), rtol=1e-10, atol=1e-12), name


class TorchNeoHookean(nn.Module):
    """A law without ti.funcs: P = mu (F - F^-T) + lam log(J) F^-T."""

    def __init__(self, E, nu):
        super().__init__()
        self.E, self.nu = E, nu

    def initial(self, n, d):
        return torch.empty(n, 0, dtype=self.E.dtype)

    def stress(self, F, q=None, L=None):
        mu, lam = self.E / (2 * (1 + self.nu)), self.E * self.nu / ((1 + self.nu) * (1 - 2 * self.nu))
        H = torch.linalg.inv(F).transpose(1, 2)
        return mu * (F - H) + lam * torch.log(torch.linalg.det(F))[:, None, None] * H


class Opaque(nn.Module):
    """Any law with its ti.funcs hidden, so that it is evaluated outside of the kernel."""

    def __init__(self, law):
        super().__init__()
        self.initial, self.stress, self.update, self.law = law.initial, getattr(law, "stress", None), law.update, law


def outcome(simulation, controls):
    """Results of three steps, and their gradients by state, controls and parameters."""
    state = block(simulation, 40, v=(0.2, -1.0), strain=0.05, material=torch.arange(40) % len(simulation.materials))
    inputs = {name: getattr(state, name).clone().requires_grad_() for name in ("x", "v", "C", "F", "volume")}
    controls = controls.clone().requires_grad_()
    last = ds.rollout(simulation, state._replace(**inputs), controls)[-1]
    assert (last.q != 1).any()  # something yields
    weights = {name: normal(*value.shape, seed=i) for i, (name, value) in enumerate(fields(last).items())}
    loss = sum((weights[name] * value).sum() for name, value in fields(last).items())
    known = {**inputs, "controls": controls, **dict(simulation.named_parameters())}
    return {**fields(last), **dict(zip(known, torch.autograd.grad(loss, list(known.values())), strict=True))}


def test_laws_evaluated_in_torch_give_the_results_and_gradients_of_the_kernel():
    """A neo-Hookean law written in torch, and a plastic material whose parts are hidden from the kernel."""
    controls = tensor([(0.1, 0.3, 0, 0, 0, 0.5)] * 3)[:, None]

    def build(opaque):
        tool = ds.Tool(ds.Sphere(0.1), pose=((0.5, 0.32), (1, 0, 0, 0)), friction=parameter(0.3))
        hide = Opaque if opaque else lambda law: law
        first, last = [(parameter(1e3), parameter(0.3)) for _ in range(2)]
        elastic = TorchNeoHookean(*first) if opaque else ds.materials.NeoHookean(*first)
        law, plastic = ds.materials.Hencky(*last), ds.materials.VonMises(1e3, 0.3, parameter(20.0))
        materials = [
            ds.Material(elastic, density=parameter(10.0)),
            ds.Material(hide(law), hide(plastic), density=parameter(12.0)),
        ]
        return model(materials, gravity=9.8, tools=[tool])

    fused, unfused = build(False), build(True)
    assert fused.fused and not unfused.fused
    inside, outside = outcome(fused, controls), outcome(unfused, controls)
    outside = {name.replace(".law", ""): value for name, value in outside.items()}
    assert inside.keys() == outside.keys()
    for name, value in inside.items():
        assert torch.allclose(outside[name], value, rtol=1e-9, atol=1e-11 * (1 + value.detach().abs().max().item())), (
            name
        )


def test_a_body_force_is_that_of_the_start_of_the_control_step_for_every_kind_of_law():
    kicks = []

    def push(X, t):
        kicks.append(t)
        return torch.full_like(X, 100 * t)

    results = []
    for law in (ds.materials.NeoHookean(1e3, 0.3), TorchNeoHookean(tensor(1e3), tensor(0.3))):
        simulation = model([ds.Material(law, density=10.0)], body_force=push)
        results.append(ds.rollout(simulation, block(simulation), steps=3)[-1])
    assert torch.allclose(results[0].x, results[1].x, rtol=1e-11)


def test_gravity_is_kept_in_the_precision_of_the_engine():
    simulation = ds.models.MPM(ds.Grid((16, 16), DX), [neo_hookean()], dt=1e-3, gravity=(0, -9.81))
    assert simulation.gravity[1].item() == -9.81


# --- guards


def test_a_particle_that_leaves_the_grid_is_named_in_the_users_order():
    simulation = model(walls=ds.Walls("none"))
    x = uniform(50, 2, low=0.4, high=0.6)
    x[37] = tensor((0.6 * DX, 0.5))
    v = torch.zeros_like(x)
    v[37, 0] = -10.0
    state = simulation.initial_state(x, v=v, volume=1e-3)
    with pytest.raises(SimulationError, match="particle 37 .* left the grid in substep 0 of control step 0") as caught:
        ds.rollout(simulation, state, steps=4)
    error = caught.value
    assert (error.step, error.substep, error.particle) == (0, 0, 37)
    assert torch.equal(error.state.x, state.x)


def test_the_error_of_a_later_step_holds_the_last_good_state():
    simulation = model(walls=ds.Walls("none"))
    x = tensor([(0.5, 0.5), (3.2 * DX, 0.2)])
    state = simulation.initial_state(x, v=tensor([(0.0, 0.0), (-7.0, 0.0)]), volume=1e-3)
    with pytest.raises(SimulationError, match="particle 1 ") as caught:
        ds.rollout(simulation, state, steps=20)
    error = caught.value
    assert error.step == 4  # 2.7 cells to go, at 0.56 cells per control step
    assert torch.equal(error.state.x, ds.rollout(simulation, state, steps=error.step)[-1].x)


def test_a_particle_that_moves_more_than_a_cell_is_an_error():
    simulation = model(walls=ds.Walls("none"))
    state = simulation.initial_state(tensor([(0.5, 0.5), (0.2, 0.2)]), v=tensor([(0.0, 0.0), (70.0, 0.0)]), volume=1e-3)
    with pytest.raises(SimulationError, match="particle 1 .* moved more than one cell in a substep") as caught:
        simulation(state)
    assert caught.value.particle == 1 and caught.value.substep == 0


def test_an_inverted_particle_is_an_error():
    simulation = model(walls=ds.Walls("none"))
    C = torch.zeros(2, 2, 2, dtype=tensor(0.0).dtype)
    C[1, 0, 0] = -2000.0  # F = I + dt C turns over in one substep
    state = simulation.initial_state(tensor([(0.5, 0.5), (0.2, 0.2)]), volume=1e-3, C=C)
    with pytest.raises(SimulationError, match="particle 1 .* has det F <= 0"):
        simulation(state)


def test_a_velocity_that_is_not_a_number_is_an_error():
    simulation = model()
    state = block(simulation)
    v = state.v.clone()
    v[:] = float("nan")
    with pytest.raises(SimulationError, match="is not finite"):
        simulation(state._replace(v=v))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: ds.models.MPM(ds.Grid((16, 16), DX), [neo_hookean()], dt=0.0), "dt=0.0"),
        (lambda: ds.models.MPM(ds.Grid((16, 16), DX), [neo_hookean()], dt=1e-3, substeps=0), "substeps=0"),
        (lambda: ds.models.MPM(ds.Grid((16, 16), DX), [], dt=1e-3), "materials is empty"),
        (lambda: ds.models.MPM(ds.Grid((16, 16), DX), [neo_hookean()], dt=1e-3, gravity=(0, 0, 1)), "gravity has 3"),
        (lambda: ds.Grid((16,), DX), "cells="),
        (lambda: ds.Grid((16, 16), -1.0), "dx=-1"),
        (lambda: ds.Grid((16, 16), 1.0, origin=(0, 0, 0)), "origin="),
        (lambda: ds.Walls("rough"), "'rough'"),
        (lambda: ds.Walls({"w-": "slip"}), "'w-'"),
        (lambda: ds.Walls("slip", friction=-0.1), "friction -0.1"),
        (lambda: ds.Walls("slip", friction=float("nan")), "friction nan"),
        (lambda: ds.Walls("slip", margin=0), "margin=0"),
    ],
)
def test_an_option_that_does_not_fit_is_named(build, message):
    with pytest.raises(SceneError, match=message):
        build()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": uniform(5, 3)}, "x has shape"),
        ({"v": uniform(4, 2)}, "v has shape"),
        ({"v": float("inf")}, "v is not finite at particle 0"),
        ({"volume": -1.0}, "volume of particle 0 is not positive"),
        ({"material": 3}, "material indices go up to 0"),
        ({"x": uniform(5, 2) + 1.0}, "outside the grid"),
    ],
)
def test_a_start_that_does_not_fit_is_named(change, message):
    with pytest.raises(DataError, match=message):
        model().initial_state(**{"x": uniform(5, 2, low=0.4, high=0.6), "volume": 1e-3, **change})


def test_a_control_without_a_tool_and_a_control_that_is_not_finite_are_errors():
    with pytest.raises(SceneError, match="no tools"):
        model()(block(model()), tensor([(0.0,) * 6]))
    simulation = model(tools=[ds.Tool(ds.Sphere(0.1))])
    with pytest.raises(SceneError, match="control of tool 0 is not finite"):
        simulation(block(simulation), tensor([(float("nan"),) * 6]))
