"""Bodies of the shipped scenes: particles that fill a mesh in 3-D, or its cross-section in 2-D."""

import math

import numpy as np
import torch

from diffsim.errors import SceneError
from diffsim.geometry.bodies import Solid
from diffsim.geometry.mesh import load_mesh
from diffsim.geometry.sampling import fill


def fill_mesh(mesh: str, size: float, center, particles: int):
    """Particles inside a closed mesh, about so many, on a lattice.

    Args:
        mesh: file, or name of a shipped mesh.
        size: largest extent of the placed body [m].
        center: of its bounding box [m]; with two coordinates the body is the mesh's cross-section z = 0.

    Returns:
        x: positions (n, d) [m]. volume: of each particle (n,) [m^d]. Both float64.

    Raises:
        MeshError: a mesh that is missing, broken or open.
        SceneError: a size or number out of range, or a cross-section that is empty.
    """
    if not (size > 0 and math.isfinite(size)):
        raise SceneError(f"size is {size}; it must be a positive length in meters")
    if particles < 1:
        raise SceneError(f"particles is {particles}; it must be at least 1")
    if len(center) == 3:
        return fill(load_mesh(mesh, solid=True, size=size, center=tuple(center)), count=particles)
    body = Solid(load_mesh(mesh, solid=True, size=size, center=(*center, 0.0)))
    spacing = math.sqrt(_slice(body, size / 400)[1] / particles)
    x, area = _slice(body, spacing)
    return torch.from_numpy(x), torch.full((len(x),), area / len(x), dtype=torch.float64)


def _slice(body: Solid, spacing: float):
    """Sites of a square lattice in the plane z = 0 that are inside, and the area of their squares."""
    lower, upper = body.bounds[:, :2]
    axes = [np.arange(low + spacing / 2, high, spacing) for low, high in zip(lower, upper, strict=True)]
    sites = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = sites[body.contains(np.pad(sites, ((0, 0), (0, 1))))]
    if len(inside) == 0:
        raise SceneError("the mesh has no cross-section at the middle of its depth; use dim=3 or another mesh")
    return np.ascontiguousarray(inside), len(inside) * spacing**2


def fill_box(low, high, spacing: float):
    """Particles of a square or cubic lattice that fills a box exactly.

    Args:
        low, high: opposite corners (d,) [m].
        spacing: wanted distance of neighbors [m]; along each axis that which fits next is taken.

    Returns:
        x: positions (n, d) [m]. volume: of each particle [m^d]. Both float64.
    """
    sides = [high[a] - low[a] for a in range(len(low))]
    if not (spacing > 0 and all(side > 0 for side in sides)):
        raise SceneError(f"a box of sides {tuple(sides)} m cannot be filled at a spacing of {spacing} m")
    counts = [max(1, round(side / spacing)) for side in sides]
    axes = [low[a] + (np.arange(counts[a]) + 0.5) * sides[a] / counts[a] for a in range(len(low))]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(low))
    return torch.from_numpy(x), math.prod(sides) / len(x)


def vertical(dim: int, value: float) -> tuple[float, ...]:
    """The vector (0, value) or (0, value, 0).

    Raises:
        SceneError: dim is neither 2 nor 3.
    """
    if dim not in (2, 3):
        raise SceneError(f"dim is {dim}; use 2 or 3")
    return (0.0, value, 0.0)[:dim]
