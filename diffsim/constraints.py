"""Constraints g <= 0 of a trajectory, and the augmented Lagrangian that an optimizer lowers instead.

    L = f + 1/(2 rho) sum_k (max(0, lambda_k + rho g_k)^2 - lambda_k^2),    lambda_k <- max(0, lambda_k + rho g_k)

Source: Nocedal and Wright, Numerical Optimization (2006), chapter 17.4. L has a continuous gradient, max(0, lambda_k +
rho g_k) grad g_k, by torch. A constraint is a function of the trajectory that returns a tensor g of any shape, the same
one in every evaluation; each entry has a multiplier. Give g without a unit, of about 1 for a gross violation, so that
one rho suits all.

    scene = ds.Scene(..., constraints={"force": lambda path: force_limits(path.wrench, force=5.0)})
    ds.optimize(scene, method="augmented_lagrangian")

With any other method the multipliers stay 0, which makes L a quadratic penalty.
"""

import math

import torch
from torch import Tensor

from diffsim.errors import DataError, SceneError
from diffsim.kernels.tool_distance import tool_distance as signed_distances
from diffsim.models.tools import pack, rotation_matrix
from diffsim.objectives import total


class AugmentedLagrangian:
    """Multipliers and penalty of a scene's constraints.

    Attributes:
        rho: the penalty; what is assigned to it holds again after ``restart``.
        multipliers: lambda by the constraint's name; one that was never updated is 0.
    """

    def __init__(self, rho: float = 10.0):
        self.rho, self.multipliers = rho, {}

    @property
    def rho(self) -> float:
        return self._rho

    @rho.setter
    def rho(self, value: float) -> None:
        if not (value > 0 and math.isfinite(value)):
            raise SceneError(f"rho is {value}; a penalty is a positive number")
        self._rho = self._first = value

    def take(self, rho: float, multipliers: dict[str, Tensor]) -> None:
        """Continue with these, until ``restart``."""
        self._rho, self.multipliers = rho, dict(multipliers)

    def restart(self) -> None:
        """Go back to multipliers of 0 and the penalty that was assigned, not one that has grown."""
        self.take(self._first, {})

    def term(self, values: dict[str, Tensor]) -> Tensor:
        """What is added to the objective, for constraints g by name.

        Raises:
            DataError: a constraint whose shape has changed since the last update.
        """
        terms = []
        for name, g in values.items():
            multiplier = self.multipliers.get(name)
            if multiplier is not None and multiplier.shape != g.shape:
                raise DataError(
                    f"constraint {name!r} has shape {tuple(g.shape)}, and had {tuple(multiplier.shape)}; give the same "
                    "in every evaluation"
                )
            before = torch.zeros_like(g) if multiplier is None else multiplier.to(g)
            pushed = (before + self.rho * g).clamp_min(0)
            terms.append(total(pushed.square() - before.square()) / (2 * self.rho))
        return total(torch.stack(terms))

    @torch.no_grad()
    def update(self, values: dict[str, Tensor]) -> None:
        """Take the multipliers that these values of the constraints ask for."""
        for name, g in values.items():
            before = self.multipliers.get(name, torch.zeros_like(g))
            self.multipliers[name] = (before.to(g) + self.rho * g).clamp_min(0)


def violation(values: dict[str, Tensor]) -> float:
    """Largest max(g, 0) of all constraints."""
    return max((float(g.detach().clamp_min(0).amax()) for g in values.values() if g.numel()), default=0.0)


# --- constraints


def no_spill(x: Tensor, low, high) -> Tensor:
    """(low - x, x - high) / length <= 0: every particle stays in a box; (..., n, 2d), the length that of the box.

    Args:
        x: (..., n, d) [m]: a frame, or ``path.x`` for all.
        low, high: corners [m].

    Raises:
        SceneError: a box without extent.
    """
    low, high = (torch.as_tensor(corner).to(x) for corner in (low, high))
    if low.shape != (x.shape[-1],) or high.shape != low.shape or not (high > low).all():
        raise SceneError(f"no_spill: corners {low.tolist()} and {high.tolist()} make no box of {x.shape[-1]} axes")
    return torch.cat([low - x, x - high], -1) / (high - low).max()


def no_collision(state, tools, points: list[Tensor | None], clearance: float = 0.0) -> Tensor:
    """(clearance - phi) / size <= 0 for points of each tool against every other tool; (pairs,).

    phi is the signed distance, so the gradient reaches the poses of both tools. The size is the smallest radius.

    Args:
        state: with the tools' poses, such as ``path[i]``.
        tools: as ``model.tools``.
        points: per tool surface points in its own frame (k, 3) [m], such as the vertices of its mesh; None leaves a
            tool out, whose surface is then seen by the others' points only.
        clearance: distance to keep [m].

    Raises:
        SceneError: a number of point sets that is not that of the tools.
    """
    tools = list(tools)
    if len(points) != len(tools):
        raise SceneError(f"no_collision: {len(points)} sets of points for {len(tools)} tools; give one each, or None")
    dim = state.x.shape[1]
    pose, found = state.pose, []
    unit = pose[:, 3:] / pose[:, 3:].norm(dim=-1, keepdim=True)
    rotation = rotation_matrix(unit)
    size = min(tool.shape.bounding_radius for tool in tools)
    for i, own in enumerate(points):
        others = [j for j in range(len(tools)) if j != i]
        if own is None or not others:
            continue
        world = pose[i, :3] + own.to(pose) @ rotation[i].T
        tables = pack([tools[j] for j in others], pose.dtype, dim)
        phi = signed_distances(world[:, :dim].contiguous(), pose[others, :3], rotation[others], *tables)
        found.append(phi.reshape(-1))
    if not found:
        raise SceneError("no_collision: no pair of tools is left to be checked; give points and at least two tools")
    return (clearance - torch.cat(found)) / (size if math.isfinite(size) else 1.0)


def force_limits(wrench: Tensor, force: float | None = None, torque: float | None = None) -> Tensor:
    """(|f|/force)^2 - 1 <= 0 and (|t|/torque)^2 - 1 <= 0 of each tool; (..., T) or, for both limits, (..., T, 2).

    Args:
        wrench: (..., T, 6) [N, N m], as ``path.wrench``.
        force, torque: the limits; None for no limit.

    Raises:
        SceneError: no limit, or one that is not positive.
    """
    limits = [(wrench[..., :3], force), (wrench[..., 3:], torque)]
    limits = [(part, limit) for part, limit in limits if limit is not None]
    if not limits or any(not limit > 0 for _, limit in limits):
        raise SceneError(f"force_limits: force={force}, torque={torque}; give at least one positive limit")
    parts = [part.square().sum(-1) / limit**2 - 1 for part, limit in limits]
    return parts[0] if len(parts) == 1 else torch.stack(parts, -1)
