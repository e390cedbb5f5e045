"""Z-buffer rasterizer in numpy: spheres and triangles to one key per pixel, and keys back to surface points.

A key packs the depth and the number of the primitive that is seen, ``float32 bits of z << 32 | id``. Bit patterns of
positive floats are ordered as the floats are, so that one integer minimum per fragment is the whole depth test.
Positions, normals and colors are worked out afterwards, once per covered pixel (deferred shading).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from diffsim.triangles import clip_near

EMPTY = np.int64(np.iinfo(np.int64).max)
TILE = 8  # pixels; the edge of the tiles of the occlusion test
CHUNK = 1 << 19  # fragments handled at once: a few arrays of this length stay near the cache
BATCHES = 10  # depth-sorted batches of spheres, each tested against what the earlier ones cover


def along(points, axis):
    """Components of points along an axis, shape [...]; by columns, four times as fast as `points @ axis`."""
    return points[..., 0] * axis[0] + points[..., 1] * axis[1] + points[..., 2] * axis[2]


def turn(points, axes):
    """Points in other axes (rows), shape [..., 3]."""
    return np.stack([along(points, axis) for axis in axes], axis=-1)


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole or orthographic projection to pixels.

    Attributes:
        eye: position [m], shape [3].
        axes: rows right, up and forward, orthonormal, shape [3, 3].
        focal: pixels per unit slope, or pixels per meter when orthographic.
        width, height: of the image [pixels].
        near: nearest depth that is drawn [m].
    """

    eye: np.ndarray
    axes: np.ndarray
    focal: float
    width: int
    height: int
    near: float
    orthographic: bool = False

    def coordinates(self, points):
        """World points [m] to view coordinates (right, up, depth) [m], shape [n, 3]."""
        return turn(points - self.eye, self.axes).astype(np.float32)

    def screen(self, coordinates):
        """View coordinates to column, row [pixels, the first pixel's center at 0.5] and scale [pixels per meter]."""
        right, up, depth = coordinates[..., 0], coordinates[..., 1], coordinates[..., 2]
        scale = np.full_like(depth, self.focal) if self.orthographic else np.float32(self.focal) / depth
        return self.width / 2 + scale * right, self.height / 2 - scale * up, scale

    def unproject(self, column, row, depth):
        """View coordinates of the points seen at pixel positions at given depths, shape [n, 3]."""
        scale = self.focal if self.orthographic else np.float32(self.focal) / depth
        right, up = (column - self.width / 2) / scale, (self.height / 2 - row) / scale
        return np.stack([right, up, np.broadcast_to(depth, right.shape)], axis=-1).astype(np.float32)

    def keys(self):
        """An empty buffer of keys, shape [height * width]."""
        return np.full(self.height * self.width, EMPTY)


class Surface(NamedTuple):
    """What the covered pixels of a buffer show.

    Attributes:
        pixels: flat pixel indices, ascending, shape [n].
        points: view coordinates [m], shape [n, 3].
        normals: unit, in view coordinates, toward the viewer, shape [n, 3].
        colors: linear RGB, shape [n, 3].
        alpha: opacity, shape [n].
    """

    pixels: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    colors: np.ndarray
    alpha: np.ndarray


def depths(keys):
    """Depths [m] of a buffer of keys, infinite where it is empty."""
    z = (keys >> 32).astype(np.uint32).view(np.float32)
    return np.where(keys == EMPTY, np.float32(np.inf), z)


def _store(keys, pixels, depth, ids):
    fragment = (depth.view(np.uint32).astype(np.int64) << 32) | ids
    nearer = np.flatnonzero(fragment < keys[pixels])
    np.minimum.at(keys, pixels[nearer], fragment[nearer])


