"""What holds for every law at any deformation: objectivity, isotropy, no stress at rest, P = d psi/dF.

The examples are F = Q diag(exp(eps)) W^T with principal strains of up to 0.3 in size, among them equal ones.
"""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import MATERIALS, E, without_row

from diffsim.kernels.arrays import context

EPS = torch.finfo(context.dtype).eps


def has_energy(row):
    return hasattr(row.make(float).elastic.functions, "energy")


every_law = pytest.mark.parametrize("name", MATERIALS)
objective_laws = pytest.mark.parametrize("name", [name for name, row in MATERIALS.items() if row.objective])
isotropic_laws = pytest.mark.parametrize("name", [name for name, row in MATERIALS.items() if row.isotropic])
laws_with_energy = pytest.mark.parametrize("name", [name for name, row in MATERIALS.items() if has_energy(row)])
both_dimensions = pytest.mark.parametrize("d", [2, 3])

strains = st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=3)
angles = st.lists(st.floats(-3.2, 3.2), min_size=3, max_size=3)
rates = st.lists(st.floats(-5.0, 5.0), min_size=9, max_size=9)


class Deformation(NamedTuple):
    """strain: principal strains, in 2-D the third is log F33. left, right: angles of Q and W."""

    strain: list
    left: list
    right: list

    def matrix(self, d):
        stretches = torch.diag(tensor(self.strain[:d]).exp())
        return (rotation(self.left, d) @ stretches @ rotation(self.right, d).T)[None].contiguous()


deformations = st.builds(Deformation, strains, angles, angles)


def tensor(numbers):
    return torch.tensor(numbers, dtype=context.dtype)


def rotation(angles, d):
    """A product of rotations in the coordinate planes."""
    Q = torch.eye(d, dtype=context.dtype)
    for angle, (a, b) in zip(tensor(angles), ((0, 1), (1, 2), (2, 0))[: 1 if d == 2 else 3], strict=False):
        G = torch.eye(d, dtype=context.dtype)
        G[a, a] = G[b, b] = angle.cos()
        G[b, a], G[a, b] = angle.sin(), -angle.sin()
        Q = Q @ G
    return Q


def square(numbers, d):
    return tensor(numbers[: d * d]).reshape(1, d, d)


def update(material, F, q):
    law = material.elastic if material.plastic is None else material.plastic
    return law.update(F, q)


def internal(material, deformation, d):
    """Internal variables as a first step of the material leaves them: not only those of the start are tested."""
    q = material.initial(1, d)
    if d == 2 and q.shape[1]:
        q[:, 0] = tensor(deformation.strain[2]).exp()
    return update(material, deformation.matrix(d), q)[1]


def assert_close(value, expected, scale=E):
    """Equal to rounding of numbers of the size of ``scale``."""
    torch.testing.assert_close(value, expected, rtol=0, atol=300 * EPS * (scale + float(expected.abs().max())))


def test_every_law_has_a_row():
    assert not without_row(), f"add them to MATERIALS of {__file__.replace('test_laws', 'laws')}"


@objective_laws
@both_dimensions
@given(before=deformations, now=deformations, turn=angles, rate=rates)
def test_stress_turns_with_the_body(name, d, before, now, turn, rate):
    """P(Q F, Q L Q^T) = Q P(F, L)."""
    material = MATERIALS[name].make(float)
    q, F, L, Q = internal(material, before, d), now.matrix(d), square(rate, d), rotation(turn, d)
    assert_close(material.stress(Q @ F, q, Q @ L @ Q.T), Q @ material.stress(F, q, L))


@isotropic_laws
@both_dimensions
@given(before=deformations, now=deformations, turn=angles, rate=rates)
def test_stress_does_not_know_how_the_body_lay_before(name, d, before, now, turn, rate):
    """P(F Q, L) = P(F, L) Q."""
    material = MATERIALS[name].make(float)
    q, F, L, Q = internal(material, before, d), now.matrix(d), square(rate, d), rotation(turn, d)
    assert_close(material.stress(F @ Q, q, L), material.stress(F, q, L) @ Q)


@objective_laws
@both_dimensions
@given(before=deformations, trial=deformations, turn=angles)
def test_what_the_return_map_leaves_turns_with_the_body(name, d, before, trial, turn):
    """tau = P F^T after the map: tau(Q F_trial) = Q tau(F_trial) Q^T, tau(F_trial Q) = tau(F_trial); q is the same.

    Of the Kirchhoff stress, since a map may forget the rotation of F where the stress does not depend on it.
    """
    material = MATERIALS[name].make(float)
    q, F, Q = internal(material, before, d), trial.matrix(d), rotation(turn, d)

    def outcome(F):
        new, q_new = update(material, F, q)
        return material.stress(new, q_new) @ new.mT, q_new

    tau, kept = outcome(F)
    turned, kept_turned = outcome((Q @ F).contiguous())
    assert_close(turned, Q @ tau @ Q.T)
    if kept.numel():
        assert_close(kept_turned, kept, scale=1.0)
    if MATERIALS[name].isotropic:
        assert_close(outcome((F @ Q).contiguous())[0], tau)


@every_law
@both_dimensions
@given(turn=angles)
def test_a_body_at_rest_has_no_stress_however_it_is_turned(name, d, turn):
    material = MATERIALS[name].make(float)
    F, q = rotation(turn if MATERIALS[name].objective else [0.0] * 3, d)[None].contiguous(), material.initial(1, d)
    assert_close(material.stress(F, q), torch.zeros_like(F))
    new, q_new = update(material, F, q)
    assert_close(material.stress(new, q_new), torch.zeros_like(F))


@pytest.mark.skipif(context.dtype != torch.float64, reason="differences need f64")
@laws_with_energy
@both_dimensions
@given(before=deformations, now=deformations, direction=rates)
def test_stress_is_the_derivative_of_the_energy(name, d, before, now, direction):
    """<P, G> = d/dh psi(F + h G), by central differences of fourth order."""
    material = MATERIALS[name].make(float)
    q, F, G = internal(material, before, d), now.matrix(d), square(direction, d)
    h = 1e-3 / max(1.0, float(G.abs().max()))
    psi = {k: material.elastic.energy(F + k * h * G, q) for k in (-2, -1, 1, 2)}
    slope = (8 * (psi[1] - psi[-1]) - (psi[2] - psi[-2])) / (12 * h)
    work = (material.elastic.stress(F, q) * G).sum((1, 2))
    # rounding of the differences, 1e-13 E / h, and the next term of their series
    torch.testing.assert_close(slope, work, rtol=1e-8, atol=1e-8 * E * max(1.0, float(G.norm())))
