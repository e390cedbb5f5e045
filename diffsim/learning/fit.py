"""``fit``: train a law so that a scene moves as recorded; an interrupted fit resumes bit for bit."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from diffsim.errors import DataError, GradientError, SceneError, SimulationError
from diffsim.kernels.arrays import context
from diffsim.kernels.control_step import one_torch_thread
from diffsim.learning.candidates import candidate, settled
from diffsim.learning.law_file import save_law
from diffsim.learning.motion import Motion, read_motion, write_motion
from diffsim.learning.segments import Segments, begin, losses
from diffsim.materials.material import Material
from diffsim.progress import Progress
from diffsim.rollout import parse_memory
from diffsim.runs import RunFolder, atomic_write
from diffsim.scene import Scene

SCALE = 1e4  # of the loss, as published
KEPT = 900  # numbers that a differentiated step keeps per particle: states, nodes and the layers of two networks


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
    patience: int | None = None,
    seed: int = 0,
    memory: str = "1GiB",
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    callback: Callable[[dict], None] | None = None,
) -> Fit:
    """Train a law on one motion.

    An epoch runs every segment of the motion once, differentiates 1e4 n/T times the sum over the T frames of the mean
    squared coordinate error, and takes one Adam step for each network, with its gradient's norm clipped and a rate that
    falls to zero as a cosine. A segment in which the simulation breaks down is halved in that epoch. Memory does not
    grow with the horizon: a segment that does not fit is cut into pieces that are computed again in backward.

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
        patience: stop after so many epochs without a lower loss per frame.
        memory: for the differentiated steps.
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
    segments = segments or Segments()
    data = str(Path(motion).absolute()) if isinstance(motion, str | Path) else None
    settings = Settings(
        law, epochs, segments.first, segments.last, positions_only, seed, steps, clip, lr_elastic, lr_plastic, data,
        patience, memory,
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
    trainer = Trainer(trained, blank, motion, stride, frames, chosen, settings, memory, folder)
    with Progress(f"fit {scene.name}", epochs, enabled=progress) as shown:
        reason = trainer.run(shown, callback)
    deviations = {}
    if folder is not None:
        from diffsim.learning.report import write_report

        about = {"law": law, "scene": scene.name, "epochs": len(trainer.history), "loss": trainer.history[-1]["loss"]}
        save_law(folder.path / "law.safetensors", settled(chosen.material), **about)
        deviations = write_report(folder, chosen.material, true, motion, model.dt)
    return Fit(
        chosen.material, trainer.history[-1]["loss"], trainer.history, folder and folder.path, reason, deviations
    )


class Trainer:
    """The loop over epochs, its optimizers and its checkpoint."""

    def __init__(self, model, blank, motion, stride, frames, chosen, settings, memory, folder):
        self.model, self.blank, self.motion = model, blank, motion
        self.stride, self.frames, self.settings, self.folder = stride, frames, settings, folder
        self.groups = chosen.groups
        self.optimizers = {name: torch.optim.Adam(group, lr=rate) for name, (group, rate) in chosen.groups.items()}
        self.history: list[dict] = []
        self.best, self.since = math.inf, 0
        numbers = KEPT * len(blank.x) * context.dtype.itemsize
        self.piece = max(stride, parse_memory(memory) // numbers // stride * stride)  # steps that fit

    def run(self, shown, callback) -> str:
        """Train from the last checkpoint to the end; returns why it stopped."""
        settings, first = self.settings, self.restore()
        for epoch in range(first, settings.epochs):
            if settings.patience is not None and self.since >= settings.patience:
                return "no improvement"
            try:
                record = {"epoch": epoch, "iteration": epoch, **self.epoch(epoch)}
            except (GradientError, SimulationError) as error:
                error.args = (f"epoch {epoch}: {error}; lower the learning rate or shorten the segments",)
                raise
            self.history.append(record)
            self.since = 0 if record["error"] < self.best else self.since + 1
            self.best = min(self.best, record["error"])
            if self.folder is not None:
                self.folder.log(**record)
                self.save(epoch + 1)
            shown.update(epoch + 1, loss=record["loss"])
            if callback is not None:
                callback(record)
        return "all epochs done"

    @one_torch_thread()
    def epoch(self, epoch: int) -> dict:
        """One pass over the motion and one update; the losses before it."""
        settings = self.settings
        plan = Segments(settings.first, settings.last)
        cuts = plan.cuts(self.frames * self.stride, epoch, settings.epochs)
        cuts = sorted({round(cut / self.stride) for cut in cuts})  # segments begin at frames
        factor = SCALE * (len(cuts) - 1) / self.frames
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        total, carried, broken = 0.0, None, 0
        waiting = list(zip(cuts, cuts[1:], strict=False))
        while waiting:
            start, end = waiting.pop(0)
            try:
                loss, carried = self.segment(start, end, factor, carried)
                total += loss
            except SimulationError:
                # a law that is not yet stable for so long is taught on the halves; nothing of the whole is counted
                if end - start == 1:
                    raise
                broken += 1
                middle = (start + end) // 2
                waiting = [(start, middle), (middle, end), *waiting]
        norms = {}
        for name, (group, rate) in self.groups.items():
            norm = torch.nn.utils.clip_grad_norm_(group, settings.clip, foreach=False)
            if not torch.isfinite(norm):
                raise GradientError(f"the gradient of the {name} law is not finite")
            norms[f"gradient_norm_{name}"] = float(norm)
            for entry in self.optimizers[name].param_groups:
                entry["lr"] = rate * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
            self.optimizers[name].step()
        error = total / factor / self.frames  # mean squared coordinate error [m^2]
        return {"loss": total, "error": error, "segments": len(cuts) - 1, "broken": broken, **norms}

    def segment(self, start: int, end: int, factor: float, carried):
        """Loss and gradient of one segment, and the state at its end."""
        if not (self.settings.positions_only or not self.motion.full):
            carried = None
        state = begin(self.motion, start, self.blank, carried, self.settings.positions_only)
        steps = (end - start) * self.stride
        whole = steps <= self.piece
        loss, done = 0.0, 0
        while done < steps:
            count = min(self.piece, steps - done)
            frames, state = self.model.positions(state, steps=count, store=whole)
            first = start + done // self.stride + 1
            target = self.motion.x[first : first + count // self.stride]
            loss = loss + losses(frames[self.stride - 1 :: self.stride], target)
            done += count
        loss = factor * loss
        loss.backward()
        return float(loss.detach()), state if self.settings.positions_only or not self.motion.full else None

    def save(self, epoch: int) -> None:
        """Write the checkpoint from which ``restore`` goes on."""
        content = {
            "epoch": epoch,
            "best": self.best,
            "since": self.since,
            "parameters": {name: [p.detach() for p in group] for name, (group, _) in self.groups.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }
        path = self.folder.path / "checkpoints"
        path.mkdir(exist_ok=True)
        atomic_write(path / "last.pt", lambda temporary: torch.save(content, temporary))

    def restore(self) -> int:
        """Take over the checkpoint, if there is one; the next epoch."""
        path = None if self.folder is None else self.folder.path / "checkpoints" / "last.pt"
        if path is None or not path.exists():
            return 0
        content = torch.load(path, weights_only=True)
        for name, (group, _) in self.groups.items():
            for parameter, value in zip(group, content["parameters"][name], strict=True):
                parameter.data.copy_(value)
            self.optimizers[name].load_state_dict(content["optimizers"][name])
        self.best, self.since = content["best"], content["since"]
        self.folder.trim_metrics(content["epoch"])
        self.history = self.folder.metrics()
        return content["epoch"]


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
        for name, value in asdict(settings).items():
            if begun["fit"].get(name) != value and name != "patience":
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
