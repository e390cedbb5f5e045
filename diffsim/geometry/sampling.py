"""Particles that fill a body: lattice, uniformly random, or evenly spread at random ("blue noise").

Every particle carries the same share of the body's exact volume, so the total mass is exact whatever the count.
"""

from collections.abc import Sequence

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor

from diffsim.errors import SceneError
from diffsim.geometry.bodies import Ball, Body, Box, Polygon, Solid

METHODS = ("lattice", "random", "blue")
SLAB = 2_000_000  # lattice sites tested at once: each test builds the mesh's tree anew
LATTICE_LIMIT = 200_000_000  # lattice sites tried; more would not fit in memory
COUNT_TOLERANCE = 2e-3  # lattice: relative, where the search for a count ends
CANDIDATES = 12  # blue: random points per particle that stand for the body in the Lloyd iterations
SWEEPS = 10  # blue: Lloyd iterations; the distances between particles hardly change after them


def fill(
    body: trimesh.Trimesh | Body,
    spacing: float | None = None,
    count: int | None = None,
    *,
    method: str = "lattice",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Particles strictly inside a closed mesh, a tool's shape (by its ``mesh()``, in its own frame), or another body.

    A point is inside a mesh where the generalized winding number exceeds 1/2 (Barill et al. 2018, "Fast winding
    numbers for soups and clouds", through libigl). Methods:

    - "lattice": the sites of a cubic lattice, centered on the bounding box. A part only a few spacings thick holds a
      whole number of layers, so its share of the mass is off by up to half a layer: use "blue" there.
    - "random": independent and uniform.
    - "blue": random with even distances, by Lloyd's iteration on random points (Lloyd 1982); slower, no rows.

    Args:
        spacing: edge of the cube (square) that one particle stands for [m].
        count: number of particles instead; exact for "random" and "blue", the nearest the lattice gives otherwise.
        seed: of "random" and "blue"; the same seed gives the same particles.

    Returns:
        x: positions (n, d) [m], float64.
        volume: of each particle (n,) [m^d], float64: volume of the body / n.

    Raises:
        MeshError: an open mesh.
        SceneError: options out of range, or a spacing so coarse that no particle falls inside.
    """
    if callable(getattr(body, "mesh", None)):
        body = body.mesh()
    if isinstance(body, trimesh.Trimesh):
        body = Solid(body)
    _check(spacing, count, method)
    if method == "lattice":
        x = _lattice(body, spacing) if count is None else _lattice_of(body, count)
    else:
        dimension = body.bounds.shape[1]
        count = count or max(1, round(body.volume / spacing**dimension))
        generator = np.random.default_rng(seed)
        x = _random(body, count, generator)
        if method == "blue":
            x = _spread(body, x, _random(body, CANDIDATES * count, generator), generator)
    return _particles(x, body.volume)


def fill_box(
    lower: Sequence[float],
    upper: Sequence[float],
    spacing: float | None = None,
    count: int | None = None,
    *,
    faces: bool = False,
    method: str = "lattice",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Particles in the axis-aligned box from ``lower`` to ``upper`` [m], in 2-D or 3-D.

    The lattice tiles the box exactly: along each axis the spacing is the one nearest to ``spacing`` that divides it.

    Args:
        faces: the lattice spans the box with sites on its faces (NCLaw's cube) instead of half a spacing inside; the
            volume is still shared equally.

    See ``fill`` for the other arguments, the result and the errors.
    """
    box = Box(np.stack([_point(lower, "lower"), _point(upper, "upper")]))
    if box.bounds.shape[1] not in (2, 3) or not (box.bounds[1] > box.bounds[0]).all():
        raise SceneError(f"box from {lower} to {upper}: each upper coordinate must exceed the lower one, in 2-D or 3-D")
    if method != "lattice":
        return fill(box, spacing, count, method=method, seed=seed)
    _check(spacing, count, method)
    cells = _tiling(box, spacing) if count is None else _tiling_of(box, count)
    shift = np.where(cells > 1, 0.0, 0.5) if faces else np.full(len(cells), 0.5)
    steps = np.maximum(cells - 1, 1) if faces else cells
    indices = np.stack(np.meshgrid(*map(np.arange, cells), indexing="ij"), axis=-1).reshape(-1, len(cells))
    return _particles(box.bounds[0] + (indices + shift) / steps * np.ptp(box.bounds, axis=0), box.volume)


def fill_ball(
    center: Sequence[float],
    radius: float,
    spacing: float | None = None,
    count: int | None = None,
    *,
    method: str = "lattice",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Particles in a ball, or a disk when ``center`` has two coordinates; see ``fill``."""
    center = _point(center, "center")
    if len(center) not in (2, 3) or not (np.isfinite(radius) and radius > 0):
        raise SceneError(f"ball at {center.tolist()} with radius {radius}: use a positive radius, in 2-D or 3-D")
    return fill(Ball(center, float(radius)), spacing, count, method=method, seed=seed)


def fill_polygon(
    vertices: Sequence[Sequence[float]],
    spacing: float | None = None,
    count: int | None = None,
    *,
    method: str = "lattice",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Particles in a simple polygon (2-D), corners in order, either way round; see ``fill``."""
    corners = np.asarray(vertices, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise SceneError(f"polygon of shape {corners.shape}: it needs at least three finite corners (x, y)")
    polygon = Polygon(corners)
    if polygon.volume <= 1e-12 * np.ptp(corners, axis=0).max() ** 2:
        raise SceneError("polygon encloses no area; give its corners in order around the boundary")
    return fill(polygon, spacing, count, method=method, seed=seed)


def _tiling(box, spacing) -> np.ndarray:
    cells = np.maximum(np.rint(np.ptp(box.bounds, axis=0) / spacing), 1).astype(np.int64)
    _check_sites(cells, spacing)
    return cells


def _tiling_of(box, count) -> np.ndarray:
    """Cells per axis of the tiling whose number is nearest to ``count`` of those with nearly cubic cells."""
    spacing = (box.volume / count) ** (1 / box.bounds.shape[1])
    tried = [_tiling(box, spacing * factor) for factor in np.linspace(0.8, 1.25, 91)]
    return min(tried, key=lambda cells: abs(np.prod(cells) - count))


def _lattice(body, spacing) -> np.ndarray:
    lower, upper = body.bounds
    # sites half a spacing inside the faces when the spacing divides the box; 1e-9: 1 / 0.1 must give 10 cells, not 11
    cells = np.maximum(np.ceil((upper - lower) / spacing - 1e-9), 1).astype(np.int64)
    _check_sites(cells, spacing)
    origin = (lower + upper) / 2 - (cells - 1) / 2 * spacing
    thickness = max(1, int(SLAB // np.prod(cells[1:])))
    slabs = []
    for i in range(0, cells[0], thickness):  # slab by slab: only the sites inside are kept in memory
        axes = [np.arange(i, min(i + thickness, cells[0])), *map(np.arange, cells[1:])]
        sites = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(cells))
        sites = origin + sites * spacing
        slabs.append(sites[body.contains(sites)])
    return np.concatenate(slabs)


def _lattice_of(body, count) -> np.ndarray:
    """The lattice whose number of sites inside is nearest to ``count`` of those tried."""
    dimension = body.bounds.shape[1]
    spacing, best = (body.volume / count) ** (1 / dimension), None
    for _ in range(8):  # the count is a noisy function of the spacing: a fixed-point iteration, and the best one kept
        x = _lattice(body, spacing)
        if best is None or abs(len(x) - count) < abs(len(best) - count):
            best = x
        if abs(len(x) - count) <= COUNT_TOLERANCE * count:
            break
        spacing *= (max(len(x), 0.5) / count) ** (1 / dimension)
    return best


def _random(body, count, generator) -> np.ndarray:
    lower, upper = body.bounds
    share = max(body.volume / float(np.prod(upper - lower)), 1e-6)
    found, missing, tries = [], count, 0
    while missing > 0:
        batch = min(int(1.1 * missing / share) + 64, 4_000_000)
        points = generator.uniform(lower, upper, size=(batch, len(lower)))
        points = points[body.contains(points)][:missing]
        found.append(points)
        missing -= len(points)
        tries += batch
        if missing == count and tries > 100 / share:
            raise SceneError(f"no point found inside the body after {tries} tries; check its volume and bounds")
    return np.concatenate(found)


def _spread(body, x, candidates, generator) -> np.ndarray:
    """Lloyd's iteration: each particle moves to the mean of the candidates nearest to it."""
    for _ in range(SWEEPS):
        owner = cKDTree(x).query(candidates, workers=-1)[1]
        members = np.bincount(owner, minlength=len(x))
        sums = np.stack([np.bincount(owner, weights=axis, minlength=len(x)) for axis in candidates.T], axis=1)
        x = sums / np.maximum(members, 1)[:, None]
        idle = np.flatnonzero(members == 0)
        x[idle] = candidates[generator.choice(len(candidates), len(idle), replace=False)]
    # where the body is not convex a mean may lie outside: the nearest of its own candidates, which no other takes
    outside = ~body.contains(x)
    distance = np.linalg.norm(candidates - x[owner], axis=1)
    order = np.lexsort((distance, owner))
    owners, first = np.unique(owner[order], return_index=True)
    nearest = np.empty_like(x)
    nearest[owners] = candidates[order[first]]
    x[outside] = nearest[outside]
    return x


def _particles(x, volume) -> tuple[Tensor, Tensor]:
    if len(x) == 0:
        raise SceneError("no particle falls inside the body: the spacing is too coarse; use a smaller spacing")
    return torch.from_numpy(np.ascontiguousarray(x)), torch.full((len(x),), volume / len(x), dtype=torch.float64)


def _check(spacing, count, method) -> None:
    if method not in METHODS:
        raise SceneError(f"method {method!r} is not known; use one of {', '.join(METHODS)}")
    if (spacing is None) == (count is None):
        raise SceneError("give either spacing= or count=")
    if spacing is not None and not (np.isfinite(spacing) and spacing > 0):
        raise SceneError(f"spacing is {spacing}; it must be a positive length in meters")
    if count is not None and (count != int(count) or count < 1):
        raise SceneError(f"count is {count}; it must be a whole number of at least 1")


def _check_sites(cells, spacing) -> None:
    if np.prod(cells.astype(np.float64)) > LATTICE_LIMIT:
        raise SceneError(f"spacing {spacing:g} gives {' x '.join(map(str, cells))} lattice sites; use a larger spacing")


def _point(values, name) -> np.ndarray:
    point = np.asarray(values, dtype=np.float64)
    if point.ndim != 1 or not np.isfinite(point).all():
        raise SceneError(f"{name} is {values}; it must be a point of finite coordinates in meters")
    return point
