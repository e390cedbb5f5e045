"""Contact and friction of sheets and solids: nothing interpenetrates, Coulomb's law, gradients in every state."""

import math

import ipctk
import numpy as np
import pytest
import torch
import trimesh
from taylor import differences
from torch import nn

import diffsim as ds
from diffsim.errors import GradientError, MeshError, SceneError, SolverError
from diffsim.geometry.solid import block
from diffsim.geometry.surface import sheet
from diffsim.kernels.arrays import context

if context.dtype != torch.float64 or context.device != "cpu":
    pytest.skip("contact is in f64 on the CPU", allow_module_level=True)

Contact, Obstacle = ds.models.Contact, ds.models.Obstacle


def number(value):
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


def noise(*shape, seed=0, size=1.0):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(points, degrees, axis=2):
    """Points turned about an axis, off every alignment."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = [k for k in range(3) if k != axis]
    out = np.array(points, dtype=float)
    out[:, i], out[:, j] = c * points[:, i] - s * points[:, j], s * points[:, i] + c * points[:, j]
    return out


def intersects(contact, state):
    V = contact.vertices(state.x, contact.obstacles_at(float(state.time), state.x))
    return ipctk.has_intersections(contact._collision_mesh(state.X), V)


def patch(contact, *, height=0.004, cells=(3, 3), v=(0.0, 0.0, 0.0), learn=True, **options):
    """A small sheet over the plane z = 0."""
    V, F = sheet(cells, (0.1, 0.1), (-0.05, -0.05, height), pattern="diagonal")
    V = turned(V, 20) + [0.003, 0.001, 0.0]
    value = number if learn else float
    options = {"dt": 5e-3, "gravity": (0.0, 0.0, -9.8), "tolerance": 1e-10} | options
    model = ds.models.Shell((V, F), E=value(1e6), nu=value(0.3), thickness=value(1e-3), density=value(1e3),
                            contact=contact, **options)  # fmt: skip
    return model, model.initial_state(v=torch.tensor(v, dtype=torch.float64))


def test_a_contact_belongs_to_one_model_and_takes_single_numbers():
    contact = Contact(2e-3, 1e3, obstacles=[floor()])
    patch(contact)
    with pytest.raises(SceneError, match="belongs to another model already"):
        patch(contact)
    with pytest.raises(SceneError, match=r"stiffness has shape \(2,\); give one number"):
        Contact(2e-3, torch.tensor([1e3, 1e3]))


def floor(motion=None):
    """A plane of two triangles, turned off the sheet's edges."""
    V, F = sheet((2, 2), (1.0, 1.1), (-0.5, -0.5, 0.0), pattern="diagonal")
    return Obstacle((turned(V, 7), F), motion)


def settled(model, state, steps):
    with torch.no_grad():
        last = ds.rollout(model, state, steps=steps)[-1]
    return last


def shares(model, state, steps):
    """Largest share of the nodes in contact over some steps, and of those the shares that slide and that stick."""
    model.trace = []
    with torch.no_grad():
        ds.rollout(model, state, steps=steps)
    records, model.trace = model.trace, None
    touching, sliding, sticking = (max(record[k] for record in records) for k in (1, 2, 3))
    return touching / len(state.x), sliding / touching, sticking / touching


def errors_of(model, state, steps, *parameters):
    """Relative errors of the gradients of some steps by x, v and parameters of the model."""
    x, v = state.x.detach().clone().requires_grad_(), state.v.detach().clone().requires_grad_()
    weight = noise(*x.shape)
    named = dict(model.named_parameters())

    def loss():
        moved = ds.rollout(model, state._replace(x=x, v=v), steps=steps)[-1]
        return ((moved.x + model.dt * moved.v) * weight).sum()

    leaves = {"x": x, "v": v, **{name: named[name] for name in parameters}}
    return differences(loss, leaves, sizes={"x": 1e-5, "v": 1e-3})


def test_gradients_in_resting_contact_agree_with_differences():
    contact = Contact(4e-3, number(3e3), obstacles=[floor()], itself=False)
    model, state = patch(contact, height=0.003)
    state = settled(model, state, 10)
    assert shares(model, state, 2)[0] > 0.5
    errors = errors_of(model, state, 2, "E", "thickness", "density", "contact.stiffness")
    assert all(error < 1e-5 for error in errors.values()), errors


