"""``Problem``: the evaluations of a scene in an optimization, each checked, logged, and safe against a kill."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from diffsim.errors import DataError, GradientError, SceneError, SimulationError, SolverError
from diffsim.evaluation import Evaluation, evaluate_scene, flat, flat_gradient, set_flat
from diffsim.runs import RunFolder, atomic_write
from diffsim.scene import Scene

SCHEMA = 1
_RESERVED = (
    *("iteration", "evaluation", "loss", "gradient_norm", "simulated_steps", "seconds"),
    *("horizon", "candidate", "failed"),
)
_COLUMNS = {6: "vx vy vz wx wy wz", 7: "px py pz qw qx qy qz"}


class Problem:
    """A scene whose parameters a method changes; what it evaluates is logged and its best iterate kept.

    Args:
        scene: the scene, with an objective and at least one variable.
        folder: the run folder; None keeps everything in memory.
        memory, steps, truncate: of every rollout, as in ``Scene.rollout``.
        patience: iterations without a better loss after which ``stale`` is true; None for never.
        seed: of the random numbers of a method.
        workers, cluster: where the candidates of a method are evaluated; see ``diffsim.search.evaluators``.
        report: called with every new record.

    Attributes:
        parameters: the scene's trainable tensors by name.
        history: one record per evaluation: iteration, evaluation, loss, gradient_norm, the scene's metrics,
            simulated_steps (the control steps simulated so far, probes of a method included), seconds.
        best: iteration, loss, and a copy of the variables, of the best evaluation; the first one of equal losses.
        horizon: control steps of a rollout, when not yet all.
        simulated_steps: control steps simulated so far.
    """

    def __init__(
        self,
        scene: Scene,
        folder: RunFolder | None = None,
        *,
        memory: str = "2GiB",
        steps: int | None = None,
        patience: int | None = None,
        truncate: int | None = None,
        seed: int = 0,
        workers: int = 1,
        cluster: str | None = None,
        report: Callable[[dict], Any] = lambda record: None,
    ):
        self.scene, self.folder, self.memory, self.steps = scene, folder, memory, steps
        self.patience, self.truncate, self.seed, self.report = patience, truncate, seed, report
        self.workers, self.cluster = workers, cluster
        self.horizon: int | None = None
        self.simulated_steps = 0
        self.parameters = scene.parameters()
        self.history: list[dict] = []
        self.best: dict[str, Any] = {"loss": math.inf, "iteration": 0, "variables": self.copy()}
        self.bounds = {name: self._bounds(name, value) for name, value in self.parameters.items()}

    # --- evaluation

    @property
    def length(self) -> int:
        """Control steps of a whole rollout."""
        return self.scene.steps if self.steps is None else self.steps

    def evaluate(self, iteration: int, gradient: bool = True, *, frozen: int = 0) -> float:
        """Loss at the current variables, with its gradient left in their ``.grad`` when ``gradient``; logged.

        Raises:
            GradientError: a loss or a gradient that is not finite.
            SceneError: an objective that does not depend on the variables.
            SimulationError: the rollout failed; the message names the iteration.
        """
        began = time.perf_counter()
        with naming(iteration):
            found = self.simulate(gradient, frozen=frozen)
        self.record(iteration, found, time.perf_counter() - began)
        if self.note(iteration, found.loss) and self.folder is not None:
            self.write_best(found.controls)
        self.report(self.history[-1])
        return found.loss

    def simulate(self, gradient: bool, *, frozen: int = 0) -> Evaluation:
        """One rollout of the current variables and horizon, counted but not logged; raises as ``evaluate``."""
        steps = self.steps if self.horizon is None else self.horizon
        options = {"memory": self.memory, "truncate": self.truncate, "frozen": frozen}
        found = evaluate_scene(self.scene, gradient=gradient, steps=steps, **options)
        self.simulated_steps += found.steps
        return found

    def record(self, iteration: int, found: Evaluation, seconds: float, **more) -> None:
        """Log one evaluation."""
        for name in set(found.figures) & set(_RESERVED):
            raise SceneError(f"scene {self.scene.name!r}: metric {name!r} has the name of a logged figure; rename it")
        record = {"iteration": iteration, "evaluation": len(self.history), "loss": found.loss}
        record |= {"gradient_norm": found.norm} | found.figures | more
        record |= {"simulated_steps": self.simulated_steps, "seconds": round(seconds, 6)}
        self.history.append(record)
        if self.folder is not None:
            self.folder.log(**record)

    def extend(self, horizon: int | None) -> None:
        """Go on with another number of control steps; losses of other numbers are not compared."""
        self.horizon = horizon
        self.best = {**self.best, "loss": math.inf}

    def note(self, iteration: int, loss: float) -> bool:
        """Keep the current variables if they are the best so far; returns whether they are."""
        if not loss < self.best["loss"]:
            return False
        self.best = {"loss": loss, "iteration": iteration, "variables": self.copy()}
        return True

    def stale(self, iteration: int) -> bool:
        """Whether ``patience`` iterations have passed since the best one."""
        return self.patience is not None and iteration - self.best["iteration"] >= self.patience

    # --- variables

    def copy(self) -> dict[str, torch.Tensor]:
        """The current values of the variables."""
        return {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def assign(self, values: dict[str, torch.Tensor]) -> None:
        """Set the variables, in place."""
        for name, value in self.parameters.items():
            value.copy_(values[name])

    @torch.no_grad()
    def project(self) -> None:
        """Project the variables onto their bounds."""
        for name, value in self.parameters.items():
            if name in self.scene.bounds:
                value.clamp_(*self.bounds[name])

    def check_variables(self, iteration: int) -> None:
        """Raise ``GradientError`` if the step of ``iteration`` made a variable infinite or undefined."""
        for name, value in self.parameters.items():
            if not value.isfinite().all():
                raise GradientError(f"iteration {iteration}: {name!r} is not finite after the step; lower lr")

    def flat(self) -> np.ndarray:
        """All variables as one vector of doubles."""
        return flat(self.parameters.values())

    def flat_gradient(self) -> np.ndarray:
        """Gradient as one vector of doubles; zero where the objective does not depend on a variable."""
        return flat_gradient(self.parameters.values())

    def flat_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds as two vectors of doubles."""
        return flat(low for low, _ in self.bounds.values()), flat(high for _, high in self.bounds.values())

    def set_flat(self, vector: np.ndarray) -> None:
        """Set the variables from one vector, in their own precision."""
        set_flat(self.parameters.values(), vector)

    def _bounds(self, name: str, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self.scene.bounds.get(name, (-math.inf, math.inf))
        try:
            low, high = (torch.as_tensor(bound).to(value).expand_as(value) for bound in pair)
        except RuntimeError as error:
            raise SceneError(f"bounds of {name!r} do not fit its shape {tuple(value.shape)}") from error
        if not (low <= high).all():
            raise SceneError(f"bounds of {name!r}: the lower one exceeds the upper one, or is not a number; correct it")
        return low, high

    # --- files

    @property
    def _checkpoints(self):
        folder = self.folder.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        return folder

    def write_best(self, controls) -> None:
        variables = {name: value.contiguous() for name, value in self.best["variables"].items()}
        about = {"schema": SCHEMA, "iteration": self.best["iteration"], "loss": self.best["loss"]}
        metadata = {"diffsim": json.dumps(about)}  # one entry: safetensors writes several in an order of chance
        path = self.folder.path
        atomic_write(path / "best.safetensors", lambda file: save_file(variables, file, metadata))
        if isinstance(controls, torch.Tensor):
            table = controls.detach().cpu().numpy()
            buffer = io.BytesIO()
            np.save(buffer, table)
            atomic_write(path / "controls.npy", buffer.getvalue())
            atomic_write(path / "controls.csv", _csv(table))

    def save(self, iteration: int, optimizers: list[torch.optim.Optimizer], **more) -> None:
        """Write the checkpoint from which ``iteration`` starts; ``more`` are tensors and numbers of the method."""
        if self.folder is None:
            return
        content = {
            "schema": SCHEMA,
            "iteration": iteration,
            "evaluations": len(self.history),
            "simulated_steps": self.simulated_steps,
            "horizon": self.horizon,
            "variables": self.copy(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "generator": torch.get_rng_state(),
            "best": self.best,
            "more": more,
        }
        atomic_write(self._checkpoints / "latest.pt", lambda file: torch.save(content, file))

    def restore(self, optimizers: list[torch.optim.Optimizer], first: int = 0, **more) -> tuple[int, dict]:
        """Go back to the last checkpoint, or write the first one; returns the iteration that comes next, and ``more``.

        Args:
            optimizers: as in ``save``.
            first: iteration to begin with where there is no checkpoint.
            more: what is returned, and written, where there is no checkpoint.

        Raises:
            DataError: a checkpoint that is broken or of another scene.
        """
        if self.folder is None:
            return first, more
        path = self._checkpoints / "latest.pt"
        if not path.exists():
            self._rewind(len(self.history))
            self.save(first, optimizers, **more)
            return first, more
        try:
            content = torch.load(path, weights_only=True)
            variables = content["variables"]
        except Exception as error:  # torch.load documents none of what a damaged file makes it raise
            raise DataError(f"{path} is damaged ({type(error).__name__}); start the run again") from error
        self._check_same(variables, path)
        for optimizer, state in zip(optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.assign(variables)
        self.best, self.horizon = content["best"], content["horizon"]
        torch.set_rng_state(content["generator"])
        self._rewind(content["evaluations"])
        self.simulated_steps = content["simulated_steps"]
        return content["iteration"], content["more"]

    def log_evaluation(self, loss: float, gradient: np.ndarray) -> None:
        """Write the last evaluation so that ``logged_evaluations`` can replay it."""
        if self.folder is None:
            return
        tensors = {"gradient": torch.from_numpy(gradient), "generator": torch.get_rng_state()}
        path = self._checkpoints / f"evaluation-{len(self.history) - 1:06d}.safetensors"
        atomic_write(path, save(tensors, {"diffsim": json.dumps({"schema": SCHEMA, "loss": loss})}))

    def logged_evaluations(self) -> list[tuple[float, np.ndarray]]:
        """Loss and gradient of each logged evaluation, in order; the random generator goes back to the last one.

        Raises:
            DataError: a log that is broken or of another scene.
        """
        if self.folder is None:
            return []
        logged, generator, before = [], None, len(self.history)
        for path in sorted(self._checkpoints.glob("evaluation-*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    logged.append((json.loads(file.metadata()["diffsim"])["loss"], file.get_tensor("gradient").numpy()))
                    generator = file.get_tensor("generator")
            except Exception as error:
                raise DataError(f"{path} is damaged ({error}); start the run again") from error
            if len(logged[-1][1]) != len(self.flat()):
                raise DataError(f"{path} is of a scene with other variables; restore the scene, or start a new run")
        if generator is not None:
            torch.set_rng_state(generator)
        self._rewind(before + len(logged))
        return logged

    def logged_records(self) -> list[dict]:
        """The records in the folder, for a method that is led by losses alone and takes them again in their order."""
        return self.folder.metrics() if self.folder is not None and self.folder.metrics_path.exists() else []

    def replay(self, record: dict) -> None:
        """Take a record of ``logged_records`` again."""
        self.history.append(record)
        self.simulated_steps = record["simulated_steps"]

    def _rewind(self, count: int) -> None:
        """Forget what was logged after the first ``count`` evaluations: it will be evaluated again."""
        self.folder.trim_metrics(count)
        self.history = self.folder.metrics() if count else []
        if len(self.history) != count:
            raise DataError(f"{self.folder.metrics_path} has lost lines that the checkpoint counts; restore the file")
        self.simulated_steps = self.history[-1]["simulated_steps"] if count else 0

    def _check_same(self, variables: dict[str, torch.Tensor], path) -> None:
        shapes = {name: tuple(value.shape) for name, value in variables.items()}
        if shapes != {name: tuple(value.shape) for name, value in self.parameters.items()}:
            raise DataError(f"{path} is of a scene with other variables; restore the scene, or start a new run")


@contextmanager
def naming(iteration: int):
    """Put the iteration in front of what a numerical error says."""
    try:
        yield
    except (SimulationError, SolverError, GradientError) as error:
        error.args = (f"iteration {iteration}: {error}", *error.args[1:])
        raise


def _csv(table: np.ndarray) -> str:
    """Controls (steps, tools, k), or (steps, ...), one row per step and tool."""
    rows = table.reshape(len(table), -1, table.shape[-1]) if table.ndim > 1 else table.reshape(-1, 1, 1)
    names = _COLUMNS.get(rows.shape[2], " ".join(f"c{i}" for i in range(rows.shape[2]))).split()
    lines = [",".join(["step", "tool", *names])]
    for step, tools in enumerate(rows):
        lines += [",".join([str(step), str(tool), *map(repr, row.tolist())]) for tool, row in enumerate(tools)]
    return "\n".join(lines) + "\n"
