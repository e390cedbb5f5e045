"""``optimize``: change a scene's variables to lower its objective; ``resume_run`` continues it bit for bit."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffsim.errors import SceneError
from diffsim.optimizers import method_named
from diffsim.problem import Problem
from diffsim.progress import Progress
from diffsim.rollout import windows
from diffsim.runs import RunFolder, read_run
from diffsim.runtime import init
from diffsim.scene import Scene
from diffsim.scripts import load

ITERATIONS = 50
_MAY_CHANGE = ("iterations", "patience", "memory", "workers", "cluster")  # none alters the iterations already done


@dataclass(frozen=True)
class Result:
    """What an optimization found; the scene's variables are left at the best iterate.

    Attributes:
        controls: the best controls (steps, ...); None for a policy, or a scene without controls.
        loss: the lowest loss.
        history: one record per evaluation: iteration, evaluation, loss, gradient_norm, metrics, simulated_steps (the
            control steps simulated so far), seconds; ``candidate`` of a population.
        folder: the run folder, or None.
        variables: the best variables by name.
        iteration: the iteration they belong to; 0 is the start.
        reason: why it stopped.
    """

    controls: torch.Tensor | None
    loss: float
    history: list[dict]
    folder: Path | None
    variables: dict[str, torch.Tensor]
    iteration: int
    reason: str


def optimize(
    scene: Scene,
    method: str | None = None,
    iterations: int | None = None,
    lr: float | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    memory: str = "2GiB",
    steps: int | None = None,
    patience: int | None = None,
    truncate: int | None = None,
    workers: int = 1,
    cluster: str | None = None,
    progress: bool = False,
    callback: Callable[[dict], Any] | None = None,
    **options,
) -> Result:
    """Lower the objective of a scene.

    Iteration 0 evaluates the start and iteration k the variables after k updates, so the loss is known for
    ``iterations + 1`` iterates; a population's evaluations are all of one iteration. Bounds hold at every evaluation:
    by projection after each step of a torch optimizer, by the method itself otherwise. With ``out``, the state is saved
    after every iteration, so that a run killed at any time is resumed with the result of an uninterrupted one, bit for
    bit.

    Args:
        scene: the scene; what is None below is taken from its ``defaults``, then from the defaults named here.
        method: by name, in any case; "adam" by default. A torch optimizer, one of pytorch_optimizer, "sophia", "lbfgs";
            "cma" or "consensus", which need no gradients; "hybrid" begins with one of these and goes on with a method
            that has them; "multi_start" descends from several starts, "expanding" over a growing part of the rollout;
            "augmented_lagrangian" for scenes with constraints.
        iterations: updates of the variables; 50 by default.
        lr: learning rate of a torch optimizer; its own default when None.
        out: run folder to write.
        resume: go on with the run in ``out``, whose settings must be the same (``iterations``, ``patience`` and
            ``memory`` may change); start it when there is none.
        overwrite: replace an earlier run in ``out``.
        seed: of torch's random generator.
        memory, steps: of every rollout, as in ``Scene.rollout``.
        patience: stop after so many iterations without a better loss.
        truncate: let gradients pass back through at most so many control steps; None for all.
        workers: processes that evaluate the candidates of a population or the descents of several starts; the result
            does not depend on their number.
        cluster: address of a Ray cluster on which the workers run; "local" starts one on this machine.
        progress: show it on standard error.
        callback: called with the record of every evaluation.
        options: of the method, such as ``betas`` or ``weight_decay``; ``clip_norm`` (off by default) with any torch
            optimizer; ``maxcor``, ``maxls``, ``ftol``, ``gtol`` with "lbfgs". Of the others: the arguments of ``Cma``,
            ``Consensus``, ``Hybrid``, ``MultiStart``, ``Horizon`` and ``Multipliers`` in ``diffsim.search``;
            ``optimizer`` names the method with gradients inside the last four, ``search`` the population of "hybrid",
            and what these do not know is an option of those.

    Raises:
        SceneError: a scene without objective or variables, an unknown method or option.
        GradientError: a loss or gradient that is not finite, naming the iteration and the variable.
        SimulationError: a rollout failed, naming the iteration. What was written before stays.
        DataError: a folder that cannot be written, or holds another run.
    """
    if scene.objective is None or not scene.parameters():
        lacking = "objective" if scene.objective is None else "variables"
        raise SceneError(f"scene {scene.name!r} has no {lacking}, so it cannot be optimized; use run")
    settings = _settings(scene, method, iterations, lr, options)
    settings |= {"seed": seed, "memory": memory, "steps": steps, "patience": patience, "truncate": truncate}
    settings |= {"workers": workers, "cluster": cluster}
    chosen = method_named(settings["method"], settings["options"])
    windows(scene.steps, truncate)
    _check_workers(settings, chosen)
    torch.manual_seed(seed)
    with torch.no_grad():
        scene.start()  # a start that cannot be built is refused before anything is written
    folder = _folder(scene, settings, out, resume, overwrite)
    torch.manual_seed(seed)
    with Progress(f"optimize {scene.name}", settings["iterations"], enabled=progress) as shown:

        def report(record):
            shown.update(record["iteration"], loss=record["loss"], gradient=record["gradient_norm"])
            if folder is not None and record["evaluation"] % 10 == 9:
                _plot(folder)
            if callback is not None:
                callback(record)

        more = {"seed": seed, "truncate": truncate, "workers": workers, "cluster": cluster, "report": report}
        scene.forget_multipliers()
        problem = Problem(scene, folder, memory=memory, steps=steps, patience=patience, **more)
        try:
            reason = chosen.run(problem, settings["iterations"])
        except Exception:
            if folder is not None and not problem.history and not resume:
                _discard(folder)
            raise
        finally:  # partial results of a run that failed or was interrupted are shown too
            if folder is not None and problem.history:
                _plot(folder)
    best = problem.best
    problem.assign(best["variables"])
    with torch.no_grad():
        controls = scene.start()[1]
    return Result(
        controls=controls.detach().clone() if isinstance(controls, torch.Tensor) else None,
        loss=best["loss"],
        history=problem.history,
        folder=folder.path if folder is not None else None,
        variables=best["variables"],
        iteration=best["iteration"],
        reason=reason,
    )


def resume_run(
    folder: str | Path,
    *,
    iterations: int | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    progress: bool = False,
    callback=None,
) -> tuple[Scene, Result]:
    """Continue a killed or interrupted optimization; a finished one gives its result again.

    Device, precision, scene, options and method are those of ``run.json``.

    Args:
        folder: the run folder.
        iterations: a new total, to go further than planned.
        workers, cluster: as in ``optimize``, when other than before; a cluster never goes on by itself.

    Returns:
        The scene, at the best variables, and the result.

    Raises:
        DataError: not the folder of a run.
        SceneError: not an optimization, a scene that was built in Python, or a script that has changed.
    """
    run = read_run(folder)
    if run.get("command") != "optimize":
        raise SceneError(f"{folder} holds no optimization; run its scene again: diffsim run {run['scene']}")
    if not run["loadable"]:
        raise SceneError(
            f"the scene of {folder} was built in Python; there, call diffsim.optimize(scene, ..., resume=True)"
        )
    init(device=run["device"], precision=run["precision"])
    torch.set_num_threads(run["torch_threads"])  # sums of the objective may depend on their number
    scene = load(run["scene"], **run["options"])
    settings = dict(run["optimize"])
    options = settings.pop("options")
    settings["cluster"] = cluster
    settings |= {name: value for name, value in {"iterations": iterations, "workers": workers}.items() if value}
    return scene, optimize(scene, out=folder, resume=True, progress=progress, callback=callback, **settings, **options)


def _settings(scene: Scene, method, iterations, lr, options: dict) -> dict[str, Any]:
    """Method, iterations and options: the given ones, then the scene's, then the general ones."""
    defaults = dict(scene.defaults)
    default_method = defaults.pop("method", "adam")
    default_iterations = defaults.pop("iterations", ITERATIONS)
    method = (method or default_method).lower()
    if method == default_method.lower():  # a learning rate for one method means nothing to another
        options = {**defaults, **options}
    if lr is not None:
        options = {**options, "lr": lr}
    iterations = default_iterations if iterations is None else iterations
    if iterations < 1:
        raise SceneError(f"iterations is {iterations}; it must be at least 1")
    return {"method": method, "iterations": iterations, "options": options}


