"""Targets of PlasticineLab's tasks: given particles, scripted actions, or recorded node masses; and the way to them.

Source: Huang et al., PlasticineLab (ICLR 2021), arXiv:2104.03311.
"""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

import diffsim as ds
from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context
from diffsim.objectives import DensityTarget, destinations, mean_squared_distance
from diffsim.rollout import rollout

THRESHOLD = 1e-4  # node mass above which a node belongs to the target, in the units of the benchmark's losses
OUTSIDE = 2  # cells around the unit box, for particles that lie on its faces
SAMPLED = 1000  # particles of start and target between which the transport is solved


def script(motion, actions):
    """A target that is where the task's own plasticine is after so many scripted actions."""

    def target(world):
        with torch.no_grad():
            path = rollout(world.model, world.state, controls=world.controls(actions), steps=len(actions))
        return DensityTarget(world.model.grid, path[-1].x, world.mass, threshold=THRESHOLD)

    return target


def points(x, mass=None):
    """A target of given particles (k, 3) [m]; with the masses of the task's own particles unless one is given."""

    def target(world):
        goal = torch.as_tensor(x).to(world.state.x)
        return DensityTarget(world.model.grid, goal, world.mass if mass is None else mass, threshold=THRESHOLD)

    return target


def recorded(file: str, key: str, cells: int) -> DensityTarget:
    """A target given as node masses on the 64^3 grid of the benchmark, halved to ``cells``.

    A quadratic B-spline is a sum of four half as wide, so that a grid of half as many cells, shifted by a quarter of
    one, has the same particles' masses exactly: M_j = (m_2j-1 + 3 m_2j + 3 m_2j+1 + m_2j+2) / 4 along each axis.

    Raises:
        DataError: no such file or key, or no such shape.
        SceneError: ``cells`` is not 64, 32 or 16.
    """
    if cells not in (64, 32, 16):
        raise SceneError(f"resolution is {cells}; a target from a file needs 64, or its halves 32 and 16")
    if not Path(file).is_file():
        raise DataError(f"target_file {file}: there is no such file; leave it out for the task's own target")
    try:
        with np.load(file) as arrays:
            if key not in arrays:
                raise DataError(f"target_file {file} has no {key!r}, but {', '.join(arrays)}; choose another variant")
            mass = np.asarray(arrays[key], dtype=np.float64)
    except (
        ValueError,
        TypeError,
        OSError,
        EOFError,
        BadZipFile,
    ) as error:  # TypeError: an npy file, which is no archive
        raise DataError(f"target_file {file}: not an npz of arrays ({error}); save it with numpy.savez") from error
    # the benchmark's own files hold a few masses of -1e-8
    if mass.shape != (64, 64, 64) or not (np.isfinite(mass).all() and mass.min() >= -1e-4 * mass.max()):
        raise DataError(f"target_file {file}: {key} has shape {mass.shape}; give (64, 64, 64) masses, none negative")
    origin, dx = -OUTSIDE / 16, 1 / 64
    mass = np.pad(mass, OUTSIDE * 4)  # of the coarsest grid's cells
    while round(1 / dx) > cells:
        for axis in range(3):
            mass = np.moveaxis(_halved(np.moveaxis(mass, axis, 0)), 0, axis)
        origin, dx = origin + dx / 2, 2 * dx
    grid = ds.Grid(tuple(n - 1 for n in mass.shape), dx, (origin,) * 3)
    return DensityTarget.from_mass(grid, torch.from_numpy(mass).to(context.tensor_device, context.dtype), THRESHOLD)


def _halved(m):
    """Node masses along the first axis, on half as many cells."""
    n = len(m) // 2 + 1
    m = np.pad(m, [(1, 3), (0, 0), (0, 0)])
    return (m[: 2 * n : 2] + 3 * m[1 : 2 * n + 1 : 2] + 3 * m[2 : 2 * n + 2 : 2] + m[3 : 2 * n + 3 : 2]) / 4


# --- the way to a target


class Destinations:
    """Where the optimal transport of the start onto the target takes about 1,000 evenly chosen particles.

    Args:
        x: the start's particles (n, 3) [m].
        mass: of each.
        goal: the target.

    Attributes:
        index: the chosen particles.
        x: their destinations (k, 3) [m].
    """

    def __init__(self, x: torch.Tensor, mass: torch.Tensor, goal: DensityTarget):
        self.index = torch.arange(0, len(x), max(1, len(x) // SAMPLED), device=x.device)
        there = torch.arange(0, len(goal.x), max(1, len(goal.x) // SAMPLED), device=x.device)
        chosen = (x[self.index], goal.x[there].to(x), mass[self.index], goal.weight[there])
        self.x = destinations(*chosen)

    def squared_distance(self, x: torch.Tensor) -> torch.Tensor:
        """Mean of |x_p - T(x_p)|^2 of the chosen particles [m^2]."""
        return mean_squared_distance(x.index_select(0, self.index), self.x)
