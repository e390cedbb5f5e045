"""Meshes of solids: triangles in 2-D, tetrahedra in 3-D, with straight edges, linear or quadratic."""

import warnings
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import meshio
import numpy as np

from diffsim.errors import MeshError

# corners of the edges whose midpoints follow the corners, in the order of VTK and meshio
EDGES = {2: ((0, 1), (1, 2), (2, 0)), 3: ((0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3))}
FACES = {2: ((0, 1), (1, 2), (2, 0)), 3: ((0, 2, 1), (0, 1, 3), (1, 2, 3), (2, 0, 3))}  # seen from outside
CELLS = {"tetra10": 3, "tetra": 3, "triangle6": 2, "triangle": 2}
OTHERS = {3: ("hexahedron", "wedge", "pyramid", "tetra"), 2: ("quad", "triangle")}  # solids of a dimension, by prefixes
FLAT = 1e-12  # of the cube of the longest edge: below it a volume is rounding
BENT = 0.25  # of an edge: where its midpoint node lies farther from the middle, the element folds over
LARGEST, SMALLEST = 50.0, 1e-4  # extents [m] beyond which lengths are hardly in meters


@dataclass(frozen=True, eq=False)
class SolidMesh:
    """Nodes (n, d) [m] and elements (m, d + 1), or quadratic with the midpoints of the edges behind: (m, 6), (m, 10).

    Elements are checked, and turned over where they are inverted. Sizes that suggest other units than meters are warned
    of.

    Raises:
        MeshError: shapes that do not fit, nodes that do not exist or are in no element, an element without volume or
            given twice, a midpoint away from the middle of its edge.
    """

    nodes: np.ndarray
    elements: np.ndarray

    def __post_init__(self):
        nodes, elements = np.asarray(self.nodes, dtype=float), np.asarray(self.elements)
        d = nodes.shape[1] if nodes.ndim == 2 else 0
        if d not in (2, 3) or elements.ndim != 2 or elements.shape[1] not in (d + 1, d + 1 + len(EDGES[d])):
            raise MeshError(
                f"solid mesh: nodes {nodes.shape} and elements {elements.shape}; give (n, 2) with (m, 3) or (m, 6), "
                "or (n, 3) with (m, 4) or (m, 10)"
            )
        if not len(elements) or not np.issubdtype(elements.dtype, np.integer):
            raise MeshError("solid mesh: give at least one element, as whole numbers of its nodes")
        if elements.min() < 0 or elements.max() >= len(nodes):
            e = int(np.argmax((elements < 0).any(1) | (elements >= len(nodes)).any(1)))
            raise MeshError(f"solid mesh: element {e} names a node that does not exist; there are {len(nodes)} nodes")
        if not np.isfinite(nodes).all():
            i = int(np.flatnonzero(~np.isfinite(nodes).all(1))[0])
            raise MeshError(f"solid mesh: node {i} is at {nodes[i].tolist()}, not finite")
        loose = np.setdiff1d(np.arange(len(nodes)), elements)
        if len(loose):
            raise MeshError(f"solid mesh: node {loose[0]} is in no element ({len(loose)} are not); remove them")
        elements = elements.astype(np.int64).copy()
        corners = nodes[elements[:, : d + 1]]
        volumes = np.linalg.det(corners[:, 1:] - corners[:, :1])
        longest = np.linalg.norm(corners[:, 1:] - corners[:, :1], axis=2).max(1)
        flat = np.abs(volumes) <= FLAT * longest**d
        if flat.any():
            e = int(np.argmax(flat))
            raise MeshError(
                f"solid mesh: element {e} has no volume ({int(flat.sum())} of them); remove it or mesh the body again"
            )
        _, first, counts = np.unique(
            np.sort(elements[:, : d + 1], axis=1), axis=0, return_index=True, return_counts=True
        )
        if (counts > 1).any():
            e = int(first[np.argmax(counts > 1)])
            raise MeshError(f"solid mesh: element {e} is given twice ({int((counts > 1).sum())} of them); remove one")
        if elements.shape[1] > d + 1:
            ends = nodes[elements[:, np.array(EDGES[d])]]  # (m, edges, 2, d)
            off = np.linalg.norm(nodes[elements[:, d + 1 :]] - ends.mean(axis=2), axis=2)
            bent = off > BENT * np.linalg.norm(ends[:, :, 1] - ends[:, :, 0], axis=2)
            if bent.any():
                e, k = (int(i) for i in np.argwhere(bent)[0])
                a, b = (int(elements[e, c]) for c in EDGES[d][k])
                raise MeshError(
                    f"solid mesh: element {e}: node {int(elements[e, d + 1 + k])} is not near the middle of the edge "
                    f"between nodes {a} and {b}; give midpoints in the order of VTK, {EDGES[d]}"
                )
        turned = volumes < 0
        # the first two corners change places, and with them the midpoints of the edges to the others
        order = [1, 0, 2] if d == 2 else [1, 0, 2, 3]
        if elements.shape[1] > d + 1:
            swap = {frozenset(edge): k + d + 1 for k, edge in enumerate(EDGES[d])}
            order += [swap[frozenset(order[c] for c in edge)] for edge in EDGES[d]]
        elements[turned] = elements[turned][:, order]
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "elements", elements)
        if not SMALLEST <= self.extent <= LARGEST:
            warnings.warn(
                f"the solid is {self.extent:.3g} m large: lengths are in meters; scale it if it is not", stacklevel=3
            )

    @property
    def dim(self) -> int:
        return self.nodes.shape[1]

    @property
    def quadratic(self) -> bool:
        return self.elements.shape[1] > self.dim + 1

    @property
    def extent(self) -> float:
        """Largest side of the bounding box [m]."""
        return float(np.ptp(self.nodes, axis=0).max())

    def to_quadratic(self) -> "SolidMesh":
        """The same elements with the midpoints of their edges as further nodes."""
        if self.quadratic:
            return self
        pairs = np.sort(self.elements[:, np.array(EDGES[self.dim])], axis=2)
        edges, index = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
        middle = index.reshape(len(self.elements), -1) + len(self.nodes)
        nodes = np.concatenate([self.nodes, self.nodes[edges].mean(axis=1)])
        return SolidMesh(nodes, np.concatenate([self.elements, middle], axis=1))

    def surface(self) -> np.ndarray:
        """Faces of one element only (f, d), seen from outside; of quadratic elements with midpoints, (f, 3) or (f, 6).

        In 2-D faces are edges.
        """
        d, local = self.dim, [list(face) for face in FACES[self.dim]]
        if self.quadratic:
            middle = {frozenset(edge): k + d + 1 for k, edge in enumerate(EDGES[d])}
            for face in local:
                corners = face[:]
                pairs = [corners] if d == 2 else [(corners[k], corners[(k + 1) % 3]) for k in range(3)]
                face += [middle[frozenset(pair)] for pair in pairs]
        faces = self.elements[:, np.array(local)].reshape(-1, len(local[0]))
        _, index, counts = np.unique(np.sort(faces[:, :d], axis=1), axis=0, return_inverse=True, return_counts=True)
        return faces[counts[index.reshape(-1)] == 1]

    def select(self, condition) -> np.ndarray:
        """Indices of the nodes where ``condition(X)`` holds, X (n, d)."""
        return np.flatnonzero(np.asarray(condition(self.nodes)))

    def faces(self, condition) -> np.ndarray:
        """Faces of the surface all of whose nodes fulfill ``condition(X)``."""
        inside = np.asarray(condition(self.nodes))
        surface = self.surface()
        return surface[inside[surface].all(axis=1)]


