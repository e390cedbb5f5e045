"""Change of material between steps: what a particle keeps, what it starts from, and gradients across the change."""

import pytest
import torch
from bodies import block, model, parameter, uniform

import diffsim as ds
from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context

M = ds.materials
EPS = torch.finfo(context.dtype).eps
JELLY, SNOW, WATER, PUTTY = range(4)
double = pytest.mark.skipif(context.dtype != torch.float64, reason="differences need f64")
both_dimensions = pytest.mark.parametrize("dim", [2, 3])


def simulation(dim=2, number=float, putty=False):
    """Jelly without internal variables, snow with Jp, water twice as dense; putty with its plastic strain."""
    materials = [
        ds.Material(M.NeoHookean(number(1e3), 0.3), density=number(10.0)),
        ds.Material(M.Snow(number(1e3), 0.2), density=10.0),
        ds.Material(M.Tait(number(1e3)), density=number(20.0)),
    ]
    if putty:
        materials.append(ds.Material(M.Hencky(1e3, 0.3), M.VonMises(1e3, 0.3, 20.0, 50.0), density=10.0))
    return model(materials, dim)


def worked(dim, material=PUTTY):
    """A deformed body of one material whose internal variables are no longer those of the start."""
    simulated = simulation(dim, putty=True)
    state = block(simulated, 40, strain=0.1, material=material)
    return simulated, state._replace(q=uniform(*state.q.shape, seed=9, low=0.1, high=0.9))


@both_dimensions
def test_a_particle_that_becomes_snow_starts_unpacked_and_keeps_the_third_stretch(dim):
    simulated, state = worked(dim)
    assert state.q.shape[1] == 1 + (dim == 2)
    odd = torch.arange(len(state.x)) % 2 == 1
    new = simulated.switch(state, SNOW, odd)
    assert torch.equal(new.material, torch.where(odd, SNOW, PUTTY))
    assert (new.q[odd, -1] == 1).all() and torch.equal(new.q[~odd], state.q[~odd])
    if dim == 2:
        assert torch.equal(new.q[:, 0], state.q[:, 0])
    for name in ("x", "v", "C", "F", "volume", "X", "pose", "time"):
        assert torch.equal(getattr(new, name), getattr(state, name)), name


@both_dimensions
def test_what_has_the_material_already_keeps_its_variables(dim):
    simulated, state = worked(dim, SNOW)
    same = simulated.switch(state, SNOW)
    assert torch.equal(same.q, state.q)
    assert torch.equal(same.F, state.F) and torch.equal(same.volume, state.volume)


@both_dimensions
def test_mass_and_current_volume_stay_where_the_density_changes(dim):
    simulated, state = worked(dim)
    half = torch.arange(len(state.x)) < 20
    new = simulated.switch(state, torch.full((len(half),), WATER), half)
    density = torch.where(half, 20.0, 10.0).to(state.volume)
    torch.testing.assert_close(density * new.volume, 10 * state.volume, rtol=4 * EPS, atol=0)
    now, before = (torch.linalg.det(s.F) * s.volume for s in (new, state))
    torch.testing.assert_close(now, before, rtol=10 * EPS, atol=0)
    assert torch.equal(new.F[~half], state.F[~half])


def test_snow_that_froze_behaves_as_snow_from_the_start():
    simulated = simulation()
    state = block(simulated, 40, strain=0.05, jitter=0.3)
    born = simulated.initial_state(state.x, state.v, volume=state.volume, material=SNOW, F=state.F, C=state.C)
    with torch.no_grad():
        for one, other in zip(simulated(simulated.switch(state, SNOW)), simulated(born), strict=True):
            assert torch.equal(one, other)


def run(simulated, state, hot):
    """A step as jelly, one with half of it water, and one with a quarter of it snow."""
    state = simulated(state)
    state = simulated(simulated.switch(state, WATER, hot))
    state = simulated(simulated.switch(state, SNOW, torch.arange(len(hot)) % 4 == 0))
    weight = torch.linspace(-1, 1, state.F.numel(), dtype=context.dtype).reshape(state.F.shape)
    return (weight * state.F).sum() + (weight[:, 0] * state.x).sum() + (weight[:, 0, 0] * state.q[:, -1]).sum()


@double
@pytest.mark.parametrize("dim", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_gradient_crosses_melting_and_freezing(dim):
    simulated = simulation(dim, parameter)
    state = block(simulated, 40, strain=0.05, jitter=0.3)
    hot = torch.arange(len(state.x)) % 2 == 0
    F = state.F.clone().requires_grad_()
    inputs = [F, *simulated.parameters()]
    gradients = torch.autograd.grad(run(simulated, state._replace(F=F), hot), inputs)
    assert len(inputs) == 6
    for value, gradient in zip(inputs, gradients, strict=True):
        direction = gradient / gradient.norm()
        step = 1e-4 * value.detach().norm().item() if value.ndim == 0 else 1e-5
        start, ends = value.detach().clone(), []
        with torch.no_grad():
            for shift in (-2, -1, 1, 2):
                value.copy_(start + shift * step * direction)
                ends.append(run(simulated, state._replace(F=F), hot).item())
            value.copy_(start)
        expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "material, mask, words",
    [
        (3, None, "material of particle 0 is 3; the model's go from 0 to 2"),
        (-1, None, "material of particle 0 is -1"),
        (0.5, None, "material is .* pass an index"),
        ([1, 2], None, r"material is \(2,\)"),
        (1, [True, False], r"mask is \(2,\)"),
        (1, torch.ones(40), "mask is .*float.*; pass a boolean"),
    ],
)
def test_what_cannot_be_is_refused(material, mask, words):
    simulated = simulation()
    with pytest.raises(DataError, match=words):
        simulated.switch(block(simulated, 40), material, mask)


def test_the_state_of_another_model_is_refused():
    simulated = simulation()
    plain = model([ds.Material(M.NeoHookean(1e3, 0.3), density=10.0)])
    with pytest.raises(SceneError, match="the state has 0 internal variables, the model 2"):
        simulated.switch(block(plain, 40), 0)
