"""Trajectories in HDF5 files: written, read back and restarted from; ``trajectory_writer`` says what is in a file."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor

from diffsim.errors import DataError
from diffsim.trajectory_writer import CONSTANT, MOVING, NODAL, SCHEMA, TrajectoryWriter, error_line

__all__ = ["Frame", "Recording", "TrajectoryWriter", "frames_of", "read_trajectory", "restart", "write_trajectory"]


class Frame(NamedTuple):
    """One frame, with the names and shapes of a model's state; what the file does not hold is None."""

    x: Tensor
    v: Tensor
    C: Tensor | None
    F: Tensor | None
    q: Tensor | None
    pose: Tensor | None
    wrench: Tensor | None
    X: Tensor
    volume: Tensor | None
    material: Tensor | None
    time: Tensor


@dataclass
class Recording:
    """Frames of a file; ``recording[i]`` is a ``Frame``.

    Attributes:
        times: (frames,) [s].
        data: x, v, ... with the frames first, and X, volume, material; also as attributes: ``recording.x``.
        fields: optional fields by name, frames first.
        units: by name.
        attributes: what the writer was given.
        complete: False for the part that an interrupted run left.
    """

    times: Tensor
    data: dict[str, Tensor]
    fields: dict[str, Tensor] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    complete: bool = True

    def __getattr__(self, name):
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(f"the recording holds no {name}") from None

    def __len__(self):
        return len(self.times)

    def __getitem__(self, index: int) -> Frame:
        moving = {name: self.data[name][index] if name in self.data else None for name in MOVING}
        return Frame(**moving, **{name: self.data.get(name) for name in CONSTANT}, time=self.times[index])


def write_trajectory(
    path: str | Path,
    trajectory: Any,
    *,
    fields: Mapping[str, Any] | None = None,
    full: bool = True,
    units: Mapping[str, str] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a trajectory, a recording, or any iterable of states to an HDF5 file, atomically.

    Args:
        fields: optional fields by name, indexed by frame: "stress" (n, d, d) [Pa], "energy" (n,) [J/m^3], ...

    See ``TrajectoryWriter`` for the other arguments and the errors.
    """
    with TrajectoryWriter(path, full=full, units=units, attributes=attributes) as writer:
        for index, state in enumerate(frames_of(trajectory)):
            writer.append(state, **{name: values[index] for name, values in (fields or {}).items()})
    return writer.path


def frames_of(source: Any) -> Iterator[Any]:
    """The states of a trajectory, a recording, a file (one frame in memory at a time), or an iterable of states."""
    if isinstance(source, str | Path):
        for index in range(_frame_count(source)):
            yield read_trajectory(source, frames=slice(index, index + 1))[0]
    elif isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
        yield from source
    else:
        yield from (source[index] for index in range(len(source)))


def read_trajectory(path: str | Path, *, frames: slice = slice(None)) -> Recording:
    """Read a trajectory file, or the ``.part`` of an interrupted run.

    Args:
        frames: which frames; all of them by default.

    Raises:
        DataError: the file is missing, damaged, or of another schema.
    """
    path = Path(path)
    with _opened(path) as file:
        count = _whole_frames(file)
        chosen = range(count)[frames]
        moving = [name for name in dict.fromkeys((*MOVING, *NODAL)) if name in file]
        constant = ("X",) if "past" in file else CONSTANT
        data = {name: _read(file[name], chosen) for name in moving}
        data |= {name: torch.from_numpy(file[name][()]) for name in constant}
        fields = {name: _read(values, chosen) for name, values in file.get("fields", {}).items()}
        units = {name: file[name].attrs["units"] for name in (*moving, *constant, "time")}
        units |= {name: file["fields"][name].attrs["units"] for name in fields}
        attributes = {key: value for key, value in file.attrs.items() if key not in ("schema", "dim", "full")}
        return Recording(_read(file["time"], chosen), data, fields, units, attributes, path.suffix != ".part")


def restart(path: str | Path, frame: int = -1, *, dtype: torch.dtype | None = None) -> Frame:
    """The full state of one frame, from which a run goes on: ``State(*restart(path))``.

    Args:
        frame: index; negative ones count from the end.
        dtype: precision of the tensors; None keeps the file's.

    Raises:
        DataError: as ``read_trajectory``; no such frame; or a file without full states.
    """
    count = _frame_count(path)
    if not -count <= frame < count:
        raise DataError(f"{path} has {count} frames, so there is no frame {frame}; use 0 to {count - 1}")
    state = read_trajectory(path, frames=slice(frame % count, frame % count + 1))[0]
    if state.F is None:
        raise DataError(f"{path} holds positions and velocities only; write it with full=True to restart from it")
    if dtype is not None:
        state = Frame(*(value.to(dtype) if value.is_floating_point() else value for value in state))
    return state


def _frame_count(path) -> int:
    with _opened(Path(path)) as file:
        return _whole_frames(file)


def _whole_frames(file) -> int:
    count = len(file["time"])
    if count == 0:
        raise OSError("no whole frame in it")
    return count


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The file, checked for its schema; every error of HDF5 in the block becomes a DataError."""
    if not path.is_file():
        part = path.with_name(path.name + ".part")
        hint = f"an interrupted run left {part}, read that" if part.is_file() else "check the path"
        raise DataError(f"{path} does not exist; {hint}")
    try:
        with h5py.File(path, "r", swmr=path.suffix == ".part") as file:
            schema = file.attrs.get("schema")
            if schema != SCHEMA:
                raise DataError(
                    f"{path} has schema {schema}, this diffsim reads {SCHEMA}; use the version that wrote it"
                )
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} is damaged or not a trajectory ({error_line(error)}); write it again") from error


def _read(dataset, chosen: range) -> Tensor:
    if dataset.maxshape[0] is None:
        # h5py reads forward only
        values = dataset[chosen.start : chosen.stop : chosen.step] if chosen.step > 0 else dataset[()][list(chosen)]
        return torch.from_numpy(values)
    return torch.from_numpy(np.zeros((len(chosen), *dataset.shape), dtype=dataset.dtype))  # empty: see _create
