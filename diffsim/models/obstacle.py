"""Surfaces with a given motion, which bodies collide with, subdivided to the fineness of the body."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from diffsim.errors import SceneError
from diffsim.geometry.refine import refined
from diffsim.geometry.surface import as_sheet
from diffsim.kernels.arrays import context

MOST = 20_000  # cells of a subdivided obstacle
COARSEST = 2.0  # edges of an obstacle over those of the body


class Obstacle:
    """A surface with a given motion, which a body collides with.

    Args:
        mesh: as a shell's mesh; in 2-D (vertices (k, 2), edges (e, 2)).
        motion: callable (X, t) -> vertices (k, d) [m] at time t [s], differentiable in what it closes over; None: at
            rest.
    """

    def __init__(self, mesh, motion: Callable | None = None):
        if isinstance(mesh, tuple | list) and np.asarray(mesh[0]).shape[1:] == (2,):
            vertices, faces = np.asarray(mesh[0], dtype=float), np.asarray(mesh[1])
        else:
            vertices, faces = as_sheet(mesh)
        self.X, self.faces, self.motion = torch.as_tensor(vertices).to(context.dtype), faces, motion

    def at(self, time: float) -> Tensor:
        """Vertices (k, d) [m] at a time."""
        if self.motion is None:
            return self.X
        values = torch.as_tensor(self.motion(self.X, time)).to(self.X)
        if values.shape != self.X.shape:
            raise SceneError(f"obstacle: the motion returned {tuple(values.shape)}; return {tuple(self.X.shape)}")
        return values


class Refinement:
    """An obstacle with edges at most ``COARSEST`` times as long as the body's.

    Contact weighs pairs by the areas of both surfaces, so a coarse one pushes harder: on a sheet at half the distance
    triangles with 30 times its edges by a factor of 8.6. As subdivided, and with the set of pairs that counts nothing
    twice, a factor of 1.18 is left among meshes of 0.5 to 30 times the sheet's edges (measured).
    The further vertices are midpoints of edges, so the map from the given ones is linear, and gradients are exact.
    """

    def __init__(self, obstacle: Obstacle, length: float, number: int):
        W, self.faces, fine = refined(obstacle.X, obstacle.faces, COARSEST * length, MOST)
        if not fine:
            warnings.warn(
                f"contact: obstacle {number} stays coarser than {COARSEST:g} times the body's edges ({length:.3g} m), "
                f"which would take more than {MOST:,} cells, and so pushes harder; give a smaller obstacle or a "
                "coarser body",
                stacklevel=4,
            )
        self.obstacle = obstacle
        self.count, rows = W.shape[0], W.tocoo()
        # a vertex inside a triangle comes from its three corners at most
        place = np.arange(rows.nnz) - W.indptr[rows.row]
        columns, weights = np.zeros((self.count, int(place.max()) + 1), dtype=np.int64), np.zeros((self.count, 3))
        columns[rows.row, place], weights[rows.row, place] = rows.col, rows.data
        self.columns, self.weights = torch.from_numpy(columns), torch.from_numpy(weights[:, : columns.shape[1]])

    def __len__(self):
        return self.count

    def of(self, vertices: Tensor) -> Tensor:
        """Vertices (k', d) of the subdivided obstacle, from the given ones (k, d)."""
        if len(self) == len(vertices):
            return vertices
        return (vertices[self.columns] * self.weights[:, :, None]).sum(1)

    def at(self, time: float) -> Tensor:
        """Vertices (k', d) [m] at a time."""
        return self.of(self.obstacle.at(time))
