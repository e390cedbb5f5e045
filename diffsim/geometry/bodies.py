"""Bodies that can be filled with particles: their bounds, exact volume, and which points are inside."""

from dataclasses import dataclass
from typing import Protocol

import igl
import numpy as np
import trimesh

from diffsim.geometry.mesh import require_solid


class Body(Protocol):
    """What can be filled: bounds (2, d) [m], volume (an area in 2-D) [m^d], and a test of points (n, d)."""

    bounds: np.ndarray
    volume: float

    def contains(self, points: np.ndarray) -> np.ndarray: ...


class Solid:
    """A closed triangle mesh as a body."""

    def __init__(self, mesh: trimesh.Trimesh):
        mesh = mesh.copy()  # orientation may be repaired, and the caller's mesh is the caller's
        require_solid(mesh)
        self.bounds = np.asarray(mesh.bounds)
        self.volume = abs(float(mesh.volume))
        self.sign = np.sign(mesh.volume)
        self.vertices = np.ascontiguousarray(mesh.vertices, dtype=np.float64)
        self.faces = np.ascontiguousarray(mesh.faces, dtype=np.int64)

    def contains(self, points):
        if len(points) == 0:
            return np.zeros(0, dtype=bool)
        winding = igl.fast_winding_number(self.vertices, self.faces, np.ascontiguousarray(points))
        return self.sign * winding > 0.5


@dataclass
class Box:
    bounds: np.ndarray

    @property
    def volume(self):
        return float(np.prod(np.ptp(self.bounds, axis=0)))

    def contains(self, points):
        return ((points > self.bounds[0]) & (points < self.bounds[1])).all(axis=1)


@dataclass
class Ball:
    center: np.ndarray
    radius: float

    @property
    def bounds(self):
        return np.stack([self.center - self.radius, self.center + self.radius])

    @property
    def volume(self):
        return np.pi * self.radius**2 if len(self.center) == 2 else 4 / 3 * np.pi * self.radius**3

    def contains(self, points):
        return ((points - self.center) ** 2).sum(axis=1) < self.radius**2


@dataclass
class Polygon:
    corners: np.ndarray

    @property
    def bounds(self):
        return np.stack([self.corners.min(axis=0), self.corners.max(axis=0)])

    @property
    def volume(self):
        x, y = (self.corners - self.corners[0]).T  # from a corner: no cancellation far from the origin
        return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2

    def contains(self, points):
        inside = np.zeros(len(points), dtype=bool)
        x, y = points.T
        for (ax, ay), (bx, by) in zip(self.corners, np.roll(self.corners, -1, axis=0), strict=True):
            if ay != by:  # a ray along +x crosses this edge
                inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) / (by - ay) * (bx - ax))
        return inside
