"""Differentiable roots of a user's residual: gradients, the singular case, the adjoint's exact Jacobian."""

import pytest
import scipy.sparse as sp
import torch

from diffsim.errors import GradientError, SceneError, SolverError
from diffsim.kernels.arrays import context
from diffsim.solvers import root

if context.dtype != torch.float64:
    pytest.skip("implicit solves are in f64", allow_module_level=True)

A = torch.tensor([[4.0, 1.0, 0.3], [-0.5, 3.0, 0.2], [0.1, 0.7, 5.0]], dtype=torch.float64)


def residual(x, a, b):
    """Not symmetric, so that a transposed Jacobian in the wrong place shows."""
    return A @ x + a * x**3 + torch.sin(x.roll(1)) * b - 1


def inputs():
    a = torch.tensor([0.3, 0.7, 0.2], dtype=torch.float64, requires_grad=True)
    return a, torch.tensor(0.4, dtype=torch.float64, requires_grad=True)


def test_the_root_is_one_and_its_gradient_agrees_with_differences():
    a, b = inputs()
    start = torch.zeros(3, dtype=torch.float64)
    assert residual(root(residual, start, [a, b]), a, b).abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda a, b: root(residual, start, [a, b]), (a, b), rtol=1e-6, atol=1e-10)


def test_a_given_jacobian_and_solver_give_the_same():
    a, b = inputs()
    start = torch.zeros(3, dtype=torch.float64)

    def jacobian(x, a, b):
        J = A + torch.diag(3 * a * x**2) + torch.diag(b * torch.cos(x.roll(1))).roll(-1, 1)
        return sp.csc_matrix(J.numpy())

    def fixed_point(x, a, b):
        for _ in range(200):
            x = x - 0.2 * residual(x, a, b)
        return x

    reference = torch.autograd.grad(root(residual, start, [a, b]).square().sum(), (a, b))
    for options in ({"jacobian": jacobian}, {"solve": fixed_point}):
        x = root(residual, start, [a, b], **options)
        found = torch.autograd.grad(x.square().sum(), (a, b))
        for one, other in zip(found, reference, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_chain_of_roots_has_a_taylor_slope_of_two():
    a, b = inputs()

    def loss(a):
        x = torch.zeros(3, dtype=torch.float64)
        for _ in range(5):  # implicit Euler for x' = -residual(x)
            x = root(lambda y, x, a, b: y - x + 0.3 * residual(y, a, b), x, [x, a, b])
        return (x * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)).sum()

    direction = torch.tensor([0.6, -1.0, 0.3], dtype=torch.float64)
    slope = torch.autograd.grad(loss(a), a)[0] @ direction
    with torch.no_grad():
        errors = [float(abs(loss(a + h * direction) - loss(a) - h * slope)) for h in (1e-2, 5e-3, 2.5e-3, 1.25e-3)]
    orders = torch.log2(torch.tensor(errors[:-1]) / torch.tensor(errors[1:]))
    assert (orders - 2).abs().max() < 0.05


def test_inputs_that_need_no_gradient_get_none_and_tensors_in_closures_are_not_inputs():
    a, b = inputs()
    x = root(residual, torch.zeros(3, dtype=torch.float64), [a, b.detach()])
    x.sum().backward()
    assert a.grad is not None and b.grad is None
    x = root(lambda x, a: residual(x, a, b), torch.zeros(3, dtype=torch.float64), [a.detach()])
    assert not x.requires_grad


def test_a_singular_jacobian_at_the_root_has_no_gradient():
    a = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    x = root(lambda x, a: x**3 - a * torch.ones_like(x), torch.zeros(2, dtype=torch.float64), [a])
    with pytest.raises(SolverError, match="no gradient at this solution"):
        x.sum().backward()


def test_what_has_no_root_raises_with_the_history():
    with pytest.raises(SolverError) as failure:
        root(lambda x: x**2 + 1, torch.ones(1, dtype=torch.float64))
    assert failure.value.history[0] == 2
    with pytest.raises(SceneError, match="shape"):
        root(lambda x: x.sum(), torch.ones(2, dtype=torch.float64))


def test_a_gradient_that_comes_in_broken_is_named_and_not_the_matrix():
    a, b = inputs()
    x = root(residual, torch.zeros(3, dtype=torch.float64), [a, b])
    with pytest.raises(GradientError, match="that comes in is not finite at unknown 1 of 3"):
        x.backward(torch.tensor([1.0, float("nan"), 0.0], dtype=torch.float64))
