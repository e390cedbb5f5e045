"""Triangle meshes of sheets: checks, hinges, and regular patterns."""

import numpy as np
import trimesh

from diffsim.errors import MeshError

FLAT = 1e-10  # of the square of the longest edge: below it the area of a triangle is rounding
PATTERNS = ("alternating", "diagonal", "equilateral")


def as_sheet(mesh) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, 3) and faces (f, 3) of a ``trimesh.Trimesh``, a pair of both, or a file.

    Raises:
        MeshError: shapes that do not fit, values that are not finite, a vertex in no face, a face without area or given
            twice, an edge of more than two faces, or neighbors that face opposite ways.
    """
    if not isinstance(mesh, trimesh.Trimesh) and not (isinstance(mesh, tuple | list) and len(mesh) == 2):
        from diffsim.geometry.mesh import load_mesh

        mesh = load_mesh(mesh)
    vertices, faces = (mesh.vertices, mesh.faces) if isinstance(mesh, trimesh.Trimesh) else mesh
    vertices, faces = np.asarray(vertices, dtype=float), np.asarray(faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3 or not len(faces):
        raise MeshError(f"sheet: vertices {vertices.shape} and faces {faces.shape}; give (n, 3) and (f, 3)")
    faces = faces.astype(np.int64)
    if faces.min() < 0 or faces.max() >= len(vertices):
        f = int(np.argmax(((faces < 0) | (faces >= len(vertices))).any(1)))
        raise MeshError(f"sheet: face {f} names a vertex that does not exist; there are {len(vertices)} vertices")
    if not np.isfinite(vertices).all():
        raise MeshError(f"sheet: vertex {np.flatnonzero(~np.isfinite(vertices).all(1))[0]} is not finite")
    loose = np.setdiff1d(np.arange(len(vertices)), faces)
    if len(loose):
        raise MeshError(f"sheet: vertex {loose[0]} is in no face ({len(loose)} are not); remove them")
    corners = vertices[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
    flat = areas <= FLAT * longest**2
    if flat.any():
        raise MeshError(f"sheet: face {np.argmax(flat)} has no area ({flat.sum()} of them); remove it")
    _, first, counts = np.unique(np.sort(faces, 1), axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        raise MeshError(f"sheet: face {first[np.argmax(counts > 1)]} is given twice; remove one")
    hinges(faces)
    extent = float(np.ptp(vertices, axis=0).max())
    if extent > 50 or extent < 1e-4:
        import warnings

        warnings.warn(f"the sheet is {extent:.3g} m large: lengths are in meters; scale it if it is not", stacklevel=3)
    return vertices, faces


def hinges(faces) -> np.ndarray:
    """Inner edges (h, 4): ends x0 and x1 as the first face runs, and the opposite corners of the first and second face.

    Raises:
        MeshError: an edge of more than two faces, or of two that run the same way along it.
    """
    faces = np.asarray(faces)
    starts, ends = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    opposite = np.roll(faces, -2, axis=1).reshape(-1)
    keys = np.stack([np.minimum(starts, ends), np.maximum(starts, ends)], 1)
    edges, index, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    if (counts > 2).any():
        a, b = edges[np.argmax(counts > 2)]
        raise MeshError(f"sheet: the edge between vertices {a} and {b} has more than two faces; split the mesh there")
    order = np.argsort(index.reshape(-1), kind="stable")
    inner = np.flatnonzero(counts == 2)
    first = np.concatenate([[0], np.cumsum(counts)])[inner]
    one, two = order[first], order[first + 1]
    same = starts[one] == starts[two]
    if same.any():
        a, b = edges[inner[np.argmax(same)]]
        raise MeshError(
            f"sheet: the faces at the edge between vertices {a} and {b} face opposite ways; make the normals agree "
            "(trimesh.repair.fix_winding)"
        )
    return np.stack([starts[one], ends[one], opposite[one], opposite[two]], 1)


def sheet(cells, size, origin=(0.0, 0.0, 0.0), *, pattern="alternating"):
    """A flat sheet in the plane z = const with normals along +z: vertices ((N + 1)(M + 1), 3) and faces (2 N M, 3).

    Vertex (i, j) has the index i (M + 1) + j. "alternating" and "diagonal" cut squares along diagonals that alternate
    or not; "equilateral" moves every second row by half an edge (its ends stay straight), and its triangles are
    equilateral where size = (N sqrt(3)/2 l, M l).
    """
    if pattern not in PATTERNS:
        raise MeshError(f"sheet: pattern={pattern!r}; use one of {', '.join(PATTERNS)}")
    N, M = cells
    if min(N, M) < 1 or not min(size) > 0:
        raise MeshError(f"sheet: cells={tuple(cells)}, size={tuple(size)}; give at least one cell and positive lengths")
    i, j = np.meshgrid(np.arange(N + 1), np.arange(M + 1), indexing="ij")
    x, y = i * (size[0] / N), j * (size[1] / M)
    number = i * (M + 1) + j
    a, b, c, d = number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]
    if pattern == "equilateral":
        inner = (i % 2 == 1) & (j > 0) & (j < M)
        y = np.where(inner, y - 0.5 * size[1] / M, y)
        even = ((i[:-1, :-1] % 2) == 0)[..., None]
    elif pattern == "diagonal":
        even = np.ones((N, M, 1), dtype=bool)
    else:
        even = ((i + j)[:-1, :-1] % 2 == 0)[..., None]
    one = np.where(even, np.stack([a, b, c], -1), np.stack([a, b, d], -1))
    two = np.where(even, np.stack([a, c, d], -1), np.stack([b, c, d], -1))
    vertices = np.stack([x, y, np.zeros(x.shape)], -1).reshape(-1, 3) + np.asarray(origin, dtype=float)
    return vertices, np.stack([one, two], 2).reshape(-1, 3)
