"""The parts of a material in one kernel: a viscous part is added, an elastic law may read internal variables."""

import pytest
import torch

import diffsim as ds
from diffsim import materials
from diffsim.errors import DataError
from diffsim.kernels import constitutive
from diffsim.kernels.arrays import context
from diffsim.kernels.lang import ti
from diffsim.kernels.svd import inner
from diffsim.materials.composite import item
from diffsim.materials.law import Elastic, Viscous, pack
from diffsim.testing import gradcheck

DOUBLE = torch.float64
double = pytest.mark.skipif(context.dtype != DOUBLE, reason="differences need f64")
both_dimensions = pytest.mark.parametrize("d", [2, 3])


class Drag(Viscous):
    """P = c e L F: no physics, but every input counts."""

    class functions:
        parameters = 1

        @staticmethod
        @ti.func
        def stress(F, e, L, theta):
            return theta[0] * e * L @ F

        @staticmethod
        @ti.func
        def stress_vjp(grad_P, F, e, L, theta):
            whole = inner(grad_P, L @ F)
            grad_F = theta[0] * e * L.transpose() @ grad_P
            return grad_F, theta[0] * whole, theta[0] * e * grad_P @ F.transpose(), ti.Vector([e * whole])

    def __init__(self, c):
        super().__init__()
        self.register_buffer("c", torch.as_tensor(c))

    def theta(self):
        return [self.c]


class Aging(Elastic):
    """psi = k a |F|^2/2 + k e a, a its second internal variable, which doubles in every update; the first stays."""

    class functions:
        parameters = 1
        stateful = True

        @staticmethod
        @ti.func
        def energy(F, q, theta):
            return theta[0] * q[2] * (0.5 * inner(F, F) + q[0])

        @staticmethod
        @ti.func
        def energy_vjp(grad_psi, F, q, theta):
            base = 0.5 * inner(F, F) + q[0]
            grad_q = grad_psi * theta[0] * ti.Vector([q[2], 0.0, base])
            return grad_psi * theta[0] * q[2] * F, grad_q, ti.Vector([grad_psi * q[2] * base])

        @staticmethod
        @ti.func
        def stress(F, q, L, theta):
            return theta[0] * q[2] * F

        @staticmethod
        @ti.func
        def stress_vjp(grad_P, F, q, L, theta):
            whole = inner(grad_P, F)
            grad_q = ti.Vector([0.0, 0.0, theta[0] * whole])
            return theta[0] * q[2] * grad_P, grad_q, ti.Matrix.zero(float, F.n, F.n), ti.Vector([q[2] * whole])

    class own_map:
        parameters = 0
        internals = 2
        start = (0.5, 1.0)

        @staticmethod
        @ti.func
        def update(F_trial, q, theta):
            return F_trial, ti.Vector([q[0], q[1], 2 * q[2]])

        @staticmethod
        @ti.func
        def update_vjp(grad_F_new, grad_q_new, F_trial, q, theta):
            grad_q = ti.Vector([grad_q_new[0], grad_q_new[1], 2 * grad_q_new[2]])
            return grad_F_new, grad_q, ti.Vector.zero(float, theta.n)

        @staticmethod
        @ti.func
        def branch(F_trial, q, theta):
            return 0

    def __init__(self, k):
        super().__init__()
        self.register_buffer("k", torch.as_tensor(k))

    def modulus(self):
        return self.k

    def theta(self):
        return [self.k]


def test_a_material_without_a_viscous_part_has_the_item_of_its_laws_alone():
    law = materials.Hencky(3.0, 0.3)
    laws = materials.compose([materials.Material(law, density=1)], 3)
    assert laws.items == (item(law.functions, None, None),) and laws.parameters == 2


