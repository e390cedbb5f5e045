"""What the commands of ``diffsim.cli`` do."""

import inspect
import json
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffsim.errors import SceneError, SimulationError, SolverError
from diffsim.optimize import optimize as optimize_scene
from diffsim.optimize import resume_run
from diffsim.progress import Progress
from diffsim.rollout import Trajectory, rollout
from diffsim.rollout import estimate as plan_rollout
from diffsim.runs import RunFolder, read_run
from diffsim.runtime import init
from diffsim.scene import Scene
from diffsim.scripts import load, parameters_of

VIDEO_FRAMES = 300  # of a video: ten seconds; a longer trajectory is thinned


@dataclass(frozen=True)
class Outputs:
    """Which files are written besides the trajectory."""

    render: bool = True
    vtu: bool = False
    ply: bool = False


def start(device: str, precision: str, threads: int | None) -> None:
    """Initialize the engine, and torch's threads alike."""
    init(device=device, precision=precision, threads=threads)
    if threads is not None:
        torch.set_num_threads(threads)


def build(scene: str, options: dict[str, Any], seed: int | None) -> Scene:
    """The scene, its option ``seed`` set when it has one that is not set."""
    if seed is not None and "seed" not in options and "seed" in parameters_of(scene):
        options = {**options, "seed": seed}
    return load(scene, **options)


def run(built: Scene, steps, out, overwrite: bool, seed: int, outputs: Outputs, as_json: bool) -> None:
    """Simulate a scene into a run folder."""
    torch.manual_seed(seed)
    with torch.no_grad():
        begin = built.start()
    steps = _steps(built, begin, steps)
    folder = RunFolder(out or _free_folder(built.name), overwrite=overwrite)
    folder.write_run(built.source, built.options, seed=seed, command="run", steps=steps)
    path = _simulate(built, begin, steps, folder)
    figures = _figures(built, path) if steps == built.steps else {}
    folder.log(step=steps, **figures)
    _write_outputs(path, built, folder.path, outputs)
    _show({"scene": built.name, "steps": steps, "frames": len(path), **figures, "folder": str(folder.path)}, as_json)


def optimize(built: Scene, settings: dict, options: dict, out, outputs: Outputs, as_json: bool) -> None:
    """Optimize a scene into a run folder, then simulate its best iterate.

    Args:
        settings: arguments of ``diffsim.optimize``.
        options: of its method; texts are converted.
    """
    for name in set(options) & set(inspect.signature(optimize_scene).parameters):
        raise SceneError(f"{name!r} is no option of the method; give it as --{name} if at all")
    out = out or _free_folder(built.name)
    with _resumable(out):
        result = optimize_scene(built, out=out, progress=True, **settings, **options)
        _finish(built, result, settings["steps"], outputs, as_json)


def fit(scene: str, of: str | None, options: dict, lengths, settings: dict, out, as_json: bool) -> None:
    """Learn a law from a scene's motion or from data.

    Args:
        scene: a scene, or a file of a motion.
        of: the scene of such a file; None takes it and its options from the run.json beside it.
        lengths: of the first and the last segments.
        settings: arguments of ``diffsim.learning.fit``.
    """
    from diffsim.learning import Segments
    from diffsim.learning import fit as fit_scene

    data = scene if Path(scene).suffix in (".h5", ".hdf5") else None
    if data is not None and of is None:
        if not (Path(data).parent / "run.json").exists():
            raise SceneError(f"{data} stands beside no run.json, so its scene is not known; name it with --scene")
        about = read_run(Path(data).parent)
        of, options = about["scene"], about["options"] | options
    built = load(of or scene, **options)
    out = out or _free_folder(f"{built.name}-{settings['law']}")
    with _resumable(out):
        result = fit_scene(built, data, segments=Segments(*lengths), out=out, progress=True, **settings)
    _show_fit(built, result, as_json)


def _show_fit(built: Scene, result, as_json: bool) -> None:
    first, last = result.history[0], result.history[-1]
    figures = {"scene": built.name, "epochs": len(result.history)}
    for name in ("loss", "error"):
        figures |= {f"{name}, first": first[name], f"{name}, last": last[name]}
    figures |= {f"deviation, {path}": value for path, value in result.deviations.items()}
    _show({**figures, "stopped": result.reason, "folder": str(result.folder)}, as_json)


def evaluate(laws: list[str], scene: str, tests: str, options: dict, steps, out, video: bool, as_json: bool) -> None:
    """Judge learned laws by a scene's motion, or by the trials of the study that ``tumbling_cube`` is of.

    Args:
        laws: files, or NAME=FILE.
        tests: names of trials, by commas.
        options: of the scene; of the trials, material too.
    """
    from diffsim.learning import evaluate as evaluate_laws
    from diffsim.learning import learned
    from diffsim.learning.table import markdown

    methods = learned(laws)
    out = out or _free_folder(f"{scene}-evaluation")
    trials = _trials(scene, tests, options, methods)
    cells = evaluate_laws(trials, methods, steps=steps, out=out, video=video, progress=True)
    if as_json:
        print(json.dumps({"cells": [vars(cell) for cell in cells], "folder": str(out)}))
    else:
        print(markdown(cells), f"mean squared coordinate error [m^2]; {out}", sep="")


