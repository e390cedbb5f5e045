"""Triangles before they are drawn: cut at the near plane, and normals at their corners."""

import numpy as np


def clip_near(corners, near):
    """Triangles cut at the plane depth = near; columns beyond the first three (attributes) are interpolated.

    Args:
        corners: view coordinates [m] and attributes, shape [m, 3, 3 + k].

    Returns:
        The pieces, shape [m', 3, 3 + k], and the triangle that each comes from, shape [m'].
    """
    front = corners[:, :, 2] > near
    count = front.sum(axis=1)
    pieces, sources = [corners[count == 3]], [np.flatnonzero(count == 3)]
    for inside in (1, 2):
        cut = np.flatnonzero(count == inside)
        if len(cut) == 0:
            continue
        # turned so that the odd corner out stands first
        lone = np.argmax(front[cut] == (inside == 1), axis=1)
        a, b, c = (corners[cut, (lone + k) % 3] for k in range(3))
        ab, ac = (a + (near * 1.0001 - a[:, 2:3]) / (o[:, 2:3] - a[:, 2:3]) * (o - a) for o in (b, c))
        new = [(a, ab, ac)] if inside == 1 else [(ab, b, c), (ab, c, ac)]
        pieces += [np.stack(piece, axis=1) for piece in new]
        sources += [cut] * len(new)
    return np.concatenate(pieces), np.concatenate(sources)


def corner_normals(vertices, faces, crease=40.0):
    """Normals of the faces' corners, smooth over edges that turn by less than `crease` degrees, shape [m, 3, 3]."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    area = np.cross(b - a, c - a)
    flat = area / np.maximum(np.linalg.norm(area, axis=1, keepdims=True), 1e-30)
    corner_vertex = faces.ravel()
    order = np.argsort(corner_vertex, kind="stable")
    degree = np.bincount(corner_vertex)
    start = np.cumsum(degree) - degree
    # every pair of corners at one vertex: the corner itself, and each face around its vertex
    pairs = degree[corner_vertex]
    own = np.repeat(np.arange(len(corner_vertex)), pairs)
    place = np.arange(len(own)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    other = order[start[corner_vertex[own]] + place] // 3
    near = np.einsum("ij,ij->i", flat[own // 3], flat[other]) > np.cos(np.radians(crease))
    own, other = own[near], other[near]
    total = np.stack([np.bincount(own, area[other, k], minlength=len(corner_vertex)) for k in range(3)], axis=1)
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)
    return total.reshape(-1, 3, 3)
