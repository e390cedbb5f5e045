"""Finite elements of solids: steps, equilibria, supports; gradients. Hessians: test_hessians.py."""

import math

import numpy as np
import pytest
import torch
from taylor import slope
from torch import nn

import diffsim as ds
from diffsim.errors import DataError, MeshError, SceneError, SimulationError, SolverError
from diffsim.geometry.solid import block
from diffsim.kernels.arrays import context
from diffsim.testing import gradcheck

if context.dtype != torch.float64 or context.device != "cpu":
    pytest.skip("finite elements are in f64 on the CPU", allow_module_level=True)

M = ds.materials
LAWS = {
    "FixedCorotated": M.FixedCorotated,
    "Hencky": M.Hencky,
    "LinearElastic": M.LinearElastic,
    "NeoHookean": M.NeoHookean,
    "StVenantKirchhoff": M.StVenantKirchhoff,
    "StableNeoHookean": M.StableNeoHookean,
}


def number(value):
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


def noise(*shape, seed=0, size=1.0):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def left(mesh):
    return mesh.select(lambda X: X[:, 0] == 0)


def beam(law=M.NeoHookean, dim=2, *, quadratic=False, cells=None, dt=3e-2, E=1e4, learn=False, **options):
    """A bar from x = 0, held there."""
    mesh = block(cells or (3, 1, 1)[:dim], (1.0, 0.3, 0.25)[:dim], quadratic=quadratic)
    value = number if learn else float
    material = ds.Material(law(value(E), value(0.3)), density=value(1e3))
    options = {"prescribed": left(mesh), "gravity": (0.0, -9.8, 0.0)[:dim]} | options
    return ds.models.FEM(mesh, material, dt=dt, **options)


def deformed(model, size=0.015):
    return model.initial_state(x=model.X + noise(*model.X.shape, size=size))


@pytest.mark.parametrize("dim", [2, 3])
def test_the_projected_hessian_is_positive_and_the_same_where_it_already_was(dim):
    model = beam(dim=dim, prescribed=())
    crushed = model.initial_state(x=model.X * torch.tensor([0.6, 1.0, 1.0][:dim], dtype=torch.float64))
    stretched = model.initial_state(x=model.X * 1.2)
    for state, positive in ((crushed, False), (stretched, True)):
        (inputs,) = model.term_inputs(state.X)
        exact, projected = (torch.from_numpy(model.elements.stiffness(state.x, inputs, p)[0]) for p in (False, True))
        size = exact.abs().max()
        assert torch.linalg.eigvalsh(projected).min() >= -1e-12 * size
        assert (torch.linalg.eigvalsh(exact).min() >= -1e-9 * size) == positive
        assert torch.equal(exact, projected) == positive