def block(cells, size, origin=None, *, quadratic=False) -> SolidMesh:
    """A rectangle of triangles or a box of tetrahedra.

    Rectangles are cut along alternating diagonals; boxes into six tetrahedra along one diagonal of each cell.

    Args:
        cells: numbers along the axes, two or three. size: lengths [m]. origin: lowest corner [m].
    """
    d = len(cells)
    if d not in (2, 3) or len(size) != d or min(cells) < 1 or np.shape(origin) not in ((), (d,)):
        raise MeshError(
            f"block: cells={tuple(cells)}, size={tuple(size)}, origin={origin}; give two or three of each, at least "
            "one cell"
        )
    axes = [np.linspace(0.0, length, n + 1) for n, length in zip(cells, size, strict=True)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d) + (0.0 if origin is None else origin)
    number = np.arange(len(nodes)).reshape([n + 1 for n in cells])
    if d == 2:
        a, b = number[:-1, :-1], number[1:, :-1]
        c, e = number[1:, 1:], number[:-1, 1:]
        even = (np.add.outer(np.arange(cells[0]), np.arange(cells[1])) % 2 == 0)[..., None]
        first = np.where(even, np.stack([a, b, c], -1), np.stack([a, b, e], -1))
        second = np.where(even, np.stack([a, c, e], -1), np.stack([b, c, e], -1))
        elements = np.stack([first, second], 2).reshape(-1, 3)
    else:
        low = number[:-1, :-1, :-1]
        steps = number[1, 0, 0] - number[0, 0, 0], number[0, 1, 0] - number[0, 0, 0], 1
        paths = [np.cumsum([0, *(steps[axis] for axis in order)]) for order in permutations(range(3))]
        elements = (low[..., None, None] + np.array(paths)).reshape(-1, 4)
    mesh = SolidMesh(nodes, elements)
    return mesh.to_quadratic() if quadratic else mesh


