"""Bodies in motion: free fall, reactions of every integrator, stress, memory, and supports that are refused."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import diffsim as ds
from diffsim.errors import MeshError, SceneError
from diffsim.geometry.solid import block
from diffsim.kernels.arrays import context

if context.dtype != torch.float64 or context.device != "cpu":
    pytest.skip("finite elements are in f64 on the CPU", allow_module_level=True)

M = ds.materials
G = 9.8


def bar(dim=2, *, quadratic=False, law=M.NeoHookean, plastic=None, E=1e4, **options):
    mesh = block((3, 1, 1)[:dim], (1.0, 0.3, 0.25)[:dim], quadratic=quadratic)
    options = {"dt": 1e-2, "gravity": (0.0, -G, 0.0)[:dim]} | options
    return ds.models.FEM(mesh, ds.Material(law(E, 0.3), plastic, density=1e3), **options)


def left(model):
    return model.mesh.select(lambda X: X[:, 0] == 0)


@pytest.mark.parametrize("integrator", ["euler", "bdf2", "newmark", "explicit"])
@pytest.mark.parametrize("dim, quadratic", [(2, True), (3, True), (2, False)])
def test_a_free_body_falls_without_being_deformed(integrator, dim, quadratic):
    if integrator != "euler" and dim == 3:
        pytest.skip("the same loads; seen in two dimensions")
    model = bar(dim, quadratic=quadratic, integrator=integrator, dt=1e-4 if integrator == "explicit" else 1e-2)
    with torch.no_grad():
        state = ds.rollout(model, model.initial_state(), steps=5)[-1]
    moved = state.x - model.X
    torch.testing.assert_close(moved, moved.mean(0).expand_as(moved), rtol=0, atol=1e-11)
    torch.testing.assert_close(state.v[:, 1], torch.full_like(state.v[:, 1], -G * 5 * model.dt), rtol=0, atol=1e-9)


def test_equilibria_of_quadratic_elements_take_the_consistent_load():
    """A column under its own weight, u = -rho g (H y - y^2/2)/(lam + 2 mu): exact with quadratic elements."""
    mesh = block((1, 2), (0.5, 1.0), quadratic=True)
    sides = ds.models.Prescribed(mesh.select(lambda X: (X[:, 0] == 0) | (X[:, 0] == 0.5)), axes=(0,))
    base = ds.models.Prescribed(mesh.select(lambda X: X[:, 1] == 0), axes=(1,))
    model = ds.models.FEM(mesh, ds.Material(M.LinearElastic(1e6, 0.25), density=1e3), dt=1.0, gravity=(0.0, -G),
                          prescribed=[sides, base])  # fmt: skip
    state = model.solve_static(model.initial_state())
    y, modulus = model.X[:, 1], 1.2e6
    torch.testing.assert_close((state.x - model.X)[:, 1], -1e3 * G * (y - y * y / 2) / modulus, rtol=1e-9, atol=1e-12)
    assert model.reactions(state)[:, 1].sum() == pytest.approx(1e3 * G * 0.5, rel=1e-9)


def momentum(model, state):
    return (model.nodal(model.X)[0][:, None] * state.v).sum(0)


@pytest.mark.parametrize("integrator", ["euler", "explicit"])
def test_reactions_and_weight_are_the_change_of_momentum_in_a_step(integrator):
    model = bar(quadratic=True, integrator=integrator, prescribed=[0, 4], dt=1e-2 if integrator == "euler" else 5e-4)
    v = 0.3 * torch.randn(model.X.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = float(model.nodal(model.X)[0].sum()) * torch.tensor([0.0, -G], dtype=torch.float64)
    with torch.no_grad():
        states = list(ds.rollout(model, model.initial_state(v=v), steps=3))
        for before, after in itertools.pairwise(states):
            rate = (momentum(model, after) - momentum(model, before)) / model.dt
            torch.testing.assert_close(model.reactions(after).sum(0), rate - weight, rtol=1e-7, atol=1e-6)


def slab(integrator="euler", slip_speed=1e-3, **options):
    """A held slab, and a plate that slides along it at 1 m/s within the contact distance."""
    mesh = block((4, 1), (0.2, 0.05))
    plate = np.linspace([-0.5, 0.051], [0.7, 0.0512], 17), np.stack([np.arange(16), np.arange(1, 17)], 1)
    slide = torch.tensor([1.0, 0.0], dtype=torch.float64)
    contact = ds.models.Contact(2e-3, 1e4, friction=0.5, slip_speed=slip_speed, itself=False,
                                obstacles=[ds.models.Obstacle(plate, lambda X, t: X + slide * t)])  # fmt: skip
    options = {"prescribed": np.arange(len(mesh.nodes))} | options
    return ds.models.FEM(mesh, ds.Material(M.NeoHookean(1e6, 0.3), density=1e3), dt=1e-3, contact=contact,
                         integrator=integrator, **options)  # fmt: skip


@pytest.mark.parametrize("integrator", ["euler", "bdf2", "newmark"])
def test_reactions_of_a_step_hold_its_friction(integrator):
    """The plate pulls with friction times the pressure; the supports hold against it."""
    model = slab(integrator)
    with torch.no_grad():
        total = model.reactions(ds.rollout(model, model.initial_state(), steps=2)[-1]).sum(0)
    assert total[1] > 1.0 and total[0] == pytest.approx(-0.5 * float(total[1]), rel=1e-2)


def test_newmark_takes_friction_from_where_its_step_began():
    """A slab held at two nodes, its others thrown along: the slip is over the whole step, not the last velocity's."""
    model = slab("newmark", slip_speed=5.0, prescribed=[0, 1])
    v = torch.zeros_like(model.X)
    v[2:, 0] = torch.linspace(-2.0, 2.0, len(v) - 2, dtype=torch.float64)
    with torch.no_grad():
        before = ds.rollout(model, model.initial_state(v=v), steps=2)[-1]
        after = model(before)
        inputs = model._inputs(after, before.x, float(before.time), float(after.time))
        mass, load = model._loads(after.X, float(after.time))
        expected = mass[:, None] * after.a - load + model._forces(after.x, inputs)
    assert inputs[-1][-1] > 0 and (model.contact.force(after.x, *inputs[-1])[:, 0].abs() > 0.1).any()
    held = model.support.held
    torch.testing.assert_close(model.reactions(after)[held], expected[held], rtol=1e-12, atol=1e-12)


