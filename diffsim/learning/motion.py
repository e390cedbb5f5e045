"""Motion of particles as data: read from HDF5 files or arrays, checked, written.

A file holds ``time`` (frames,) and ``x`` (frames, n, d), each with an attribute ``units``, and perhaps ``v``, ``C``,
``F``, ``q`` per frame and ``X``, ``volume``, ``material`` once; what ``diffsim run`` writes is one.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from diffsim.errors import DataError
from diffsim.runs import atomic_write
from diffsim.trajectory_writer import UNITS, error_line

SHAPES = {"x": 1, "v": 1, "C": 2, "F": 2}  # axes of length d behind (frames, n)
LENGTHS = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
TIMES = {"s": 1.0, "ms": 1e-3}
FACTORS = {
    "time": TIMES,
    "x": LENGTHS,
    "X": LENGTHS,
    "v": {f"{length}/s": factor for length, factor in LENGTHS.items()},
    "C": {"1/s": 1.0},
    "F": {"1": 1.0},
    "q": {"1": 1.0},
    "material": {"index": 1.0},
}


@dataclass
class Motion:
    """Frames of the motion of n particles, at a constant distance in time.

    times: (frames,) [s]. x: (frames, n, d) [m]. v [m/s], C [1/s], F, q: per frame, or None where only positions are
    known. X: (n, d) rest positions [m]. volume: (n,) [m^3, in 2-D m^2]. source: the file, for messages.

    Raises:
        DataError: shapes that do not fit, a value that is not finite (naming frame and particle), frames whose times do
            not increase by a constant step, fewer than two frames.
    """

    times: Tensor
    x: Tensor
    v: Tensor | None = None
    C: Tensor | None = None
    F: Tensor | None = None
    q: Tensor | None = None
    X: Tensor | None = None
    volume: Tensor | None = None
    material: Tensor | None = None
    source: str = "motion"

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "source" and value is not None:
                setattr(self, field.name, torch.as_tensor(value))
        self.times = self.times.to(torch.float64)
        if self.x.ndim != 3 or self.x.shape[2] not in (2, 3) or self.x.shape[1] == 0:
            raise DataError(f"{self.source}: x has shape {tuple(self.x.shape)}; give (frames, particles, 2 or 3)")
        frames, count, dim = self.x.shape
        if frames < 2 or self.times.shape != (frames,):
            raise DataError(
                f"{self.source}: x has {frames} frames and time shape {tuple(self.times.shape)}; give a time for each, "
                "of two frames at least"
            )
        for name, axes in SHAPES.items():
            self._check_frames(name, (count, *[dim] * axes))
        if self.q is not None and self.q.shape[:2] != (frames, count) and self.q.numel():
            raise DataError(f"{self.source}: q has shape {tuple(self.q.shape)}; give ({frames}, {count}, variables)")
        for name, shape in {"X": (count, dim), "volume": (count,), "material": (count,)}.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise DataError(f"{self.source}: {name} has shape {tuple(value.shape)}; x needs {shape}")
        self._check_times()

    def _check_frames(self, name, shape):
        value = getattr(self, name)
        if value is None:
            return
        if value.shape[0] != len(self.times):
            raise DataError(f"{self.source}: {name} has {value.shape[0]} frames, time has {len(self.times)}")
        if value.shape[1] != shape[0]:
            raise DataError(
                f"{self.source}: {name} has {value.shape[1]} particles, x has {shape[0]}; write the same in each"
            )
        if value.shape[1:] != shape:
            raise DataError(f"{self.source}: {name} has shape {tuple(value.shape)}; x needs (frames, {shape})")
        good = torch.isfinite(value).flatten(2).all(2)
        if not good.all():
            frame, particle = (int(i) for i in (~good).nonzero()[0])
            raise DataError(
                f"{self.source}, frame {frame}, particle {particle}: {name} is not finite; repair the frame"
            )

    def _check_times(self):
        steps = self.times.diff()
        usual = steps.median()
        off = ~(
            (steps - usual).abs() <= 1e-6 * usual.abs() + 4 * torch.finfo(torch.float64).eps * self.times.abs().max()
        )
        if not usual > 0 or off.any():
            frame = int(off.nonzero()[0]) + 1 if usual > 0 else int((steps <= 0).nonzero()[0]) + 1
            raise DataError(
                f"{self.source}, frame {frame}: {steps[frame - 1]:g} s after the one before, others {usual:g} s; "
                "resample the motion to a constant frame time"
            )

    def __len__(self):
        return len(self.times)

    @property
    def interval(self) -> float:
        """Time between frames [s]."""
        return float((self.times[-1] - self.times[0]) / (len(self) - 1))

    @property
    def full(self) -> bool:
        """Whether every frame is a full state."""
        return all(value is not None for value in (self.v, self.C, self.F))

    def stride(self, dt: float) -> int:
        """Steps of dt [s] between frames.

        Raises:
            DataError: no whole number of them.
        """
        ratio = self.interval / dt
        if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-4 * ratio:
            raise DataError(
                f"{self.source}: {self.interval:g} s between frames is no whole number of steps of {dt:g} s; choose "
                "dt so that it is"
            )
        return round(ratio)

    def check(self, model, particles: int | None = None):
        """Check that a model can follow the motion.

        Raises:
            DataError: another dimension or number of particles, or a particle that leaves the grid, naming the frame.
        """
        if self.x.shape[2] != model.grid.dim:
            raise DataError(f"{self.source}: positions have {self.x.shape[2]} axes, the grid {model.grid.dim}")
        if particles is not None and particles != self.x.shape[1]:
            raise DataError(
                f"{self.source}, frame 0: {self.x.shape[1]} particles, the scene has {particles}; use the "
                "scene that the motion is of"
            )
        outside = ~model.inside(self.x.flatten(0, 1)).view(self.x.shape[:2])
        if outside.any():
            frame, particle = (int(i) for i in outside.nonzero()[0])
            place = ", ".join(f"{c:.6g}" for c in self.x[frame, particle].tolist())
            raise DataError(
                f"{self.source}, frame {frame}, particle {particle} at ({place}) m is outside the grid "
                f"{model.grid.origin} .. {model.grid.upper}; enlarge the grid or check the units"
            )


def read_motion(path, *, frames: slice = slice(None)) -> Motion:
    """Read a motion from an HDF5 file; lengths in m, cm or mm and times in s or ms become SI units.

    Raises:
        DataError: a missing or damaged file, a dataset with no units or unknown ones, and all that ``Motion`` finds.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; give an HDF5 file of a motion, such as a run's trajectory.h5")
    try:
        with h5py.File(path, "r") as file:
            values = {}
            for name in ("time", "x"):
                if name not in file:
                    raise DataError(f"{path}: no dataset {name!r}; a motion needs time (frames,) and x (frames, n, d)")
            count = len(file["time"])
            for name in ("time", "x", "v", "C", "F", "q", "X", "volume", "material"):
                if name not in file:
                    continue
                data = file[name]
                factor = _factor(path, name, data, file["x"].shape[-1])
                per_frame = name not in ("X", "volume", "material")
                if name == "q" and data.size == 0:  # no internal variables
                    value = np.zeros((count, file["x"].shape[1], 0))[frames]
                else:
                    value = data[()][frames] if per_frame else data[()]
                values[name] = torch.from_numpy(np.ascontiguousarray(value)) * (factor if factor != 1 else 1)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} is damaged or no HDF5 file ({error_line(error)}); write it again") from error
    return Motion(values.pop("time"), source=str(path), **values)


def _factor(path, name, data, dim) -> float:
    """What makes SI units of a dataset's."""
    unit = data.attrs.get("units")
    unit = unit.decode() if isinstance(unit, bytes) else unit
    known = FACTORS.get(name) or {f"{length}^{dim}": factor**dim for length, factor in LENGTHS.items()}
    if unit is None:
        raise DataError(f"{path}: dataset {name!r} has no attribute 'units'; add one of {', '.join(known)}")
    if unit not in known:
        raise DataError(f"{path}: dataset {name!r} has the units {unit!r}; use one of {', '.join(known)}")
    return known[unit]


def write_motion(path, motion: Motion) -> Path:
    """Write a motion to an HDF5 file with units, atomically; what it does not hold is left out."""
    path, dim = Path(path), motion.x.shape[2]

    def write(temporary):
        with h5py.File(temporary, "w") as file:
            for name in ("times", "x", "v", "C", "F", "q", "X", "volume", "material"):
                value = getattr(motion, name)
                if value is None:
                    continue
                name = "time" if name == "times" else name
                data = file.create_dataset(name, data=value.detach().cpu().numpy())
                data.attrs["units"] = f"m^{dim}" if name == "volume" else UNITS[name]

    atomic_write(path, write)
    return path
