"""Thin shells: angles and curvatures, Hessians, steps and their gradients, sheets that are refused."""

import math

import numpy as np
import pytest
import torch
from taylor import slope
from torch import nn

import diffsim as ds
from diffsim.errors import MeshError, SceneError
from diffsim.geometry.surface import as_sheet, hinges, sheet
from diffsim.kernels import hinge as kernels
from diffsim.kernels.arrays import context
from diffsim.kernels.elements import Topology
from diffsim.solvers.assembly import Pattern
from diffsim.testing import gradcheck
from diffsim.video import render_trajectory

if context.dtype != torch.float64 or context.device != "cpu":
    pytest.skip("shells are in f64 on the CPU", allow_module_level=True)


def number(value):
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


def noise(*shape, seed=0, size=1.0):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shell(cells=(3, 2), *, pattern="diagonal", learn=False, curved=False, **options):
    """A sheet of 1 m x 0.8 m, held at two corners, and with ``curved`` a saddle at rest."""
    V, F = sheet(cells, (1.0, 0.8), pattern=pattern)
    if curved:
        V = V + 0.15 * np.stack([0 * V[:, 0], 0 * V[:, 0], V[:, 0] * V[:, 1] + V[:, 0] ** 2], 1)
    value = number if learn else float
    options = {"dt": 2e-2, "gravity": (0.0, 0.0, -9.8), "prescribed": [0, cells[1]]} | options
    return ds.models.Shell(
        (V, F), E=value(1e6), nu=value(0.3), thickness=value(5e-3), density=value(200.0), **options
    )  # fmt: skip


def test_the_angle_of_a_ridge_is_positive_and_that_of_a_valley_negative():
    V, F = sheet((2, 1), (2.0, 1.0), pattern="diagonal")
    V = torch.from_numpy(V)
    nodes = hinges(F)
    topology = Topology(torch.from_numpy(nodes), len(V))
    fold = next(h for h, (a, b, *_) in enumerate(nodes) if V[a, 0] == V[b, 0] == 1)
    for angle in (-2.5, -0.7, 0.0, 0.3, 3.0):
        bent = V.clone()
        right = V[:, 0] > 1
        bent[right, 0] = 1 + math.cos(angle) * (V[right, 0] - 1)
        bent[right, 2] = -math.sin(angle) * (V[right, 0] - 1)
        found = kernels.angles(topology, bent)
        assert float(found[fold]) == pytest.approx(angle, abs=1e-12)


@pytest.mark.parametrize("bending", ["shape", "hinge", None])
def test_force_and_hessian_are_the_derivatives_of_the_energy(bending):
    model = shell(bending=bending, curved=True, prescribed=())
    x = model.X + noise(*model.X.shape, size=0.05)
    inputs = model.term_inputs(model.X)
    for term, own in zip(model.terms, inputs, strict=True):
        blocks = term.stiffness(x, own, False)
        K = Pattern(term.dofs(3), np.ones(x.numel(), bool)).assemble(blocks, 0.0).toarray()
        scale = np.abs(K).max()
        assert np.abs(K - K.T).max() <= 1e-12 * scale
        projected = term.stiffness(x, own, True)
        assert all(np.linalg.eigvalsh(block).min() >= -1e-11 * scale for block in projected)
        h = 1e-4
        for seed in range(3):
            d = noise(*x.shape, seed=seed)
            d /= d.norm()
            energies = [term.energy(x + s * h * d, own)[0] for s in (-2, -1, 1, 2)]
            slope = (8 * (energies[2] - energies[1]) - (energies[3] - energies[0])) / (12 * h)
            assert slope == pytest.approx(float((term.force(x, *own) * d).sum()), rel=1e-7, abs=1e-9 * scale)
            forces = [term.force(x + s * h * d, *own) for s in (-2, -1, 1, 2)]
            change = (8 * (forces[2] - forces[1]) - (forces[3] - forces[0])) / (12 * h)
            product = K @ d.reshape(-1).numpy()
            assert np.abs(product - change.reshape(-1).numpy()).max() <= 1e-7 * np.abs(product).max()


