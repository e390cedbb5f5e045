"""``evaluate``: motions with learned laws against those with the true one, test by test."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from diffsim.errors import DataError, DiffsimError, SceneError, SimulationError
from diffsim.learning.law_file import about_law, load_law
from diffsim.learning.table import read_cells, write_tables
from diffsim.progress import Progress
from diffsim.scene import Scene

FRAME = 5  # steps between the frames that the error is a mean over, as published


@dataclass(frozen=True)
class Trial:
    """A scene whose motion a law is judged by.

    name: of the test. material: of the row. build: () -> Scene, with the true laws. materials: names of the model's
    materials, each of which takes the law that was learned of it; None takes a law of any.
    """

    name: str
    material: str
    build: Callable[[], Scene]
    materials: tuple[str | None, ...]


@dataclass(frozen=True)
class Learned:
    """The laws that one method has learned: material name -> file; None is one that serves any material."""

    name: str
    files: dict[str | None, Path]

    def of(self, names: tuple) -> list[Path] | None:
        """The file for each material of a trial; None where one is missing."""
        found = [
            next(iter(self.files.values()), None) if name is None else self.files.get(name, self.files.get(None))
            for name in names
        ]
        return None if None in found else found


@dataclass(frozen=True)
class Cell:
    """What one law's motion in one trial came to.

    error: mean over the frames (every 5th step, the first included) of the mean squared coordinate error over particles
    and axes [m^2]; of the frames before it broke down, if it did. cells: its square root in cells of the grid. broken:
    the step at which the simulation broke down, or None. note: why there is no number, or what broke. key: what the
    cell depends on.
    """

    test: str
    material: str
    law: str
    error: float | None
    cells: float | None
    broken: int | None
    note: str
    steps: int
    particles: int
    key: str

    def __str__(self):
        if self.broken is not None:
            return f"broken at step {self.broken}"
        return self.note if self.error is None else f"{self.error:.2e}"


def learned(files) -> list[Learned]:
    """Files of laws by method and material.

    Args:
        files: paths of ``law.safetensors``, or NAME=PATH for a method's name other than the kind of law in the file.
            The material is that which the file says it was learned from.

    Raises:
        DataError: a file that holds no law, or two of one method and material.
    """
    methods: dict[str, dict] = {}
    for given in files:
        name, equals, path = str(given).rpartition("=")
        about = about_law(path)
        name = name if equals else about.get("law", Path(path).resolve().parent.name)
        material = about.get("learned_of")
        others = methods.setdefault(name, {})
        if material in others:
            raise DataError(f"{path} and {others[material]} are both {name} of {material}; name one as NAME=FILE")
        others[material] = Path(path)
    return [Learned(name, of) for name, of in methods.items()]


def evaluate(
    trials: list[Trial],
    laws: list[Learned],
    *,
    steps: int | None = None,
    out: str | Path | None = None,
    video: bool = False,
    progress: bool = False,
) -> list[Cell]:
    """Run every trial with the true law and with each method's, and compare the positions.

    What has been found is written after each cell, as ``evaluation.json``, ``.csv``, ``.md`` and ``.png`` in ``out``; a
    cell found there that was made with the same laws, scene and steps is not computed again. A motion that breaks down
    is a cell that says when, not an error, and so is a scene that cannot be built.

    Args:
        steps: steps of dt, when other than the trial's.
        video: also write a video for each cell: true, learned, and learned colored by the error.

    Returns:
        A cell for each trial and method.

    Raises:
        DataError: a law that cannot be read, or an ``out`` that cannot be written.
        SceneError: no law, or no trial.
    """
    if not laws or not trials:
        raise SceneError("nothing to evaluate: give a law and a test of its material")
    out = None if out is None else Path(out)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    known = read_cells(out)
    cells, done = [], 0
    with Progress("evaluate", len(trials) * len(laws), enabled=progress) as shown:
        for trial in trials:
            true = None
            for law in laws:
                files = law.of(trial.materials)
                key = fingerprint(trial, files, steps)
                cell = known.get(key)
                if cell is not None:
                    cell = Cell(**cell)
                elif files is None:
                    cell = empty(trial, law, "no law", key)
                else:
                    true = true or Reference(trial, steps)
                    name = None if out is None or not video else f"{trial.name}-{trial.material}-{law.name}.mp4"
                    cell = true.compare(law, files, key, None if name is None else out / name)
                cells.append(cell)
                done += 1
                shown.update(done, error=math.nan if cell.error is None else cell.error)
                if out is not None:
                    write_tables(out, [asdict(c) for c in cells], cells)
    return cells


def empty(trial: Trial, law: Learned, note: str, key: str) -> Cell:
    return Cell(trial.name, trial.material, law.name, None, None, None, note, 0, 0, key)


def fingerprint(trial: Trial, files, steps) -> str:
    """A text that changes with the laws' files, the trial and the steps."""
    digest = hashlib.sha256(repr((trial.name, trial.material, trial.materials, options(trial), steps)).encode())
    for file in files or ():
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def options(trial: Trial):
    """What the trial's scene is built with, where it says so."""
    return sorted(getattr(trial.build, "keywords", {}).items(), key=str)


