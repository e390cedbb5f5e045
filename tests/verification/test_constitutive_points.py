"""Uniaxial stress and simple shear of the three elastic laws against tabulated and closed-form values.

Problem `constitutive-points` of the verification collection: E = 1, nu = 0.3. The tables give eight digits, which are
met to half a unit of the last; the equations behind them are met to 1e-9.
"""

import math

import pytest
import torch
from scipy.optimize import brentq

from diffsim import materials
from diffsim.kernels.arrays import context

MU, LAM = 1 / 2.6, 0.3 / (1.3 * 0.4)
LAWS = [materials.NeoHookean, materials.FixedCorotated, materials.Hencky]
DOUBLE = context.dtype == torch.float64
every_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)

# derivatives of the energies by the stretch a, the other two being b and c
PRINCIPAL = {
    materials.NeoHookean: lambda a, b, c: MU * (a - 1 / a) + LAM * math.log(a * b * c) / a,
    materials.FixedCorotated: lambda a, b, c: 2 * MU * (a - 1) + LAM * (a * b * c - 1) * b * c,
    materials.Hencky: lambda a, b, c: (2 * MU * math.log(a) + LAM * math.log(a * b * c)) / a,
}
SHEAR = {
    materials.NeoHookean: lambda g: MU * g,
    materials.FixedCorotated: lambda g: 2 * MU * g * (1 - 1 / math.sqrt(4 + g * g)),
    materials.Hencky: lambda g: 4 * MU * math.asinh(g / 2) / math.sqrt(4 + g * g),
}


def half_digit(value, digits=8):
    """Half a unit of the last digit of the tables; in f32 the relative 1e-5 of the collection."""
    return 0.5000001 * 10.0**-digits if DOUBLE else 1e-5 * abs(value)


@every_law
def test_uniaxial_stress_meets_the_table(law, tables, record):
    for row in tables["uniaxial_P11_over_E_nu0.3"]["rows"]:
        stretch, expected = row[0], row[1 + LAWS.index(law)]
        lateral = brentq(lambda t, a=stretch: PRINCIPAL[law](t, t, a), 0.2, 3.0, xtol=1e-15, rtol=1e-14)
        F = torch.diag(torch.tensor([stretch, lateral, lateral], dtype=context.dtype))[None]
        P = law(1.0, 0.3).stress(F)[0]
        assert abs(P[1, 1].item()) < (1e-12 if DOUBLE else 1e-6)
        exact = PRINCIPAL[law](stretch, lateral, lateral)
        assert P[0, 0].item() == pytest.approx(exact, rel=1e-9 if DOUBLE else 1e-5)
        assert abs(P[0, 0].item() - expected) <= half_digit(expected)
        if DOUBLE and stretch == 1.5:
            record("constitutive-points", f"P11, {law.__name__}, stretch 1.5", P[0, 0], exact, accept=1e-9)


@every_law
def test_simple_shear_meets_the_table_and_the_closed_form(law, tables, record):
    for row in tables["simple_shear_P12_over_E_nu0.3"]["rows"]:
        shear, expected = row[0], row[1 + LAWS.index(law)]
        F = torch.eye(3, dtype=context.dtype)[None].clone()
        F[0, 0, 1] = shear
        shear_stress = law(1.0, 0.3).stress(F)[0, 0, 1].item()
        assert shear_stress == pytest.approx(SHEAR[law](shear), rel=1e-9 if DOUBLE else 1e-5)
        if DOUBLE and shear == 1.0:
            record("constitutive-points", f"P12, {law.__name__}, shear 1", shear_stress, SHEAR[law](shear), accept=1e-9)
        significant = 7 - math.floor(math.log10(expected))  # this table gives eight significant digits
        assert abs(shear_stress - expected) <= half_digit(expected, significant)


@pytest.mark.parametrize("stretch", [0.5, 0.8, 1.1, 2.0])
def test_st_venant_kirchhoff_meets_its_closed_forms(stretch):
    """Not in the collection: P11 = E s (s^2 - 1)/2 under free lateral stretches, and shear from S = 2 mu E + lam tr E.

    E11 = (s^2 - 1)/2 and E22 = E33 = -nu E11 as in a bar of linear elasticity.
    """
    law, green = materials.StVenantKirchhoff(1.0, 0.3), (stretch**2 - 1) / 2
    lateral = math.sqrt(1 - 0.6 * green)
    P = law.stress(torch.diag(torch.tensor([stretch, lateral, lateral], dtype=context.dtype))[None])[0]
    assert abs(P[1, 1].item()) < (1e-14 if DOUBLE else 1e-6)
    assert P[0, 0].item() == pytest.approx(stretch * green, rel=1e-9 if DOUBLE else 1e-5)
    F = torch.eye(3, dtype=context.dtype)[None].clone()
    F[0, 0, 1] = shear = stretch
    expected = MU * shear * (1 + shear**2) + LAM * shear**3 / 2
    assert law.stress(F)[0, 0, 1].item() == pytest.approx(expected, rel=1e-9 if DOUBLE else 1e-5)
