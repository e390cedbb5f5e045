"""The scene of ``benchmarks/mpm.py``: a neo-Hookean block that falls onto a slip floor. Needs NumPy only."""

from dataclasses import dataclass, field

import numpy as np

CASES = {"8k": (20, 64), "64k": (40, 64), "512k": (80, 128)}  # particles along an edge, cells along an edge
TARGET = (0.5, 0.5, 0.5)


@dataclass
class Block:
    """A cube of side^3 particles, 8 per cell, in a unit box of cells^3; it meets the floor within 64 substeps.

    Args:
        side: particles along an edge.
        cells: cells along an edge of the domain.

    Attributes:
        x, v: positions [m] and velocities [m/s], float32, shape (side^3, 3).
        volume: of one particle [m^3].
        E, nu, density: Young's modulus [Pa], Poisson's ratio, density [kg/m^3].
        dt, gravity: substep [s], acceleration [m/s^2].
        margin: the walls act on the nodes less than this many cells inside of the domain's faces.
    """

    side: int
    cells: int
    E: float = 5e5
    nu: float = 0.3
    density: float = 1000.0
    dt: float = 1e-4
    gravity: tuple[float, float, float] = (0.0, 0.0, -9.81)
    margin: int = 3
    x: np.ndarray = field(init=False, repr=False)
    v: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        lattice = np.stack(np.meshgrid(*3 * [np.arange(self.side)], indexing="ij"), axis=-1).reshape(-1, 3)
        edge = self.side * self.dx / 2
        corner = np.array([0.5 - edge / 2, 0.5 - edge / 2, (self.margin + 1) * self.dx])
        self.x = (corner + (lattice + 0.5) * self.dx / 2).astype(np.float32)
        self.v = np.tile(np.float32([0.5, 0.2, -3.0]), (len(self.x), 1))

    @property
    def dx(self) -> float:
        return 1.0 / self.cells

    @property
    def volume(self) -> float:
        return (self.dx / 2) ** 3

    @property
    def count(self) -> int:
        return self.side**3


def loss(x: np.ndarray) -> float:
    """mean |x - target|^2 [m^2], summed in double precision."""
    return float(((x.astype(np.float64) - TARGET) ** 2).sum(axis=1).mean())