def _trials(scene: str, tests: str, options: dict, methods) -> list:
    """The tests of an evaluation."""
    from diffsim.learning import Trial

    if scene != "tumbling_cube":
        built = load(scene, **options)
        return [Trial(built.name, "-", partial(load, scene, **options), (None,) * len(built.model.materials))]
    from diffsim.scenes import nclaw_trials

    found, options = [], dict(options)
    of = options.pop("material", None)
    known = {name for method in methods for name in method.files}
    materials = [of] if of else [name for name in nclaw_trials.MATERIALS if name in known]
    if not materials:
        raise SceneError("no law says that it is of a material of tumbling_cube; name it with --set material=")
    for test in [part.strip() for part in tests.split(",")]:
        for material in materials:
            names = nclaw_trials.names(test, material)
            if names:
                build = partial(load, "nclaw_trials", trial=test, material=material, **options)
                found.append(Trial(test, material, build, names))
    return found


def resume(folder: Path, iterations: int | None, workers, cluster, outputs: Outputs, as_json: bool) -> None:
    """Continue an optimization, then simulate its best iterate; or continue a fit."""
    if read_run(folder).get("command") == "fit":
        from diffsim.learning.fit import resume_fit

        if iterations is not None:
            raise SceneError("a fit's rates fall to zero over its epochs, so --iterations cannot extend it; fit anew")
        with _resumable(folder):
            built, result = resume_fit(folder, progress=True)
        _show_fit(built, result, as_json)
        return
    with _resumable(folder):
        built, result = resume_run(folder, iterations=iterations, workers=workers, cluster=cluster, progress=True)
        _finish(built, result, read_run(folder)["optimize"]["steps"], outputs, as_json)


def render(folder: Path, color, every, fps, size, frames: bool, vtu: bool, ply: bool) -> None:
    """Draw a run's trajectory again."""
    from diffsim.trajectory import read_trajectory

    about = read_run(folder)
    recording = read_trajectory(Path(folder) / "trajectory.h5")
    options = {"color": color or "body", "size": size, "fps": fps}
    if about.get("loadable", True):  # else it was built in Python, and is drawn without walls and tools
        start(about["device"], about["precision"], None)
        built = load(about["scene"], **about["options"])
        options |= _looks(built) | ({"color": color} if color else {})
    _draw(recording, folder, every, options, frames)
    _export(recording, folder, vtu, ply)
    print(folder / "video.mp4")


def estimate(built: Scene, steps, memory: str, timed: bool, as_json: bool) -> None:
    """Print what a scene will take; ``timed`` also measures one control step and its gradient."""
    with torch.no_grad():
        begin = built.start()
    steps = _steps(built, begin, steps)
    state, model = begin[0], built.model
    plan = plan_rollout(model, state, steps, every=built.every, memory=memory)
    frames = steps // built.every + 1
    figures = {
        "scene": built.name,
        "particles": plan.particles,
        **({"cells": "x".join(map(str, model.grid.cells))} if hasattr(model, "grid") else {}),
        "dt [s]": model.dt,
        "steps": steps,
        "substeps": steps * model.substeps,
        "duration [s]": steps * model.substeps * model.dt,
        "frames": frames,
        "trajectory [MiB]": round(frames * plan.state_bytes / 2**20, 3),
        "run [MiB]": round((frames * plan.state_bytes + plan.work_bytes) / 2**20, 3),
        "gradient [MiB]": round(plan.peak_bytes / 2**20, 3),
        "stored states": plan.snapshots,
        "forward runs of a step": plan.repetitions + (0 if plan.store_substeps else 1),
    }
    if timed:
        forward, gradient = _seconds(model, *begin)
        figures |= {"run [s]": forward * steps, "gradient [s]": (forward * plan.repetitions + gradient) * steps}
    _show(figures, as_json)


# --- parts


def _seconds(model, state, controls) -> tuple[float, float]:
    """Wall time of one control step, and of one with its gradient; the kernels are compiled first."""
    control = controls(state, 0) if callable(controls) else None if controls is None else controls[0].detach()
    for _ in range(2):
        began = time.perf_counter()
        with torch.no_grad():
            model(state, control)
        middle = time.perf_counter()
        model(state._replace(x=state.x.detach().requires_grad_()), control).x.sum().backward()
        ended = time.perf_counter()
    return middle - began, ended - middle


@contextmanager
def _resumable(folder: str | Path):
    """Say how to go on when Ctrl-C ends the block."""
    try:
        yield
    except KeyboardInterrupt:
        if Path(folder, "run.json").exists():
            print(f"checkpoint written; go on with: diffsim resume {folder}", file=sys.stderr)
        raise


