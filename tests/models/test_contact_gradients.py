"""Gradients of solids in contact by every parameter: at rest, stuck, sliding, with themselves; thirty steps.

Nothing is aligned: obstacles are tilted, elements deformed. Solves go to a residual of 1e-12, and differences across a
change of the pairs in contact, or of which of them slide, are left out by ``gradcheck``.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

import diffsim as ds
from diffsim.geometry.solid import SolidMesh, block
from diffsim.geometry.surface import sheet
from diffsim.kernels.arrays import context
from diffsim.testing import gradcheck

if context.dtype != torch.float64 or context.device != "cpu":
    pytest.skip("contact is in f64 on the CPU", allow_module_level=True)

SLIP_SPEED = 0.02
BLOCKS = {2: ((3, 2), (0.1, 0.06), (0.0, 0.004)), 3: ((2, 1, 1), (0.1, 0.06, 0.05), (0.0, 0.0, 0.004))}


def number(value):
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


def ground(dim, motion=None):
    """A tilted line, or plane."""
    if dim == 2:
        return ds.models.Obstacle((np.array([[-0.4, -0.011], [0.5, 0.009]]), np.array([[0, 1]])), motion)
    V, F = sheet((2, 2), (0.5, 0.6), (-0.21, -0.26, 0.0), pattern="diagonal")
    c, s = math.cos(0.3), math.sin(0.3)
    R = np.array([[c, -s, 0.01], [s, c, -0.015], [0.0, 0.0, 1.0]])
    return ds.models.Obstacle((V @ R.T + np.outer(V @ [0.02, 0.013, 0.0], [0, 0, 1]), F), motion)


def body(dim, friction, *, integrator="euler", quadratic=False, motion=None, mesh=None, itself=False, **options):
    mesh = mesh or block(*BLOCKS[dim], quadratic=quadratic)
    contact = ds.models.Contact(number(3e-3), number(1e4), friction=number(friction) if friction else 0.0,
                                slip_speed=SLIP_SPEED, obstacles=[ground(dim, motion)], itself=itself)  # fmt: skip
    material = ds.Material(ds.materials.NeoHookean(number(1e5), number(0.3)), density=number(1e3))
    down = [0.0] * (dim - 1) + [-9.8]
    return ds.models.FEM(mesh, material, dt=4e-3, gravity=number(down), contact=contact, integrator=integrator,
                         damping=0.5, tolerance=1e-11, **options)  # fmt: skip


def settled(model, steps=8, speed=0.0):
    """Let down, and given a speed along."""
    with torch.no_grad():
        state = ds.rollout(model, model.initial_state(), steps=steps)[-1]
    along = torch.tensor([1.0, 0.3, 0.0][: model.dim - 1] + [0.0], dtype=torch.float64) * speed
    return state._replace(v=state.v + along)


def residual(model, before, after):
    """Largest force on a free coordinate after a step over the largest of the forces that cancel there."""
    inputs = model._inputs(after, before.x, float(before.time), float(after.time))
    mass, load = model._loads(after.X, float(after.time))
    parts = [mass[:, None] * (after.a + model.damping * after.v), -load]
    parts += [term.force(after.x, *own) for term, own in zip(model.terms, inputs, strict=True)]
    free = ~model.support.held
    return float(sum(parts)[free].abs().max() / sum(part.abs() for part in parts)[free].max())


INPUTS = ["x", "v", "X", "gravity", "material.elastic.E", "material.elastic.nu", "material.density",
          "contact.stiffness", "contact.distance"]  # fmt: skip


def check(model, state, *more, steps=2, controls=None, kind="in contact", **options):
    with torch.no_grad():
        assert residual(model, state, model(state, None if controls is None else controls[0])) <= 1e-12
    options = {"taylor": False, "entries": 2 * (model.dim == 3), "directions": 1} | options
    report = gradcheck(model, state, controls, wrt=[*INPUTS, *more], steps=steps, tolerance=1e-5, **options)
    assert report.ok, f"\n{report}"
    assert report.shares["in contact"] >= 0.1 and report.shares[kind] >= 0.5 * report.shares["in contact"]
    return report


@pytest.mark.parametrize("dim", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_gradients_in_resting_contact(dim):
    model = body(dim, 0.0)
    check(model, settled(model))


@pytest.mark.parametrize("integrator", ["bdf2", pytest.param("newmark", marks=pytest.mark.slow)])
def test_gradients_in_resting_contact_of_quadratic_elements_and_other_integrators(integrator):
    model = body(2, 0.3, integrator=integrator, quadratic=True)
    check(model, settled(model), "contact.friction")


@pytest.mark.parametrize("dim", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind, speed", [("sticking", 2e-3), ("sliding", 0.3)])
def test_gradients_in_stick_and_slip(dim, kind, speed):
    model = body(dim, 0.4)
    check(model, settled(model, speed=speed), "contact.friction", kind=kind)


def two_blocks():
    """A block that is held at its base, and another one that lies on it, turned a little: one mesh."""
    lower, upper = block((3, 1), (0.12, 0.04), (-0.01, 0.004)), block((2, 1), (0.07, 0.04))
    c, s = math.cos(0.03), math.sin(0.03)
    moved = upper.nodes @ np.array([[c, s], [-s, c]]) + [0.02, 0.0456]
    return SolidMesh(np.concatenate([lower.nodes, moved]), np.concatenate([lower.elements, upper.elements + 8]))


def test_gradients_in_self_contact():
    model = body(2, 0.3, mesh=two_blocks(), itself=True, prescribed=[0, 2, 4, 6])
    state = settled(model, steps=6, speed=0.0)
    v = torch.zeros_like(state.v)
    v[8:, 0] = 0.2
    report = check(model, state._replace(v=v), "contact.friction", kind="sliding")
    assert report.shares["in contact"] > 0.2


def test_gradients_by_controls_and_the_motion_of_an_obstacle():
    """Driven nodes press the body on a ground that tilts."""
    rise = number([[0.0, 0.02], [0.01, 0.05]])
    model = body(2, 0.4, motion=lambda X, t: X + t * model.rise, prescribed=[2, 5, 8, 11])
    model.register_parameter("rise", rise)
    controls = torch.tensor([0.05, -0.1], dtype=torch.float64).repeat(2, 4, 1)
    with torch.no_grad():
        state = ds.rollout(model, model.initial_state(), controls.repeat(4, 1, 1), steps=8)[-1]
    check(model, state, "controls", "rise", "contact.friction", controls=controls)


@pytest.mark.slow
@pytest.mark.parametrize("kind, speed", [("in contact", 0.0), ("sliding", 1.0)])
def test_thirty_steps_in_contact_have_a_taylor_slope_of_two(kind, speed):
    model = body(2, 0.3 if speed else 0.0)
    state = settled(model, steps=25, speed=speed)
    report = gradcheck(model, state, wrt=["x", "v", "material.elastic.E", "contact.stiffness"], steps=30, entries=0,
                       directions=1, tolerance=1e-5)  # fmt: skip
    assert report.ok and report.shares[kind] > 0.1, f"\n{report}"
    assert all(abs(row.slope - 2) <= 0.05 for row in report.rows), f"\n{report}"