def test_reactions_of_an_equilibrium_are_free_of_friction_though_an_obstacle_moves():
    model = slab()
    with torch.no_grad():
        moving = ds.rollout(model, model.initial_state(), steps=2)[-1]
        total = model.reactions(model.solve_static(moving)).sum(0)
    assert total[1] > 1.0 and abs(total[0]) < 0.01 * total[1]


@pytest.mark.parametrize("quadratic", [False, True])
def test_stress_takes_one_parameter_per_element(quadratic):
    mesh = block((2, 1), (1.0, 0.5), quadratic=quadratic)
    E = nn.Parameter(torch.arange(1.0, 5.0, dtype=torch.float64) * 1e4)
    model = ds.models.FEM(mesh, ds.Material(M.LinearElastic(E, 0.0), density=1.0), dt=1.0)
    state = model.initial_state(x=model.X * torch.tensor([1.1, 1.0], dtype=torch.float64))
    sigma = model.stress(state)[:, 0, 0].reshape(4, -1)
    torch.testing.assert_close(sigma, (0.1 * E)[:, None].expand_as(sigma), rtol=1e-9, atol=0.0)
    (grad,) = torch.autograd.grad(sigma.sum(), E)
    torch.testing.assert_close(grad, torch.full_like(grad, 0.1 * sigma.shape[1]))


@pytest.mark.parametrize("dim, quadratic", [(2, False), (3, True)])
@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("plastic", [False, True])
def test_the_estimate_of_memory_covers_what_a_step_keeps(dim, quadratic, rest, plastic):
    model = bar(dim, quadratic=quadratic, prescribed=[0, 1, 2, 3], law=M.Hencky,
                plastic=M.VonMises(1e4, 0.3, 1e2) if plastic else None)  # fmt: skip
    state = model.initial_state(X=model.X.clone().requires_grad_(rest))
    state, kept = model(state._replace(v=state.v.clone().requires_grad_())), {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(state)
    measured = sum(size for size, _ in kept.values())
    assert measured <= model.footprint(state)[1] <= 8 * measured


def test_a_rest_shape_with_an_inverted_element_is_refused():
    model = bar()
    X = model.X.clone()
    X[-1] = X[0] - 0.5
    with pytest.raises(MeshError, match="element . is inverted or without volume in the rest shape"):
        model(model.initial_state(X=X))


@pytest.mark.parametrize(
    "prescribed, word",
    [
        ([([0], lambda X, t: X), ([1], lambda X, t: X)], "entry 0 of the list is a tuple"),
        ([ds.models.Prescribed([0]), [1, 2]], "entry 0 of the list is a Prescribed"),
        ([[0, 1], lambda X, t: X], "entry 0 of the list is a list"),
        (np.array([0.5, 1.5]), "whole numbers"),
    ],
)
def test_a_list_of_pairs_is_refused_with_what_to_write(prescribed, word):
    with pytest.raises(SceneError, match=word) as refusal:
        bar(prescribed=prescribed)
    assert "\n" not in str(refusal.value)
