"""Light for the rasterizer: key light with soft shadows, sky and ground light, rim and the backdrop.

All colors are linear RGB; `encode` turns them into sRGB bytes.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from diffsim.rasterizer import View, along, depths, turn

KEY = np.array([1.02, 0.98, 0.90], dtype=np.float32) * 0.92  # sunlight, a little warm
SKY = np.array([0.80, 0.90, 1.05], dtype=np.float32) * 0.46
BOUNCE = np.array([0.95, 0.90, 0.84], dtype=np.float32) * 0.24
HORIZON = np.array([0.86, 0.885, 0.91], dtype=np.float32)
ZENITH = np.array([0.36, 0.48, 0.63], dtype=np.float32)
GROUND = np.array([0.63, 0.635, 0.64], dtype=np.float32)
BRIGHTEST, SHOULDER = 2.0, 0.8  # linear
SHADOW_MAP = 512  # pixels
GROUND_SHADE = 0.62  # share of the ground's light that a full shadow takes away
BLURS = (1.5, 4.0, 10.7)  # pixels of the shadow map: from contact to the widest penumbra
TAPS = 10  # samples per pixel of shadows on bodies


def decode(srgb):
    """sRGB in [0, 1] to linear RGB."""
    srgb = np.asarray(srgb, dtype=np.float32)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


@lru_cache(maxsize=1)
def _encoding():
    x = np.arange(4096) / 4095 * BRIGHTEST
    # a shoulder: what is brighter than SHOULDER fades into white and keeps its shape
    x = np.where(x < SHOULDER, x, SHOULDER + (1 - SHOULDER) * (1 - np.exp(-(x - SHOULDER) / (1 - SHOULDER))))
    x = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.round(255 * x).astype(np.uint8)


def encode(linear):
    """Linear RGB to sRGB bytes."""
    return _encoding()[
        (np.clip(linear, 0, BRIGHTEST) * np.float32(4095 / BRIGHTEST) + np.float32(0.5)).astype(np.uint16)
    ]


def unit(v):
    """Vectors along the last axis scaled to length one."""
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Backdrop:
    """What a view shows without bodies.

    Attributes:
        colors: shape [height * width, 3].
        depth: of the ground [m], infinite where there is none, shape [height * width].
        pixels, points: pixels of the ground near the focus, and their view coordinates [m], shape [k, 3].
        up: the world's upward direction in view coordinates, shape [3].
    """

    colors: np.ndarray
    depth: np.ndarray
    pixels: np.ndarray
    points: np.ndarray
    up: np.ndarray


def backdrop(view, up, ground, focus):
    """Sky, and a ground plane with a faint checker that fades with distance.

    Args:
        up: upward direction in the world, unit, shape [3].
        ground: height of the ground along `up` [m], or None.
        focus: distance from the eye to what the picture is about [m].
    """
    up_view = (view.axes @ up).astype(np.float32)
    row, column = np.divmod(np.arange(view.height * view.width), view.width)
    column, row = column.astype(np.float32) + np.float32(0.5), row.astype(np.float32) + np.float32(0.5)
    ray = view.unproject(column, row, np.float32(1))
    height = (row / view.height)[:, None]
    above = 0.0 if ground is None else float(view.eye @ up) - ground
    if above <= 0:  # none, or seen from below
        colors = HORIZON + (ZENITH - HORIZON) * (0.55 * (1 - height) ** 1.5)
        nothing = np.full(len(row), np.float32(np.inf))
        return Backdrop(colors.astype(np.float32), nothing, np.empty(0, dtype=int), ray[:0], up_view)
    slope = (along(ray, up_view) if not view.orthographic else ray[:, :2] @ up_view[:2]).astype(np.float32)
    colors = HORIZON + (ZENITH - HORIZON) * np.clip(1.6 * slope, 0, 1)[:, None] ** 0.8
    with np.errstate(divide="ignore"):
        depth = -(above + slope) / up_view[2] if view.orthographic else -above / slope
    hit = np.flatnonzero((depth > view.near) & (depth < 60 * focus))
    local = view.unproject(column[hit], row[hit], depth[hit])
    points = turn(local, view.axes.T) + view.eye
    side = unit(np.cross(up, np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.9 else np.array([0.0, 1.0, 0.0])))
    cells = turn(points, (side, np.cross(side, up))) / _nice(focus / 14)
    away = np.linalg.norm(points - (view.eye + focus * view.axes[2]), axis=1) / focus
    far = np.clip((away - 0.25) / 2.2, 0, 1)
    fade = (1 - far * far * (3 - 2 * far))[:, None]
    checker = (np.floor(cells).sum(axis=1) % 2)[:, None]
    line = np.abs(cells - np.round(cells)).min(axis=1)[:, None] < 0.012
    tone = GROUND * (1 + 0.07 * checker - 0.10 * line)
    colors[hit] = HORIZON + (tone - HORIZON) * fade
    ground_depth = np.full(len(row), np.float32(np.inf))
    ground_depth[hit] = depth[hit]
    near = away < 2.5
    return Backdrop(colors.astype(np.float32), ground_depth, hit[near], local[near], up_view)


def _nice(length):
    """The nearest of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(length))
    return power * min((1, 2, 5, 10), key=lambda m: abs(np.log(m * power / length)))