@pytest.mark.parametrize("speed, slides", [(1e-4, False), (0.3, True)])
def test_gradients_in_stick_and_slip_agree_with_differences(speed, slides):
    """The lagged normal forces and tangents are differentiated too."""
    contact = Contact(4e-3, number(3e3), friction=number(0.4), slip_speed=0.02, obstacles=[floor()], itself=False)
    model, state = patch(contact, height=0.002, v=(speed, 0.5 * speed, -0.01))
    touching, sliding, sticking = shares(model, state, 3)
    assert touching > 0.5 and (sliding if slides else sticking) > 0.5
    errors = errors_of(model, state, 3, "E", "contact.stiffness", "contact.friction")
    assert all(error < 1e-5 for error in errors.values()), errors


def test_the_motion_of_an_obstacle_and_the_rest_shape_have_gradients():
    push = number([0.0, 0.05, -0.1])
    lid = Obstacle((turned(sheet((2, 2), (0.3, 0.3), (-0.15, -0.15, 0.006))[0], 31), sheet((2, 2), (0.3, 0.3))[1]),
                   lambda X, t: X + push * t)  # fmt: skip
    contact = Contact(4e-3, 3e3, friction=0.3, slip_speed=0.02, obstacles=[lid], itself=False)
    model, _ = patch(contact, gravity=None, height=0.003, prescribed=[0, 15])
    X = model.X.clone().requires_grad_()
    weight = noise(*X.shape)

    def loss():
        return (ds.rollout(model, model.initial_state(x=model.X, X=X), steps=3)[-1].x * weight).sum()

    errors = differences(loss, {"push": push, "X": X}, sizes={"push": 0.1, "X": 1e-4})
    assert all(error < 1e-5 for error in errors.values()), errors


def test_gradients_in_self_contact_agree_with_differences():
    """Two leaves of one mesh, the lower one held at its corners, the upper one sliding over it."""
    V, F = sheet((3, 3), (0.1, 0.1), (-0.05, -0.05, 0.0), pattern="diagonal")
    leaves = np.concatenate([V, 0.8 * turned(V, 20) + [0.003, 0.001, 0.003]])
    contact = Contact(4e-3, number(3e3), friction=number(0.2), slip_speed=0.02)
    model = ds.models.Shell(
        (leaves, np.concatenate([F, F + len(V)])), E=1e6, nu=0.3, thickness=number(1e-3), density=1e3, dt=5e-3,
        gravity=(0.0, 0.0, -9.8), contact=contact, prescribed=[0, 3, 12, 15], tolerance=1e-10,
    )  # fmt: skip
    v = torch.zeros_like(model.X)
    v[len(V) :] = torch.tensor([0.1, 0.05, -0.05], dtype=torch.float64)
    state = model.initial_state(v=v)
    touching, sliding, _ = shares(model, state, 2)
    assert touching > 0.2 and sliding > 0.2
    errors = errors_of(model, state, 2, "thickness", "contact.stiffness", "contact.friction")
    assert all(error < 1e-5 for error in errors.values()), errors


def hairpin(contact, learn=False, speed=-0.5, cells=(14, 1)):
    """A strip bent to a U that is 1.5 cm wide; its upper end is moved down with ``speed`` [m/s]."""
    V, F = sheet(cells, (0.1, 0.03), pattern="diagonal")
    r, s = 0.0075, V[:, 0] - 0.05
    bend = np.clip(s / r, -math.pi / 2, math.pi / 2)
    over = np.abs(s) - math.pi / 2 * r
    x = np.where(over > 0, -over, r * np.cos(bend))
    bent = np.stack([x, V[:, 1] + 0.002 * x / 0.03, r * np.sin(bend)], 1)
    value = number if learn else float
    end = np.flatnonzero(V[:, 0] > 0.1 - 1e-9)
    model = ds.models.Shell(
        (V, F), E=value(1e6), nu=0.3, thickness=value(1e-3), density=300.0, dt=2e-3, contact=contact, tolerance=1e-10,
        prescribed=[ds.models.Prescribed(np.flatnonzero(V[:, 0] < 1e-9)),
                    ds.models.Prescribed(end, lambda X, t: torch.from_numpy(bent[end]) + torch.tensor(
                        [0.0, 0.0, max(-0.0125, speed * t)], dtype=torch.float64))],
    )  # fmt: skip
    return model, model.initial_state(x=bent)


def test_a_hairpin_pressed_flat_never_intersects_itself():
    contact = Contact(6e-3, 3e3)
    model, state = hairpin(contact)
    with torch.no_grad():
        for _ in range(12):
            state = model(state)
            assert not intersects(contact, state)
    assert contact.minimum_distance(state.x, 0.0, state.X) < 6e-3


