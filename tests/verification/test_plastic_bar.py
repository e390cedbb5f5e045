"""Derivatives of a bar in uniaxial tension beyond yield against their closed forms.

Problem `grad-plastic-bar` (a) of the verification collection, at a point: the axial logarithmic strain eps is imposed,
to three times that of yield, and the lateral stress vanishes. Then, at any strain, the Kirchhoff stress and the plastic
strain are, with hardening H,

    tau = E (Y + H eps)/(E + H),    eps_p = (E eps - Y)/(E + H);

without hardening d tau/dY = 1, d eps_p/dY = -1/E, d tau/dE = 0.
"""

import pytest
import torch

from diffsim import materials
from diffsim.kernels.arrays import context

DOUBLE = torch.float64
E, NU, YIELD = 200.0, 0.3, 0.2
pytestmark = pytest.mark.skipif(context.dtype != DOUBLE, reason="held to 1e-6 in f64")


def stresses(axial, lateral, parameters):
    """Axial and lateral Kirchhoff stress and accumulated plastic strain after one step from rest."""
    young, yield_stress, hardening = parameters
    law = materials.VonMises(young, NU, yield_stress, hardening)
    F = torch.diag(torch.exp(torch.stack([axial, lateral, lateral])))[None]
    new, q = law.update(F)
    tau = (materials.Hencky(young, NU).stress(new) @ new.mT)[0]
    return tau[0, 0], tau[1, 1], q[0, 0], law.branch(F.detach()).item()


@pytest.mark.parametrize("hardening", [0.0, 20.0])
@pytest.mark.parametrize("ratio", [0.5, 3.0], ids=["below yield", "at three times the strain of yield"])
def test_stress_plastic_strain_and_their_derivatives_are_those_of_the_bar(ratio, hardening, record):
    """The lateral strain follows from the lateral stress by the implicit function theorem."""
    eps = torch.tensor(ratio * YIELD / E, dtype=DOUBLE)
    parameters = [torch.tensor(value, dtype=DOUBLE, requires_grad=True) for value in (E, YIELD, hardening)]
    lateral = (-NU * eps).requires_grad_()
    for _ in range(3):  # Newton: the law is piecewise linear in logarithmic strains
        _, across, _, branch = stresses(eps, lateral, parameters)
        (slope,) = torch.autograd.grad(across, lateral)
        lateral = (lateral - across / slope).detach().requires_grad_()
    axial, across, plastic, branch = stresses(eps, lateral, parameters)
    assert branch == (ratio > 1) and abs(across.item()) < 1e-12 * YIELD

    def total(value):
        inputs = [lateral, *parameters]
        by_lateral, *direct = torch.autograd.grad(value, inputs, retain_graph=True)
        slope, *other = torch.autograd.grad(across, inputs, retain_graph=True)
        return [(d - by_lateral / slope * o).item() for d, o in zip(direct, other, strict=True)]

    young, yielded, H = [value.detach().clone().requires_grad_() for value in parameters]
    expected = [(axial, young * eps)]
    if ratio > 1:
        expected = [
            (axial, young * (yielded + H * eps) / (young + H)),
            (plastic, (young * eps - yielded) / (young + H)),
        ]
    for value, exact in expected:
        assert value.item() == pytest.approx(exact.item(), rel=1e-12)
        slopes = torch.autograd.grad(exact, [young, yielded, H], allow_unused=True)
        scales = [exact.item() / E, 1.0 if value is axial else 1 / E, exact.item() / E]
        for found, slope, scale in zip(total(value), slopes, scales, strict=True):
            assert found == pytest.approx(0.0 if slope is None else slope.item(), rel=1e-9, abs=1e-9 * scale)
    if ratio > 1 and not hardening:
        by_E, by_yield, _ = total(axial)
        how = "the law alone"
        record("grad-plastic-bar", "(a) d stress/d yield stress", by_yield, 1.0, accept=1e-6, how=how)
        record("grad-plastic-bar", "(a) d stress/d E", by_E, 0.0, accept=1e-6, how=how)
        by_yield = total(plastic)[1]
        record("grad-plastic-bar", "(a) d plastic strain/d yield stress", by_yield, -1 / E, accept=1e-6, how=how)
        assert total(axial)[:2] == pytest.approx([0.0, 1.0], abs=1e-9)
        assert total(plastic)[1] == pytest.approx(-1 / E, rel=1e-9)