@double
@both_dimensions
def test_stress_of_the_parts_adds_up_and_the_parameters_keep_their_order(d, points):
    parts = [
        materials.Material(materials.Hencky(3.0, 0.3), materials.VonMises(2.0, 0.2, 0.1), Drag(0.7), density=1),
        materials.Material(Aging(1.5), viscous=Drag(0.3), density=1),
        materials.Material(materials.Liquid(3.0, 0.3), density=1),
    ]
    laws = materials.compose(parts, d)
    assert (laws.parameters, laws.internals) == (5, 2)
    F, e = points.deformations(d)
    torch.manual_seed(3)
    L, weight = torch.randn_like(F), torch.randn_like(F)
    q = torch.cat([e[:, None], torch.rand(len(F), 2, dtype=F.dtype)], 1)
    kind = torch.arange(len(F), dtype=torch.int32) % 3
    theta = torch.zeros(len(F), 5, dtype=F.dtype)
    for m, material in enumerate(parts):
        own = pack(material.theta(), len(F))
        theta[kind == m, : own.shape[1]] = own[kind == m]

    P = constitutive.stress(laws, F, q, L, theta, kind)
    for m, material in enumerate(parts):
        expected = material.stress(F, q if d == 2 else q[:, 1:], L)
        torch.testing.assert_close(P[kind == m], expected[kind == m], rtol=1e-14, atol=1e-14)

    def work(F, q, L, theta):
        return (weight * constitutive.stress(laws, F, q, L, theta, kind)).sum((1, 2))

    inputs = dict(F=F, q=q, L=L, theta=theta)
    for name in inputs:
        assert points.gradient_error(work, inputs, name) < 1e-8, name


@double
@both_dimensions
def test_an_elastic_law_reads_the_internal_variables_of_its_own_map(d, points):
    F, e = points.deformations(d)
    law = Aging(1.5)
    q = law.initial(len(F), d)
    assert torch.equal(q[0], torch.tensor([1.0] * (d == 2) + [0.5, 1.0], dtype=F.dtype))
    assert torch.equal(law.stress(F), law.stress(F, q))
    _, q = law.update(F, q)
    assert torch.equal(q[0], torch.tensor([1.0] * (d == 2) + [0.5, 2.0], dtype=F.dtype))
    torch.testing.assert_close(law.stress(F, q), 3.0 * F)
    for function in (law.energy, lambda F, q: law.stress(F, q).sum((1, 2))):
        for name in ("F", "q"):
            assert points.gradient_error(function, dict(F=F, q=q), name) < 1e-8


def test_a_viscous_part_may_be_a_torch_module():
    class Dashpot(torch.nn.Module):
        def stress(self, F, q, L):
            return 2.0 * L @ F

    law = materials.Hencky(3.0, 0.3)
    material = materials.Material(law, viscous=Dashpot(), density=1)
    assert not material.fused and materials.Material(law, viscous=Drag(2.0), density=1).fused
    F = torch.tensor([[[1.1, 0.2], [0.0, 0.9]]], dtype=context.dtype)
    L = torch.tensor([[[0.3, -0.1], [0.4, 0.2]]], dtype=context.dtype)
    expected = materials.Material(law, viscous=Drag(2.0), density=1).stress(F, None, L)
    torch.testing.assert_close(material.stress(F, None, L), expected)


def test_a_law_whose_internal_variables_are_missing_says_so():
    with pytest.raises(DataError, match=r"0 internal variables besides F33, but the law keeps 2; .* \(1, 3\)"):
        Aging(1.0).stress(torch.eye(2, dtype=context.dtype)[None], torch.ones(1, 1, dtype=context.dtype))


@double
@pytest.mark.parametrize("d", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_gradients_through_a_rollout_reach_every_part(d):
    c, k = (torch.nn.Parameter(torch.tensor(value, dtype=DOUBLE)) for value in (2.0, 300.0))
    damped, aging = Drag(0.0), Aging(0.0)
    damped.c, aging.k = c, k
    law = materials.Hencky(1e3, 0.3)
    parts = [
        ds.Material(law, materials.VonMises(1e3, 0.3, 20.0), damped, density=10.0),
        ds.Material(aging, viscous=damped, density=10.0),
    ]
    model = ds.models.MPM(ds.Grid((16,) * d, 1 / 16), parts, dt=1e-3, substeps=3)
    torch.manual_seed(1)
    x = 0.4 + 0.2 * torch.rand(30, d, dtype=DOUBLE)
    v, C = 0.1 * torch.randn(30, d, dtype=DOUBLE), torch.randn(30, d, d, dtype=DOUBLE)
    F = torch.eye(d, dtype=DOUBLE) + 0.05 * torch.randn(30, d, d, dtype=DOUBLE)
    state = model.initial_state(x, v, volume=1e-3, material=torch.arange(30) % 2, F=F, C=C)
    assert state.q.shape == (30, 2 + (d == 2)) and (state.q[1::2, -1] == 1).all()
    report = gradcheck(model, state, steps=2, entries=4, directions=1, taylor=False)
    assert report.ok, report
    assert report.shares["yielding"] > 0.1
