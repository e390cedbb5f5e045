"""Flat pictures of two-dimensional scenes: particles as disks, tools as filled slices."""

import numpy as np
from scipy import ndimage

from diffsim.overlay import draw_segments
from diffsim.rasterizer import Primitives
from diffsim.shading import decode

PAPER, OUTSIDE = decode((0.975, 0.978, 0.985)), decode((0.90, 0.91, 0.925))
WALL, EDGE = decode((0.30, 0.33, 0.38)), decode((0.22, 0.25, 0.30))
GROUND = decode((0.74, 0.73, 0.71))


def render_flat(view, x, radii, colors, meshes, ground, domain, target):
    """Linear RGB of a two-dimensional scene, shape [height * width, 3].

    Args:
        x: positions [m], shape [n, 2].
        colors: linear RGB, shape [n, 3].
        meshes: (vertices, faces, linear color); what is drawn is their cut with the plane z = 0.
        target: (points, radii) of ghosts, or None.
    """
    image = np.empty((view.height * view.width, 3), dtype=np.float32)
    image[:] = PAPER
    row, column = np.divmod(np.arange(len(image)), view.width)
    depth = np.full(len(image), np.float32(view.eye[2]))
    points = view.unproject(column + 0.5, row + 0.5, depth)[:, :2] + view.eye[:2].astype(np.float32)
    if domain is not None:
        low, high = (np.asarray(c, dtype=float)[:2] for c in domain)
        image[((points < low) | (points > high)).any(axis=1)] = OUTSIDE
    if ground is not None:
        image[points[:, 1] < ground] = GROUND
    if target is not None:
        _draw_disks(view, image, *target, np.broadcast_to(decode((0.85, 0.30, 0.55)), (len(target[0]), 3)), 0.28)
    _draw_disks(view, image, x, radii, colors, 1.0)
    for vertices, faces, color in meshes:
        fill = slice_mask(view, vertices, faces)
        rim = fill & ~ndimage.binary_erosion(fill, iterations=max(2, view.height // 320))
        image[fill.ravel()] = color
        image[rim.ravel()] = EDGE
    if domain is not None:
        square = np.array([(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])])
        ends = view.coordinates(
            np.pad(np.stack([square, np.roll(square, -1, axis=0)], axis=1), ((0, 0), (0, 0), (0, 1)))
        )
        draw_segments(view, image, np.full(len(image), np.inf), ends, WALL, 0.9)
    return image


def _draw_disks(view, image, x, radii, colors, opacity):
    rgba = np.pad(colors, ((0, 0), (0, 1))).astype(np.float32)
    center = view.coordinates(np.pad(x, ((0, 0), (0, 1))))
    disks = Primitives(center, radii, rgba, np.empty((0, 3, 6), dtype=np.float32), rgba[:0])
    seen = disks.surface(view, disks.draw(view))
    light = np.array([-0.42, 0.62, -0.66], dtype=np.float32)
    shaded = seen.colors * (0.70 + 0.32 * np.maximum(seen.normals @ light, 0))[:, None]
    image[seen.pixels] += opacity * (shaded - image[seen.pixels])


def slice_mask(view, vertices, faces):
    """Pixels inside a closed mesh's cut with the plane z = 0, shape [height, width]: even-odd crossings of each row."""
    height = np.where(vertices[:, 2] >= 0, 1, -1)[faces]
    cut = np.flatnonzero(np.abs(height.sum(axis=1)) == 1)
    corners, side = vertices[faces[cut]], height[cut]
    lone = np.argmax(side == -np.sign(side.sum(axis=1))[:, None], axis=1)
    a, b, c = (corners[np.arange(len(cut)), (lone + k) % 3] for k in range(3))
    ends = np.stack([a + (a[:, 2:] / (a[:, 2:] - o[:, 2:])) * (o - a) for o in (b, c)], axis=1)
    column, row, _ = view.screen(view.coordinates(ends.reshape(-1, 3)).reshape(-1, 2, 3))
    row = row.astype(float) - 0.5
    first = np.clip(np.ceil(row.min(axis=1)), 0, view.height).astype(int)
    last = np.clip(np.ceil(row.max(axis=1)), 0, view.height).astype(int)  # half-open: a shared end counts once
    count = np.maximum(last - first, 0)
    segment = np.repeat(np.arange(len(count)), count)
    line = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count) + first[segment]
    share = (line - row[segment, 0]) / (row[segment, 1] - row[segment, 0])
    crossing = column[segment, 0] + share * (column[segment, 1] - column[segment, 0])
    cell = np.clip(np.ceil(crossing - 0.5), 0, view.width).astype(int)
    flips = np.zeros((view.height, view.width + 1), dtype=int)
    np.add.at(flips, (line, cell), 1)
    return np.cumsum(flips, axis=1)[:, :-1] % 2 == 1