def _check_workers(settings: dict, method) -> None:
    workers, cluster = settings["workers"], settings["cluster"]
    if workers < 1:
        raise SceneError(f"workers is {workers}; it must be at least 1")
    if (workers > 1 or cluster is not None) and not getattr(method, "parallel", False):
        raise SceneError(
            f"method {settings['method']!r} evaluates one candidate at a time, so workers and cluster have no use; "
            "leave them out, or choose cma, consensus, hybrid or multi_start"
        )


def _folder(scene: Scene, settings: dict, out, resume: bool, overwrite: bool) -> RunFolder | None:
    if out is None:
        if resume:
            raise SceneError("resume=True needs out=, the folder of the run")
        return None
    continued = resume and (Path(out) / "run.json").exists()
    folder = RunFolder(out, resume=continued, overwrite=overwrite and not continued)
    more = {
        "command": "optimize",
        "optimize": settings,
        "loadable": scene.source is not None,
        "script": _digest(scene.source),
        "torch_threads": torch.get_num_threads(),
    }
    if continued:
        _check_frozen(folder.read_run(), scene, more)
    options = scene.options if scene.source is not None else {}
    folder.write_run(scene.source or scene.name, options, seed=settings["seed"], **more)
    return folder


def _plot(folder: RunFolder) -> None:
    from diffsim.plots import plot_loss  # matplotlib is slow to import

    plot_loss(folder.metrics_path, folder.path / "loss.png")


def _discard(folder: RunFolder) -> None:
    """Remove a run that failed before its first evaluation was done, so that its folder can be used again."""
    shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    (folder.path / "run.json").unlink()
    with suppress(OSError):  # not empty: the user's files stay
        folder.path.rmdir()


def _check_frozen(run: dict, scene: Scene, more: dict) -> None:
    """Raise if what a run's past iterations depend on has changed."""
    if run.get("command") != "optimize":
        raise SceneError("the folder holds a run without optimization; choose another one")
    if run["script"] != more["script"]:
        raise SceneError(f"{scene.source} has changed since the run began; restore it, or start a new run")
    for name, frozen in run["optimize"].items():
        given = more["optimize"][name]
        given = _listed(given)
        if given != frozen and name not in _MAY_CHANGE:
            raise SceneError(f"the run was begun with {name}={frozen}, not {given}; use that, or start a new run")


def _listed(value):
    """``value`` as JSON gives it back: tuples are lists."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value


def _digest(source: str | None) -> str | None:
    """SHA-256 of a user's scene script; None for shipped scenes, which the version names."""
    file = Path((source or "").rpartition(":")[0])
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
