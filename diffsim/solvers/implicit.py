"""Differentiable roots: x with g(x; inputs) = 0, and the gradient of x with respect to the inputs.

The adjoint is one linear solve at the solution, with the exact Jacobian, whatever the solver used on its way:

    J^T z = grad_x,    grad_input = -(dg/dinput)^T z,    J = dg/dx.

Source: the implicit function theorem; Blondel et al., Efficient and modular implicit differentiation (NeurIPS 2022).
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffsim.errors import GradientError, SceneError, SolverError
from diffsim.solvers.linear import factorize


def root(
    residual: Callable,
    x0: Tensor,
    inputs: Sequence[Tensor] = (),
    *,
    solve: Callable | None = None,
    jacobian: Callable | None = None,
    tolerance: float = 1e-12,
    iterations: int = 50,
    linear: str = "auto",
    name: str = "root",
) -> Tensor:
    """The root of g near x0, differentiable in the inputs.

        x = root(lambda x, a: x**3 + x - a, torch.zeros(3), [a])

    Args:
        residual: (x, *inputs) -> g, in torch and differentiable; x and g have the shape of x0. A tensor that it takes
            from elsewhere gets no gradient: list it among the inputs.
        x0: where to start; the root does not depend on it differentiably.
        inputs: tensors.
        solve: (x0, *inputs) -> x, run without gradients; Newton's method on g when None.
        jacobian: (x, *inputs) -> dg/dx as a SciPy sparse matrix or a tensor (n, n), n = x.numel(); from automatic
            differentiation, dense, when None.
        tolerance, iterations: of the built-in Newton: |g| <= tolerance (1 + |g(x0)|), largest entries.
        linear: method of ``linear.factorize``.
        name: for messages.

    Raises:
        SceneError: a residual of another shape.
        SolverError: no convergence, or, in backward, a singular Jacobian: the root is not isolated there, as where a
            structure buckles, and has no gradient.
        GradientError: in backward, a gradient that is not finite.
    """
    problem = _Problem(residual, solve, jacobian, tolerance, iterations, linear, name)
    return _Root.apply(problem, x0.detach(), *inputs)


class _Problem:
    def __init__(self, residual, solve, jacobian, tolerance, iterations, linear, name):
        self.residual, self.given_solve, self.given_jacobian = residual, solve, jacobian
        self.tolerance, self.iterations, self.linear, self.name = tolerance, iterations, linear, name

    def value(self, x, inputs):
        g = self.residual(x, *inputs)
        if g.shape != x.shape:
            raise SceneError(f"{self.name}: the residual has shape {tuple(g.shape)} for x of {tuple(x.shape)}")
        return g

    def jacobian(self, x, inputs):
        """dg/dx as a sparse matrix (n, n)."""
        if self.given_jacobian is not None:
            J = self.given_jacobian(x, *inputs)
        else:
            with torch.enable_grad():
                J = torch.autograd.functional.jacobian(lambda y: self.residual(y, *inputs), x)
            J = J.reshape(x.numel(), x.numel())
        return sp.csc_matrix(J.detach().numpy() if isinstance(J, Tensor) else J)

    def solve(self, x, inputs):
        """Newton's method on g, with steps halved until |g| falls."""
        if self.given_solve is not None:
            return self.given_solve(x, *inputs)
        g = self.value(x, inputs)
        goal = self.tolerance * (1 + float(g.abs().max()))
        sizes = [float(g.abs().max())]
        while not sizes[-1] <= goal:
            if len(sizes) > self.iterations or not np.isfinite(sizes[-1]):
                raise SolverError(
                    f"{self.name}: |g| is {sizes[-1]:.3g} after {len(sizes) - 1} iterations, asked for {goal:.3g}; "
                    "start nearer to the root",
                    sizes,
                )
            try:
                p = factorize(self.jacobian(x, inputs), self.linear).solve(-g.reshape(-1).numpy())
            except SolverError as error:
                raise SolverError(f"{self.name}, iteration {len(sizes)}: {error}", sizes) from error
            p, alpha = torch.from_numpy(p).reshape(x.shape).to(x), 1.0
            while True:
                trial = self.value(x + alpha * p, inputs)
                if trial.norm() < g.norm() or float(trial.abs().max()) <= goal:
                    break
                alpha /= 2
                if alpha < 2.0**-30:
                    raise SolverError(
                        f"{self.name}: |g| = {sizes[-1]:.3g} does not fall along Newton's step; start elsewhere", sizes
                    )
            x, g = x + alpha * p, trial
            sizes.append(float(g.abs().max()))
        return x


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx, problem, x0, *inputs):
        x = problem.solve(x0, [value.detach() for value in inputs])
        ctx.problem = problem
        ctx.save_for_backward(x, *inputs)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_x):
        problem, (x, *inputs) = ctx.problem, ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        bad = ~torch.isfinite(grad_x).reshape(-1)
        if bad.any():
            raise GradientError(
                f"{problem.name}: the gradient that comes in is not finite at unknown {int(bad.nonzero()[0])} of "
                f"{len(bad)}; check what is computed from this solution"
            )
        values = [value.detach().requires_grad_(need) for value, need in zip(inputs, wanted, strict=True)]
        try:
            J = factorize(problem.jacobian(x, [value.detach() for value in inputs]), problem.linear)
            z = J.solve_transposed(grad_x.detach().reshape(-1).numpy())
        except SolverError as error:
            raise SolverError(f"{problem.name}: no gradient at this solution: {error}") from error
        z = torch.from_numpy(z).reshape(x.shape).to(x)
        chosen = [value for value in values if value.requires_grad]
        with torch.enable_grad():
            g = problem.value(x, values)
        found = iter(torch.autograd.grad(g, chosen, -z, allow_unused=True) if g.requires_grad else [None] * len(chosen))
        grads = [next(found) if need else None for need in wanted]
        for index, grad in enumerate(grads):
            if grad is not None and not torch.isfinite(grad).all():
                raise GradientError(f"{problem.name}: the gradient of input {index} is not finite")
        return None, None, *grads