@pytest.mark.parametrize("bending", ["shape", "hinge"])
def test_the_adjoint_of_the_bending_force_agrees_with_differences(bending):
    model = shell((2, 1), bending=bending, prescribed=())
    x = model.X + noise(*model.X.shape, size=0.05)
    stiff, rest = (value.detach().clone().requires_grad_() for value in model.term_inputs(model.X)[1])
    x.requires_grad_()
    assert torch.autograd.gradcheck(model.hinges.force, (x, stiff, rest), rtol=1e-6, atol=1e-6)
    X = (model.X + noise(*model.X.shape, size=0.05)).requires_grad_()
    D = torch.ones(len(model.faces), dtype=torch.float64, requires_grad=True)
    nu = torch.full_like(D, 0.3).requires_grad_()
    own = lambda X, D, nu: model.hinges.inputs(X, D, nu, rest.detach())[0]  # noqa: E731
    assert torch.autograd.gradcheck(own, (X, D, nu), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("bending", ["shape", "hinge"])
def test_rigid_motions_cost_nothing_and_forces_add_up_to_nothing(curved, bending):
    model = shell(curved=curved, bending=bending, prescribed=())
    axis = np.ones(3) / math.sqrt(3)
    cross = torch.tensor(np.cross(np.eye(3), axis))
    R = torch.linalg.matrix_exp(math.radians(30) * cross)
    moved = model.X @ R.T + torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    inputs = model.term_inputs(model.X)
    scale = 1e6 * 5e-3
    assert sum(abs(term.energy(moved, own)[0]) for term, own in zip(model.terms, inputs, strict=True)) <= 1e-11 * scale
    assert model._forces(moved, inputs).abs().max() <= 1e-11 * scale
    x = model.X + noise(*model.X.shape, size=0.05)
    f = model._forces(x, inputs)
    assert f.abs().max() > 1e-3 * scale
    assert f.sum(0).abs().max() <= 1e-11 * scale
    assert torch.linalg.cross(x, f).sum(0).abs().max() <= 1e-11 * scale


@pytest.mark.parametrize("bending, pattern, ratio", [
    ("hinge", "diagonal", {0: 1.0, 90: 1.0, 45: 3.0, 135: 1.0}), ("hinge", "alternating", {0: 1.0, 90: 1.0, 45: 1.5}),
    ("hinge", "equilateral", {0: 1.0, 30: 1.0, 45: 1.0, 90: 1.0}),
    ("shape", "diagonal", {0: 1.0, 30: 1.0, 45: 1.0, 90: 1.0, 135: 1.0}),
    ("shape", "equilateral", {0: 1.0, 30: 1.0, 45: 1.0, 90: 1.0}),
])  # fmt: skip
def test_a_sheet_on_a_cylinder_has_the_energy_of_its_curvature(bending, pattern, ratio):
    """Inside of the sheet; the angles are those between the axis' normal and the first side."""
    n, R = 40, 20.0
    width = 1.0 if pattern != "equilateral" else 2 / math.sqrt(3)
    V, F = sheet((n, n), (1.0, width), pattern=pattern)
    model = ds.models.Shell((V, F), E=1e7, nu=0.3, thickness=0.01, density=1.0, dt=1.0, bending=bending)
    D = 1e7 * 0.01**3 / 12 / (1 - 0.3**2)
    inputs = model.term_inputs(model.X)[1]
    for angle, expected in ratio.items():
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        u, w = V[:, 0] * c + V[:, 1] * s, V[:, 1] * c - V[:, 0] * s
        x = torch.from_numpy(np.stack([R * np.sin(u / R), w, R * np.cos(u / R)], 1))
        # the energy inside alone: that of free edges has other rules
        inner = torch.from_numpy(((V[:, :2] > 0.2) & (V[:, :2] < [0.8, width - 0.2])).all(1))
        t = model.hinges.angles(x)
        if bending == "hinge":
            own = inputs[0] * t**2 / 2
            chosen = inner[model.hinges.nodes].all(1)
            corners = model.X[model.hinges.nodes[chosen]]
            areas = [torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, k] - corners[:, 0]) for k in (2, 3)]
            area = sum(a.norm(dim=1) for a in areas).sum() / 6
            per_area = own[chosen].sum() / area
        else:
            tilt = model.hinges._tilts(x, inputs[1])
            own = (tilt * (inputs[0] @ tilt[..., None])[..., 0]).sum(1) / 2
            chosen = inner[torch.from_numpy(F)].all(1)
            corners = model.X[torch.from_numpy(F)[chosen]]
            area = (
                torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1).sum() / 2
            )
            per_area = own[chosen].sum() / area
        assert float(per_area) / (D / 2 / R**2) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("bending", ["shape", "hinge"])
