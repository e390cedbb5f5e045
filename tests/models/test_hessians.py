"""Second derivatives of every energy: differences of the gradients, symmetry; the gradients: differences of the energy.

Meshes are deformed at random. Differences are of fourth order.
"""

import math

import numpy as np
import pytest
import torch

import diffsim as ds
from diffsim.geometry.solid import block
from diffsim.geometry.surface import sheet
from diffsim.kernels.arrays import context
from diffsim.models.incremental import Incremental
from diffsim.solvers.assembly import Pattern

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

SLIP = {2: 8e-4, 3: 6e-4}  # [m], displacements of the friction below


def noise(*shape, seed=0, size=1.0):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def derivative(f, h):
    """f'(0) of a function of a number."""
    values = [f(s * h) for s in (-2, -1, 1, 2)]
    return (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h)


def check(energy, gradient, hessian, x, h, directions=4):
    """x: (n,); h: length of the differences."""
    K = hessian(x)
    scale = np.abs(K).max()
    assert scale > 0 and np.abs(K - K.T).max() <= 1e-12 * scale
    for seed in range(directions):
        d = np.random.default_rng(seed).standard_normal(len(x))
        d /= np.linalg.norm(d)
        change = derivative(lambda s, d=d: gradient(x + s * d), h)
        assert np.abs(K @ d - change).max() <= 1e-7 * np.abs(change).max()
        slope = derivative(lambda s, d=d: energy(x + s * d), h)
        assert slope == pytest.approx(gradient(x) @ d, rel=1e-7, abs=1e-7 * np.abs(gradient(x)).max())


def check_term(term, inputs, x, h=1e-4, matrix=None):
    """A term of a potential, at nodes x (n, d)."""
    shape = x.shape
    at = lambda y: torch.from_numpy(y).reshape(shape)  # noqa: E731

    def assembled(y):
        if matrix is not None:
            return matrix(at(y))
        K = np.zeros((x.numel(), x.numel()))
        for blocks, dofs in zip(term.stiffness(at(y), inputs, False), term.dofs(shape[1]), strict=True):
            np.add.at(K, (dofs[:, :, None], dofs[:, None, :]), blocks)
        return K

    check(lambda y: term.energy(at(y), inputs)[0], lambda y: term.force(at(y), *inputs).numpy().reshape(-1),
          assembled, x.numpy().reshape(-1), h)  # fmt: skip


@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dim", [2, 3])
def test_the_hessian_of_a_law_through_elements(law, dim, quadratic):
    mesh = block((2, 1, 1)[:dim], (1.0, 0.6, 0.5)[:dim], quadratic=quadratic)
    nu = torch.linspace(0.1, 0.4, len(mesh.elements), dtype=torch.float64)
    model = ds.models.FEM(mesh, ds.Material(LAWS[law](1e4, nu), density=1e3), dt=1.0)
    x = model.X + noise(*model.X.shape, size=0.02)
    assert torch.linalg.det(model.deformation(model.initial_state(x=x))).min() > 0.3
    check_term(model.elements, model.term_inputs(model.X)[0], x)


def test_the_hessian_of_a_membrane():
    V, F = sheet((2, 2), (1.0, 0.8))
    model = ds.models.Shell((V, F), E=1e4, nu=0.3, thickness=1e-2, density=1e3, dt=1.0, bending=None)
    check_term(model.membrane, model.term_inputs(model.X)[0], model.X + noise(*model.X.shape, size=0.03))


def touching(dim, friction):
    """A body with vertices, edges and faces within the contact distance of an obstacle and of itself."""
    if dim == 2:
        mesh = block((3, 2), (0.3, 0.2))
        line = np.array([[-0.2, -0.012], [0.5, 0.008]]), np.array([[0, 1]])
        obstacles = [ds.models.Obstacle((line[0] - [0.0, 0.015], line[1]))]
    else:
        mesh = block((2, 2, 1), (0.3, 0.3, 0.1))
        V, F = sheet((2, 2), (0.7, 0.6), (-0.2, -0.17, -0.014), pattern="diagonal")
        turn = math.radians(17)
        R = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0.01, -0.02, 1]])
        obstacles = [ds.models.Obstacle((V @ R.T, F))]
    contact = ds.models.Contact(3e-2, 1e4, friction=friction, slip_speed=0.05, obstacles=obstacles, itself=False)
    model = ds.models.FEM(mesh, ds.Material(M.NeoHookean(1e4, 0.3), density=1e3), dt=1e-2, contact=contact)
    x = model.X + noise(*model.X.shape, size=2e-3)
    contact.check(x, model.X)
    return model, contact, x


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("friction", [0.0, 0.5])
def test_the_hessian_of_contact_and_friction(dim, friction):
    model, contact, x = touching(dim, friction)
    before = x + noise(*x.shape, seed=3, size=SLIP[dim])  # displacements about the length at which friction is smoothed
    inputs = contact.inputs(model.X, before, 0.0, 0.0)
    _, touch, slide, stick = contact.record(x, inputs)
    assert touch >= 4 and (friction == 0 or (slide >= 2 and stick >= 1))
    check_term(contact, inputs, x, h=1e-7,
               matrix=lambda y: contact.stiffness_matrix(y, inputs, False).toarray())  # fmt: skip


@pytest.mark.parametrize("dim", [2, 3])
def test_the_hessian_of_the_whole_potential_of_a_step(dim):
    model, contact, x = touching(dim, 0.5)
    model.support.held[:2] = True
    free = (~model.support.held).reshape(-1).nonzero().flatten()
    pattern = Pattern([d for term in model.terms for d in term.dofs(dim)], (~model.support.held).reshape(-1).numpy())
    inputs = [
        model.term_inputs(model.X)[0],
        contact.inputs(model.X, x + noise(*x.shape, seed=3, size=SLIP[dim]), 0.0, 0.0),
    ]
    mass, load = model._loads(model.X, 0.0)
    damping = torch.tensor(3.0, dtype=torch.float64)
    motion = mass, x + noise(*x.shape, seed=4, size=1e-3), x + noise(*x.shape, seed=5, size=1e-3), damping
    load = load + noise(*x.shape, seed=6, size=10.0)
    potential = Incremental(model.terms, pattern, inputs, x, load, free, motion, 1e-2)
    y = x.reshape(-1)[free].numpy()
    check(
        lambda y: potential.energy(y)[0], potential.gradient, lambda y: potential.hessian(y, False).toarray(), y, 1e-7
    )
