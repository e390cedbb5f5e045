"""``fit``: train a law so that a scene moves as recorded; an interrupted fit resumes bit for bit."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from diffsim.errors import DataError, SceneError
from diffsim.learning.candidates import candidate, settled
from diffsim.learning.law_file import save_law
from diffsim.learning.motion import Motion, read_motion, write_motion
from diffsim.learning.segments import Segments
from diffsim.learning.trainer import Trainer
from diffsim.materials.material import Material
from diffsim.progress import Progress
from diffsim.runs import RunFolder
from diffsim.scene import Scene


@dataclass(frozen=True)
class Fit:
    """What a fit has found.

    material: with the trained laws, of the last epoch. loss: of the last epoch, before its update. history: a record
    per epoch. folder: of the run, or None. reason: why it stopped. deviations: learned against true stress along the
    paths of the report, or empty.
    """

    material: Material
    loss: float
    history: list[dict]
    folder: Path | None
    reason: str
    deviations: dict


@dataclass(frozen=True)
class Settings:
    """What a fit's result depends on; frozen in ``run.json``."""

    law: str
    epochs: int
    first: float
    last: float
    positions_only: bool
    seed: int
    steps: int | None
    clip: float
    lr_elastic: float | None
    lr_plastic: float | None
    data: str | None
    patience: int | None
    memory: str  # it decides where segments are cut, and with that the order of sums
    updates: int = 1


def fit(
    scene: Scene,
    motion: Motion | str | Path | None = None,
    law: str = "neural",
    *,
    epochs: int = 300,
    segments: Segments | None = None,
    positions_only: bool = False,
    steps: int | None = None,
    lr_elastic: float | None = None,
    lr_plastic: float | None = None,
    clip: float = 0.1,
    updates: int = 1,
    patience: int | None = None,
    seed: int = 0,
    memory: str = "1GiB",
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    progress: bool = False,
    callback: Callable[[dict], None] | None = None,
) -> Fit:
    """Train a law on one motion.

    An epoch runs every segment of the motion once and differentiates 1e4 n/T times the sum over the T frames of the
    mean squared coordinate error. After each share of the segments, or after all of them, Adam takes a step for each
    network, with its gradient's norm clipped and a rate that falls to zero as a cosine. A segment in which the
    simulation breaks down is halved in that epoch. Memory does not grow with the horizon: a segment that does not fit
    is cut into pieces that are computed again in backward.

    Args:
        scene: the one that the motion is of: grid, walls, gravity, density; its law is the true one. It must have one
            material and no tools.
        motion: the data, or a file; None simulates the scene.
        law: see ``diffsim.learning.candidates``.
        segments: the curriculum, in steps of the model; 25 to 200 unless given.
        positions_only: use positions alone; see ``diffsim.learning.segments.begin``.
        steps: frames of the motion to use behind the first; all unless given.
        lr_elastic, lr_plastic: learning rates; the law's usual ones unless given.
        clip: largest norm of the gradient of a network.
        updates: Adam steps of an epoch, each on its share of the segments; 1 as published. More learn faster.
        patience: stop after so many epochs without a lower error among those with as many segments.
        memory: for the differentiated steps.
        tensorboard: also write what ``metrics.jsonl`` holds to the run's folder ``tensorboard``.
        out, resume, overwrite: as for ``diffsim.optimize``.

    Raises:
        SceneError: a scene, law or option that does not fit.
        DataError: a motion that does not fit, naming file, frame and particle.
        GradientError, SimulationError: naming the epoch; what was written before stays.
    """
    if epochs < 1:
        raise SceneError(f"epochs is {epochs}; give at least 1")
    if not clip > 0:
        raise SceneError(f"clip is {clip}; give a positive norm")
    if updates < 1:
        raise SceneError(f"updates is {updates}; give at least 1")
    segments = segments or Segments()
    data = str(Path(motion).absolute()) if isinstance(motion, str | Path) else None
    settings = Settings(
        law, epochs, segments.first, segments.last, positions_only, seed, steps, clip, lr_elastic, lr_plastic, data,
        patience, memory, updates,
    )  # fmt: skip
    model, blank, true = parts(scene)
    folder = open_folder(scene, settings, out, resume, overwrite)
    motion = recorded(scene, motion, folder, resume)
    motion.check(model, len(blank.x))
    stride = motion.stride(model.dt)
    frames = len(motion) - 1 if steps is None else steps
    if not 1 <= frames < len(motion):
        raise SceneError(f"steps is {steps}; the motion has {len(motion) - 1} frames behind the first")
    chosen = candidate(
        law, true, density=true.density.detach(), dim=model.grid.dim, dt=model.dt, seed=seed, elastic=lr_elastic,
        plastic=lr_plastic,
    )  # fmt: skip
    trained = model.with_materials([chosen.material])
    blank = fresh(trained, blank)
    trainer = Trainer(
        trained, blank, motion, stride, frames, chosen, settings, folder, board(folder) if tensorboard else None
    )
    with Progress(f"fit {scene.name}", epochs, enabled=progress) as shown:
        reason = trainer.run(shown, callback)
    deviations = {}
    if folder is not None:
        from diffsim.learning.report import write_report

        about = {
            "law": law,
            "scene": scene.name,
            "epochs": len(trainer.history),
            "loss": trainer.history[-1]["loss"],
            "learned_of": scene.options.get("material"),
        }
        save_law(folder.path / "law.safetensors", settled(chosen.material), **about)
        deviations = write_report(folder, chosen.material, true, motion, model.dt)
    return Fit(
        chosen.material, trainer.history[-1]["loss"], trainer.history, folder and folder.path, reason, deviations
    )


