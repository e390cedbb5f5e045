"""The shipped meshes and how they are made: ``python -m diffsim.scenes.make_meshes`` writes them again.

They are made from formulas with fixed numbers, so that nothing in them comes from elsewhere. Both are closed.
"""

from pathlib import Path

import numpy as np
import trimesh
from scipy.special import sph_harm_y

from diffsim.runs import atomic_write

SEED = 3


def blob() -> trimesh.Trimesh:
    """A smooth organic body: r(n) = 1 + sum over l = 1..4 and m of a_lm Y_lm(n), with seeded a_lm falling as l^-1.5."""
    mesh = trimesh.creation.icosphere(subdivisions=3)
    n = np.asarray(mesh.vertices)
    polar, azimuth = np.arccos(np.clip(n[:, 2], -1, 1)), np.arctan2(n[:, 1], n[:, 0])
    generator = np.random.default_rng(SEED)
    radius = np.ones(len(n))
    for degree in range(1, 5):
        for order in range(-degree, degree + 1):
            harmonic = sph_harm_y(degree, abs(order), polar, azimuth)
            radius += 0.7 / degree**1.5 * generator.uniform(-1, 1) * (harmonic.imag if order < 0 else harmonic.real)
    return _normalized(n * radius[:, None], mesh.faces)


def paddle(around: int = 12) -> trimesh.Trimesh:
    """A rounded tool, handle up and flat blade below: ellipses along y, joined to a tube and closed by its two tips."""
    # y, half width along x, half thickness along z; the tips are the first and last row
    rings = np.array(
        [
            (0.000, 0.000, 0.000),
            (0.004, 0.060, 0.012),
            (0.025, 0.105, 0.028),
            (0.080, 0.135, 0.032),
            (0.220, 0.140, 0.032),
            (0.320, 0.125, 0.032),
            (0.385, 0.085, 0.034),
            (0.425, 0.048, 0.036),
            (0.480, 0.038, 0.036),
            (0.700, 0.036, 0.036),
            (0.930, 0.036, 0.036),
            (0.975, 0.030, 0.030),
            (0.996, 0.015, 0.015),
            (1.000, 0.000, 0.000),
        ]
    )
    angle = np.arange(around) * 2 * np.pi / around
    tube = np.stack(
        [np.stack([a * np.cos(angle), 0 * angle + y, b * np.sin(angle)], axis=1) for y, a, b in rings[1:-1]]
    )
    vertices = np.concatenate([[[0, rings[0, 0], 0]], tube.reshape(-1, 3), [[0, rings[-1, 0], 0]]])
    faces, last = [], len(vertices) - 1
    for i in range(around):
        j = (i + 1) % around
        faces.append((0, 1 + i, 1 + j))
        for row in range(len(tube) - 1):
            low, high = 1 + row * around, 1 + (row + 1) * around
            faces += [(low + i, high + i, high + j), (low + i, high + j, low + j)]
        top = last - around
        faces.append((top + i, last, top + j))
    return _normalized(vertices, np.array(faces))


MESHES = {"blob": blob, "paddle": paddle}


def obj_text(mesh: trimesh.Trimesh) -> str:
    """Wavefront OBJ with six decimals: enough for a body of extent 1, and the same bytes on every machine."""
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in np.asarray(mesh.vertices) + 0.0]
    lines += [f"f {a} {b} {c}" for a, b, c in np.asarray(mesh.faces) + 1]
    return "\n".join(lines) + "\n"


def main(folder: Path = Path(__file__).parent) -> None:
    for name, make in MESHES.items():
        atomic_write(folder / f"{name}.obj", obj_text(make()))


def _normalized(vertices, faces) -> trimesh.Trimesh:
    """Centered on the bounding box, largest extent 1."""
    lower, upper = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (lower + upper) / 2) / (upper - lower).max()
    return trimesh.Trimesh(vertices, faces, process=False)


if __name__ == "__main__":
    main()