def load_solid(path) -> SolidMesh:
    """A mesh of tetrahedra, or of triangles in the plane z = 0, from a file that meshio reads (MSH, VTK, NODE, ...).

    Raises:
        MeshError: a missing file, another format, or no such elements.
    """
    file = Path(path)
    if not file.is_file():
        raise MeshError(f"mesh {str(path)!r} does not exist; give a file of tetrahedra or triangles")
    try:
        return from_meshio(meshio.read(file), str(path))
    except (meshio.ReadError, ValueError, KeyError, IndexError, SystemExit) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise MeshError(f"{path} cannot be read ({text}); export it as .msh or .vtk") from error


def from_meshio(mesh, name="mesh") -> SolidMesh:
    """A ``SolidMesh`` from a ``meshio.Mesh``: its tetrahedra, or else its triangles; other nodes are left out."""
    found = {kind: [cells.data for cells in mesh.cells if cells.type == kind] for kind in CELLS}
    kind = next((kind for kind in CELLS if found[kind]), None)
    if kind is None:
        raise MeshError(f"{name} holds no tetrahedra and no triangles; mesh the inside of the body")
    elements, dim = np.concatenate(found[kind]), CELLS[kind]
    others = sorted({c.type for c in mesh.cells if c.type != kind and c.type.startswith(OTHERS[dim])})
    if others:
        raise MeshError(f"{name} holds {kind} and {', '.join(others)} cells; mesh the body with one kind, {kind}")
    points = np.asarray(mesh.points, dtype=float)
    if dim == 2 and points.shape[1] == 3:
        if np.ptp(points[:, 2]) > 1e-9 * np.ptp(points):
            raise MeshError(
                f"{name} holds triangles that are not in a plane z = constant; it is a surface, not a solid"
            )
        points = points[:, :2]
    used, elements = np.unique(elements, return_inverse=True)
    return SolidMesh(points[used], elements.reshape(-1, found[kind][0].shape[1]))


def as_solid(mesh) -> SolidMesh:
    """A ``SolidMesh`` from one, a ``meshio.Mesh``, a file, or a pair (nodes, elements)."""
    if isinstance(mesh, SolidMesh):
        return mesh
    if isinstance(mesh, meshio.Mesh):
        return from_meshio(mesh)
    if isinstance(mesh, str | Path):
        return load_solid(mesh)
    try:
        nodes, elements = mesh
    except (TypeError, ValueError):
        raise MeshError(f"a {type(mesh).__name__} is no mesh; give a SolidMesh, a file or (nodes, elements)") from None
    return SolidMesh(np.asarray(nodes), np.asarray(elements))