def _free_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on when it is taken."""
    folder, number = Path("runs", name), 1
    while folder.exists():
        number += 1
        folder = Path("runs", f"{name}-{number}")
    return folder


def _steps(scene: Scene, begin, steps: int | None) -> int:
    steps = scene.steps if steps is None else steps
    controls = begin[1]
    if isinstance(controls, torch.Tensor) and len(controls) < steps:
        raise SceneError(f"scene {scene.name!r}: {len(controls)} rows of controls for {steps} steps; lower --steps")
    return steps


@torch.no_grad()
def _simulate(scene: Scene, begin, steps: int, folder: RunFolder):
    """The trajectory, each frame written when it is there, so that a killed run keeps what it has computed."""
    from diffsim.trajectory import TrajectoryWriter

    state, controls = begin
    states = [state]
    with (
        TrajectoryWriter(folder.trajectory_path, attributes={"scene": scene.name}) as writer,
        Progress(f"run {scene.name}", steps) as shown,
    ):
        writer.append(state)
        for first in range(0, steps, scene.every):
            count = min(scene.every, steps - first)
            try:
                part = rollout(scene.model, state, _part(controls, first, count), count, every=count)
            except (SimulationError, SolverError) as error:
                error.step = None if error.step is None else first + error.step
                frames = f"the {len(states)} frames before it are in {writer.partial}"
                error.args = (f"{error}; {frames}",)
                raise
            state = part[-1]
            if count == scene.every:
                states.append(state)
                writer.append(state)
            shown.update(first + count)
    return Trajectory(scene.model, states)


def _part(controls, first: int, count: int):
    """Controls of the steps from ``first`` on."""
    if callable(controls):
        return lambda state, step: controls(state, first + step)
    return None if controls is None else controls[first : first + count]


@torch.no_grad()
def _figures(scene: Scene, path) -> dict[str, float]:
    figures = scene.measure(path)
    return figures if scene.objective is None else {"loss": float(scene.loss(path)), **figures}


def _finish(scene: Scene, result, steps: int | None, outputs: Outputs, as_json: bool) -> None:
    """Simulate the best iterate and print what was reached."""
    with torch.no_grad():
        begin = scene.start()
    folder = RunFolder(result.folder, resume=True)
    path = _simulate(scene, begin, _steps(scene, begin, steps), folder)
    _write_outputs(path, scene, folder.path, outputs)
    if scene.joints is not None:
        with torch.no_grad():
            motion = scene.joints()
        for suffix in ("csv", "yaml", "json"):
            motion.write(folder.path / f"joints.{suffix}")
    best = next(record for record in result.history if record["loss"] == result.loss)
    skipped = ("evaluation", "seconds", "gradient_norm", "iteration", "simulated_steps", "candidate", "failed")
    figures = {}
    for name in (name for name in best if name not in skipped):
        figures |= {f"{name}, first": result.history[0][name], f"{name}, best": best[name]}
        figures |= {f"{name}, last": result.history[-1].get(name)}  # a last candidate that failed has none
    about = {"scene": scene.name, "best iteration": result.iteration, "evaluations": len(result.history)}
    about["simulated steps"] = result.history[-1]["simulated_steps"]
    _show({**about, **figures, "stopped": result.reason, "folder": str(result.folder)}, as_json)


def _write_outputs(path, scene: Scene, folder: Path, outputs: Outputs) -> None:
    if outputs.render:
        _draw(path, folder, -(-len(path) // VIDEO_FRAMES), _looks(scene), False)
    _export(path, folder, outputs.vtu, outputs.ply)


def _looks(scene: Scene) -> dict[str, Any]:
    return {"model": scene.model, "color": scene.color, "camera": scene.camera, "ghost": scene.ghost}


def _draw(frames, folder: Path, every: int, options: dict, png: bool) -> None:
    """Write video.mp4 and last.png."""
    from diffsim.video import render_trajectory

    count = -(-len(frames) // every)
    with Progress("render", count) as shown, tempfile.TemporaryDirectory(dir=folder, prefix=".last-") as temporary:
        report = lambda done, total: shown.update(done)  # noqa: E731
        render_trajectory(frames, out=folder / "video.mp4", every=every, png_frames=png, progress=report, **options)
        still = {name: value for name, value in options.items() if name != "fps"}
        render_trajectory([frames[-1]], out=None, png_frames=temporary, **still)
        Path(temporary, "frame_00000.png").replace(folder / "last.png")


def _export(frames, folder: Path, vtu: bool, ply: bool) -> None:
    from diffsim.export import export_ply, export_vtu

    if vtu:
        export_vtu(frames, folder)
    if ply:
        export_ply(folder / "last.ply", frames[-1].x)


def _show(figures: dict[str, Any], as_json: bool) -> None:
    """Print figures by name, aligned or as JSON."""
    if as_json:
        print(json.dumps(figures))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {value:.6g}" if isinstance(value, float) else f"{name:{width}}  {value}")
