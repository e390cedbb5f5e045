"""Trajectories of joints in files: CSV, and the ROS 2 message trajectory_msgs/JointTrajectory as YAML or JSON.

The message has the fields that ROS 2 documents: ``header`` (stamp, frame_id), ``joint_names``, and ``points`` with
``positions``, ``velocities``, ``accelerations``, ``effort`` and ``time_from_start`` (sec, nanosec). Positions are
read back to the last bit, times of messages to the nanosecond that they are given in.
"""

import csv
import io
import json
from pathlib import Path

import numpy as np

from diffsim.errors import DataError, SceneError
from diffsim.runs import atomic_write

FORMATS = (".csv", ".yaml", ".yml", ".json")
NANO = 1_000_000_000


class JointTrajectory:
    """Positions of joints at times.

    Args:
        joints: their names.
        times: [s], (points,), each later than the one before.
        positions: [rad, m], (points, joints).

    Raises:
        DataError: shapes that do not fit, times that do not increase, numbers that are not finite.
    """

    def __init__(self, joints, times, positions):
        self.joints, self.times = list(joints), np.asarray(times, dtype=float)
        self.positions = np.asarray(positions, dtype=float)
        if self.positions.ndim != 2 or self.positions.shape != (len(self.times), len(self.joints)):
            raise DataError(
                f"positions have shape {self.positions.shape}; {len(self.times)} times and {len(self.joints)} joints "
                f"need ({len(self.times)}, {len(self.joints)})"
            )
        if not len(self.times) or not (np.diff(self.times) > 0).all():
            raise DataError("the times of a joint trajectory must increase, and be at least one; sort its points")
        finite = np.isfinite(self.positions).all(1) & np.isfinite(self.times)
        if not finite.all():
            raise DataError(f"point {int((~finite).argmax())} of the joint trajectory is not finite; correct it")

    def __len__(self):
        return len(self.times)

    def velocities(self) -> np.ndarray:
        """Central differences of the positions, 0 at both ends, as a controller that interpolates by splines wants."""
        found = np.zeros_like(self.positions)
        if len(self) > 2:
            found[1:-1] = (self.positions[2:] - self.positions[:-2]) / (self.times[2:] - self.times[:-2])[:, None]
        return found

    def message(self, frame: str = "") -> dict:
        """The content of a trajectory_msgs/JointTrajectory.

        Raises:
            DataError: points less than a nanosecond apart, the unit of its times.
        """
        stamps = [round(time * NANO) for time in self.times]
        for k in range(1, len(stamps)):
            if stamps[k] <= stamps[k - 1]:
                raise DataError(
                    f"points {k - 1} and {k} of the joint trajectory, {self.times[k] - self.times[k - 1]:.3g} s apart, "
                    "have the same time in a message of nanoseconds; resample it, or write a .csv file"
                )
        points = []
        for nanoseconds, row, speed in zip(stamps, self.positions, self.velocities(), strict=True):
            points.append(
                {
                    "positions": row.tolist(),
                    "velocities": speed.tolist(),
                    "accelerations": [],
                    "effort": [],
                    "time_from_start": {"sec": nanoseconds // NANO, "nanosec": nanoseconds % NANO},
                }
            )
        header = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": frame}
        return {"header": header, "joint_names": self.joints, "points": points}

    def write(self, path: str | Path, frame: str = "") -> Path:
        """Write a file of the format that its suffix names: .csv, .yaml or .json.

        Args:
            frame: ``frame_id`` of the message.

        Raises:
            DataError: another suffix, a folder that cannot be written, or points too close for a message.
        """
        path = Path(path)
        suffix = _suffix(path)
        if suffix == ".csv":
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["time", *self.joints])
            for time, row in zip(self.times.tolist(), self.positions.tolist(), strict=True):
                writer.writerow([repr(value) for value in (time, *row)])
            content = text.getvalue()
        elif suffix == ".json":
            content = json.dumps(self.message(frame), indent=1) + "\n"
        else:
            content = _yaml().safe_dump(self.message(frame), sort_keys=False, default_flow_style=None, width=1000)
        atomic_write(path, content)
        return path


def read_joint_trajectory(path: str | Path) -> JointTrajectory:
    """Read what ``JointTrajectory.write`` wrote, or a message of the same form.

    Raises:
        DataError: a file that is missing, of another format, or whose content does not fit, naming the point.
    """
    path = Path(path)
    suffix = _suffix(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); check the path") from error
    try:
        if suffix == ".csv":
            rows = list(csv.reader(io.StringIO(text)))
            header, values = rows[0], np.array([[float(word) for word in row] for row in rows[1:]])
            return JointTrajectory(header[1:], values[:, 0], values[:, 1:])
        content = json.loads(text) if suffix == ".json" else _yaml().safe_load(text)
        times = []
        for point in content["points"]:
            stamp = point["time_from_start"]
            times.append((stamp["sec"] * NANO + stamp["nanosec"]) / NANO)
        return JointTrajectory(content["joint_names"], times, [point["positions"] for point in content["points"]])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (KeyError, IndexError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise DataError(f"{path} is no joint trajectory ({what}); write one with JointTrajectory.write") from error
    except Exception as error:  # of the YAML parser, whose errors share no built-in base
        where = str(error).replace("\n", " ")
        raise DataError(f"{path} is no joint trajectory ({where}); correct the file") from error


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"{path}: a joint trajectory is a .csv, .yaml or .json file; give one of these suffixes")
    return path.suffix.lower()


def _yaml():
    try:
        import yaml
    except ImportError as error:
        raise SceneError("YAML files need an extra; run: pip install 'diffsim[robots]'") from error
    return yaml
