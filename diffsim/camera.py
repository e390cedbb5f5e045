"""`Camera`: where a picture is taken from."""

from dataclasses import dataclass

import numpy as np

from diffsim.errors import DataError
from diffsim.rasterizer import View
from diffsim.shading import unit


@dataclass(frozen=True)
class Camera:
    """Where a picture is taken from.

    Attributes:
        eye: position [m].
        target: what is in the middle of the picture [m].
        up: the world's upward direction.
        fov: vertical field of view [degrees].
        height: of what an orthographic picture shows [m]; None for perspective.
    """

    eye: tuple
    target: tuple
    up: tuple = (0.0, 1.0, 0.0)
    fov: float = 35.0
    height: float | None = None

    def __post_init__(self):
        for name in ("eye", "target", "up"):
            object.__setattr__(self, name, tuple(float(c) for c in getattr(self, name)))
        if any(len(getattr(self, name)) != 3 for name in ("eye", "target", "up")):
            raise DataError("Camera: eye, target and up need three coordinates each")
        if not np.linalg.norm(np.cross(np.subtract(self.target, self.eye), self.up)) > 0:
            raise DataError("Camera: eye and target must differ, and up must not point along the view")
        if not 0 < self.fov < 180:
            raise DataError(f"Camera: fov = {self.fov} degrees; give one between 0 and 180")

    @classmethod
    def framing(cls, low, high, *, up=(0.0, 1.0, 0.0), direction=None, fov=35.0, aspect=4 / 3, margin=1.06):
        """The camera that sees a whole box, from the front, a little from the right and above.

        Args:
            low, high: corners of the box [m]; with two coordinates the camera is orthographic.
            direction: from the box toward the camera, in the world.
            aspect: width over height of the picture.
            margin: free space around the box, as a factor.
        """
        low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        middle, half = (low + high) / 2, (high - low) / 2
        if len(low) == 2:
            height = 2 * margin * max(half[1], half[0] / aspect, 1e-9)
            return cls((*middle, height), (*middle, 0.0), height=height)
        up = unit(np.asarray(up, dtype=float))
        if direction is None:
            front = np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.9 else np.array([0.0, -1.0, 0.0])
            direction = front + 0.5 * np.cross(up, front) + 0.42 * up
        axes = _axes(-np.asarray(direction, dtype=float), up)
        corners = (np.stack(np.meshgrid(*[(-1, 1)] * 3), axis=-1).reshape(-1, 3) * half) @ axes.T
        slope = np.tan(np.radians(fov) / 2)
        need = np.maximum(np.abs(corners[:, 0]) / aspect, np.abs(corners[:, 1])) * margin / slope - corners[:, 2]
        return cls(middle - max(need.max(), 1e-9) * axes[2], middle, up, fov)

    def view(self, width, height):
        """The projection to an image of this size."""
        eye, target = np.asarray(self.eye), np.asarray(self.target)
        axes = _axes(target - eye, np.asarray(self.up))
        distance = float(np.linalg.norm(target - eye))
        if self.height is not None:
            return View(eye, axes, height / self.height, width, height, 1e-3 * distance, orthographic=True)
        return View(eye, axes, height / 2 / np.tan(np.radians(self.fov) / 2), width, height, 1e-3 * distance)


def _axes(forward, up):
    forward = unit(forward)
    right = unit(np.cross(forward, up))
    return np.stack([right, np.cross(right, forward), forward])
