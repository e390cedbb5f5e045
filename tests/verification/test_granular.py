"""Drucker-Prager sand at a point: triaxial compression and plane simple shear.

Problem `dp-element` of the verification collection, with the slope at which plane simple shear yields from its table
`drucker_prager_cone`. The closed forms behind the table are met to 1e-6 (f32: 1e-4).
"""

import math

import pytest
import torch
from scipy.optimize import brentq

from diffsim import materials
from diffsim.kernels.arrays import context
from diffsim.materials.drucker_prager import DruckerPrager

E, NU, PRESSURE = 2e6, 0.3, 1e5  # [Pa]
BULK = E / (3 * (1 - 2 * NU))
ACCURACY = 1e-6 if context.dtype == torch.float64 else 1e-4
ANGLES = [20.0, 30.0, 35.0, 40.0]
double = pytest.mark.skipif(context.dtype != torch.float64, reason="strains of 1e-9 need f64")
every_angle = pytest.mark.parametrize("phi", ANGLES)


@pytest.fixture(scope="module")
def table(tables):
    cone = tables["drucker_prager_cone"]
    return {row[0]: dict(zip(cone["columns"], row, strict=True)) for row in cone["rows"]}


def sand(phi):
    return DruckerPrager(E, NU, phi), materials.Hencky(E, NU)


def kirchhoff(elastic, F, q=None):
    return (elastic.stress(F, q) @ F.mT)[0]


def strained(F, axial, lateral):
    """F after logarithmic strain increments along the axis and across it."""
    return torch.diag(torch.exp(torch.tensor([axial, lateral, lateral], dtype=context.dtype))) @ F


@every_angle
def test_triaxial_compression_yields_at_the_stress_ratio_of_mohr_coulomb(phi, table, record):
    """The lateral stress is 1 kPa while the axis shortens by 1 %, far beyond yield: the stress is on the cone."""
    law, elastic = sand(phi)
    sine = math.sin(math.radians(phi))
    alpha, exact = math.sqrt(2 / 3) * 2 * sine / (3 - sine), (1 + sine) / (1 - sine)
    F = math.exp(-PRESSURE / (3 * BULK)) * torch.eye(3, dtype=context.dtype)[None]
    step, ratios, yielded = -0.03, [], []
    for _ in range(20):

        def excess(lateral, F=F):
            return kirchhoff(elastic, law.update(strained(F, step, lateral))[0])[1, 1].item() / PRESSURE + 1

        lateral = brentq(excess, -abs(step), abs(step), xtol=1e-16, rtol=1e-14)
        trial = strained(F, step, lateral)
        yielded.append(law.branch(trial).item())
        F = law.update(trial)[0]
        tau = kirchhoff(elastic, F)
        ratios.append((tau[0, 0] / tau[1, 1]).item())
        if yielded[-1]:
            deviator = tau - tau.trace() / 3 * torch.eye(3, dtype=tau.dtype)
            assert abs(deviator.norm() + alpha * tau.trace()) <= ACCURACY * PRESSURE
    assert yielded[0] == 0 and yielded[-10:] == [1] * 10
    for ratio in ratios[-10:]:
        assert ratio == pytest.approx(exact, rel=ACCURACY)
    if context.dtype == torch.float64:
        record("dp-element", f"stress ratio, {phi:g} degrees", ratios[-1], exact, accept=1e-6, how="the law alone")
    assert exact == pytest.approx(table[phi]["triaxial_compression_ratio"], rel=1e-7)


@double
@every_angle
def test_plane_simple_shear_at_constant_volume_yields_at_the_slope_of_the_cone(phi, table):
    """Plane strain in 2-D, strains of 1e-8: shear over normal stress tends to 3 alpha/sqrt(2), not to tan phi."""
    law, elastic = sand(phi)
    strain = 1e-8
    F, q = math.exp(-strain / 3) * torch.eye(2, dtype=context.dtype)[None], law.initial(1, 2)
    q[0, 0] = math.exp(-strain / 3)
    shear = torch.tensor([[1.0, 0.2 * strain], [0.0, 1.0]], dtype=context.dtype)
    for _ in range(100):
        F, q = law.update(shear @ F, q)
    tau = kirchhoff(elastic, F, q[:, :1])
    assert (tau[0, 1] / -tau[1, 1]).item() == pytest.approx(table[phi]["slope_tangent"], rel=1e-6)
    assert tau[0, 0].item() == pytest.approx(tau[1, 1].item(), rel=1e-6)


@pytest.mark.parametrize("tension", [(0.01, 0.01, 0.01), (0.03, -0.01, -0.01), (0.02, 0.01, -0.02)])
def test_tensile_states_return_to_zero_stress(tension):
    law, elastic = sand(30.0)
    F = torch.diag(torch.exp(torch.tensor(tension, dtype=context.dtype)))[None]
    new, _ = law.update(F)
    assert elastic.stress(new).abs().max() <= 4 * torch.finfo(context.dtype).eps * E
