"""Solids by finite elements: membranes of Cook, the flag of Turek and Hron, beams, a column, a vibrating bar.

Plane stress is plane strain with E (1 + 2 nu)/(1 + nu)^2 and nu/(1 + nu).
"""

import math

import numpy as np
import pytest
import torch
from scipy.sparse import diags
from scipy.sparse.linalg import eigsh

import diffsim as ds
from diffsim.geometry.solid import SolidMesh, block
from diffsim.kernels.arrays import context

if context.dtype != torch.float64 or context.device != "cpu":
    pytest.skip("verification in f64", allow_module_level=True)

M = ds.materials
pytestmark = pytest.mark.filterwarnings("ignore:the solid is:UserWarning")  # some problems have no units


def reshaped(mesh, map_):
    """The mesh with its nodes moved."""
    return SolidMesh(map_(mesh.nodes), mesh.elements)


def cook(n, E, nu, traction, *, quadratic, plane_stress=False):
    """Displacement of the right edge's middle and upper corner [length], n elements along each side."""
    if plane_stress:
        E, nu = E * (1 + 2 * nu) / (1 + nu) ** 2, nu / (1 + nu)

    def map_(X):
        s, t = X[:, 0], X[:, 1]
        return np.stack([48 * s, 44 * s + t * (44 - 28 * s)], 1)

    mesh = reshaped(block((n, n), (1.0, 1.0)), map_)
    mesh = mesh.to_quadratic() if quadratic else mesh
    model = ds.models.FEM(
        mesh,
        ds.Material(M.LinearElastic(E, nu), density=1.0),
        dt=1.0,
        prescribed=mesh.select(lambda X: X[:, 0] == 0),
        tractions=[(mesh.faces(lambda X: X[:, 0] == 48), (0.0, traction))],
    )
    u = (model.solve_static(model.initial_state()).x - model.X)[:, 1]
    at = lambda y: float(u[np.argmin(np.abs(mesh.nodes - [48.0, y]).sum(1))])  # noqa: E731
    return at(52.0), at(60.0)


def order(results, exact):
    errors = [abs(value - exact) for value in results]
    return math.log2(errors[-2] / errors[-1])


def test_cooks_membrane_in_plane_strain(record):
    results = [cook(n, 70.0, 1 / 3, 6.25, quadratic=True)[1] for n in (8, 16, 32)]
    found = record("cook-plane-strain", "corner, quadratic triangles, 32 x 32", results[-1], 32.28, accept=0.005,
                   order=order(results, 32.282), how="FEM, static")  # fmt: skip
    assert found.met
    results = [cook(n, 70.0, 1 / 3, 6.25, quadratic=False)[1] for n in (16, 32, 64)]
    found = record("cook-plane-strain", "corner, linear triangles, 64 x 64", results[-1], 32.28, accept=0.01,
                   order=order(results, 32.282), how="FEM, static")  # fmt: skip
    assert found.met and found.order > 1.0


def test_cooks_membrane_in_plane_stress(record):
    results = [cook(n, 1.0, 1 / 3, 1 / 16, quadratic=True, plane_stress=True)[0] for n in (8, 16, 32)]
    found = record("cook-linear", "middle of the edge, quadratic triangles, 32 x 32", results[-1], 23.967, accept=0.01,
                   order=order(results, 23.967), how="FEM, static")  # fmt: skip
    assert found.met
    linear = cook(32, 1.0, 1 / 3, 1 / 16, quadratic=False, plane_stress=True)[0]
    record("cook-linear", "middle of the edge, linear triangles, 32 x 32", linear, 23.967, accept="reported",
           how="FEM, static")  # fmt: skip
    assert 0.9 < linear / 23.967 < 1


