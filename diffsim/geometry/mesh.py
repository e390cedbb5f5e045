"""Triangle meshes from files: read, checked, and placed in a scene.

A mesh is a ``trimesh.Trimesh`` whose corners at the same position are one vertex, so that "closed" means what it says.
"""

import difflib
import importlib.resources
import io
from pathlib import Path

import numpy as np
import trimesh

from diffsim.errors import MeshError

FORMATS = (".obj", ".stl", ".ply", ".off")
TEXT_FORMATS = (".obj", ".off")
RELATIVE_MERGE = 1e-8  # of the largest extent: below the rounding of an f32 file, far below any edge


def shipped_meshes() -> dict[str, Path]:
    """The meshes that come with diffsim, by name."""
    # a package resource rather than a module import: geometry stands below scenes
    folder = Path(str(importlib.resources.files("diffsim.scenes")))
    return {path.stem: path for path in sorted(folder.glob("*.obj"))}


def resolve_mesh(name: str | Path) -> Path:
    """The file of ``name``: a path, or the name of a shipped mesh (with or without ``.obj``).

    A file that exists wins over a shipped mesh of the same name.

    Raises:
        MeshError: neither a file nor a shipped mesh.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = shipped_meshes()
    key = str(name).removesuffix(".obj")
    if key in shipped:
        return shipped[key]
    close = difflib.get_close_matches(key, shipped, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"give a file, or one of {', '.join(shipped) or 'no meshes'}"
    what = "is a folder, not a mesh file" if path.is_dir() else "does not exist"
    raise MeshError(f"mesh {str(name)!r} {what}; {hint}")


def load_mesh(
    path: str | Path,
    *,
    solid: bool = False,
    size: float | None = None,
    center: tuple[float, float, float] | None = None,
    rotation: tuple[float, float, float, float] | None = None,
) -> trimesh.Trimesh:
    """A triangle mesh from an OBJ, STL, PLY or OFF file, or a shipped mesh by name.

    Polygons are split into triangles, vertices at the same position merged, triangles that repeat a corner dropped,
    and a closed mesh that is inside out turned over. Materials and textures are not read.

    Placement is that of NCLaw (Ma et al. 2023, nclaw/sim): with c the center of the bounding box and L its largest
    extent, x = center + size R (X - c) / L.

    Args:
        path: file, or name of a shipped mesh.
        solid: the mesh must bound a volume: closed, orientable, with a volume that is not zero.
        size: largest extent of the placed mesh before it is rotated [m]; None keeps the file's units.
        center: where the center of the file's bounding box goes [m]; None leaves it where it is.
        rotation: unit quaternion (w, x, y, z), about the center of the bounding box; normalized if it is not.

    Raises:
        MeshError: the file is missing, of another format, unreadable, empty or not finite; or not ``solid`` as asked.
    """
    file = resolve_mesh(path)
    mesh = _read(file)
    _clean(mesh, file)
    if solid:
        require_solid(mesh, name=str(file))
    if mesh.is_watertight and mesh.volume < 0:
        mesh.invert()
    _place(mesh, file, size, center, rotation)
    return mesh


def require_solid(mesh: trimesh.Trimesh, name: str = "mesh") -> None:
    """Check that ``mesh`` bounds a volume; neighbors that face opposite ways are turned over in place.

    Raises:
        MeshError: open edges, edges of more than two triangles, a surface with one side only, or no volume.
    """
    _, uses = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    open_edges, branched = int((uses == 1).sum()), int((uses > 2).sum())
    if open_edges:
        raise MeshError(
            f"{name} has {open_edges} open edges, so it has no inside; close its holes (Blender: Select Non Manifold, "
            "Fill; MeshLab: Close Holes) or use a closed mesh"
        )
    if branched:
        raise MeshError(
            f"{name} has {branched} edges with more than two triangles, so its inside is not defined; remove the "
            "inner or doubled faces or use a mesh without them"
        )
    if not mesh.is_winding_consistent:
        trimesh.repair.fix_winding(mesh)
        if not mesh.is_winding_consistent:
            raise MeshError(f"{name} cannot be oriented (it has one side only); use a mesh with an inside")
    with np.errstate(divide="ignore", invalid="ignore"):  # trimesh divides by it for the center of mass at once
        volume = abs(float(mesh.volume))
    # 1e-12 of the bounding cube: the rounding error of the volume integral of a flat closed mesh
    if volume <= 1e-12 * float(mesh.extents.max()) ** 3:
        raise MeshError(f"{name} is closed but encloses no volume; use a mesh with a thickness")


def _read(file: Path) -> trimesh.Trimesh:
    kind = file.suffix.lower()
    if kind not in FORMATS:
        raise MeshError(f"{file} has the format {kind or '(no suffix)'!r}; use one of {', '.join(FORMATS)}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise MeshError(f"{file} cannot be read: {error.strerror}; check its permissions") from error
    # decoded here, not by trimesh, which needs another package for a comment that is not UTF-8
    stream = io.StringIO(content.decode("utf-8", errors="replace")) if kind in TEXT_FORMATS else io.BytesIO(content)
    try:
        mesh = trimesh.load_mesh(stream, file_type=kind[1:], process=False, skip_materials=True)
    except Exception as error:  # the readers raise whatever the broken text leads them to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MeshError(f"{file} is not a readable {kind[1:].upper()} file ({reason}); export it again") from error
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.vertices) == 0 or len(mesh.faces) == 0:
        raise MeshError(f"{file} holds no triangles; export the surface as {', '.join(FORMATS)} with its faces")
    return mesh


def _clean(mesh: trimesh.Trimesh, file: Path) -> None:
    """Merge by position and drop collapsed triangles, in place."""
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise MeshError(f"{file} has a face that names vertex {mesh.faces.max()}, which is not there; export it again")
    broken = np.flatnonzero(~np.isfinite(mesh.vertices).all(axis=1))
    if len(broken):
        raise MeshError(f"{file}: vertex {broken[0]} is not finite ({len(broken)} in all); export it again")
    extent = float(np.ptp(mesh.vertices, axis=0).max())
    if extent == 0:
        raise MeshError(f"{file} is a single point; export it again")
    digits = int(np.floor(-np.log10(RELATIVE_MERGE * extent)))
    mesh.merge_vertices(merge_tex=True, merge_norm=True, digits_vertex=digits)
    a, b, c = mesh.faces.T
    mesh.update_faces((a != b) & (b != c) & (c != a))
    mesh.remove_unreferenced_vertices()
    if len(mesh.faces) == 0:
        raise MeshError(f"{file} holds no triangle with three corners; export it again")


def _place(mesh, file, size, center, rotation) -> None:
    if size is not None and not (np.isfinite(size) and size > 0):
        raise MeshError(f"{file}: size is {size}; it must be a positive length in meters")
    if center is not None and (np.shape(center) != (3,) or not np.isfinite(center).all()):
        raise MeshError(f"{file}: center is {center}; it must be three coordinates in meters")
    if rotation is not None and (np.shape(rotation) != (4,) or not np.linalg.norm(rotation) > 0):
        raise MeshError(f"{file}: rotation is {rotation}; it must be a quaternion (w, x, y, z)")
    if size is None and center is None and rotation is None:
        return
    middle = mesh.bounds.mean(axis=0)
    x = np.asarray(mesh.vertices) - middle
    if size is not None:
        x *= size / mesh.extents.max()
    if rotation is not None:
        turn = trimesh.transformations.quaternion_matrix(np.asarray(rotation, dtype=float))[:3, :3]
        x = x @ turn.T
    mesh.vertices = x + (middle if center is None else np.asarray(center, dtype=float))
