"""Run folders: what was run (``run.json``), how it went (``metrics.jsonl``), and files that are never half-written."""

import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffsim.errors import DataError
from diffsim.kernels.arrays import context
from diffsim.kernels.lang import LANGUAGE

SCHEMA = 1
# what a run writes, and all that ``overwrite`` may remove
CONTENT = (
    "run.json",
    "metrics.jsonl",
    "trajectory.h5",
    "trajectory.h5.part",
    "trajectory.pvd",
    "frames",
    "video.mp4",
    "loss.png",
    "curves.png",
    "invariants.png",
    "report.json",
    "motion.h5",
    "law.safetensors",
    "last.png",
    "last.ply",
    "best.safetensors",
    "controls.csv",
    "controls.npy",
    "controls.png",
    "joints.csv",
    "joints.yaml",
    "joints.json",
    "checkpoints",
    "tensorboard",
)


def atomic_write(path: str | Path, content: bytes | str | Callable[[Path], Any]) -> None:
    """Write a file that is either the old one or wholly the new one, whenever the process dies.

    A temporary file in the same folder (a rename is atomic within one file system only), fsync, rename, fsync of the
    folder.

    Args:
        content: the bytes, a text (UTF-8), or a function that writes the file at the path it is given (which has the
            suffix of ``path``).

    Raises:
        DataError: the folder is missing or cannot be written. What ``content`` raises passes through; in either case
            ``path`` is as before and no temporary file is left.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(name)
    try:
        os.close(handle)
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are for their owner only
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file or a folder's list of names to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # a folder cannot be opened there, and the file system journals renames
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RunFolder:
    """The folder of one run.

    Args:
        out: the folder; made with its parents when missing.
        overwrite: empty an earlier run's folder first. Only what a run writes is removed.
        resume: go on in an earlier run's folder, which must hold ``run.json``.

    Raises:
        DataError: not a folder, not writable, not empty (without ``overwrite`` or ``resume``), or not a run.
    """

    def __init__(self, out: str | Path, *, overwrite: bool = False, resume: bool = False):
        self.path = Path(out).expanduser()
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path} is a file; choose another folder with --out")
        entries = sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []
        if resume:
            if "run.json" not in entries:
                raise DataError(f"{self.path} holds no run.json, so there is nothing to resume; check the folder")
        elif entries and not overwrite:
            raise DataError(
                f"{self.path} is not empty ({entries[0]}, ...); choose another folder with --out, or replace "
                "an earlier run with --overwrite"
                + (f", or go on with: diffsim resume {self.path}" if "checkpoints" in entries else "")
            )
        elif entries and "run.json" not in entries:
            raise DataError(f"{self.path} holds files but no run.json: not a run's folder, so it is not overwritten")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise _unwritable(self.path, error) from error
        if overwrite and not resume:
            self._empty()
        if resume:
            self.trim_metrics()

    def _empty(self) -> None:
        # run.json last: a folder whose removal was interrupted is still known as a run's
        for name in reversed(CONTENT):
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def trajectory_path(self) -> Path:
        return self.path / "trajectory.h5"

    def write_run(self, scene: str, options: dict[str, Any], *, seed: int | None = None, **more: Any) -> None:
        """Write ``run.json``: what is needed to run this again.

        Args:
            scene: name or path of the scene.
            options: what the scene was built with; numbers, texts, lists, tensors and paths.
            seed: of every random number of the run.
            more: further entries, such as the method of an optimization.

        Raises:
            DataError: an entry that JSON cannot hold.
        """
        run = {
            "schema": SCHEMA,
            "scene": scene,
            "options": options,
            "seed": seed,
            "device": context.device,
            "precision": context.precision,
            "threads": context.threads,
            "language": LANGUAGE,
            "versions": versions(),
            **more,
        }
        entries = {key: plain(value, key) for key, value in run.items()}
        atomic_write(self.path / "run.json", json.dumps(entries, indent=2) + "\n")

    def read_run(self) -> dict[str, Any]:
        """The content of ``run.json``; see ``read_run``."""
        return read_run(self.path)

    def log(self, **metrics: Any) -> None:
        """Append one line to ``metrics.jsonl`` and bring it to the disk.

        Infinite and undefined numbers are written as ``Infinity`` and ``NaN``, as Python's ``json`` reads them.
        """
        line = json.dumps({key: plain(value, key) for key, value in metrics.items()}) + "\n"
        try:
            with open(self.metrics_path, "a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.metrics_path, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of ``metrics.jsonl``; see ``read_metrics``."""
        return read_metrics(self.metrics_path)

    def trim_metrics(self, lines: int | None = None) -> None:
        """Cut ``metrics.jsonl`` to its whole lines, or to its first ``lines``.

        A resumed run goes on from its last checkpoint and writes the lines after it again.
        """
        if self.metrics_path.exists():
            content, _ = _whole_lines(self.metrics_path)
            kept = content.splitlines(keepends=True)[:lines]
            atomic_write(self.metrics_path, b"".join(kept))


def read_run(folder: str | Path) -> dict[str, Any]:
    """The content of a run's ``run.json``.

    Raises:
        DataError: missing, not JSON, or of another schema.
    """
    path = Path(folder) / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; give the folder of a run") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the scene again") from error
    if not isinstance(run, dict) or run.get("schema") != SCHEMA:
        found = run.get("schema") if isinstance(run, dict) else None
        raise DataError(f"{path} has schema {found}, this diffsim reads {SCHEMA}; use the version that wrote it")
    return run


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line torn by a crash is left out.

    Raises:
        DataError: missing, or a broken line before the last.
    """
    path = Path(path)
    try:
        return _whole_lines(path)[1]
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; the run has not written a metric") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check its permissions") from error


def _whole_lines(path: Path) -> tuple[bytes, list[dict[str, Any]]]:
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()  # torn: a whole line ends in a line break
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                lines = lines[:-1]  # the disk kept the line break but not all before it
                break
            raise DataError(f"{path}, line {number} is not JSON; remove the line or restore the file") from error
    return b"".join(lines), rows


def versions() -> dict[str, str]:
    """Versions of diffsim, of what it computes with, and of Python."""
    found = {"python": platform.python_version()}
    for package in ("diffsim", "torch", "numpy", LANGUAGE):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def plain(value: Any, name: str) -> Any:
    """``value`` in the types of JSON."""
    if isinstance(value, dict):
        return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # torch tensors, numpy arrays and numpy numbers
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DataError(f"{name} is a {type(value).__name__}, which run files cannot hold; use numbers, texts or lists")


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be written: {error.strerror or error}; choose another folder with --out")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