class Reference:
    """The motion of a trial with its true laws; what prevents it is kept for the cells."""

    def __init__(self, trial: Trial, steps: int | None):
        self.trial, self.note, self.path = trial, "", None
        try:
            self.scene = trial.build()
            model = self.scene.model
            if len(trial.materials) != len(model.materials):
                raise SceneError(f"the scene has {len(model.materials)} materials, the test {len(trial.materials)}")
            self.substeps = model.substeps
            self.count = (steps or self.scene.steps * self.substeps) // self.substeps
            with torch.no_grad():
                self.start = self.scene.start()
            self.path, self.broken, self.note = simulate(model, self.start, self.count)
        except DiffsimError as error:
            self.note = short(error)
            return
        if self.broken is not None:
            self.note = f"the true law breaks at step {self.broken}: {self.note}"
            self.path = None

    def compare(self, law: Learned, files: list[Path], key: str, video: Path | None) -> Cell:
        """The cell of one method."""
        trial = self.trial
        if self.path is None:
            return empty(trial, law, self.note, key)
        model = self.scene.model
        parts = [load_law(file, density=old.density) for file, old in zip(files, model.materials, strict=True)]
        other = model.with_materials(parts)
        state, controls = self.start
        with torch.no_grad():
            blank = other.initial_state(state.x, volume=state.volume, material=state.material)
        path, broken, note = simulate(other, (state._replace(q=blank.q), controls), self.count)
        error = mean_square(self.path[: len(path)], path, self.substeps)
        if video is not None and len(path) > 1:
            from diffsim.learning.side_by_side import draw

            draw(self.scene, self.path, path, video, f"{trial.name}, {trial.material}: {law.name}")
        size = math.sqrt(error) / model.grid.dx
        steps, particles = self.count * self.substeps, len(state.x)
        return Cell(trial.name, trial.material, law.name, error, size, broken, note, steps, particles, key)


@torch.no_grad()
def simulate(model, start, count: int):
    """Positions (frames, n, d) after each control step; the step of dt at which it broke down, or None, and how."""
    state, controls = start
    frames, broken, note = [state.x.cpu().numpy()], None, ""
    for step in range(count):
        try:
            control = controls(state, step) if callable(controls) else None if controls is None else controls[step]
            state = model(state, control)
        except SimulationError as error:
            broken, note = step * model.substeps, short(error)
            break
        frames.append(state.x.cpu().numpy())
    return np.stack(frames), broken, note


def mean_square(true: np.ndarray, other: np.ndarray, substeps: int) -> float:
    """Mean over every 5th step's frame of the mean squared coordinate error [m^2]."""
    every = max(1, FRAME // substeps)
    difference = other[::every].astype(np.float64) - true[::every]
    return float(np.square(difference).mean())


def short(error: Exception) -> str:
    """The first line of an error."""
    return str(error).splitlines()[0][:200]