@pytest.mark.parametrize("dim, quadratic", [(2, True), (3, False)])
def test_the_adjoint_of_the_force_agrees_with_differences(dim, quadratic):
    model = beam(dim=dim, cells=(1,) * dim, quadratic=quadratic, prescribed=())
    state = deformed(model)
    (inputs,) = model.term_inputs(state.X)
    leaves = [value.detach().clone().requires_grad_() for value in (state.x, *inputs)]
    assert torch.autograd.gradcheck(model.elements.force, leaves, rtol=1e-6, atol=1e-5)
    rest = state.X.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda X: model.elements.inputs(X, inputs[3])[:2], rest, rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(lambda X: model.nodal(X), rest, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dim, quadratic", [(2, False), (2, True), (3, False), (3, True)])
def test_a_linear_field_passes_the_patch_test(dim, quadratic):
    """Boundary nodes prescribed u = A x; the inner ones, displaced at random, follow."""
    mesh = block((3,) * dim, (1.0,) * dim)
    surface = np.unique(mesh.surface())
    inside = np.setdiff1d(np.arange(len(mesh.nodes)), surface)
    nodes = mesh.nodes.copy()
    nodes[inside] += 0.03 * np.random.default_rng(0).uniform(-1, 1, (len(inside), dim))
    mesh = ds.geometry.solid.SolidMesh(nodes, mesh.elements)
    mesh = mesh.to_quadratic() if quadratic else mesh
    A = 1e-3 * torch.tensor([[1, 2, 0.5], [0.3, -1, 0.7], [-0.4, 0.6, 0.8]], dtype=torch.float64)[:dim, :dim]
    model = ds.models.FEM(
        mesh, ds.Material(M.LinearElastic(1.0, 0.3), density=1.0), dt=1.0,
        prescribed=(np.unique(mesh.surface()), lambda X, t: X + X @ A.T),
    )  # fmt: skip
    state = model.solve_static(model.initial_state())
    assert len(model.free) > 0
    assert (state.x - state.X - state.X @ A.T).abs().max() <= 1e-11 * 1e-3
    assert model.reactions(state).sum(0).abs().max() <= 1e-11


@pytest.mark.parametrize("law", ["NeoHookean", "FixedCorotated", "StVenantKirchhoff"])
def test_rigid_motions_cost_no_energy_and_inner_forces_add_up_to_nothing(law):
    model = beam(LAWS[law], 3, prescribed=())
    axis = torch.ones(3, dtype=torch.float64) / math.sqrt(3)
    cross = torch.tensor([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]], dtype=torch.float64)
    R = torch.linalg.matrix_exp(math.radians(30) * cross)
    (inputs,) = model.term_inputs(model.X)
    moved = model.X @ R.T + torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    scale = 1e4 * 0.3 * 0.25
    assert model.elements.force(moved, *inputs).abs().max() <= 1e-11 * scale
    assert abs(model.elements.energy(moved, inputs)[0]) <= 1e-11 * scale
    x = deformed(model).x
    f = model.elements.force(x, *inputs)
    assert f.abs().max() > 1e-3 * scale
    assert f.sum(0).abs().max() <= 1e-11 * scale
    assert torch.linalg.cross(x, f).sum(0).abs().max() <= 1e-11 * scale


@pytest.mark.parametrize("integrator", ["euler", "bdf2", "newmark"])
def test_gradients_of_three_steps_agree_with_differences(integrator):
    model = beam(integrator=integrator, quadratic=integrator == "bdf2", damping=number(0.3), tolerance=1e-10,
                 learn=True, gravity=number([0.0, -9.8]))  # fmt: skip
    state = model.initial_state(v=noise(*model.X.shape, size=0.1))
    controls = noise(3, len(model.support.driven), 2, size=0.1)
    report = gradcheck(model, state, controls, entries=2, directions=1, taylor=False)
    names = {row.input for row in report.rows}
    assert {"x", "v", "X", "controls", "gravity", "material.elastic.E", "material.elastic.nu"} <= names
    assert {"material.density", "damping"} <= names and ("past" in names) == (integrator == "bdf2")
    assert report.ok, f"\n{report}"


def test_gradients_of_explicit_steps_agree_with_differences():
    model = beam(integrator="explicit", dt=2e-3, substeps=20, learn=True, damping=number(0.5))
    state = model.initial_state(v=noise(*model.X.shape, size=0.5))
    report = gradcheck(model, state, noise(2, 2, 2, size=0.1), entries=2, directions=1, taylor=False)
    assert report.ok, f"\n{report}"


def test_thirty_implicit_steps_have_a_taylor_slope_of_two():
    model = beam(cells=(2, 1), learn=True, tolerance=1e-9)
    X = model.X.clone().requires_grad_()
    v, weight = noise(*X.shape, size=0.1), noise(*X.shape, seed=1)

    def loss():
        return (ds.rollout(model, model.initial_state(X=X, v=v), steps=30)[-1].x * weight).sum()

    assert abs(slope(loss, X, noise(*X.shape, seed=2, size=0.1)) - 2) <= 0.05
    assert abs(slope(loss, model.material.elastic.E, 1e4) - 2) <= 0.05


