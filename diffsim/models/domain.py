"""The simulated box: its grid and its walls."""

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from diffsim.errors import SceneError

WALL_KINDS = {"none": 0, "slip": 1, "separating": 2, "sticky": 3}
AXES = "xyz"


@dataclass(frozen=True)
class Grid:
    """Regular grid of nodes 0 .. cells[a] along each axis.

    Args:
        cells: cells per axis, two or three of them.
        dx: cell size [m].
        origin: position of node 0 [m]; the coordinate origin unless given.
    """

    cells: tuple[int, ...]
    dx: float
    origin: tuple[float, ...] = field(default=())

    def __post_init__(self):
        if len(self.cells) not in (2, 3) or any(int(c) != c or c < 4 for c in self.cells):
            raise SceneError(f"Grid: cells={self.cells!r}; give two or three whole numbers, each at least 4")
        if not (self.dx > 0 and math.isfinite(self.dx)):
            raise SceneError(f"Grid: dx={self.dx!r}; give a positive cell size in meters")
        origin = tuple(float(o) for o in self.origin) or (0.0,) * len(self.cells)
        if len(origin) != len(self.cells):
            raise SceneError(f"Grid: origin={self.origin!r} has {len(origin)} numbers; cells has {len(self.cells)}")
        object.__setattr__(self, "cells", tuple(int(c) for c in self.cells))
        object.__setattr__(self, "origin", origin)

    @property
    def dim(self) -> int:
        return len(self.cells)

    @property
    def upper(self) -> tuple[float, ...]:
        """Position of the last node [m]."""
        return tuple(o + c * self.dx for o, c in zip(self.origin, self.cells, strict=True))


class Walls(nn.Module):
    """Walls of the box, acting on the nodes with index < margin and > cells - margin: they stand at (margin - 1) dx.

    Args:
        kind: "slip" (two-sided: no normal velocity), "separating" (no velocity into the wall), "sticky" (no velocity),
            "none"; or a dict of these per side ("x-", "x+", "y-", ...), where sides left out are "slip".
        friction: Coulomb coefficient, a float or a scalar nn.Parameter, or a dict of them per side. At the corner of
            Coulomb's law (no tangential velocity, no friction) the derivative is one-sided; see kernels/contact.py.
        margin: nodes, 3 unless given.

    Raises:
        SceneError: an unknown side or kind, a negative coefficient.
    """

    def __init__(self, kind="slip", friction=0.0, margin: int = 3):
        super().__init__()
        kinds = kind if isinstance(kind, dict) else dict.fromkeys(self.sides(3), kind)
        frictions = friction if isinstance(friction, dict) else dict.fromkeys(self.sides(3), friction)
        for side in (*kinds, *frictions):
            if side not in self.sides(3):
                raise SceneError(f"Walls: side {side!r} is not known; use {', '.join(self.sides(3))}")
        for side, name in kinds.items():
            if name not in WALL_KINDS:
                raise SceneError(f"Walls: kind {name!r} of side {side!r} is not known; use {', '.join(WALL_KINDS)}")
        for side, value in frictions.items():
            if torch.as_tensor(value).numel() != 1:
                raise SceneError(f"Walls: friction of side {side!r} is {value!r}; give one number")
            _check(side, torch.as_tensor(value))
        if int(margin) != margin or margin < 1:
            raise SceneError(f"Walls: margin={margin!r}; give a whole number of nodes, at least 1")
        self.kinds, self.margin = kinds, int(margin)
        self.coefficients = nn.Module()  # friction by side: x_low, x_high, ...
        for side, value in frictions.items():
            if isinstance(value, nn.Parameter):
                self.coefficients.register_parameter(_name(side), value)
            else:
                self.coefficients.register_buffer(_name(side), torch.as_tensor(value, dtype=torch.float64))

    @staticmethod
    def sides(dim: int) -> tuple[str, ...]:
        return tuple(f"{AXES[a]}{s}" for a in range(dim) for s in "-+")

    def kind_codes(self, dim: int) -> list[int]:
        return [WALL_KINDS[self.kinds.get(side, "slip")] for side in self.sides(dim)]

    def friction(self, dim: int, dtype: torch.dtype) -> torch.Tensor:
        """Coefficients per side, shape (2 dim,), differentiable in those that are parameters.

        Raises:
            SceneError: a coefficient that is negative or not a number.
        """
        values = [getattr(self.coefficients, _name(side), torch.zeros(())) for side in self.sides(dim)]
        for side, value in zip(self.sides(dim), values, strict=True):
            _check(side, value)  # an optimizer may have changed it
        return torch.stack([value.to(dtype).reshape(()) for value in values])


def _name(side: str) -> str:
    return side.replace("-", "_low").replace("+", "_high")


def _check(side: str, value: torch.Tensor) -> None:
    if not value.item() >= 0:
        raise SceneError(f"Walls: friction {value.item():g} of side {side!r}; it must be zero or positive")
