"""`beam-vibration`: the first bending mode of a clamped and of a free beam, four and eight cells deep, in plane strain.

It starts with the velocity of the mode of a slender beam. The frequency is that of a damped cosine, fitted to the
projection of the velocity on that mode over three periods.
"""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit

import diffsim as ds
from diffsim.kernels.arrays import context

if context.dtype != torch.float64:
    pytest.skip("verification in f64", allow_module_level=True)

DEPTH, E, RHO = 0.1, 1e6, 1000.0  # length 1 m
SLENDER = math.sqrt(E * DEPTH**2 / 12 / RHO) / (2 * math.pi)  # f = SLENDER beta in a slender beam
CLAMPED, FREE = 1.8751041, 4.7300407  # square roots of beta


def mode(k, xi, sign):
    """Deflection of a mode and its slope; sign: +1 for a free end at xi = 0, -1 for a clamped one."""
    ratio = (math.cosh(k) - sign * math.cos(k)) / (math.sinh(k) - sign * math.sin(k))
    even, odd = torch.cosh(k * xi) + sign * torch.cos(k * xi), torch.sinh(k * xi) + sign * torch.sin(k * xi)
    slope = torch.sinh(k * xi) - sign * torch.sin(k * xi) - ratio * even
    return even - ratio * odd, k * slope


def frequency(cells, *, free):
    """Frequency [Hz] with ``cells`` cells through the depth; the tip moves by less than a hundredth of the length."""
    dx, pad = DEPTH / cells, 6
    length, left = round(1 / dx), pad if free else 2
    k = FREE if free else CLAMPED
    expected, dt = SLENDER * k * k, 0.6 * dx / math.sqrt(E / RHO)
    substeps = round(1 / (100 * expected * dt))
    walls = {"x-": "none" if free else "sticky", "x+": "none", "y-": "none", "y+": "none"}
    model = ds.models.MPM(
        ds.Grid((length + left + pad, cells + 2 * pad), dx, (-left * dx, -pad * dx)),
        [ds.Material(ds.materials.NeoHookean(E, 0.0), density=RHO)],
        dt=dt,
        substeps=substeps,
        walls=ds.Walls(walls),
    )
    s = dx / 2
    X = torch.cartesian_prod(*((torch.arange(2 * n).double() + 0.5) * s for n in (length, cells)))
    w, slope = mode(k, X[:, 0], 1 if free else -1)
    speed = 2 * math.pi * expected * 0.004 / 2
    C = torch.zeros(len(X), 2, 2, dtype=X.dtype)
    C[:, 0, 1], C[:, 1, 0] = -speed * slope, speed * slope
    v = torch.stack([-speed * (X[:, 1] - DEPTH / 2) * slope, speed * w], 1)
    state = model.initial_state(X, v=v, volume=s * s, C=C)
    with torch.no_grad():
        path = ds.rollout(model, state, steps=330)
    projected = (path.v[:, :, 1] * w).mean(1).numpy()

    def damped(t, amplitude, f, phase, decay):
        return amplitude * np.exp(-decay * t) * np.cos(2 * np.pi * f * t + phase)

    (_, found, _, _), _ = curve_fit(damped, path.times.numpy(), projected, p0=[projected[0], expected, 0.0, 0.01])
    return found


@pytest.mark.slow
def test_a_clamped_and_a_free_beam_vibrate_at_their_frequencies(record):
    """Accept for MPM: 4 % with four cells or more through the depth."""
    exact = 0.50752  # of 2-D elasticity
    coarse, fine = (frequency(cells, free=False) for cells in (4, 8))
    order = math.log2((exact - coarse) / (exact - fine))
    how = "plane strain, nu = 0, APIC"
    name = "beam-vibration"
    assert record(name, "clamped, 4 cells [Hz]", coarse, exact, accept=0.04, how=how).met
    assert record(name, "clamped, 8 cells [Hz]", fine, exact, accept=0.04, order=order, how=how).met
    slender = f"{how}; the reference is that of a slender beam, without shear"
    found = frequency(8, free=True)
    assert record(name, "free, 8 cells [Hz]", found, SLENDER * FREE**2, accept=0.04, how=slender).met
