"""``Scene``: what is simulated, what may vary, and what is wanted of it."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diffsim.errors import DiffsimError, SceneError

if TYPE_CHECKING:  # torch takes seconds to import; `diffsim list` and `diffsim --help` do without it
    from torch import Tensor, nn

    from diffsim.rollout import Trajectory

COLORS = ("body", "speed", "pressure", "plastic")


@contextmanager
def blame(file: str | None, what: str):
    """Turn an error of a scene's own code into a one-line ``SceneError`` that names file and line.

    Args:
        file: the script whose last line in the traceback is named; None for code that has no file.
        what: the part of the scene that was running, for the message.

    Raises:
        SceneError: from any exception that is not already one of the package.
    """
    try:
        yield
    except DiffsimError:
        raise
    except SyntaxError as error:
        raise SceneError(f"{error.filename}:{error.lineno}: {error.msg}; correct the script") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == file), None)
        place = f"{file}:{line}: " if line else ""
        text = (str(error).strip() or "no message").splitlines()[0]
        raise SceneError(f"{place}{what} raised {type(error).__name__}: {text}") from error


def file_of(function: Callable) -> str | None:
    """File that a callable was defined in; None for a builtin or an object without code."""
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code.co_filename if code else None


@dataclass(kw_only=True)
class Scene:
    """A model, its start, and optionally variables, an objective and metrics.

    Args:
        name: short name, used for the run folder.
        model: the model; ``model(state, control) -> state`` is one control step.
        steps: control steps of a rollout.
        setup: returns (state, controls or None); called anew for every rollout, so that the start follows from the
            variables differentiably.
        variables: what ``optimize`` changes, by name; may be empty.
        objective: trajectory -> scalar loss.
        metrics: trajectory -> figures by name, logged beside the loss.
        bounds: (low, high) of a variable by name, each a number or a tensor of its shape.
        policy: ``policy(state, step) -> control``; its parameters are variables too, named ``policy.*``.
        every: control steps between two frames of the trajectory.
        constraints: trajectory -> tensor that shall not be positive, by name; see ``diffsim.constraints``. Their terms
            are part of ``loss``, and their largest violation is one of the figures.
        defaults: settings of ``optimize`` that suit the scene: method, lr, iterations, ...
        color: what the renderer colors particles by, one of "body", "speed", "pressure", "plastic".
        camera: options of the renderer's camera.
        ghost: points of a target [m], (k, d), drawn as a faint body.
        joints: returns the ``diffsim.robots.JointTrajectory`` of a robot that carries the tools, to be written.
        options: what the scene was built with; filled by ``diffsim.load``.
        source: name or "file.py:function" that ``diffsim.load`` built it from; None when built in Python.

    Raises:
        SceneError: an inconsistent scene.
    """

    name: str
    model: Any
    steps: int
    setup: Callable[[], tuple]
    variables: dict[str, nn.Parameter] = field(default_factory=dict)
    objective: Callable[[Trajectory], Tensor] | None = None
    metrics: Callable[[Trajectory], dict[str, float]] | None = None
    bounds: dict[str, tuple] = field(default_factory=dict)
    policy: nn.Module | None = None
    every: int = 1
    constraints: dict[str, Callable[[Trajectory], Tensor]] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    color: str = "body"
    camera: dict | None = None
    ghost: Any = None
    joints: Callable[[], Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    source: str | None = None

    def __post_init__(self):
        if self.steps < 1 or self.every < 1:
            raise SceneError(f"scene {self.name!r}: steps={self.steps}, every={self.every}; both must be at least 1")
        if self.color not in COLORS:
            raise SceneError(f"scene {self.name!r}: color {self.color!r} is not known; use one of {', '.join(COLORS)}")
        parameters = self.parameters()
        for name, value in parameters.items():
            if not (value.is_leaf and value.requires_grad):
                raise SceneError(f"scene {self.name!r}: variable {name!r} is not trainable; make it an nn.Parameter")
        self.constraint_values = {}
        self._lagrangian = self.loaded = None
        for name, pair in self.bounds.items():
            if name not in parameters:
                raise SceneError(f"scene {self.name!r}: bounds of {name!r}, which is no variable of the scene")
            if len(pair) != 2:
                raise SceneError(f"scene {self.name!r}: bounds of {name!r} must be a pair (low, high)")

    def parameters(self) -> dict[str, nn.Parameter]:
        """Every trainable tensor by name: the variables, then the policy's as ``policy.*``."""
        policy = self.policy.named_parameters(prefix="policy") if self.policy is not None else ()
        return {**self.variables, **{name: value for name, value in policy if value.requires_grad}}

    def start(self) -> tuple:
        """Initial state and controls: the policy when there is one, else a tensor (steps, ...) or None.

        Raises:
            SceneError: ``setup`` fails or returns something else, or its controls are not finite.
        """
        with blame(file_of(self.setup), "setup"):
            pair = self.setup()
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise SceneError(f"scene {self.name!r}: setup must return (state, controls), with None for no controls")
        state, controls = pair
        if controls is None:
            return state, self.policy
        if self.policy is not None:
            raise SceneError(f"scene {self.name!r} has both controls and a policy; give one of them")
        finite = controls.detach().isfinite()
        if not finite.all():
            step = int((~finite.reshape(len(controls), -1)).any(dim=1).nonzero()[0])
            raise SceneError(f"scene {self.name!r}: the controls of step {step} are not finite; check what sets them")
        return state, controls

    def rollout(
        self,
        memory: str = "2GiB",
        steps: int | None = None,
        progress=None,
        start: tuple | None = None,
        truncate: int | None = None,
        frozen: int = 0,
    ):
        """Simulate the scene; differentiable in its variables.

        Args:
            memory: budget for what the backward pass needs, as in ``diffsim.rollout``.
            steps: control steps, when other than the scene's.
            progress: as in ``diffsim.rollout``.
            start: what ``self.start()`` returned, when the caller has it already.
            truncate: let gradients pass back through at most so many control steps, as ``diffsim.rollout`` does.
            frozen: give the first so many steps no gradient: neither their controls nor what came before them.

        Returns:
            The ``Trajectory``.

        Raises:
            SceneError: more steps than controls.
            SimulationError: the simulation left its domain.
        """
        from diffsim.rollout import rollout, windows

        steps = self.steps if steps is None else steps
        if steps < 1:
            raise SceneError(f"scene {self.name!r}: steps={steps}; it must be at least 1")
        detach = windows(steps, truncate)
        state, controls = self.start() if start is None else start
        if controls is not None and controls is not self.policy:
            if len(controls) < steps:
                raise SceneError(
                    f"scene {self.name!r}: {len(controls)} rows of controls for {steps} steps; lower steps"
                )
            controls = controls[:steps]
        return rollout(
            self.model,
            state,
            controls=controls,
            steps=steps,
            every=self.every,
            memory=memory,
            progress=progress,
            detach=detach,
            frozen=frozen,
        )

    def loss(self, path: Trajectory) -> Tensor:
        """The objective of a trajectory, a scalar.

        Raises:
            SceneError: the scene has none, or it fails, or returns something else.
        """
        if self.objective is None:
            raise SceneError(f"scene {self.name!r} has no objective; only scenes with one can be differentiated")
        with blame(file_of(self.objective), "objective"):
            value = self.objective(path)
        if getattr(value, "ndim", None) != 0:
            raise SceneError(f"scene {self.name!r}: the objective must return a scalar tensor, not {_describe(value)}")
        if not self.constraints:
            return value
        values = self._constrain(path)
        self.constraint_values = {name: g.detach() for name, g in values.items()}
        return value + self.lagrangian.term(values)

    def parts(self) -> dict:
        """What another process that loads this scene builds anew; ``loaded`` has what ``load`` returned."""
        names = ("model", "setup", "objective", "metrics", "policy", "steps", "every")
        parts = {name: getattr(self, name) for name in names}
        parts |= {"constraints": dict(self.constraints), "options": copy.deepcopy(self.options)}
        parts["lagrangian.rho"] = self.lagrangian.rho
        if self.policy is not None:  # what no optimizer changes, and so no candidate brings along
            fixed = [(name, value) for name, value in self.policy.named_parameters() if not value.requires_grad]
            fixed = dict(fixed + list(self.policy.named_buffers()))
            parts["policy.fixed"] = {name: value.detach().clone() for name, value in fixed.items()}
        return parts

    def changed_since_load(self) -> list[str]:
        """Names of the parts that were replaced or changed after ``load``."""
        now = self.parts()
        return [name for name in {**self.loaded, **now} if not _same(self.loaded.get(name), now.get(name))]

    @property
    def lagrangian(self):
        """Multipliers and penalty of the constraints, which ``loss`` contains."""
        from diffsim.constraints import AugmentedLagrangian

        if self._lagrangian is None:
            self._lagrangian = AugmentedLagrangian()
        return self._lagrangian

    def forget_multipliers(self) -> None:
        """Start the constraints with multipliers of zero: every optimization does, unless it resumes."""
        if self._lagrangian is not None:
            self._lagrangian.restart()

    def _constrain(self, path: Trajectory) -> dict[str, Tensor]:
        """Values of the constraints by name."""
        values = {}
        for name, constraint in self.constraints.items():
            with blame(file_of(constraint), f"constraint {name!r}"):
                values[name] = constraint(path)
            if not hasattr(values[name], "requires_grad"):
                kind = _describe(values[name])
                raise SceneError(f"scene {self.name!r}: constraint {name!r} must return a tensor, not {kind}")
        return values

    def measure(self, path: Trajectory) -> dict[str, float]:
        """Figures of a trajectory by name, with the constraints' ``violation``; empty when the scene defines none.

        Raises:
            SceneError: ``metrics`` fails or returns something else.
        """
        found = {}
        if self.metrics is not None:
            with blame(file_of(self.metrics), "metrics"):
                found = {name: float(value) for name, value in self.metrics(path).items()}
        if self.constraints:
            from diffsim.constraints import violation

            found["violation"] = violation(self._constrain(path))
        return found


def _describe(value) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"a tensor of shape {tuple(shape)}"


def _same(one, other) -> bool:
    """Whether two parts of a scene are the same object, or equal values."""
    if one is other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    if hasattr(one, "shape") and hasattr(other, "shape"):  # a tensor or an array, whose == is none
        return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())
    return isinstance(one, bool | int | float | str) and type(one) is type(other) and one == other
