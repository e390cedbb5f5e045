"""Gradients of short MPM rollouts of the elastic and viscous laws, moving and at rest, and across a change of material.

All laws share one kernel: a seventh of the particles is of each.
"""

import pytest
import torch

import diffsim as ds
from diffsim.kernels.arrays import context
from diffsim.testing import gradcheck

if context.dtype != torch.float64:
    pytest.skip("differences need f64", allow_module_level=True)

# beyond the stable step, so that the viscous parameters count: six substeps are over before anything grows
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*the viscous number"),
    pytest.mark.filterwarnings("ignore:.*give fastest"),
]

M = ds.materials
COUNT = 42


def parameter(number):
    return torch.nn.Parameter(torch.tensor(number, dtype=torch.float64))


def p(*numbers):
    return [parameter(number) for number in numbers]


def laws(yield_stress=150.0, relaxation=1e-2):
    """Elastic and viscous laws; one parameter is given per particle."""
    damping = M.KelvinVoigt.from_relaxation_time(*p(relaxation, 1e3, 0.3))
    index = torch.nn.Parameter(torch.linspace(0.5, 1.5, COUNT, dtype=torch.float64))
    regularization = {"growth": parameter(0.3), "rate": parameter(0.5)}
    paste = M.HerschelBulkley(*p(yield_stress, 10.0), index, kappa=parameter(2.0), **regularization)
    parts = [
        (M.LinearElastic(*p(1e3, 0.3)), None),
        (M.StableNeoHookean(*p(1e3, 0.3)), None),
        (M.StableNeoHookean.from_coefficients(*p(400.0, 900.0), logarithm=False), None),
        (M.NeoHookean(*p(1e3, 0.3)), damping),
        (M.Tait(*p(1e3, 7.0)), None),
        (M.Liquid(*p(1e3, 0.3)), M.Newtonian(*p(30.0, 10.0))),
        (M.Tait(*p(1e3, 2.0)), paste),
    ]
    return [ds.Material(elastic, viscous=viscous, density=10.0) for elastic, viscous in parts]


def scene(materials, d, *, jitter=0.1, strain=0.03, material=None):
    model = ds.models.MPM(ds.Grid((12,) * d, 1 / 12), materials, dt=1e-3, substeps=3)
    generator = torch.Generator().manual_seed(7)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = 0.4 + 0.2 * torch.rand(COUNT, d, generator=generator, dtype=torch.float64)
    F = torch.eye(d, dtype=torch.float64) + strain * normal(COUNT, d, d)
    material = torch.arange(COUNT) % len(materials) if material is None else material
    return model, model.initial_state(
        x, jitter * normal(COUNT, d), volume=0.2**d / COUNT, material=material, F=F, C=5 * jitter * normal(COUNT, d, d)
    )


@pytest.mark.parametrize("d", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_gradient_by_every_input_and_parameter_equals_differences(d):
    # the more damping, the clearer its gradient; 3-D has fewer particles to a node and bears less
    model, state = scene(laws(relaxation=3e-2 if d == 2 else 1e-2), d)
    report = gradcheck(model, state, steps=2, entries=2, directions=1, taylor=False)
    assert report.ok, report
    parameters = [row for row in report.rows if row.input.startswith("materials.")]
    assert len(parameters) == len(list(model.parameters())) and all(row.norm > 0 for row in parameters), report


@pytest.mark.parametrize("d", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_at_rest_nothing_moves_and_the_gradient_is_exact(d):
    model, state = scene(laws(yield_stress=5.0), d, jitter=0.0, strain=0.0)
    after = ds.rollout(model, state, steps=2)[-1]
    assert torch.equal(after.x, state.x) and not after.v.any() and torch.equal(after.F, state.F)
    report = gradcheck(model, state, steps=2, wrt=("v", "C", "F"), entries=4, directions=1, taylor=False)
    assert report.ok, report
    assert all(row.norm > 0 for row in report.rows), report


def loss(model, state):
    """Weighted end of two steps as a jelly and a putty, and of two more where half of each has melted."""
    start = state.material
    for _ in range(2):
        state = model(state)
    state = state._replace(material=torch.where(MELTS, 2, start))
    for _ in range(2):
        state = model(state)
    weight = torch.linspace(-1, 1, state.F.numel(), dtype=torch.float64).reshape(state.F.shape)
    return (weight * state.F).sum() + (weight[:, 0] * (state.x + 0.01 * state.v)).sum(), state


MELTS = torch.arange(COUNT) % 4 < 2


def test_a_solid_melts_into_a_liquid_between_steps_and_the_gradient_crosses_it():
    """The putty keeps F33 in 2-D; the liquid reads it and leaves it. A melted particle has no shear left."""
    stiffness, exponent, eta = p(1e3, 7.0, 0.3)
    jelly = ds.Material(M.FixedCorotated(stiffness, 0.3), density=10.0)
    putty = ds.Material(M.Hencky(stiffness, 0.3), M.VonMises(1e3, 0.3, 20.0), density=10.0)
    liquid = ds.Material(M.Tait(500.0, exponent), viscous=M.Newtonian(eta), density=10.0)
    model, state = scene([jelly, putty, liquid], 2, strain=0.1, material=torch.arange(COUNT) % 2)
    _, end = loss(model, state)
    F = end.F[MELTS]
    torch.testing.assert_close(F, F[:, :1, :1] * torch.eye(2, dtype=F.dtype), rtol=0, atol=0)
    assert (end.F[~MELTS, 0, 1].abs() > 1e-3).any()
    was_putty = MELTS & (state.material == 1)
    assert (end.q[was_putty] - 1).abs().max() > 1e-3 and (end.q[state.material == 0] == 1).all()

    start = state.F.clone().requires_grad_()
    inputs = [stiffness, exponent, eta, start]
    gradients = torch.autograd.grad(loss(model, state._replace(F=start))[0], inputs)
    for value, gradient in zip(inputs, gradients, strict=True):
        direction = gradient / gradient.norm()
        step = 1e-4 * value.detach().norm().item() if value.ndim == 0 else 1e-4
        base, ends = value.detach().clone(), []
        for shift in (-2, -1, 1, 2):
            with torch.no_grad():
                value.copy_(base + shift * step * direction)
                ends.append(loss(model, state._replace(F=start))[0].item())
        with torch.no_grad():
            value.copy_(base)
        expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-6)
