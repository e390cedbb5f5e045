"""Materials: what is accepted and refused, and how several share one kernel."""

import pytest
import torch

from diffsim import materials
from diffsim.errors import SceneError
from diffsim.kernels import constitutive
from diffsim.kernels.arrays import context
from diffsim.materials.law import pack

hencky = materials.Hencky(3.0, 0.3)
von_mises = materials.VonMises(3.0, 0.3, 0.2)


class Network(torch.nn.Module):
    def stress(self, F, q, L):
        return F


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: materials.FixedCorotated(E=-1.0, nu=0.2), ["FixedCorotated", "E is -1", "greater than 0"]),
        (lambda: materials.NeoHookean(E=float("nan"), nu=0.2), ["NeoHookean", "E is nan"]),
        (lambda: materials.Hencky(E=1.0, nu=0.5), ["Hencky", "nu is 0.5", "between -1 and 0.5"]),
        (lambda: materials.Liquid(E=1.0, nu=torch.tensor([0.2, -1.0])), ["Liquid", "nu of particle 1 is -1"]),
        (lambda: materials.VonMises(1.0, 0.2, 0.0), ["VonMises", "yield_stress is 0", "greater than 0"]),
        (lambda: materials.VonMises.from_deviatoric(1.0, 0.2, -2.0), ["VonMises", "yield_norm is -2"]),
        (lambda: materials.Hencky(E="stiff", nu=0.3), ["Hencky", "E is 'stiff'", "pass a number"]),
        (lambda: materials.Hencky(E=torch.ones(2, 2), nu=0.3), ["E has shape (2, 2)", "(n,)"]),
        (lambda: materials.Material(hencky, density=0), ["Material", "density is 0", "greater than 0"]),
        (lambda: materials.Material(hencky, viscous=hencky, density=1), ["viscous"]),
        (lambda: materials.Material(von_mises, density=1), ["elastic is VonMises", "stress()"]),
        (lambda: materials.Material(hencky, torch.nn.Identity(), density=1), ["plastic is Identity", "update()"]),
        (lambda: materials.Material(materials.Liquid(1, 0.3), von_mises, density=1), ["Liquid", "map of its own"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_with_a_remedy(make, words):
    with pytest.raises(SceneError) as error:
        make()
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_floats_are_buffers_and_parameters_are_learned():
    E = torch.nn.Parameter(torch.tensor(2.0, dtype=context.dtype))
    law = materials.FixedCorotated(E, nu=0.2)
    assert list(law.parameters()) == [E] and set(dict(law.named_buffers())) == {"nu"}
    F = torch.tensor([[[1.1, 0.2], [0.0, 0.9]]], dtype=context.dtype)
    P = law.stress(F)
    P.sum().backward()
    torch.testing.assert_close(E.grad, P.detach().sum() / 2)  # P is linear in E


def test_the_same_laws_compose_to_the_same_class_and_share_items():
    def scene():
        soft, stiff = materials.Hencky(1.0, 0.3), materials.Hencky(9.0, 0.1)
        return [
            materials.Material(soft, von_mises, density=1),
            materials.Material(materials.Liquid(1, 0.3), density=1),
            materials.Material(stiff, von_mises, density=torch.nn.Parameter(torch.tensor(2.0))),
        ]

    laws = materials.compose(scene(), 3)
    assert laws is materials.compose(scene(), 3)
    assert (laws.count, laws.kinds, laws.parameters, laws.internals) == (2, (0, 1, 0), 4, 0)


@pytest.mark.parametrize("d", [2, 3])
def test_materials_in_one_kernel_act_as_each_does_alone(d, points):
    parts = [
        materials.Material(hencky, von_mises, density=1),
        materials.Material(materials.Liquid(2.0, 0.2), density=1),
        materials.Material(materials.NeoHookean(1.0, 0.4), density=1),
    ]
    laws = materials.compose(parts, d)
    F, e = points.deformations(d)
    F.requires_grad_()
    kind = torch.arange(len(F), dtype=torch.int32) % 3
    q = e[:, None].clone()
    theta = torch.zeros(len(F), laws.parameters, dtype=F.dtype)
    for m, material in enumerate(parts):
        own = pack(material.theta(), len(F))
        theta[kind == m, : own.shape[1]] = own[kind == m]
    theta.requires_grad_()
    P = constitutive.stress(laws, F, q, torch.zeros_like(F), theta, kind)
    F_new, q_new = constitutive.update(laws, F, q, theta, kind)
    grad_F, grad_theta = torch.autograd.grad((P**2).sum() + (F_new**2).sum(), [F, theta])
    own_q = q if d == 2 else q[:, :0]
    for m, material in enumerate(parts):
        mine = kind == m
        plastic = material.plastic or material.elastic
        P_own = material.elastic.stress(F, own_q)
        F_own, q_own = plastic.update(F, own_q)
        expected = torch.autograd.grad((P_own**2).sum() + (F_own**2).sum(), F)[0]
        assert torch.equal(P[mine], P_own[mine]) and torch.equal(F_new[mine], F_own[mine])
        if d == 2:
            assert torch.equal(q_new[mine], q_own[mine])
        torch.testing.assert_close(grad_F[mine], expected[mine])
        assert (grad_theta[mine][:, len(material.theta()) :] == 0).all()


@pytest.mark.parametrize("d", [2, 3])
def test_prescribed_stress_is_returned_and_gets_its_gradient_back(d):
    P = torch.randn(5, d, d, dtype=context.dtype, requires_grad=True)
    weight = torch.randn(5, d, d, dtype=context.dtype)
    F = torch.eye(d, dtype=context.dtype).repeat(5, 1, 1)
    out = materials.Prescribed(P).stress(F)
    assert torch.equal(out, P)
    assert torch.equal(torch.autograd.grad((weight * out).sum(), P)[0], weight)
    with pytest.raises(SceneError, match="energy"):
        materials.Prescribed(P).energy(F)


def test_a_torch_module_is_a_law_that_kernels_see_as_a_prescribed_stress():
    neural = materials.Material(Network(), von_mises, density=1.0)
    assert not neural.fused and materials.Material(hencky, von_mises, density=1.0).fused
    laws = materials.compose([neural], 3)
    assert laws.parameters == 9 + 2 and not laws.energetic


def test_internal_variables_start_undeformed():
    plastic = materials.Material(hencky, von_mises, density=1)
    assert torch.equal(plastic.initial(3, 2), torch.ones(3, 1, dtype=context.dtype))
    assert plastic.initial(3, 3).shape == (3, 0)
    assert materials.Material(hencky, density=1).initial(3, 2).shape == (3, 0)