def _boxes(width, height):
    """Primitives grouped by their pixel boxes, rounded up by steps of sqrt(2): (width, height, members)."""
    steps = np.ceil(2 * np.log2(np.stack([width, height], axis=1))).astype(int)
    order = np.lexsort(steps.T)
    starts = np.flatnonzero(np.any(np.diff(steps[order], axis=0, prepend=-1), axis=1))
    for members in np.split(order, starts[1:]):
        box = np.ceil(2.0 ** (steps[members[0]] / 2)).astype(int)
        per_chunk = max(1, CHUNK // int(box[0] * box[1]))
        for first in range(0, len(members), per_chunk):
            yield box[0], box[1], members[first : first + per_chunk]


def splat_spheres(keys, view, centers, radii, first_id=0):
    """Draw spheres as disks with the depth of the sphere.

    Spheres are taken front to back in batches. One that lies behind every pixel of the tiles around it cannot be seen
    and is left out, which drops the inside of a dense body: the work follows the visible surface.

    Args:
        keys: buffer of ``view.keys()``, changed in place.
        centers: view coordinates [m], shape [n, 3].
        radii: [m], shape [n].
        first_id: number of the first sphere in the keys.
    """
    seen = np.flatnonzero(centers[:, 2] - radii > view.near)
    column, row, scale = view.screen(centers[seen])
    size = pixel_radii(radii[seen], scale)
    on_screen = (np.abs(column - view.width / 2) < view.width / 2 + size) & (
        np.abs(row - view.height / 2) < view.height / 2 + size
    )
    seen, column, row, size = seen[on_screen], column[on_screen], row[on_screen], size[on_screen]
    front = centers[seen, 2] - radii[seen]
    order = np.argsort(front, kind="stable")
    for batch in np.array_split(order, BATCHES) if len(order) > 50 * BATCHES else [order]:
        batch = batch[_maybe_visible(keys, view, column[batch], row[batch], size[batch], front[batch])]
        if len(batch):
            box = np.floor(2 * size[batch]) + 2
            for width, _, members in _boxes(box, box):
                p = batch[members]
                _sphere_fragments(keys, view, centers[seen[p], 2], radii[seen[p]], column[p], row[p], size[p],
                                  width, seen[p] + first_id)  # fmt: skip


def pixel_radii(radii, scale):
    """Radii on the screen [pixels]; at least 0.75, so that a far particle does not fall between the pixel centers."""
    return np.maximum(radii * scale, np.float32(0.75))


def _maybe_visible(keys, view, column, row, size, front):
    if len(front) == 0 or view.height < TILE or view.width < TILE or np.isinf(size).any():
        return np.ones(len(front), dtype=bool)
    # only tiles near the spheres; reduced over whole rows first, which is ten times as fast as over both axes at once
    rows, columns = view.height // TILE, view.width // TILE
    top, bottom = _tile_range(row, size, rows)
    left, right = _tile_range(column, size, columns)
    window = keys.reshape(view.height, view.width)[top * TILE : bottom * TILE, left * TILE : right * TILE]
    strips = window.reshape(bottom - top, TILE, -1).max(axis=1)
    farthest = depths(strips.reshape(bottom - top, right - left, TILE).max(axis=2))
    reach = int(np.ceil(size.max() / TILE))
    farthest = ndimage.maximum_filter(farthest, size=2 * reach + 1, mode="nearest")
    tile_row = np.clip(row.astype(int) // TILE - top, 0, bottom - top - 1)
    tile_column = np.clip(column.astype(int) // TILE - left, 0, right - left - 1)
    return front < farthest[tile_row, tile_column]


def _tile_range(position, size, count):
    first = int(np.clip((position - size).min() // TILE, 0, count - 1))
    return first, int(np.clip((position + size).max() // TILE + 1, first + 1, count))


def _sphere_fragments(keys, view, depth, radius, column, row, size, box, ids):
    corner_x, corner_y = np.floor(column - size).astype(np.int64), np.floor(row - size).astype(np.int64)
    steps = np.arange(box)
    x, y = corner_x[:, None] + steps, corner_y[:, None] + steps
    u = (x + np.float32(0.5) - column[:, None]) / size[:, None]
    v = (y + np.float32(0.5) - row[:, None]) / size[:, None]
    u = np.where((x >= 0) & (x < view.width), u * u, 2).astype(np.float32)  # 2: outside the disk, so off the screen
    v = np.where((y >= 0) & (y < view.height), v * v, 2).astype(np.float32)
    distance = (v[:, :, None] + u[:, None, :]).ravel()
    inside = np.flatnonzero(distance < 1)
    sphere, cell = np.divmod(inside, box * box)
    cell_y, cell_x = np.divmod(cell, box)
    z = depth[sphere] - radius[sphere] * np.sqrt(1 - distance[inside])
    pixels = (corner_y[sphere] + cell_y) * view.width + corner_x[sphere] + cell_x
    _store(keys, pixels, z, ids[sphere])


def splat_triangles(keys, view, corners, first_id=0):
    """Draw triangles, both sides. Corners are view coordinates [m] beyond the near plane, shape [m, 3, 3]."""
    column, row, _ = view.screen(corners)
    low_x, high_x = np.maximum(column.min(axis=1), 0), np.minimum(column.max(axis=1), view.width - 1)
    low_y, high_y = np.maximum(row.min(axis=1), 0), np.minimum(row.max(axis=1), view.height - 1)
    seen = np.flatnonzero((high_x >= low_x) & (high_y >= low_y))
    if len(seen) == 0:
        return
    x0, y0 = np.floor(low_x[seen]).astype(np.int64), np.floor(low_y[seen]).astype(np.int64)
    spans = (np.floor(high_x[seen]) - x0 + 1, np.floor(high_y[seen]) - y0 + 1)
    for width, height, members in _boxes(*spans):
        t = seen[members]
        x = np.minimum(x0[members, None] + np.arange(width), view.width - 1)  # a repeated last column does no harm
        y = np.minimum(y0[members, None] + np.arange(height), view.height - 1)
        weights = _edge_weights(column[t, :, None, None], row[t, :, None, None],
                                x[:, None, :] + np.float32(0.5), y[:, :, None] + np.float32(0.5))  # fmt: skip
        inside = (weights[0] >= 0) & (weights[1] >= 0) & (weights[2] >= 0)
        triangle, cell_y, cell_x = np.nonzero(inside)
        share = np.stack([w[inside] for w in weights], axis=1)
        z = _interpolated_depth(view, share, corners[t, :, 2][triangle])
        pixels = y[triangle, cell_y] * view.width + x[triangle, cell_x]
        _store(keys, pixels, z, t[triangle] + first_id)


def _edge_weights(column, row, x, y):
    """Barycentric coordinates in the image; NaN, which no test passes, for a triangle seen edge-on."""
    ax, bx, cx = column[:, 0], column[:, 1], column[:, 2]
    ay, by, cy = row[:, 0], row[:, 1], row[:, 2]
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / area
        b = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) * inverse
        c = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) * inverse
        return 1 - b - c, b, c


def _interpolated_depth(view, share, depth):
    if view.orthographic:
        return (share * depth).sum(axis=1, dtype=np.float32)
    return 1 / (share / depth).sum(axis=1, dtype=np.float32)  # 1/z is linear in the image


class Primitives(NamedTuple):
    """Spheres and triangles in view coordinates, with linear RGBA colors of each sphere and triangle."""

    centers: np.ndarray
    radii: np.ndarray
    sphere_colors: np.ndarray
    corners: np.ndarray  # [m, 3, 6]: view coordinates and normal
    triangle_colors: np.ndarray

    def clipped(self, near):
        """With the triangles cut at the near plane of the view."""
        corners, source = clip_near(self.corners, near)
        return self._replace(corners=corners, triangle_colors=self.triangle_colors[source])

    def draw(self, view):
        """The buffer of keys of all primitives, which lie beyond the near plane or are spheres."""
        keys = view.keys()
        splat_spheres(keys, view, self.centers, self.radii)
        splat_triangles(keys, view, self.corners[:, :, :3], first_id=len(self.centers))
        return keys

    def surface(self, view, keys):
        """What each covered pixel shows: a `Surface`."""
        pixels = np.flatnonzero(keys != EMPTY)
        ids = keys[pixels] & 0xFFFFFFFF
        depth = depths(keys[pixels])
        row, column = np.divmod(pixels, view.width)
        column, row = column.astype(np.float32) + np.float32(0.5), row.astype(np.float32) + np.float32(0.5)
        points = view.unproject(column, row, depth)
        normals = np.empty_like(points)
        colors = np.empty((len(pixels), 4), dtype=np.float32)

        ball = ids < len(self.centers)
        p = ids[ball]
        center_x, center_y, scale = view.screen(self.centers)
        size = pixel_radii(self.radii, scale)
        u, v = (column[ball] - center_x[p]) / size[p], (center_y[p] - row[ball]) / size[p]
        normals[ball] = np.stack([u, v, -np.sqrt(np.maximum(1 - u * u - v * v, 0))], axis=1)
        colors[ball] = self.sphere_colors[p]

        t = ids[~ball] - len(self.centers)
        x, y, _ = view.screen(self.corners[t, :, :3])
        share = np.stack(_edge_weights(x, y, column[~ball], row[~ball]), axis=1)
        if not view.orthographic:
            share /= self.corners[t, :, 2]
        blended = np.einsum("ij,ijk->ik", share, self.corners[t, :, 3:])
        blended /= np.maximum(np.linalg.norm(blended, axis=1, keepdims=True), 1e-30)
        away = (blended[:, 2] if view.orthographic else np.einsum("ij,ij->i", blended, points[~ball])) > 0
        normals[~ball] = np.where(away[:, None], -blended, blended)
        colors[~ball] = self.triangle_colors[t]
        return Surface(pixels, points, normals, colors[:, :3], colors[:, 3])
