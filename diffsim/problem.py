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
from diffsim.runs import RunFolder, atomic_write
from diffsim.scene import Scene, blame, file_of

SCHEMA = 1
_RESERVED = ("iteration", "evaluation", "loss", "gradient_norm", "seconds")
_COLUMNS = {6: "vx vy vz wx wy wz", 7: "px py pz qw qx qy qz"}


class Problem:
    """A scene whose parameters a method changes; what it evaluates is logged and its best iterate kept.

    Args:
        scene: the scene, with an objective and at least one variable.
        folder: the run folder; None keeps everything in memory.
        memory, steps: of every rollout, as in ``Scene.rollout``.
        patience: iterations without a better loss after which ``stale`` is true; None for never.
        report: called with every new record.

    Attributes:
        parameters: the scene's trainable tensors by name.
        history: one record per evaluation: iteration, evaluation, loss, gradient_norm, the scene's metrics, seconds.
        best: iteration, loss, and a copy of the variables, of the best evaluation; the first one of equal losses.
    """

    def __init__(
        self,
        scene: Scene,
        folder: RunFolder | None = None,
        *,
        memory: str = "2GiB",
        steps: int | None = None,
        patience: int | None = None,
        report: Callable[[dict], Any] = lambda record: None,
    ):
        self.scene, self.folder, self.memory, self.steps = scene, folder, memory, steps
        self.patience, self.report = patience, report
        self.parameters = scene.parameters()
        self.history: list[dict] = []
        self.best: dict[str, Any] = {"loss": math.inf, "iteration": 0, "variables": self.copy()}
        self.bounds = {name: self._bounds(name, value) for name, value in self.parameters.items()}

    # --- evaluation

    def evaluate(self, iteration: int, gradient: bool = True) -> float:
        """Loss at the current variables, with its gradient left in their ``.grad`` when ``gradient``; logged.

        Raises:
            GradientError: a loss or a gradient that is not finite.
            SceneError: an objective that does not depend on the variables.
            SimulationError: the rollout failed; the message names the iteration.
        """
        began = time.perf_counter()
        for value in self.parameters.values():
            value.grad = None
        with _naming(iteration):
            with torch.set_grad_enabled(gradient):
                start = self.scene.start()
                path = self.scene.rollout(memory=self.memory, steps=self.steps, start=start)
                loss = self.scene.loss(path)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise GradientError(f"the loss is {value}; lower lr, or set bounds that keep the scene meaningful")
            with torch.no_grad():
                figures = self.scene.measure(path)
            norm = self._backward(loss) if gradient else None
        for name in set(figures) & set(_RESERVED):
            raise SceneError(f"scene {self.scene.name!r}: metric {name!r} has the name of a logged figure; rename it")
        record = {"iteration": iteration, "evaluation": len(self.history), "loss": value, "gradient_norm": norm}
        record |= figures | {"seconds": round(time.perf_counter() - began, 6)}
        self.history.append(record)
        if self.folder is not None:
            self.folder.log(**record)
        if self.note(iteration, value) and self.folder is not None:
            self._write_best(start[1])
        self.report(record)
        return value

    def _backward(self, loss: torch.Tensor) -> float:
        """Fill the gradients and return their norm."""
        if not loss.requires_grad:
            names = ", ".join(self.parameters)
            raise SceneError(f"scene {self.scene.name!r}: the objective does not depend on the variables ({names})")
        with blame(file_of(self.scene.objective), "the backward pass"):
            loss.backward()
        squares = 0.0
        for name, value in self.parameters.items():
            if value.grad is None:
                continue
            if not value.grad.isfinite().all():
                raise GradientError(
                    f"the gradient of {name!r} is not finite; inspect it with check-gradients --horizon"
                )
            squares += float(value.grad.double().square().sum())
        return math.sqrt(squares)

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
        return _flat(self.parameters.values())

    def flat_gradient(self) -> np.ndarray:
        """Gradient as one vector of doubles; zero where the objective does not depend on a variable."""
        values = self.parameters.values()
        return _flat(torch.zeros_like(value) if value.grad is None else value.grad for value in values)

    def flat_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds as two vectors of doubles."""
        return _flat(low for low, _ in self.bounds.values()), _flat(high for _, high in self.bounds.values())

    @torch.no_grad()
    def set_flat(self, vector: np.ndarray) -> None:
        """Set the variables from one vector, in their own precision."""
        offset = 0
        for value in self.parameters.values():
            part = torch.from_numpy(np.array(vector[offset : offset + value.numel()]))
            value.copy_(part.reshape(value.shape))
            offset += value.numel()

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

    def _write_best(self, controls) -> None:
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

    def save(self, iteration: int, optimizer: torch.optim.Optimizer) -> None:
        """Write the checkpoint from which ``iteration`` starts."""
        if self.folder is None:
            return
        content = {
            "schema": SCHEMA,
            "iteration": iteration,
            "variables": self.copy(),
            "optimizer": optimizer.state_dict(),
            "generator": torch.get_rng_state(),
            "best": self.best,
        }
        atomic_write(self._checkpoints / "latest.pt", lambda file: torch.save(content, file))

    def restore(self, optimizer: torch.optim.Optimizer) -> int:
        """Go back to the last checkpoint, or write the first one; returns the iteration that comes next.

        Raises:
            DataError: a checkpoint that is broken or of another scene.
        """
        if self.folder is None:
            return 0
        path = self._checkpoints / "latest.pt"
        if not path.exists():
            self.folder.trim_metrics(0)
            self.save(0, optimizer)
            return 0
        try:
            content = torch.load(path, weights_only=True)
            variables = content["variables"]
        except Exception as error:  # torch.load documents none of what a damaged file makes it raise
            raise DataError(f"{path} is damaged ({type(error).__name__}); start the run again") from error
        self._check_same(variables, path)
        optimizer.load_state_dict(content["optimizer"])
        self.assign(variables)
        self.best = content["best"]
        torch.set_rng_state(content["generator"])
        self._rewind(content["iteration"])
        return content["iteration"]

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
        logged, generator = [], None
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
        self._rewind(len(logged))
        return logged

    def _rewind(self, count: int) -> None:
        """Forget what was logged after the first ``count`` evaluations: it will be evaluated again."""
        self.folder.trim_metrics(count)
        self.history = self.folder.metrics() if count else []
        if len(self.history) != count:
            raise DataError(f"{self.folder.metrics_path} has lost lines that the checkpoint counts; restore the file")

    def _check_same(self, variables: dict[str, torch.Tensor], path) -> None:
        shapes = {name: tuple(value.shape) for name, value in variables.items()}
        if shapes != {name: tuple(value.shape) for name, value in self.parameters.items()}:
            raise DataError(f"{path} is of a scene with other variables; restore the scene, or start a new run")


@contextmanager
def _naming(iteration: int):
    """Put the iteration in front of what a numerical error says."""
    try:
        yield
    except (SimulationError, SolverError, GradientError) as error:
        error.args = (f"iteration {iteration}: {error}", *error.args[1:])
        raise


def _flat(tensors) -> np.ndarray:
    return torch.cat([value.detach().double().cpu().reshape(-1) for value in tensors]).numpy()


def _csv(table: np.ndarray) -> str:
    """Controls (steps, tools, k), or (steps, ...), one row per step and tool."""
    rows = table.reshape(len(table), -1, table.shape[-1]) if table.ndim > 1 else table.reshape(-1, 1, 1)
    names = _COLUMNS.get(rows.shape[2], " ".join(f"c{i}" for i in range(rows.shape[2]))).split()
    lines = [",".join(["step", "tool", *names])]
    for step, tools in enumerate(rows):
        lines += [",".join([str(step), str(tool), *map(repr, row.tolist())]) for tool, row in enumerate(tools)]
    return "\n".join(lines) + "\n"