def flag(nx, ny):
    """Displacement of the tip (0.6, 0.2) of the flag behind a cylinder."""

    def map_(X):
        y = 0.19 + 0.02 * X[:, 1]
        arc = 0.2 + np.sqrt(0.05**2 - (y - 0.2) ** 2)
        return np.stack([arc + (0.6 - arc) * X[:, 0], y], 1)

    mesh = reshaped(block((nx, ny), (1.0, 1.0)), map_).to_quadratic()
    corners = block((nx, ny), (1.0, 1.0)).select(lambda X: X[:, 0] == 0)
    edge = mesh.faces(lambda X: X[:, 0] < 0.2 + 0.05 + 1e-9)
    held = np.union1d(corners, np.unique(edge))
    model = ds.models.FEM(
        mesh, ds.Material(M.StVenantKirchhoff(1.4e6, 0.4), density=1000.0), dt=1.0, gravity=(0.0, -2.0),
        prescribed=held,
    )  # fmt: skip
    u = model.solve_static(model.initial_state()).x - model.X
    return u[np.argmin(np.abs(mesh.nodes - [0.6, 0.2]).sum(1))].tolist()


def test_the_flag_of_turek_and_hron_hangs_down(record):
    results = [flag(n, max(2, n // 16)) for n in (16, 32, 64)]
    for axis, name, exact in ((0, "u_x", -7.187e-3), (1, "u_y", -66.10e-3)):
        found = record("turek-csm1", f"{name} of A, quadratic triangles, 64 x 4", results[-1][axis], exact, accept=0.01,
                       how="FEM, St. Venant-Kirchhoff, static")  # fmt: skip
        assert found.met


@pytest.mark.parametrize("alpha", [1.0, 4.0])
def test_a_slender_strip_bends_as_the_elastica(alpha, record, tables):
    """Quadratic triangles, nu = 0; the row of the table of Sze et al. and of the elastica."""
    length, h, E = 10.0, 0.1, 1.2e6
    mesh = block((60, 1), (length, h), quadratic=True)
    load = alpha * E * h**3 / 12 / length**2
    model = ds.models.FEM(
        mesh, ds.Material(M.StVenantKirchhoff(E, 0.0), density=1.0), dt=1.0,
        prescribed=mesh.select(lambda X: X[:, 0] == 0),
        tractions=[(mesh.faces(lambda X: X[:, 0] == length), (0.0, load / h))],
    )  # fmt: skip
    state = model.solve_static(model.initial_state(), load_steps=4)
    tip = (state.x - model.X)[mesh.select(lambda X: X[:, 0] == length)].mean(0) / length
    row = {1.0: (0.3017208, 0.05643324), 4.0: (0.6699642, 0.3289412)}[alpha]
    how = "FEM, 60 x 1 quadratic triangles, h/L = 0.01"
    name = "elastica-cantilever"
    assert record(name, f"deflection, alpha = {alpha:g}, quadratic triangles", tip[1], row[0], accept=0.02, how=how).met
    assert record(
        name, f"shortening, alpha = {alpha:g}, quadratic triangles", -tip[0], row[1], accept=0.02, how=how
    ).met


def test_macneal_and_harders_straight_beam(record):
    """Quadratic tetrahedra; a fully clamped root, so the reference is that of 3-D elasticity."""
    mesh = block((24, 1, 1), (6.0, 0.2, 0.1), quadratic=True)
    faces = mesh.faces(lambda X: X[:, 0] == 6.0)
    end = mesh.select(lambda X: X[:, 0] == 6.0)
    for axis, name, exact in ((0, "axial", 2.997e-5), (1, "in plane", 0.10787), (2, "out of plane", 0.43084)):
        traction = [0.0, 0.0, 0.0]
        traction[axis] = 1 / 0.02
        model = ds.models.FEM(
            mesh, ds.Material(M.LinearElastic(1e7, 0.3), density=1.0), dt=1.0,
            prescribed=mesh.select(lambda X: X[:, 0] == 0), tractions=[(faces, traction)],
        )  # fmt: skip
        tip = float((model.solve_static(model.initial_state()).x - model.X)[end, axis].mean())
        how = "FEM, 24 x 1 x 1 cells of six quadratic tetrahedra"
        assert record("mh-straight-beam", f"{name}, quadratic tetrahedra", tip, exact, accept=0.02, how=how).met


def test_a_clamped_beam_vibrates_at_its_frequency(record):
    """From the eigenproblem of the model's own Hessian and masses."""
    mesh = block((20, 2), (1.0, 0.1), quadratic=True)
    model = ds.models.FEM(
        mesh, ds.Material(M.NeoHookean(1e6, 0.0), density=1000.0), dt=1.0,
        prescribed=mesh.select(lambda X: X[:, 0] == 0),
    )  # fmt: skip
    (inputs,) = model.term_inputs(model.X)
    K = model.pattern.assemble(model.elements.stiffness(model.X, inputs, False), 0.0)
    mass = model.nodal(model.X)[0][:, None].expand(-1, 2).reshape(-1)[model.free].numpy()
    values = eigsh(K, 1, diags(mass).tocsc(), sigma=0.0, return_eigenvectors=False)
    how = "FEM, 20 x 2 quadratic triangles, lumped masses, nu = 0, eigenproblem"
    found = record("beam-vibration", "clamped, quadratic triangles [Hz]", math.sqrt(values[0]) / (2 * math.pi), 0.50752,
                   accept=0.01, how=how)  # fmt: skip
    assert found.met


def test_a_column_settles_under_its_weight(record):
    mesh = block((1, 1, 16), (0.25, 0.25, 1.0))
    P, g = ds.models.Prescribed, 9.81
    sides = [P(mesh.select(lambda X, a=a, s=s: X[:, a] == s), axes=(a,)) for a in (0, 1) for s in (0.0, 0.25)]
    base = mesh.select(lambda X: X[:, 2] == 0)
    model = ds.models.FEM(
        mesh, ds.Material(M.LinearElastic(1e6, 0.3), density=1000.0), dt=1.0, gravity=(0.0, 0.0, -g),
        prescribed=[P(base, axes=(2,)), *sides],
    )  # fmt: skip
    state = model.solve_static(model.initial_state())
    top = float((state.x - model.X)[mesh.select(lambda X: X[:, 2] == 1), 2].mean())
    how = "FEM, 16 cells of linear tetrahedra"
    name = "self-weight-column"
    assert record(name, "settlement [m], linear tetrahedra", -top, 3.643714e-3, accept=0.02, how=how).met
    base_stress = float(model.reactions(state)[base, 2].sum()) / 0.25**2
    assert record(name, "base stress [Pa], linear tetrahedra", base_stress, 9810.0, accept=0.02, how=how).met
    stress = model.stress(state).mean(0)
    ratio = float(stress[0, 0] / stress[2, 2])
    assert record(name, "lateral over vertical stress, linear tetrahedra", ratio, 0.428571, accept=0.02, how=how).met


@pytest.mark.slow
def test_a_bar_swings_along_its_axis(record):
    """Ten periods by the trapezoidal rule; the amplitude is kept and the phase lags."""
    length, E, T = 25.0, 100.0, 10.0
    mesh = block((25, 1), (length, 1.0))
    P = ds.models.Prescribed
    model = ds.models.FEM(
        mesh, ds.Material(M.LinearElastic(E, 0.0), density=1.0), dt=T / 200, integrator="newmark",
        prescribed=[P(mesh.select(lambda X: X[:, 0] == 0), axes=(0,)), P(np.arange(len(mesh.nodes)), axes=(1,))],
    )  # fmt: skip
    v = torch.zeros_like(model.X)
    v[:, 0] = 0.1 * torch.sin(math.pi * model.X[:, 0] / (2 * length))
    mass, _ = model.nodal(model.X)
    with torch.no_grad():
        path = ds.rollout(model, model.initial_state(v=v), steps=2000)
    speed = (path.v[:, :, 0] @ mass / mass.sum()).numpy()
    t = path.times.numpy()
    late = t >= 9 * T
    basis = np.stack([np.cos(2 * math.pi * t / T), np.sin(2 * math.pi * t / T)], 1)[late]
    c, s = np.linalg.lstsq(basis, speed[late], rcond=None)[0]
    how = "FEM, 25 x 1 linear triangles, trapezoidal rule, 200 steps per period"
    assert record(
        "bar-vibration", "lag in periods, FEM", math.atan2(s, c) / (2 * math.pi), 0.0, accept=0.01, how=how
    ).met
    assert record("bar-vibration", "amplitude, FEM", math.hypot(c, s), 0.0636620, accept=0.03, how=how).met