def _bounds(centers, radii, corners):
    """Box of all casters; of meshes no more than three times the particles' size, for a half-space is a mesh too."""
    low = np.concatenate([centers - radii[:, None], corners]).min(axis=0)
    high = np.concatenate([centers + radii[:, None], corners]).max(axis=0)
    if len(centers) == 0:
        return low, high
    first, last = centers.min(axis=0), centers.max(axis=0)
    reach = (last - first).max() + radii.max()
    return np.maximum(low, first - reach), np.minimum(high, last + reach)


class KeyLight:
    """A directional light with a shadow map of the bodies.

    Args:
        primitives: `Primitives` in coordinates of `view`.
        direction: toward the light, unit, in view coordinates, shape [3].
        softness: radius of the penumbra on bodies, and the bias that keeps neighbors from shading each other [m].
    """

    def __init__(self, primitives, direction, softness):
        helper = np.array([0.0, 1.0, 0.0]) if abs(direction[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
        right = unit(np.cross(helper, direction))
        self.axes = np.stack([right, np.cross(direction, right), -direction]).astype(np.float32)
        centers, corners = turn(primitives.centers, self.axes), turn(primitives.corners[:, :, :3], self.axes)
        low, high = _bounds(centers, primitives.radii, corners.reshape(-1, 3))
        # sizes in steps and corners on whole pixels: shadows of a moving body do not shimmer
        extent = 1.2 ** np.ceil(np.log(max(high[0] - low[0], high[1] - low[1], 1e-6) * 1.25) / np.log(1.2))
        texel = extent / SHADOW_MAP
        self.softness = max(softness, 1.5 * texel)
        eye = np.round((low + high) / 2 / texel) * texel
        eye[2] = min(centers[:, 2].min(initial=np.inf), corners[..., 2].min(initial=np.inf)) - extent
        self.view = View(eye, np.eye(3), 1 / texel, SHADOW_MAP, SHADOW_MAP, 0.0, orthographic=True)
        moved = primitives._replace(
            centers=self.view.coordinates(centers),
            corners=np.concatenate([self.view.coordinates(corners), corners], axis=2),
        )
        self.depth = depths(moved.draw(self.view)).reshape(SHADOW_MAP, SHADOW_MAP)

    def _look_up(self, points):
        column, row, _ = self.view.screen(local := self.view.coordinates(turn(points, self.axes)))
        return column, row, local[:, 2]

    def on_bodies(self, points, normals, pixels):
        """Share of the light that reaches points on bodies, shape [n]: percentage-closer filtering, turned samples."""
        column, row, depth = self._look_up(points + (1.2 * self.softness) * normals)
        depth = depth - np.float32(1.0 * self.softness)
        radius = 2.0 * max(self.softness * self.view.focal, 1.0)
        # interleaved noise per pixel (Jimenez 2014): averaged away by the supersampling
        turn = (pixels * 0.6180339887) % 1.0 * (2 * np.pi)
        cos, sin = np.cos(turn).astype(np.float32), np.sin(turn).astype(np.float32)
        lit = np.zeros(len(points), dtype=np.float32)
        edge = SHADOW_MAP - 1
        flat = self.depth.ravel()
        for k in range(TAPS):
            r, angle = radius * np.sqrt((k + 0.5) / TAPS), 2.39996323 * k  # Vogel's spiral
            dx, dy = np.float32(r * np.cos(angle)), np.float32(r * np.sin(angle))
            x = np.clip(column + dx * cos - dy * sin, 0, edge).astype(np.int32)
            y = np.clip(row + dx * sin + dy * cos, 0, edge).astype(np.int32)
            lit += flat[y * SHADOW_MAP + x] > depth
        return lit / TAPS

    def on_ground(self, points):
        """Where a shadow may fall among points below all bodies, and the share of the light that is kept from there.

        The bodies' outline seen from the light, blurred: the farther the blocker, the wider the blur.

        Args:
            points: in coordinates of the primitives [m], shape [n, 3].

        Returns:
            Indices into the points, shape [k], and shares, shape [k].
        """
        # column and row first, for most of the ground lies outside the shadow map
        side, focal = SHADOW_MAP // 2, np.float32(self.view.focal / 2)
        x = along(points, self.axes[0] * focal) + np.float32(side / 2 - 0.5 - focal * self.view.eye[0])
        y = along(points, self.axes[1] * -focal) + np.float32(side / 2 - 0.5 + focal * self.view.eye[1])
        inside = np.flatnonzero((x >= 0) & (x < side - 1) & (y >= 0) & (y < side - 1))
        x, y = x[inside], y[inside]
        column, row = x.astype(np.int32), y.astype(np.int32)
        corner, u, v = row * side + column, x - column, y - row

        # at half the resolution: a shadow on the ground is soft
        covered = np.isfinite(self.depth).astype(np.float32)
        levels = [_blur(_halved(covered), size / 2) for size in BLURS]
        blocker = _blur(_halved(np.where(covered > 0, self.depth, 0)), BLURS[-1] / 2) / np.maximum(levels[-1], 1e-6)
        depth = along(points[inside], self.axes[2]) - np.float32(self.view.eye[2])
        gap = np.maximum(depth - blocker.ravel()[corner], 0) * np.float32(self.view.focal)
        step = np.log2(BLURS[1] / BLURS[0])
        level = np.clip(np.log2(np.maximum(0.10 * gap, 1e-6) / BLURS[0]) / step, 0, len(BLURS) - 1.001)
        flat = np.stack(levels).ravel()
        lower = corner + level.astype(np.int32) * side**2
        fine, coarse = (_bilinear(flat, at, side, u, v) for at in (lower, lower + side**2))
        return inside, _lerp(fine, coarse, level % 1)


def _halved(image):
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4


def _blur(image, sigma):
    """Close to a Gaussian of this standard deviation [pixels]: two box filters, whose cost does not grow with it."""
    size = max(2, round(2.45 * sigma))
    once = ndimage.uniform_filter(image, size, mode="constant")
    return ndimage.uniform_filter(once, size, mode="constant", origin=-1 if size % 2 == 0 else 0)


def _bilinear(flat, corner, side, u, v):
    upper = _lerp(flat[corner], flat[corner + 1], u)
    return _lerp(upper, _lerp(flat[corner + side], flat[corner + side + 1], u), v)


def _lerp(a, b, share):
    return a + (b - a) * share


def shade(surface, view, light, up, lit, occlusion):
    """Colors of a surface under the key light, the sky and the light that the ground throws back, shape [n, 3].

    Args:
        light: direction toward the key light in view coordinates, shape [3].
        up: in view coordinates, shape [3].
        lit: share of the key light, shape [n].
        occlusion: share of the sky light, shape [n].
    """
    n = surface.normals
    toward = np.array([0, 0, -1], dtype=np.float32) if view.orthographic else -unit(surface.points)
    facing = np.clip((n * toward).sum(axis=1), 0, 1)
    key = np.maximum(along(n, light), 0) * lit
    sky = (0.5 + 0.5 * along(n, up))[:, None]
    half = unit(light + toward)
    gloss = np.clip((n * half).sum(axis=1), 0, 1)
    for _ in range(5):  # to the power of 32
        gloss = gloss * gloss
    rim = (1 - facing) ** 3 * (0.25 + 0.75 * sky[:, 0]) * 0.22
    diffuse = KEY * key[:, None] + (BOUNCE + (SKY - BOUNCE) * sky) * occlusion[:, None]
    shine = gloss * lit * 0.10 + rim * occlusion
    return surface.colors * diffuse * (0.75 + 0.25 * occlusion)[:, None] + shine[:, None] * KEY
