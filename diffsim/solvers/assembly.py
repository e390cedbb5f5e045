"""Assembly of element matrices into a sparse matrix whose pattern is kept."""

import numpy as np
import scipy.sparse as sp


class Pattern:
    """Where the entries of element matrices go among the free unknowns.

    Args:
        dofs: per kind of element the unknowns of each, (m, K).
        free: (n,) whether an unknown is free; rows and columns of the others are left out.
    """

    def __init__(self, dofs, free: np.ndarray):
        self.size = int(free.sum())
        number = np.where(free, np.cumsum(free) - 1, -1)
        keys, self.takes = [], []
        for group in dofs:
            own = number[group]
            rows, columns = np.broadcast_arrays(own[:, :, None], own[:, None, :])
            take = np.flatnonzero(((rows >= 0) & (columns >= 0)).reshape(-1))
            self.takes.append(take)
            keys.append(columns.reshape(-1)[take] * self.size + rows.reshape(-1)[take])
        diagonal = np.arange(self.size) * (self.size + 1)
        found, places = np.unique(np.concatenate([*keys, diagonal]), return_inverse=True)
        self.places, self.diagonal = places[: len(places) - self.size], places[len(places) - self.size :]
        self.rows = (found % max(self.size, 1)).astype(np.int32)
        starts = np.searchsorted(found, np.arange(self.size + 1) * self.size)
        self.starts, self.count = starts.astype(np.int32), len(found)

    def assemble(self, blocks, diagonal) -> sp.csc_matrix:
        """The sum of element matrices, each group (m, K, K), and a diagonal (free unknowns)."""
        values = [group.reshape(-1)[take] for group, take in zip(blocks, self.takes, strict=True)]
        data = np.bincount(self.places, np.concatenate(values) if values else None, minlength=self.count)
        data = data.astype(float)
        data[self.diagonal] += diagonal
        return sp.csc_matrix((data, self.rows, self.starts), shape=(self.size, self.size))
