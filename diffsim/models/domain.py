"""The simulated box: its grid and its walls."""

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from diffsim.errors import SceneError

WALL_KINDS = {"none": 0, "slip": 1, "separating": 2, "sticky": 3}
PERIODIC = 4  # in place of a wall
AXES = "xyz"


@dataclass(frozen=True)
class Grid:
    """Regular grid of nodes 0 .. cells[a] along each axis.

    Args:
        cells: cells per axis, two or three of them.
        dx: cell size [m].
        origin: position of node 0 [m]; the coordinate origin unless given.
        periodic: whether the box repeats itself along each axis, or one value for all; such an axis has no walls and a
            multiple of 4 cells, node ``cells[a]`` being node 0. Positions of particles are not wrapped: they go on
            beyond the box. Tools act where they are, not at their images.

    Raises:
        SceneError: a number that does not fit; the message names it.
    """

    cells: tuple[int, ...]
    dx: float
    origin: tuple[float, ...] = field(default=())
    periodic: tuple[bool, ...] = field(default=())

    def __post_init__(self):
        if len(self.cells) not in (2, 3) or any(int(c) != c or c < 4 for c in self.cells):
            raise SceneError(f"Grid: cells={self.cells!r}; give two or three whole numbers, each at least 4")
        if not (self.dx > 0 and math.isfinite(self.dx)):
            raise SceneError(f"Grid: dx={self.dx!r}; give a positive cell size in meters")
        origin = tuple(float(o) for o in self.origin) or (0.0,) * len(self.cells)
        if len(origin) != len(self.cells):
            raise SceneError(f"Grid: origin={self.origin!r} has {len(origin)} numbers; cells has {len(self.cells)}")
        given = (self.periodic,) * len(self.cells) if isinstance(self.periodic, bool) else tuple(self.periodic)
        periodic = given or (False,) * len(self.cells)
        if len(periodic) != len(self.cells) or any(p not in (0, 1) for p in periodic):
            raise SceneError(f"Grid: periodic={self.periodic!r}; give True or False for each of {len(self.cells)} axes")
        for axis, cells, repeats in zip(AXES, self.cells, periodic, strict=False):
            if repeats and cells % 4:
                raise SceneError(f"Grid: {cells} cells along the periodic axis {axis}; give a multiple of 4")
        object.__setattr__(self, "periodic", tuple(bool(p) for p in periodic))
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
        self.named = tuple(kind) if isinstance(kind, dict) else ()  # sides that were given one by one
        self.coefficients = nn.Module()  # friction by side: x_low, x_high, ...
        for side, value in frictions.items():
            if isinstance(value, nn.Parameter):
                self.coefficients.register_parameter(_name(side), value)
            else:
                self.coefficients.register_buffer(_name(side), torch.as_tensor(value, dtype=torch.float64))

    @staticmethod
    def sides(dim: int) -> tuple[str, ...]:
        return tuple(f"{AXES[a]}{s}" for a in range(dim) for s in "-+")

    def kind_codes(self, grid: Grid) -> list[int]:
        """The kind of each side of a grid as the kernels know it."""
        kinds = [WALL_KINDS[self.kinds.get(side, "slip")] for side in self.sides(grid.dim)]
        return [PERIODIC if grid.periodic[i // 2] else kind for i, kind in enumerate(kinds)]

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
