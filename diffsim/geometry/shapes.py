"""Shapes of tools: signed distances that kernels evaluate in the tool's frame.

Parameters are laid out as ``diffsim.kernels.sdf`` reads them. Lengths are meters; y is the axis of every round shape.
"""

import math
from pathlib import Path

import igl
import numpy as np
import torch
import trimesh
from scipy import ndimage

from diffsim.errors import MeshError, SceneError
from diffsim.kernels import sdf

UNBOUNDED = 1e9  # [m] half extent of a box along z in 2-D; finite, since inf - inf is not a distance
MOST_NODES = 2**24  # of a sampled distance: 128 MB in f64, and their index times 8 fits 32 bits


def positive(owner: str, name: str, value: float) -> float:
    """``value`` as a float, or a SceneError that names the shape and the argument."""
    value = float(value)
    if not (math.isfinite(value) and value > 0):
        raise SceneError(f"{owner}: {name} is {value}; it must be a positive length in meters")
    return value


class Shape:
    """A solid given by its signed distance.

    Attributes:
        kind: one of the kinds of ``diffsim.kernels.sdf``.
        bounding_radius: of a sphere about the origin of the frame that holds the solid [m]; may be inf.
    """

    kind: int
    bounding_radius: float

    def parameters(self) -> list[float]:
        """The shape's columns of ``tool_params``, from column 3."""
        return []

    def integers(self) -> list[int]:
        """The shape's columns of ``tool_ints``, from column 2."""
        return []

    def samples(self) -> torch.Tensor | None:
        """The spline coefficients of a sampled distance, flat, or None."""
        return None

    def mesh(self) -> trimesh.Trimesh:
        """The surface in the tool's frame, to draw; empty unless a shape has one."""
        return trimesh.Trimesh()


class Box(Shape):
    """A box centered at the origin.

    Args:
        half_extents: along x, y and z [m]; two numbers, for 2-D, make it endless along z.
    """

    kind = sdf.ROUNDED_BOX

    def __init__(self, half_extents):
        self.half_extents = tuple(positive("Box", "half_extents", extent) for extent in half_extents)
        if len(self.half_extents) not in (2, 3):
            raise SceneError(f"Box: half_extents has {len(self.half_extents)} numbers; give 3, or 2 for 2-D")
        self.bounding_radius = math.hypot(*self.half_extents) if len(self.half_extents) == 3 else math.inf

    def parameters(self):
        return [*self.half_extents, UNBOUNDED][:3] + [0.0]

    def mesh(self):
        depth = self.half_extents[2] if len(self.half_extents) == 3 else max(self.half_extents)
        return trimesh.creation.box(extents=[2 * extent for extent in (*self.half_extents[:2], depth)])


class Capsule(Shape):
    """All points within a radius of a segment along y that is centered at the origin.

    Args:
        height: length of the segment [m]; the solid is 2 radius longer.
        radius: [m].
    """

    kind = sdf.ROUNDED_BOX

    def __init__(self, height: float, radius: float):
        self.height, self.radius = positive("Capsule", "height", height), positive("Capsule", "radius", radius)
        self.bounding_radius = self.height / 2 + self.radius

    def parameters(self):
        return [0.0, self.height / 2, 0.0, self.radius]

    def mesh(self):
        return _upright(trimesh.creation.capsule(height=self.height, radius=self.radius))


class Sphere(Shape):
    """A ball centered at the origin.

    Args:
        radius: [m].
    """

    kind = sdf.ROUNDED_BOX

    def __init__(self, radius: float):
        self.radius = self.bounding_radius = positive("Sphere", "radius", radius)

    def parameters(self):
        return [0.0, 0.0, 0.0, self.radius]

    def mesh(self):
        return trimesh.creation.icosphere(subdivisions=3, radius=self.radius)


class Cylinder(Shape):
    """A solid cylinder about y, centered at the origin.

    Args:
        radius: [m].
        half_height: [m].
    """

    kind = sdf.CYLINDER

    def __init__(self, radius: float, half_height: float):
        self.radius = positive("Cylinder", "radius", radius)
        self.half_height = positive("Cylinder", "half_height", half_height)
        self.bounding_radius = math.hypot(self.radius, self.half_height)

    def parameters(self):
        return [self.radius, self.half_height]

    def mesh(self):
        return _upright(trimesh.creation.cylinder(radius=self.radius, height=2 * self.half_height))


class Torus(Shape):
    """A ring about y, centered at the origin.

    Args:
        major_radius: of the circle in the middle of the tube [m].
        minor_radius: of the tube [m]; less than the major one.
    """

    kind = sdf.TORUS

    def __init__(self, major_radius: float, minor_radius: float):
        self.major_radius = positive("Torus", "major_radius", major_radius)
        self.minor_radius = positive("Torus", "minor_radius", minor_radius)
        if self.minor_radius >= self.major_radius:
            raise SceneError(
                f"Torus: minor_radius {self.minor_radius} leaves no hole in a ring of major_radius "
                f"{self.major_radius}; make it smaller"
            )
        self.bounding_radius = self.major_radius + self.minor_radius

    def parameters(self):
        return [self.major_radius, self.minor_radius]

    def mesh(self):
        return _upright(trimesh.creation.torus(major_radius=self.major_radius, minor_radius=self.minor_radius))