def board(folder):
    """A function that writes an epoch's record for TensorBoard.

    Raises:
        SceneError: no run folder, or TensorBoard is not installed.
    """
    if folder is None:
        raise SceneError("tensorboard=True needs out=, the folder of the fit")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SceneError("--tensorboard needs an extra; run: pip install 'diffsim[tensorboard]'") from error

    writer = SummaryWriter(str(folder.path / "tensorboard"))

    def log(record):
        for name, value in record.items():
            if name not in ("epoch", "iteration"):
                writer.add_scalar(name, value, record["epoch"])
        writer.flush()

    return log


def parts(scene: Scene):
    """The scene's model, its state at the start, and its material.

    Raises:
        SceneError: several materials, or tools.
    """
    model = scene.model
    if len(model.materials) != 1 or len(model.tools):
        raise SceneError(f"scene {scene.name!r} has {len(model.materials)} materials and {len(model.tools)} tools; "
                         "a law is learned from a scene of one material without tools")  # fmt: skip
    with torch.no_grad():
        state, _ = scene.start()
    return model, state, model.materials[0]


def fresh(model, state):
    """A state of the trained model where the scene's begins."""
    return model.initial_state(state.x, v=state.v, volume=state.volume, F=state.F, C=state.C)


@torch.no_grad()
def recorded(scene: Scene, motion, folder, resume: bool) -> Motion:
    """The motion: given, read, kept in the folder by the interrupted run, or simulated."""
    if isinstance(motion, Motion):
        return motion
    if motion is not None:
        return read_motion(motion)
    kept = None if folder is None else folder.path / "motion.h5"
    if kept is not None and kept.exists() and resume:
        return read_motion(kept)
    path = scene.rollout()
    last = path[-1]
    motion = Motion(
        path.times, path.x, path.v, path.C, path.F, path.q, last.X, last.volume, last.material, source=scene.name
    )
    if kept is not None:
        write_motion(kept, motion)
    return motion


def open_folder(scene, settings: Settings, out, resume: bool, overwrite: bool) -> RunFolder | None:
    """The run folder, with ``run.json``.

    Raises:
        SceneError: a resumed fit with other settings, or in the folder of another command.
    """
    if out is None:
        if resume:
            raise SceneError("resume=True needs out=, the folder of the fit")
        return None
    continued = resume and (Path(out) / "run.json").exists()
    folder = RunFolder(out, resume=continued, overwrite=overwrite and not continued)
    if continued:
        begun = folder.read_run()
        if begun.get("command") != "fit":
            raise SceneError(f"{out} holds no fit; choose another folder")
        usual = {field.name: field.default for field in fields(Settings)}  # of a fit begun before there was the setting
        for name, value in asdict(settings).items():
            if begun["fit"].get(name, usual[name]) != value and name != "patience":
                raise SceneError(
                    f"the fit was begun with {name}={begun['fit'].get(name)}, not {value}; use that or another folder"
                )
    options = scene.options if scene.source is not None else {}
    folder.write_run(
        scene.source or scene.name, options, seed=settings.seed, command="fit", fit=asdict(settings),
        loadable=scene.source is not None,
    )  # fmt: skip
    return folder


def resume_fit(folder, *, progress: bool = False) -> tuple[Scene, Fit]:
    """Continue an interrupted fit; device, precision, scene and settings are those of ``run.json``.

    Raises:
        DataError, SceneError: no folder of a fit, or a scene that was built in Python.
    """
    from diffsim.runs import read_run
    from diffsim.runtime import init
    from diffsim.scripts import load

    run = read_run(folder)
    if run.get("command") != "fit":
        raise DataError(f"{folder} holds no fit")
    if not run["loadable"]:
        raise SceneError(f"the scene of {folder} was built in Python; there, call fit(scene, ..., resume=True)")
    init(device=run["device"], precision=run["precision"])
    settings = dict(run["fit"])
    plan = Segments(settings.pop("first"), settings.pop("last"))
    scene = load(run["scene"], **run["options"])
    data = settings.pop("data")
    return scene, fit(scene, data, segments=plan, out=folder, resume=True, progress=progress, **settings)
