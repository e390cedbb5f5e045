"""Files for other programs: VTU series for ParaView, PLY for mesh viewers."""

from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import meshio
import numpy as np
import torch
import trimesh
from torch import Tensor

from diffsim.errors import DataError
from diffsim.runs import atomic_write
from diffsim.trajectory import Recording, frames_of, read_trajectory


def export_vtu(source: Any, folder: str | Path) -> Path:
    """Write ``frames/frame_00000.vtu``, ... and ``trajectory.pvd``, which holds their times, into ``folder``.

    Particles are points with v [m/s], speed [m/s], volume [m^d], material, the optional fields of a file or recording,
    and, when the states are full, J = det F (times F33 in 2-D).

    Args:
        source: a trajectory, a recording, a trajectory file, or an iterable of states.

    Returns:
        The ``.pvd``, the file to open.

    Raises:
        DataError: as ``read_trajectory`` for a file, or a folder that cannot be written.
    """
    folder = Path(folder)
    try:
        (folder / "frames").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error
    entries = []
    for index, (state, fields) in enumerate(_states_and_fields(source)):
        name = f"frames/frame_{index:05d}.vtu"
        atomic_write(folder / name, _cloud(state, fields).write)
        entries.append(f'    <DataSet timestep="{float(state.time):.17g}" part="0" file={quoteattr(name)}/>')
    series = '<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1">\n  <Collection>\n'
    atomic_write(folder / "trajectory.pvd", series + "\n".join(entries) + "\n  </Collection>\n</VTKFile>\n")
    return folder / "trajectory.pvd"


def export_ply(path: str | Path, points: Tensor, faces: Tensor | None = None) -> Path:
    """Write points (n, d) [m], or a triangle mesh with ``faces`` (m, 3), as a binary PLY in single precision.

    Raises:
        DataError: shapes that are neither, or a file that cannot be written.
    """
    x = _spatial(points)
    if x.ndim != 2 or x.shape[1] != 3 or len(x) == 0:
        raise DataError(f"{path}: points have the shape {tuple(np.shape(points))}; give (n, 2) or (n, 3) with n > 0")
    if faces is None:
        content = trimesh.PointCloud(x).export(file_type="ply")
    else:
        corners = np.asarray(faces)
        if corners.ndim != 2 or corners.shape[1] != 3 or corners.min() < 0 or corners.max() >= len(x):
            raise DataError(f"{path}: faces must be (m, 3) indices below {len(x)}; check that they fit the points")
        content = trimesh.Trimesh(x, corners, process=False).export(file_type="ply")
    atomic_write(path, content)
    return Path(path)


def _states_and_fields(source):
    """States with the optional fields of the same frame."""
    for index, state in enumerate(frames_of(source)):
        if isinstance(source, str | Path):
            fields = read_trajectory(source, frames=slice(index, index + 1)).fields
            yield state, {name: values[0] for name, values in fields.items()}
        elif isinstance(source, Recording):
            yield state, {name: values[index] for name, values in source.fields.items()}
        else:
            yield state, {}


def _cloud(state, fields) -> meshio.Mesh:
    x, v = _spatial(state.x), _spatial(state.v)
    data = {"v": v, "speed": np.linalg.norm(v, axis=1)}
    data |= {name: _spatial(getattr(state, name)) for name in ("volume", "material")
             if getattr(state, name, None) is not None}  # fmt: skip
    if getattr(state, "F", None) is not None:
        J = torch.linalg.det(state.F.detach())
        if state.F.shape[-1] == 2 and state.q.shape[-1] > 0:
            J = J * state.q.detach()[:, 0]  # plane strain of a plastic body: F33
        data["J"] = J.cpu().numpy()
    for name, values in fields.items():
        values = _spatial(values)
        data[name] = values.reshape(len(x), -1) if values.ndim > 1 else values
    return meshio.Mesh(x, [("vertex", np.arange(len(x))[:, None])], point_data=data)


def _spatial(values) -> np.ndarray:
    """As an array on the host; vectors of the plane get a z of zero, which file formats ask for."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return np.pad(array, ((0, 0), (0, 1))) if array.ndim == 2 and array.shape[1] == 2 else array
