"""Distances between point clouds without correspondence: Chamfer, exact transport and Sinkhorn divergence.

Which point goes with which is found by SciPy and POT, on values; the gradient is the exact one of the distance at the
pairs or plans found. It jumps where these change: for Chamfer and exact transport at equal distances, never for
Sinkhorn.
"""

import warnings

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import logsumexp
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffsim.errors import DataError, SceneError, SolverError
from diffsim.objectives import total

MOST_PIVOTS = 10_000_000  # of the network simplex


def chamfer(x: Tensor, target: Tensor) -> Tensor:
    """1/n sum_i min_j |x_i - y_j|^2 + 1/m sum_j min_i |x_i - y_j|^2 [m^2]; 0 for equal clouds.

    Source: Fan, Su and Guibas (2017), doi:10.1109/CVPR.2017.264, eq. 2, here with means. Differentiable in both clouds.

    Args:
        x: (n, d) [m].
        target: y, (m, d) [m].

    Raises:
        DataError: clouds that are empty, not finite, or of different dimensions.
    """
    here, there = _cloud(x, "x"), _cloud(target, "target", x)
    nearest = torch.from_numpy(cKDTree(there).query(here)[1]).to(x.device)
    back = torch.from_numpy(cKDTree(here).query(there)[1]).to(x.device)
    forth = total((x - target.index_select(0, nearest)).square()) / len(x)
    return forth + total((x.index_select(0, back) - target).square()) / len(target)


def transport(x: Tensor, target: Tensor, mass: Tensor | None = None, target_mass: Tensor | None = None) -> Tensor:
    """Squared Wasserstein distance min_P sum_ij P_ij |x_i - y_j|^2 [m^2] of two clouds, each of total mass 1.

    Solved exactly by the network simplex of POT. Gradient: grad_x_i = 2 sum_j P_ij (x_i - y_j) at the optimal plan, by
    the envelope theorem; masses are constants.

    Args:
        x: (n, d) [m].
        target: y, (m, d) [m].
        mass, target_mass: (n,) and (m,), in any unit; equal when None.

    Raises:
        DataError: clouds or masses that do not fit.
        SolverError: the simplex did not finish.
    """
    plan = _plan(x, target, mass, target_mass)[0]
    rows, columns = (torch.from_numpy(index).to(x.device) for index in np.nonzero(plan))
    moved = torch.from_numpy(plan[plan > 0]).to(x)
    return total(moved[:, None] * (x.index_select(0, rows) - target.index_select(0, columns)).square())


def destinations(x: Tensor, target: Tensor, mass: Tensor | None = None, target_mass: Tensor | None = None) -> Tensor:
    """Where the optimal plan P of ``transport`` takes each point, sum_j P_ij y_j / sum_j P_ij; (n, d) [m].

    This is the plan's barycentric projection. Values only, without a gradient. A point without mass stays where it is.

    Args and errors as for ``transport``.
    """
    plan, here, there = _plan(x, target, mass, target_mass)
    share = plan.sum(1, keepdims=True)
    # einsum, not a matrix product, whose bits depend on the threads of the linear algebra
    found = np.where(share > 0, np.einsum("ij,jk->ik", plan, there) / np.where(share > 0, share, 1.0), here)
    return torch.from_numpy(found).to(x)


def _plan(x, target, mass, target_mass):
    """Optimal plan (n, m), and both clouds, as doubles."""
    import ot

    here, there = _cloud(x, "x"), _cloud(target, "target", x)
    a, b = _weights(mass, len(x), "mass"), _weights(target_mass, len(target), "target_mass")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is raised below
        plan, about = ot.emd(a, b, _squared_distances(here, there), numItermax=MOST_PIVOTS, log=True)
    if about["warning"]:
        raise SolverError(f"transport of {len(x)} to {len(target)} points: {about['warning']}; use fewer points")
    return plan, here, there


def sinkhorn(x: Tensor, target: Tensor, blur: float, *, tolerance: float = 1e-9, iterations: int = 20_000) -> Tensor:
    """Sinkhorn divergence S = W(x, y) - W(x, x)/2 - W(y, y)/2 [m^2] of two clouds of equal weights; 0 for equal ones.

        W(x, y) = min_P sum_ij P_ij |x_i - y_j|^2 + blur^2 KL(P | a b^T)

    Source: Feydy et al. (2019), arXiv:1810.08278. It is smooth, and lies between transport (blur -> 0) and the squared
    distance of the means (blur -> infinity). Adjoint: grad_x_i W = 2 sum_j P_ij (x_i - y_j) at the optimal plan, which
    is exact up to ``tolerance``.

    Args:
        x: (n, d) [m].
        target: y, (m, d) [m].
        blur: square root of the entropic regularization [m]: details below it are not seen.
        tolerance: norm of the error of the marginals.
        iterations: at most so many; a small blur needs more.

    Raises:
        DataError: clouds that do not fit.
        SceneError: a blur that is not positive.
        SolverError: no convergence.
    """
    if not blur > 0:
        raise SceneError(f"sinkhorn: blur={blur}; give a positive length in meters")
    _cloud(x, "x"), _cloud(target, "target", x)
    return _Sinkhorn.apply(x, target, float(blur) ** 2, tolerance, iterations)