def test_gradients_of_steps_agree_with_differences(bending):
    V, F = sheet((3, 2), (1.0, 0.8), pattern="diagonal")
    rest = nn.Parameter(noise(len(hinges(F)), size=0.2))
    model = shell(bending=bending, learn=True, rest_angles=rest, tolerance=1e-9)
    state = model.initial_state(v=noise(*model.X.shape, size=0.2))
    controls = noise(3, 2, 3, size=0.1)
    report = gradcheck(model, state, controls, entries=2, directions=1, taylor=False)
    names = {row.input for row in report.rows}
    assert {"x", "v", "X", "controls", "E", "nu", "thickness", "density", "rest_angles"} <= names
    assert report.ok, f"\n{report}"


@pytest.mark.parametrize("size", [1, 12])
def test_a_given_bending_rigidity_replaces_that_of_the_thickness(size):
    D = nn.Parameter(5.0 + noise(size).abs())
    model = shell(bending_rigidity=D if size > 1 else number(5.0), curved=True, tolerance=1e-9, learn=True)
    assert torch.equal(model.rigidity(), D if size > 1 else torch.full((12,), 5.0, dtype=torch.float64))
    report = gradcheck(model, model.initial_state(v=noise(*model.X.shape, size=0.5)), steps=3,
                       wrt=["bending_rigidity", "thickness", "nu"], entries=2, directions=1, taylor=False)  # fmt: skip
    assert report.ok, f"\n{report}"


def test_thirty_steps_have_a_taylor_slope_of_two():
    model = shell((2, 2), learn=True, tolerance=1e-9)
    v = noise(*model.X.shape, size=0.1).requires_grad_()
    weight = noise(*model.X.shape, seed=1)

    def loss():
        return (ds.rollout(model, model.initial_state(v=v), steps=30)[-1].x * weight).sum()

    assert abs(slope(loss, v, noise(*v.shape, seed=2, size=0.03)) - 2) <= 0.05
    assert abs(slope(loss, model.thickness, 5e-3) - 2) <= 0.05


def test_a_rest_shape_stays_and_a_rest_angle_is_taken():
    bent = shell(curved=True, gravity=None, prescribed=())
    state = bent.initial_state()
    assert (bent(state).x - state.x).abs().max() < 1e-9
    V, F = sheet((2, 1), (2.0, 1.0), pattern="diagonal")
    nodes = hinges(F)
    angles = torch.tensor([0.8 if V[a, 0] == V[b, 0] == 1 else 0.0 for a, b, *_ in nodes], dtype=torch.float64)
    model = ds.models.Shell((V, F), E=1e6, nu=0.0, thickness=0.01, density=1.0, dt=1.0, rest_angles=angles,
                            prescribed=np.flatnonzero(V[:, 0] < 1.5), bending="hinge")  # fmt: skip
    state = model.solve_static(model.initial_state())
    torch.testing.assert_close(model.hinges.angles(state.x), angles, rtol=0, atol=1e-9)


