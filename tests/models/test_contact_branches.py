"""Contact does not depend on the obstacle's mesh; its branches are recorded, and differences across them refused."""

import copy
import math

import numpy as np
import pytest
import torch
from taylor import differences
from torch import nn

import diffsim as ds
from diffsim.geometry.solid import block
from diffsim.geometry.surface import sheet
from diffsim.kernels.arrays import context
from diffsim.testing import gradcheck

if context.dtype != torch.float64 or context.device != "cpu":
    pytest.skip("contact is in f64 on the CPU", allow_module_level=True)

Contact, Obstacle = ds.models.Contact, ds.models.Obstacle


def turned(points, degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.asarray(points) @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])


def plane(cells, pattern="diagonal", motion=None):
    V, F = sheet((cells, cells), (0.4, 0.4), (-0.2, -0.2, 0.0), pattern=pattern)
    return Obstacle((turned(V, 7), F), motion)


def patch(contact, height=0.002, cells=6, **options):
    V, F = sheet((cells, cells), (0.1, 0.1), (-0.05, -0.05, height), pattern="diagonal")
    return ds.models.Shell((turned(V, 20) + [0.003, 0.001, 0.0], F), E=1e6, nu=0.3, thickness=1e-3, density=1e3,
                           dt=5e-3, contact=contact, tolerance=1e-10, **options)  # fmt: skip


def test_the_force_depends_little_on_the_mesh_of_the_obstacle():
    """A sheet at half the distance above a plane of 2 to 8192 triangles."""
    forces = []
    for cells, pattern in [(n, p) for n in (1, 2, 3, 5, 16, 64) for p in ("diagonal", "alternating")]:
        contact = Contact(4e-3, 3e3, obstacles=[plane(cells, pattern)], itself=False)
        state = patch(contact).initial_state()
        forces.append(float(contact.force(state.x, *contact.inputs(state.X, state.x, 0.0, 0.0))[:, 2].sum()))
    assert max(forces) < 0 and min(forces) / max(forces) < 1.2


@pytest.mark.filterwarnings("ignore:the sheet is:UserWarning")
def test_an_obstacle_too_large_to_be_subdivided_is_warned_of():
    V, F = sheet((1, 1), (100.0, 100.0), (-50.0, -50.0, 0.0))
    with pytest.warns(UserWarning, match="obstacle 0 stays coarser"):
        patch(Contact(4e-3, 3e3, obstacles=[(V, F)], itself=False))


def test_gradients_pass_through_the_subdivision_to_the_motion_of_the_given_vertices():
    push = nn.Parameter(torch.tensor([[0.0, 0.05, 0.1], [0.02, 0.0, 0.15]], dtype=torch.float64))
    bend = torch.tensor([[1.0, 0.3], [0.2, 1.0], [0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    contact = Contact(4e-3, 3e3, friction=0.3, slip_speed=0.02, itself=False,
                      obstacles=[plane(1, motion=lambda X, t: X + t * bend @ push)])  # fmt: skip
    model = patch(contact, cells=3, prescribed=[0, 15])
    assert len(contact.refinements[0]) > 16
    weight = torch.randn(model.X.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss():
        return (ds.rollout(model, model.initial_state(), steps=2)[-1].x * weight).sum()

    assert differences(loss, {"push": push}, sizes={"push": 0.02})["push"] < 1e-6


def test_the_way_to_a_collision_is_found_before_anything_else_was_asked():
    contact = Contact(4e-3, 3e3, obstacles=[plane(2)], itself=False)
    model = patch(contact)
    x, still = model.X, contact.obstacles_at(0.0, model.X)
    down = x - torch.tensor([0.0, 0.0, 0.02], dtype=torch.float64)
    assert 0.05 < contact.limit(x, down, still, still, x) < 0.11
    other = copy.deepcopy(model)  # without what the first one keeps from call to call
    assert torch.equal(other(model.initial_state()).x, model(model.initial_state()).x)


def resting(speed=0.0):
    """A block in 2-D that has come to rest on a line, given a speed along it."""
    mesh = block((3, 2), (0.1, 0.06), (0.0, 0.0015))
    line = np.array([[-1.0, -0.003], [1.0, 0.003]]), np.array([[0, 1]])
    contact = Contact(2e-3, nn.Parameter(torch.tensor(1e4, dtype=torch.float64)), friction=0.4, slip_speed=0.02,
                      obstacles=[Obstacle(line)], itself=False)  # fmt: skip
    model = ds.models.FEM(mesh, ds.Material(ds.materials.NeoHookean(1e5, 0.3), density=1e3), dt=4e-3,
                          gravity=(0.0, -9.8), contact=contact, tolerance=1e-11)  # fmt: skip
    with torch.no_grad():
        state = ds.rollout(model, model.initial_state(), steps=6)[-1]
    along = torch.tensor([speed, 0.0], dtype=torch.float64)
    return model, state._replace(v=along.expand_as(state.v).contiguous())


@pytest.mark.parametrize("speed, name, other", [(0.0, "sticking", "sliding"), (0.3, "sliding", "sticking")])
def test_a_record_tells_how_many_nodes_touch_slide_and_stick(speed, name, other):
    model, state = resting(speed)
    model.trace = []
    model(model(state))
    assert len(model.trace) == 2
    for record in model.trace:
        found = dict(zip(model.shares, record[1:], strict=True))
        assert found["in contact"] == 4 and found[name] == 4 and found[other] == 0


def test_differences_that_cross_a_switch_are_refused():
    """At this speed some nodes stick and others slide: long steps of the differences change which."""
    model, state = resting(0.06)
    report = gradcheck(model, state, wrt=["v", "contact.stiffness"], taylor=False, entries=2, directions=1)
    assert report.ok and report["v"].switches > 0, f"\n{report}"
    assert report.shares["in contact"] > 0.3 and report.shares["sliding"] > 0.1
    model.trace = []
    model(state), model(state._replace(v=state.v * 1.5))
    assert model.trace[0] != model.trace[1]


def test_a_body_without_contact_records_its_steps_too():
    mesh = block((1, 1), (1.0, 1.0))
    model = ds.models.FEM(mesh, ds.Material(ds.materials.NeoHookean(1e4, 0.3), density=1e3), dt=1e-2)
    model.trace = []
    ds.rollout(model, model.initial_state(), steps=3)
    assert model.trace == [(0, 0, 0, 0, 0)] * 3
