"""`grad-projectile` (a, b) and `grad-oscillator`: derivatives of the motion of one particle.

A single particle of MLS-MPM is an oscillator: without velocity the grid returns

    C <- C - 4 dt/(rho dx^2) P F^T,    F <- (I + dt C) F,

which for small strains e = F - 1 in one direction, and P = E e, is the semi-implicit Euler scheme of m = 1 and
k = 4 E/(rho dx^2).
"""

import math

import pytest
import torch
from bodies import parameter, tensor

import diffsim as ds
from diffsim.kernels.arrays import context

if context.dtype != torch.float64:
    pytest.skip("verification in f64", allow_module_level=True)


def stretch(start, stiffness):
    """Axial strain of a particle after 300 steps of 0.01 from a strain at rest."""
    model = ds.models.MPM(
        ds.Grid((8, 8), 1.0),
        [ds.Material(ds.materials.LinearElastic(stiffness, 0.0), density=1.0)],
        dt=0.01,
        substeps=30,
        walls=ds.Walls("none"),
    )
    F = torch.eye(2, dtype=context.dtype)[None].clone()
    F[0, 0, 0] += start
    return ds.rollout(model, model.initial_state(tensor([(4.3, 3.9)]), volume=1.0, F=F), steps=10)[-1].F[0, 0, 0] - 1


def test_a_particle_is_the_discrete_oscillator_and_so_is_its_gradient(record):
    """The odd part in the amplitude, extrapolated to zero amplitude, is the linear oscillator to 1e-10."""
    values = []
    for amplitude in (2e-3, 1e-3):
        E = parameter(1.0)
        x = (stretch(amplitude, E) - stretch(-amplitude, E)) / (2 * amplitude)
        values.append((x.item(), torch.autograd.grad(x, E)[0].item() / 4))  # k = 4 E
    x, by_k = ((4 * fine - coarse) / 3 for coarse, fine in zip(*values, strict=True))
    how = "one particle, amplitude extrapolated to zero"
    assert record("grad-oscillator", "x_300", x, 0.962991559081, accept=1e-10, how=how).met
    assert record("grad-oscillator", "dx_300/dk", by_k, 0.202647076673, accept=1e-10, how=how).met


def land(height, v, g, dt):
    """Where a particle crosses y = 0, on the parabola through the last three frames."""
    model = ds.models.MPM(
        ds.Grid((40, 24), 0.1, (-0.5, -0.5)),
        [ds.Material(ds.materials.NeoHookean(1.0, 0.3), density=1.0)],
        dt=dt,
        gravity=torch.stack([torch.zeros_like(g), -g]),
        walls=ds.Walls("none"),
    )
    up, down = float(v[1].detach()), float(g.detach())
    steps = math.ceil((up + math.sqrt(up**2 + 2 * down * height)) / down / dt) + 2
    x = ds.rollout(model, model.initial_state(tensor([(0.0, height)]), v=v[None], volume=1e-3), steps=steps).x[:, 0]
    k = int((x[:, 1] >= 0).nonzero()[-1])
    bend, rise = x[k + 1, 1] - 2 * x[k, 1] + x[k - 1, 1], (x[k + 1, 1] - x[k - 1, 1]) / 2
    share = -(rise + (rise**2 - 2 * bend * x[k, 1]).sqrt()) / bend
    return x[k, 0] + share * (x[k + 1, 0] - x[k, 0])


def throw(dt):
    """Range and its derivatives by speed, angle and gravity; landing point from 1 m and those by the velocity."""
    speed, angle, g = parameter(5.0), parameter(math.radians(40)), parameter(9.81)
    v = parameter((2.0, 3.0))
    far = land(0.0, speed * torch.stack([angle.cos(), angle.sin()]), g, dt)
    place = land(1.0, v, tensor(9.81), dt)
    slopes = torch.autograd.grad(far, (speed, angle, g))
    return [z.item() for z in (far, *slopes, place, *torch.autograd.grad(place, v)[0])]


def test_the_derivatives_of_a_landing_point_converge_in_the_first_order_of_the_step(record):
    g, speed, angle = 9.81, 5.0, math.radians(40)
    root = math.sqrt(3.0**2 + 2 * g)
    exact = {
        "(a) range [m]": speed**2 * math.sin(2 * angle) / g,
        "(a) dR/dv0": 2 * speed * math.sin(2 * angle) / g,
        "(a) dR/dangle": 2 * speed**2 * math.cos(2 * angle) / g,
        "(a) dR/dg": -(speed**2) * math.sin(2 * angle) / g**2,
        "(b) landing point [m]": 2 * (3 + root) / g,
        "(b) dx/dvx": (3 + root) / g,
        "(b) dx/dvy": 2 * (1 + 3 / root) / g,
    }
    coarse, fine = throw(4e-3), throw(2e-3)
    for (measure, value), a, b in zip(exact.items(), coarse, fine, strict=True):
        exact_already = abs(b / value - 1) < 1e-12  # dR/dg, as the error of R does not depend on g
        order = None if exact_already else math.log2(abs(a - value) / abs(b - value))
        how = f"dt = 2 ms; {a / value - 1:+.1e} at 4 ms"
        record("grad-projectile", measure, b, value, accept="first order in dt", order=order, how=how)
        assert exact_already or order == pytest.approx(1, abs=0.05), (measure, a, b)
        assert b == pytest.approx(value, rel=0.01), (measure, a, b)