class HalfSpace(Shape):
    """Everything below the plane y = 0 of the tool's frame; the normal is +y.

    Args:
        extent: side of the square slab that stands for it in pictures [m].
    """

    kind = sdf.HALF_SPACE
    bounding_radius = math.inf

    def __init__(self, extent: float = 1.0):
        self.extent = positive("HalfSpace", "extent", extent)

    def mesh(self):
        slab = trimesh.creation.box(extents=[self.extent, 0.02 * self.extent, self.extent])
        return slab.apply_translation([0, -0.01 * self.extent, 0])


class MeshSDF(Shape):
    """A closed triangle mesh, its distance sampled on a grid and interpolated with quadratic B-splines.

    The spline passes through the samples. Its error is of third order in the spacing where the distance is smooth;
    edges of the mesh are rounded, and ring weakly, within about a spacing. The sign is that of the fast winding number
    (Barill et al. 2018, https://doi.org/10.1145/3197517.3201337, by libigl).

    Args:
        mesh: a trimesh, or the path of a file that trimesh reads.
        resolution: cells along the longest extent of the mesh; the spacing follows.
        padding: width around the mesh where the distance is known [m], at least three cells. Soft contact needs
            ln(10) / softness. None takes 10 % of the longest extent.
        scale: one factor on all lengths, before ``center``.
        center: move the center of the bounding box to the origin.
        watertight: False takes a mesh with holes; the winding number then decides what is inside.

    Attributes:
        spacing: of the samples [m].
        padding: as used [m].

    Raises:
        MeshError: no such file, no triangles, vertices that are not finite, or holes.
        SceneError: an option out of its range.
    """

    kind = sdf.MESH

    def __init__(self, mesh, *, resolution=48, padding=None, scale=1.0, center=False, watertight=True):
        name, surface = _read(mesh)
        self.surface = surface.apply_scale(positive("MeshSDF", "scale", scale))
        if center:
            self.surface.apply_translation(-self.surface.bounds.mean(axis=0))
        if watertight and not self.surface.is_watertight:
            raise MeshError(
                f"{name}: the mesh is not watertight, so inside and outside are not defined; close its holes "
                "(trimesh's fill_holes), or pass watertight=False to let the winding number decide"
            )
        if resolution != int(resolution) or resolution < 4:
            raise SceneError(f"MeshSDF {name}: resolution is {resolution}; it must be a whole number of at least 4")
        low, high = self.surface.bounds
        extent = (high - low).max()
        self.spacing = float(extent / resolution)
        padding = 0.1 * extent if padding is None else positive("MeshSDF", "padding", padding)
        self.padding = max(float(padding), 3 * self.spacing)
        # one more spacing: the spline of a node needs its neighbors
        first = low - self.padding - self.spacing
        nodes = np.ceil((high + self.padding + self.spacing - first) / self.spacing).astype(int) + 1
        if nodes.prod() > MOST_NODES:
            raise SceneError(
                f"MeshSDF {name}: {nodes.prod():.1e} samples are too many (padding {self.padding:g} m at a spacing of "
                f"{self.spacing:g} m); lower the resolution or the padding (of soft contact: raise the softness)"
            )
        points = np.indices(nodes).reshape(3, -1).T * self.spacing + first
        distance, *_ = igl.signed_distance(
            points,
            np.ascontiguousarray(self.surface.vertices, dtype=np.float64),
            np.ascontiguousarray(self.surface.faces, dtype=np.int64),
            sign_type=igl.SignedDistanceType.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER,
        )
        if not np.isfinite(distance).all():
            raise MeshError(f"{name}: the signed distance is not finite; look for degenerate triangles in the mesh")
        # continued linearly while the filter runs: its own boundaries, flat ones, would ring several cells into the box
        beyond = np.pad(distance.reshape(nodes), 8, mode="reflect", reflect_type="odd")
        coefficients = ndimage.spline_filter(beyond, order=2, mode="mirror")[8:-8, 8:-8, 8:-8]
        self._samples = torch.from_numpy(np.ascontiguousarray(coefficients, dtype=np.float64).reshape(-1))
        self._first, self._nodes = first.tolist(), nodes.tolist()
        self.bounding_radius = float(np.linalg.norm(self.surface.vertices, axis=1).max())

    def parameters(self):
        return [*self._first, 1 / self.spacing]

    def integers(self):
        return list(self._nodes)

    def samples(self):
        return self._samples

    def mesh(self):
        return self.surface.copy()


def _upright(surface: trimesh.Trimesh) -> trimesh.Trimesh:
    """Turn trimesh's axis z to y."""
    return surface.apply_transform(trimesh.transformations.rotation_matrix(-math.pi / 2, [1, 0, 0]))


def _read(mesh) -> tuple[str, trimesh.Trimesh]:
    """Name and a copy of a mesh, merged at equal vertices so that a closed surface is seen as closed."""
    if isinstance(mesh, trimesh.Trimesh):
        name, surface = "mesh", mesh.copy()
    else:
        path = Path(mesh)
        name = str(path)
        if not path.is_file():
            raise MeshError(f"{name}: there is no such file; give the path of an OBJ, PLY or STL file")
        try:
            surface = trimesh.load(path, force="mesh")
        except Exception as error:  # each of trimesh's readers raises its own kind
            raise MeshError(f"{name}: trimesh cannot read it ({error}); save it again as OBJ, PLY or STL") from error
    if not isinstance(surface, trimesh.Trimesh) or len(surface.faces) == 0:
        raise MeshError(f"{name}: it holds no triangles; export the surface as a triangle mesh")
    if not np.isfinite(surface.vertices).all():
        raise MeshError(f"{name}: a vertex is not finite; repair the file")
    surface.merge_vertices(merge_tex=True, merge_norm=True)
    return name, surface
