"""Deformation gradients at which laws are tested, and differences to test their gradients with."""

import pytest
import torch

from diffsim.kernels.arrays import context


def rotation(n, d):
    Q = torch.linalg.qr(torch.randn(n, d, d, dtype=torch.float64))[0]
    Q[:, :, 0] *= torch.linalg.det(Q)[:, None]
    return Q


def deformations(d):
    """F (n, d, d), det F > 0, and e = F33 (n,): random, I, cI, and with equal and almost equal stretches; e = 1 in 3-D.

    The first four have small strains, the last ones large shear.
    """
    torch.manual_seed(4)
    eye = torch.eye(d, dtype=torch.float64)
    noise = torch.randn(16, d, d, dtype=torch.float64)
    Q, W = rotation(16, d), rotation(16, d)
    two = torch.diag(torch.tensor([1.3, 1.3, 0.8][:d], dtype=torch.float64))
    low = torch.diag(torch.tensor([1.4, 0.9, 0.9][:d], dtype=torch.float64))
    F = torch.stack(
        [
            eye,
            eye + 1e-3 * noise[0],
            Q[0] @ (eye + 1e-3 * noise[1]),
            1.02 * eye,
            1.2 * eye,
            0.7 * Q[1],
            Q[2] @ two @ W[2],
            Q[3] @ low @ W[3],
            two,
            Q[4] @ low @ W[4] + 1e-9 * noise[4],
            1.1 * Q[5] + 1e-7 * noise[5],
            Q[6] @ (eye + 0.15 * noise[6]),
            eye + 0.15 * noise[7],
            eye + torch.triu(torch.ones_like(eye), 1),
            torch.diag(torch.tensor([0.6, 1.5, 1.0][:d], dtype=torch.float64)),
        ]
    )
    assert (torch.linalg.det(F) > 0).all()
    e = torch.ones(len(F), dtype=torch.float64)
    if d == 2:
        e[5:] += 0.1 * torch.randn(len(F) - 5, dtype=torch.float64)
        e[1] = 1.001
    return F.to(context.dtype), e.to(context.dtype)


def internal(e, d):
    """q of a state: F33 in 2-D, nothing in 3-D."""
    return e[:, None].clone() if d == 2 else e.new_empty(len(e), 0)


def difference(function, inputs, name, step=3e-4):
    """Fourth-order central differences of a per-particle scalar function by every entry of one input, (n, ...)."""
    base = inputs[name]
    flat = base.reshape(len(base), -1)
    columns = []
    for k in range(flat.shape[1]):
        values = []
        for shift in (-2, -1, 1, 2):
            moved = flat.clone()
            moved[:, k] += shift * step
            values.append(function(**{**inputs, name: moved.reshape(base.shape)}))
        columns.append((values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step))
    return torch.stack(columns, 1).reshape(base.shape) if columns else torch.zeros_like(base)


def gradient_error(function, inputs, name):
    """Largest relative error over particles of the gradient of ``function`` by one input, (n,) -> float."""
    expected = difference(function, inputs, name)
    leaf = inputs[name].clone().requires_grad_()
    grad = torch.autograd.grad(function(**{**inputs, name: leaf}).sum(), leaf)[0]
    n = len(expected)
    scale = expected.reshape(n, -1).norm(dim=1)
    return ((grad - expected).reshape(n, -1).norm(dim=1) / scale.clamp_min(1e-2)).max().item()


@pytest.fixture(scope="session")
def points():
    """The functions of this file under one name, since test folders are no packages."""

    class Points:
        pass

    for function in (rotation, deformations, internal, difference, gradient_error):
        setattr(Points, function.__name__, staticmethod(function))
    return Points