@pytest.mark.parametrize("seed", range(4))
def test_sheets_dropped_at_random_never_intersect_and_never_gain_energy(seed):
    drop(seed, cells=6, steps=30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 24))
def test_more_sheets_dropped_at_random(seed):
    drop(seed, cells=10, steps=60)


def drop(seed, cells, steps):
    """A sheet thrown at random on a ball, with self-contact: free of intersections at every step."""
    rng = np.random.default_rng(seed)
    V, F = sheet((cells, cells), (0.2, 0.2), (-0.1, -0.1, 0.0), pattern="alternating")
    V = turned(turned(V, rng.uniform(-60, 60), 0), rng.uniform(0, 360)) + [*rng.uniform(-0.04, 0.04, 2), 0.17]
    ball = trimesh.creation.icosphere(1, 0.06)
    contact = Contact(3e-3, 1e4, friction=0.3 * (seed % 2), obstacles=[ball])
    model = ds.models.Shell((V, F), E=3e5, nu=0.3, thickness=1e-3, density=300.0, dt=1e-2, gravity=(0, 0, -9.8),
                            contact=contact)  # fmt: skip
    state = model.initial_state(v=torch.from_numpy(np.array([*rng.uniform(-0.5, 0.5, 2), -2.0])))
    mass, _ = model.nodal(model.X)
    total = lambda s: sum(model.energy(s).values()) + 9.8 * float((mass * s.x[:, 2]).sum())  # noqa: E731
    before = total(state)
    with torch.no_grad():
        for _ in range(steps):
            state = model(state)
            assert not intersects(contact, state)
            after = total(state)
            assert after <= before + 1e-6 * abs(before)
            before = after
    assert torch.isfinite(state.x).all()


def test_a_block_between_plates_carries_the_load_through_both():
    mesh = block((3, 3), (0.1, 0.1), (-0.05, 0.002))

    def plate(y, motion=None):
        return Obstacle((np.array([[-0.3, y - 0.01], [0.4, y + 0.01]]), np.array([[0, 1]])), motion)

    press = torch.tensor([0.0, -0.4], dtype=torch.float64)
    lower, upper = plate(-0.01), plate(0.12, lambda X, t: X + press * t)
    contact = Contact(2e-3, 1e4, obstacles=[lower, upper])
    model = ds.models.FEM(mesh, ds.Material(ds.materials.NeoHookean(1e5, 0.3), density=1e3), dt=1e-2, contact=contact)
    state = model.initial_state()
    with torch.no_grad():
        for _ in range(10):
            state = model(state)
            assert not intersects(contact, state)
    assert float(state.x[:, 1].max() - state.x[:, 1].min()) < 0.098
    assert 0 < contact.minimum_distance(state.x, float(state.time), state.X) < 2e-3


def test_what_collides_at_the_start_or_cannot_give_way_is_refused():
    V, F = sheet((2, 2), (0.1, 0.1), (-0.05, -0.05, 0.0))
    ball = trimesh.creation.icosphere(1, 0.03)
    options = dict(E=1e6, nu=0.3, thickness=1e-3, density=300.0)
    model = ds.models.Shell((V, F), dt=1e-2, contact=Contact(1e-3, 1e4, obstacles=[ball]), **options)
    with pytest.raises(MeshError, match="intersect at the start"):
        model.initial_state()
    ram = Obstacle(ball, lambda X, t: X + torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64) * t)
    held = ds.models.Shell((V + [0.0, 0.0, 0.035], F), dt=1e-2, contact=Contact(1e-3, 1e4, obstacles=[ram]),
                           prescribed=list(range(9)), **options)  # fmt: skip
    with pytest.raises(SolverError, match="cannot give way"):
        ds.rollout(held, held.initial_state(), steps=2)
    with pytest.raises(SceneError, match="explicit"):
        ds.models.Shell((V, F), dt=1e-2, integrator="explicit", contact=Contact(1e-3, 1e4), **options)
    for bad in ({"distance": 0.0}, {"stiffness": -1.0}, {"friction": -0.1}, {"slip_speed": 0.0}):
        with pytest.raises(SceneError, match=next(iter(bad))):
            Contact(**({"distance": 1e-3, "stiffness": 1e4} | bad))


def test_gradients_that_do_not_exist_are_refused():
    contact = Contact(4e-3, 3e3, friction=number(0.0), obstacles=[floor()], itself=False)
    model, state = patch(contact, height=0.002)
    with pytest.raises(GradientError, match="friction is 0"):
        model(state).x.sum().backward()
