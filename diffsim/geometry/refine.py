"""Subdivision of edges and triangles down to a length, as a linear map of the vertices."""

import numpy as np
import scipy.sparse as sp


def refined(vertices, cells, length: float, most: int):
    """Halve edges until none is longer than ``length``, conformingly: every cell follows the halves of its edges.

    A triangle is cut into two, three or four as one, two or three of its edges are halved; of the two diagonals in the
    case of two, the shorter one is taken.

    Args:
        vertices: (k, d). cells: (c, 2) edges or (c, 3) triangles. most: of cells; a round that would make more is left
            out.

    Returns:
        W (k', k) SciPy CSR with rows that add up to 1, the cells (c', 2 or 3) of the vertices W @ vertices, and whether
        all edges are short enough. The first k vertices are the given ones.
    """
    x, cells = np.asarray(vertices, dtype=float), np.asarray(cells, dtype=np.int64)
    W = sp.identity(len(x), format="csr")
    while True:
        sides = cells[:, [0, 1]] if cells.shape[1] == 2 else cells[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
        edges, index = np.unique(np.sort(sides, 1), axis=0, return_inverse=True)
        long = np.linalg.norm(x[edges[:, 0]] - x[edges[:, 1]], axis=1) > length
        if not long.any():
            return W, cells, True
        marks = long[index.reshape(-1)].reshape(len(cells), -1)
        if len(cells) + marks.sum() > most:
            return W, cells, False
        middle = np.full(len(edges), -1)
        middle[long] = len(x) + np.arange(long.sum())
        middle = middle[index.reshape(-1)].reshape(marks.shape)
        rows, count = np.repeat(np.arange(long.sum()), 2), int(long.sum())
        halves = sp.csr_matrix((np.full(2 * count, 0.5), (rows, edges[long].reshape(-1))), shape=(count, len(x)))
        W = sp.vstack([W, halves @ W], format="csr")
        x = np.concatenate([x, x[edges[long]].mean(axis=1)])
        cells = _halved(cells, middle) if cells.shape[1] == 2 else _cut(x, cells, middle)


def _halved(cells, middle):
    split = middle[:, 0] >= 0
    a, b, m = cells[split, 0], cells[split, 1], middle[split, 0]
    return np.concatenate([cells[~split], np.stack([a, m], 1), np.stack([m, b], 1)])


def _cut(x, cells, middle):
    """Triangles cut along the middles of their edges (ab, bc, ca); -1: an edge that stays."""
    count = (middle >= 0).sum(1)
    parts = [cells[count == 0]]
    # turned so that the only halved edge is ab, or the only whole one
    for number in (1, 2):
        own = np.flatnonzero(count == number)
        first = np.argmax((middle[own] >= 0) == (number == 1), axis=1)
        turn = (first[:, None] + np.arange(3)) % 3
        a, b, c = np.take_along_axis(cells[own], turn, 1).T
        ab, bc, ca = np.take_along_axis(middle[own], turn, 1).T
        if number == 1:
            parts += [np.stack([a, ab, c], 1), np.stack([ab, b, c], 1)]
            continue
        other = (np.linalg.norm(x[a] - x[bc], axis=1) > np.linalg.norm(x[b] - x[ca], axis=1))[:, None]
        parts += [
            np.stack([ca, bc, c], 1),
            np.where(other, np.stack([a, b, ca], 1), np.stack([a, b, bc], 1)),
            np.where(other, np.stack([b, bc, ca], 1), np.stack([a, bc, ca], 1)),
        ]
    a, b, c = cells[count == 3].T
    ab, bc, ca = middle[count == 3].T
    parts += [np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    return np.concatenate(parts)