def test_gradients_of_an_equilibrium_agree_with_differences():
    faces = block((3, 1), (1.0, 0.3)).faces(lambda X: X[:, 0] == 1)
    load = number([300.0, -150.0])
    height = number(0.02)
    mesh = block((3, 1), (1.0, 0.3))
    E = nn.Parameter(1e4 + torch.arange(len(mesh.elements)).double() * 300)
    model = ds.models.FEM(
        mesh, ds.Material(M.NeoHookean(E, number(0.3)), density=number(100.0)), dt=1.0, gravity=(0.0, -9.8),
        tractions=[(faces, lambda t: load)],
        prescribed=(left(mesh), lambda X, t: X + height * X[:, 1:] * torch.tensor([1.0, 1.0], dtype=torch.float64)),
    )  # fmt: skip
    X = model.X.clone().requires_grad_()
    inputs = [X, E, model.material.elastic.nu, model.material.density, load, height]

    def loss():
        state = model.solve_static(model.initial_state(X=X))
        return (state.x * noise(*X.shape)).sum() + 1e-3 * model.reactions(state).square().sum()

    grads = torch.autograd.grad(loss(), inputs)
    for leaf, grad in zip(inputs, grads, strict=True):
        direction = noise(*leaf.shape, seed=3) * leaf.detach().abs().max().clamp(max=10) * 1e-2
        start = leaf.detach().clone()
        values = []
        with torch.no_grad():
            for h in (-2e-2, -1e-2, 1e-2, 2e-2):
                leaf.copy_(start + h * direction)
                values.append(float(loss()))
            leaf.copy_(start)
        slope = (8 * (values[2] - values[1]) - (values[3] - values[0])) / 12e-2
        assert slope == pytest.approx(float((grad * direction).sum()), rel=1e-6)


@pytest.mark.parametrize("integrator, order", [("euler", 1), ("bdf2", 2), ("newmark", 2), ("explicit", 1)])
def test_steps_converge_with_the_order_of_the_integrator(integrator, order):
    """A free bar set in motion: its shape at a fixed time against a fine run."""

    def end(steps, integrator=integrator):
        model = beam(cells=(1, 1), dt=0.08 / steps, integrator=integrator, gravity=(0.0, 0.0), prescribed=())
        v = torch.tensor([[0.5, -0.2], [0.0, 1.0]], dtype=torch.float64)
        state = model.initial_state(x=model.X * 1.05, v=model.X @ v)
        with torch.no_grad():
            return ds.rollout(model, state, steps=steps).x[-1]

    counts = (40, 80) if integrator == "bdf2" else (100, 200) if integrator == "explicit" else (20, 40)
    exact = end(400, "newmark")
    errors = [float((end(n) - exact).norm()) for n in counts]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("integrator, order", [("euler", 1), ("bdf2", 2), ("newmark", 2)])
def test_damped_flight_converges_with_the_order_of_the_integrator(integrator, order):
    """v = v_0 exp(-c t) of a body without forces."""
    c, end, errors = 2.0, 0.5, []
    for steps in (20, 40):
        model = beam(cells=(1, 1), dt=end / steps, integrator=integrator, gravity=(0.0, 0.0), prescribed=(), damping=c)
        with torch.no_grad():
            path = ds.rollout(model, model.initial_state(v=(1.0, 0.0)), steps=steps)
        errors.append(abs(float((path.x[-1] - model.X)[:, 0].mean()) - (1 - math.exp(-c * end)) / c))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("integrator", ["euler", "bdf2", "newmark"])