def test_a_strip_that_is_pushed_together_buckles_out_of_its_plane():
    """Euler: held at both ends it gives way at 4 pi^2 D/l^2, and then carries about that load."""
    n, length, h, E = 24, 1.0, 0.01, 1e6
    V, F = sheet((n, 1), (length, 0.05), pattern="diagonal")
    dx = length / n
    low, high = np.flatnonzero(V[:, 0] < 1.5 * dx), np.flatnonzero(V[:, 0] > length - 1.5 * dx)
    P = ds.models.Prescribed
    push = torch.tensor([-0.02, 0.0, 0.0], dtype=torch.float64)
    V = V + 1e-3 * np.stack([0 * V[:, 0], 0 * V[:, 0], np.sin(math.pi * V[:, 0]) ** 2], 1)
    model = ds.models.Shell((V, F), E=E, nu=0.0, thickness=h, density=1e3, dt=1.0,
                            rest_angles=torch.zeros(len(hinges(F))),
                            prescribed=[P(low), P(high, lambda X, t: X + push)])  # fmt: skip
    state = model.solve_static(model.initial_state())
    free = length - 2 * dx  # the held rows turn half way between them
    load = float(model.reactions(state)[low, 0].sum())
    assert load == pytest.approx(4 * math.pi**2 * E * h**3 / 12 * 0.05 / (free + dx) ** 2, rel=0.03)
    assert float(state.x[:, 2].max()) > 0.05


MESHES = {
    "shapes": (np.zeros((3, 2)), [[0, 1, 2]], "give"),
    "missing": (np.eye(3), [[0, 1, 3]], "face 0 names"),
    "flat": (np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]]), [[0, 1, 3], [0, 1, 2]], "face 1 has no area"),
    "loose": (np.concatenate([np.eye(3), [[5.0, 5, 5]]]), [[0, 1, 2]], "vertex 3"),
    "twice": (np.eye(3), [[0, 1, 2], [2, 0, 1]], "given twice"),
    "branch": (
        np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]]), [[0, 1, 2], [1, 0, 3], [0, 1, 4]],
        "between vertices 0 and 1 has more",
    ),
    "turned": (np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, -1, 0]]), [[0, 1, 2], [0, 1, 3]], "opposite ways"),
    "not finite": (np.array([[0.0, 0, np.inf], [1, 0, 0], [0, 1, 0]]), [[0, 1, 2]], "vertex 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", MESHES)
def test_a_broken_sheet_is_refused_in_one_line_that_names_the_place(name):
    vertices, faces, word = MESHES[name]
    with pytest.raises(MeshError, match=word) as refusal:
        as_sheet((vertices, faces))
    assert "\n" not in str(refusal.value)


def test_sizes_that_suggest_other_units_are_warned_of():
    with pytest.warns(UserWarning, match="lengths are in meters"):
        as_sheet(sheet((1, 1), (600.0, 400.0)))


def test_options_that_do_not_fit_are_refused():
    for options, word in (({"bending": "plate"}, "bending"), ({"rest_angles": torch.zeros(3)}, "rest_angles")):
        with pytest.raises(SceneError, match=word):
            shell(**options)
    V, F = sheet((1, 1), (1.0, 1.0))
    for name, value in (("E", -1.0), ("nu", 0.5), ("thickness", 0.0), ("density", 0.0),
                        ("bending_rigidity", -1.0)):  # fmt: skip
        values = {"E": 1e6, "nu": 0.3, "thickness": 1e-3, "density": 100.0} | {name: value}
        with pytest.raises(SceneError, match=name):
            ds.models.Shell((V, F), dt=0.1, **values)


def test_a_run_is_written_read_and_drawn(tmp_path):
    model = shell((2, 2))
    with torch.no_grad():
        path = ds.rollout(model, model.initial_state(), steps=2)
    ds.trajectory.write_trajectory(tmp_path / "t.h5", path)
    found = ds.trajectory.read_trajectory(tmp_path / "t.h5")
    assert torch.equal(found.x, path.x) and torch.equal(found.X, model.X) and torch.equal(found.a[1], path[1].a)
    assert found[1].volume is None and found.units["a"] == "m/s^2"
    folder = render_trajectory(found, model=model, out=None, png_frames=tmp_path / "frames", size=(64, 48))
    assert len(list(folder.glob("*.png"))) == 3
