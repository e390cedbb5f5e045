"""The HDF5 file of a trajectory, written frame by frame.

Layout of a file (schema 1). Attributes: ``schema``, ``dim``, ``full``, and what the writer was given. Datasets, each
with a ``units`` attribute: ``time`` (frames,); per frame x, v, C, F, q, pose, wrench; constant X, volume, material; of
a body of nodes (``models.NodalState``) per frame x, v, a, past, q, with plastic hinges crease, and
constant X;
``fields/NAME`` per frame. Particles stay in the user's order in every frame.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor

from diffsim.errors import DataError
from diffsim.runs import sync

SCHEMA = 1
UNITS = {
    "x": "m",
    "v": "m/s",
    "C": "1/s",
    "F": "1",
    "q": "1",
    "pose": "m, unit quaternion (w, x, y, z)",
    "wrench": "N, N m",
    "X": "m",
    "volume": "m^3",
    "material": "index",
    "time": "s",
}
NODAL_UNITS = {"a": "m/s^2", "past": "m, m/s", "crease": "1/m"}
FIELD_UNITS = {"stress": "Pa", "energy": "J/m^3", "plastic_strain": "1"}
MOVING = ("x", "v", "C", "F", "q", "pose", "wrench")
OBSERVED = ("x", "v", "pose", "wrench")  # what a file without full states holds per frame
CONSTANT = ("X", "volume", "material")
NODAL = ("x", "v", "a", "past", "q", "crease")  # what a file of a body of nodes holds per frame; its only constant is X
CHUNK_ROWS = 65_536  # particles per chunk: a chunk of F in f64 is then 4.7 MB


class TrajectoryWriter:
    """Writes frames to ``PATH.part``, which ``close`` renames to ``PATH``.

    Every frame is on its way to the disk when ``append`` returns, and in an order (HDF5's single-writer mode) that
    keeps the part readable when the process is killed: ``read_trajectory("PATH.part")``. Leaving a ``with`` block by
    an exception keeps the part too.

    Args:
        path: the file to be; an existing one is replaced on ``close``.
        full: keep C, F and q, which ``restart`` needs; without them a file is about a third as large.
        units: of fields that are not "stress", "energy" or "plastic_strain".
        attributes: numbers and texts to store with the file, such as the scene's name.

    Raises:
        DataError: a file that cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        full: bool = True,
        units: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ):
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".part")
        self.frames = 0
        self._full, self._units = full, {**FIELD_UNITS, **(units or {})}
        self._names = MOVING if full else OBSERVED
        self._sets: dict[str, h5py.Dataset] = {}
        try:
            # v110: the oldest format with the single-writer mode, so that other programs read the file
            self._file = h5py.File(self.partial, "w", libver=("v110", "v110"))
        except OSError as error:
            raise DataError(f"{self.partial} cannot be written ({error_line(error)}); choose another folder") from error
        self._file.attrs.update({"schema": SCHEMA, "full": full})
        for name, value in (attributes or {}).items():
            self._file.attrs[name] = value

    def append(self, state: Any, **fields: Tensor) -> None:
        """Add a frame.

        Args:
            state: an object with the attributes of ``Frame``.
            fields: further tensors of this frame by name; the same names and shapes in every frame.

        Raises:
            DataError: missing or changed names or shapes, a field without a unit, or a full disk.
        """
        frame = self.frames
        try:
            nodal = tuple(name for name in NODAL if hasattr(state, name))
            names = nodal if "past" in nodal else self._names
            rows = {name: _array(getattr(state, name)) for name in names}
            rows |= {f"fields/{name}": _array(value) for name, value in fields.items()}
            time = float(state.time)
        except AttributeError as error:
            raise DataError(f"{self.path}, frame {frame}: {error}; append a model's state") from error
        try:
            if frame == 0:
                self._start(state, rows)
            self._check(rows)
            for name, row in rows.items():
                self._put(name, row)
            self._put("time", time)  # last: a frame counts when its time is there
        except OSError as error:
            raise DataError(
                f"{self.path}, frame {frame} cannot be written ({error_line(error)}); free some space"
            ) from error
        self.frames += 1

    def close(self) -> Path:
        """Finish the file under its own name.

        Raises:
            DataError: no frame was written.
        """
        if not self._file:
            return self.path
        self._file.close()
        if self.frames == 0:
            self.partial.unlink(missing_ok=True)
            raise DataError(f"{self.path} would hold no frame; append at least one")
        sync(self.partial)
        os.replace(self.partial, self.path)
        sync(self.path.parent)
        return self.path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self.close()
        else:
            self._file.close()

    def _start(self, state, rows) -> None:
        dim = rows["x"].shape[1]
        self._file.attrs["dim"] = dim
        units = UNITS | NODAL_UNITS | {"volume": f"m^{dim}"}
        for name in CONSTANT if "past" not in rows else ("X",):
            self._file.create_dataset(name, data=_array(getattr(state, name))).attrs["units"] = units[name]
        for name, row in rows.items():
            unit = units.get(name) or self._units.get(name.removeprefix("fields/"))
            if unit is None:
                raise DataError(f"field {name.removeprefix('fields/')!r} has no unit; give units={{name: unit}}")
            self._create(name, row).attrs["units"] = unit
        self._create("time", np.zeros((), dtype=np.float64)).attrs["units"] = units["time"]
        self._file.swmr_mode = True  # from here on no new names, and a reader sees whole writes only

    def _create(self, name, row):
        if row.size == 0:  # no internal variables or no tools: HDF5 has no empty chunk, the shape is all there is
            self._file.create_dataset(name, shape=row.shape, dtype=row.dtype)
            return self._file[name]
        chunk = (1, min(row.shape[0], CHUNK_ROWS), *row.shape[1:]) if row.ndim else (256,)
        # positions are what readers fetch most and what compresses best
        options = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if name == "x" else {}
        self._sets[name] = self._file.create_dataset(
            name, shape=(0, *row.shape), maxshape=(None, *row.shape), chunks=chunk, dtype=row.dtype, **options
        )
        return self._sets[name]

    def _check(self, rows) -> None:
        expected = {name for name in self._file if name in MOVING or name in NODAL} | {
            f"fields/{n}" for n in self._file.get("fields", ())
        }
        if set(rows) != expected:
            changed = ", ".join(sorted(set(rows) ^ expected))
            raise DataError(f"{self.path}, frame {self.frames}: {changed} not in every frame; append the same fields")
        for name, row in rows.items():
            shape = self._sets[name].shape[1:] if name in self._sets else self._file[name].shape
            if row.shape != shape:
                raise DataError(
                    f"{self.path}, frame {self.frames}: {name} has the shape {row.shape}, frame 0 has {shape}; "
                    "write runs with other particles or tools to another file"
                )

    def _put(self, name, row) -> None:
        if name in self._sets:
            dataset = self._sets[name]
            dataset.resize(self.frames + 1, axis=0)
            dataset[self.frames] = row
            dataset.flush()


def error_line(error: Exception) -> str:
    """The text of an error on one line."""
    return " ".join(str(error).split())


def _array(value) -> np.ndarray:
    return value.detach().cpu().contiguous().numpy() if isinstance(value, Tensor) else np.asarray(value)