def test_an_equilibrium_stays(integrator):
    model = beam(integrator=integrator)
    with torch.no_grad():
        rest = model.solve_static(model.initial_state())
        last = ds.rollout(model, rest, steps=5)[-1]
    assert (rest.x - model.X).abs().max() > 1e-2
    torch.testing.assert_close(last.x, rest.x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("integrator", ["euler", "bdf2", "newmark"])
def test_a_body_that_is_led_steadily_comes_to_steady_reactions(integrator):
    """All nodes of one end driven at 0.1 m/s: their rates are those of the motion, the pull dies out with damping."""
    mesh = block((3, 1), (1.0, 0.3))
    driven = ds.models.Prescribed(left(mesh))
    model = beam(integrator=integrator, prescribed=driven, gravity=(0.0, 0.0), damping=10.0, dt=5e-2)
    control = torch.zeros(60, len(left(mesh)), 2, dtype=torch.float64)
    control[:, :, 0] = 0.1
    with torch.no_grad():
        path = ds.rollout(model, model.initial_state(), control, steps=60)
    held = path[-1].v[left(mesh)]
    torch.testing.assert_close(held, torch.tensor([0.1, 0.0]).double().expand_as(held), rtol=0, atol=1e-7)
    pull = [float(model.reactions(path[k])[:, 0].sum()) for k in (59, 60)]
    drag = 10.0 * 0.1 * 1e3 * 0.3  # damping times the momentum
    assert pull == pytest.approx([drag, drag], rel=0.02)


def test_newmark_keeps_the_energy_and_momentum_is_kept_by_all():
    for integrator in ("euler", "newmark"):
        model = beam(dt=0.01, integrator=integrator, gravity=(0.0, 0.0), prescribed=())
        state = model.initial_state(v=noise(*model.X.shape, size=0.3))
        mass, _ = model.nodal(model.X)
        with torch.no_grad():
            last = ds.rollout(model, state, steps=100)[-1]
        change = (mass[:, None] * (last.v - state.v)).sum(0).abs().max()
        assert change <= 1e-9 * float(mass.sum())
        kept = sum(model.energy(last).values()) / sum(model.energy(state).values())
        assert abs(kept - 1) < 0.01 if integrator == "newmark" else kept < 0.9


def test_supports_carry_the_weight_at_rest_and_the_force_of_motion():
    model = beam(dim=3)
    state = model.solve_static(model.initial_state())
    weight = float(model.nodal(model.X)[0].sum()) * 9.8
    assert model.reactions(state).sum(0)[1] == pytest.approx(weight, rel=1e-9)
    moving = model(model(model.initial_state()), torch.full((len(model.support.driven), 3), 0.1, dtype=torch.float64))
    mass, _ = model.nodal(model.X)
    total = (mass[:, None] * moving.a).sum(0) + torch.tensor([0.0, weight, 0.0], dtype=torch.float64)
    torch.testing.assert_close(model.reactions(moving).sum(0), total, rtol=1e-6, atol=1e-5)
    assert not model.reactions(moving)[model.X[:, 0] > 0].any()


def test_nodes_follow_motions_controls_and_rollers():
    mesh = block((2, 2), (1.0, 1.0))
    P = ds.models.Prescribed
    floor, top = mesh.select(lambda X: X[:, 1] == 0), mesh.select(lambda X: X[:, 1] == 1)
    corner = mesh.select(lambda X: (X == 0).all(1))
    down = torch.tensor([0.0, -0.1], dtype=torch.float64)
    model = ds.models.FEM(
        mesh, ds.Material(M.LinearElastic(1.0, 0.25), density=1.0), dt=1.0,
        prescribed=[P(floor, axes=(1,)), P(corner, axes=(0,)), P(top, lambda X, t: X + down, axes=(1,))],
    )  # fmt: skip
    state = model.solve_static(model.initial_state(), torch.zeros(len(model.support.driven), 2, dtype=torch.float64))
    # plane strain, free at the sides: eps_x = -nu/(1 - nu) eps_y
    torch.testing.assert_close(state.x[:, 1], model.X[:, 1] * 0.9)
    torch.testing.assert_close(state.x[:, 0], model.X[:, 0] * (1 + 0.1 / 3))
    stress = 1.0 / (1 - 0.25**2) * 0.1
    assert float(model.reactions(state)[top, 1].sum()) == pytest.approx(-stress, rel=1e-9)
    torch.testing.assert_close(model.stress(state)[:, 1, 1].mean(), torch.tensor(-stress, dtype=torch.float64),
                               rtol=0.2, atol=0.0)  # fmt: skip


def test_supports_that_would_invert_elements_at_once_move_in_parts():
    model = beam(dt=0.5, E=1e5, gravity=(0.0, 0.0))
    push = torch.zeros(1, len(model.support.driven), 2, dtype=torch.float64)
    push[0, :, 0] = 1.2  # 0.6 m, across nearly two elements
    state = ds.rollout(model, model.initial_state(), push)[-1]
    assert (torch.linalg.det(model.deformation(state)) > 0).all()
    torch.testing.assert_close(state.x[left(model.mesh)], model.X[left(model.mesh)] + torch.tensor([0.6, 0.0]).double())


def test_checkpointed_and_stored_gradients_are_the_same():
    model = beam(learn=True)
    state = model.initial_state(v=noise(*model.X.shape, size=0.1))
    kept = model.footprint(state)
    grads = []
    for memory in ("1GiB", 13 * kept[0] + 4 * kept[1]):
        path = ds.rollout(model, state, steps=12, memory=memory)
        grads.append(torch.autograd.grad(path.x[-1].square().sum(), model.material.elastic.E)[0])
    assert torch.equal(*grads)


def test_what_cannot_be_solved_is_refused_in_one_line():
    free = beam(prescribed=())
    with pytest.raises(SolverError, match="singular|not converged|no decrease") as failure:
        free.solve_static(free.initial_state())
    assert "\n" not in str(failure.value)
    few = beam(iterations=1, tolerance=1e-12)
    with pytest.raises(SolverError, match="not converged after 1") as failure:
        ds.rollout(few, few.initial_state(), steps=2)
    assert failure.value.history.iterations == 1 and failure.value.step == 0
    fast = beam(integrator="explicit", dt=5.0)
    with pytest.raises(SimulationError, match="reduce dt"), torch.no_grad():
        ds.rollout(fast, fast.initial_state(v=noise(*fast.X.shape)), steps=200)


BAD = [
    ({"dt": 0.0}, SceneError, "dt"),
    ({"integrator": "leapfrog"}, SceneError, "integrator"),
    ({"substeps": 0}, SceneError, "substeps"),
    ({"gravity": (1.0,)}, SceneError, "gravity"),
    ({"damping": -1.0}, SceneError, "damping is -1 1/s"),
    ({"damping": torch.ones(2)}, SceneError, "damping has shape"),
    ({"prescribed": [99]}, SceneError, "distinct nodes"),
    ({"prescribed": ds.models.Prescribed([0], axes=(4,))}, SceneError, "axes"),
    ({"prescribed": [ds.models.Prescribed([0]), ds.models.Prescribed([0], axes=(1,))]}, SceneError, "held twice"),
]


@pytest.mark.parametrize("options, error, word", BAD, ids=[next(iter(o)) + str(i) for i, (o, *_) in enumerate(BAD)])
def test_an_option_out_of_range_is_refused(options, error, word):
    with pytest.raises(error, match=word) as refusal:
        beam(**options)
    assert "\n" not in str(refusal.value)


def test_materials_controls_and_states_that_do_not_fit_are_refused():
    mesh = block((1, 1), (1.0, 1.0))
    viscous = ds.Material(M.Hencky(1e3, 0.3), viscous=M.KelvinVoigt(1.0, 1.0), density=1.0)
    for material, word in ((viscous, "leave viscous out"), (ds.Material(M.Tait(1e3), density=1.0), "a solid law")):
        with pytest.raises(SceneError, match=word):
            ds.models.FEM(mesh, material, dt=1.0)
    with pytest.raises(SceneError, match="one per element"):
        model = ds.models.FEM(mesh, ds.Material(M.NeoHookean(torch.ones(5), 0.3), density=1.0), dt=1.0)
        model(model.initial_state())
    model = beam()
    with pytest.raises(SceneError, match="control has shape"):
        model(model.initial_state(), torch.zeros(1, 2, dtype=torch.float64))
    with pytest.raises(DataError, match="x has shape"):
        model.initial_state(x=torch.zeros(3, 2))
    with pytest.raises(MeshError, match="no mesh"):
        ds.models.FEM(3, viscous, dt=1.0)