class _Sinkhorn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, target, epsilon, tolerance, iterations):
        here, there = _cloud(x, "x"), _cloud(target, "target", x)
        settings = (epsilon, tolerance, iterations)
        between, grad_x, grad_target = _entropic(here, there, *settings)
        own_x, own_grad_x = _symmetric(here, *settings)
        own_target, own_grad_target = _symmetric(there, *settings)
        grad_x, grad_target = grad_x - own_grad_x, grad_target - own_grad_target
        ctx.save_for_backward(torch.from_numpy(grad_x).to(x), torch.from_numpy(grad_target).to(target))
        return x.new_tensor(between - (own_x + own_target) / 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad_x, grad_target = ctx.saved_tensors
        return grad * grad_x, grad * grad_target, None, None, None


def _entropic(x, y, epsilon, tolerance, iterations):
    """W(x, y) from its dual, sum_i a_i f_i + sum_j b_j g_j at the optimum, and its gradients by x and y."""
    from ot.bregman import sinkhorn_log

    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    cost = _squared_distances(x, y)
    scale, start = max(float(cost.max()), epsilon), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what has not converged is raised below
        while scale > 2 * epsilon:  # potentials of a smooth problem are a start for a sharper one
            _, about = sinkhorn_log(a, b, cost, scale, numItermax=11, stopThr=1e-3, log=True, warmstart=start)
            start = (2 * about["log_u"], 2 * about["log_v"])
            scale /= 2
        if start is not None:  # the last one was for ``scale``
            start = tuple(scale / epsilon * potential for potential in start)
        plan, about = sinkhorn_log(
            a, b, cost, epsilon, numItermax=iterations, stopThr=tolerance, log=True, warmstart=start
        )
    if not about["err"][-1] < tolerance:
        raise SolverError(
            f"sinkhorn: marginals are off by {about['err'][-1]:.1e} after {iterations} iterations; raise blur, "
            "tolerance or iterations"
        )
    f, g = epsilon * (about["log_u"] - np.log(a)), epsilon * (about["log_v"] - np.log(b))
    value = (a * f).sum() + (b * g).sum() - epsilon * (plan.sum() - 1)
    # einsum, not a matrix product, whose bits depend on the threads of the linear algebra
    grad_x = 2 * (plan.sum(1)[:, None] * x - np.einsum("ij,jk->ik", plan, y))
    grad_y = 2 * (plan.sum(0)[:, None] * y - np.einsum("ij,ik->jk", plan, x))
    return value, grad_x, grad_y


def _symmetric(x, epsilon, tolerance, iterations):
    """W(x, x) and half its gradient by x, the part of one argument; averaged steps converge where plain ones crawl.

    f <- (f + T f)/2 with (T f)_i = -epsilon log sum_j a_j exp((f_j - C_ij)/epsilon): Feydy et al. (2019).
    """
    a, cost = np.full(len(x), 1 / len(x)), _squared_distances(x, x)
    f, error = np.zeros(len(x)), np.inf
    for _ in range(iterations):
        logarithm = logsumexp((f[None] - cost) / epsilon, axis=1) - np.log(len(x))
        error = np.linalg.norm(a * np.expm1(f / epsilon + logarithm))  # of the marginals of the plan below
        if error < tolerance:
            break
        f = (f - epsilon * logarithm) / 2
    else:
        raise SolverError(f"sinkhorn: marginals are off by {error:.1e}; raise blur, tolerance or iterations")
    plan = np.exp((f[:, None] + f[None] - cost) / epsilon) / len(x) ** 2
    value = 2 * (a * f).sum() - epsilon * (plan.sum() - 1)
    return value, 2 * (plan.sum(1)[:, None] * x - np.einsum("ij,jk->ik", plan, x))


def _squared_distances(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def _cloud(x: Tensor, name: str, other: Tensor | None = None) -> np.ndarray:
    """Points as doubles."""
    if x.ndim != 2 or not len(x) or (other is not None and x.shape[1] != other.shape[1]):
        wanted = "(n, d)" if other is None else f"(m, {other.shape[-1]})"
        raise DataError(f"{name} has shape {tuple(x.shape)}; give points {wanted}, at least one")
    values = x.detach().double().cpu().numpy()
    if not np.isfinite(values).all():
        raise DataError(f"{name}: point {int((~np.isfinite(values)).any(1).argmax())} is not finite")
    return values


def _weights(mass, count: int, name: str) -> np.ndarray:
    if mass is None:
        return np.full(count, 1 / count)
    values = torch.as_tensor(mass).detach().double().cpu().numpy()
    if values.shape != (count,) or not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise DataError(f"{name} has shape {values.shape}; give {count} numbers, none negative and not all zero")
    return values / values.sum()
