"""Objectives as functions of named inputs, and differences of them: the parts of ``diffsim.testing``."""

import difflib
import itertools
import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffsim.errors import GradientError, SceneError
from diffsim.kernels.arrays import context
from diffsim.rollout import rollout

STATE_INPUTS = ("x", "v", "a", "past", "crease", "C", "F", "q", "X", "volume", "pose")
RESULTS = ("x", "v", "F", "q", "C", "wrench", "pose")
FIRST_STEP, LAST_STEP = 1e-3, 1e-7  # of the differences, relative to the input's scale
TAYLOR_STEPS = [1e-2 * 2.0**-k for k in range(18)]
TAYLOR_POINTS = 5


@dataclass
class Problem:
    """J of a rollout as a function of tensors by name, and the branches that it took at the values of the start.

    Raises:
        SceneError: less than one step.
    """

    model: nn.Module
    state: tuple
    controls: Tensor | Callable | None
    steps: int | None
    objective: Callable | None
    memory: object
    seed: int
    base: float = math.nan
    branches: list = field(default_factory=list)
    reference: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.steps is None:
            self.steps = len(self.controls) if isinstance(self.controls, Tensor) else 1
        if self.steps < 1:
            raise SceneError(f"gradcheck: steps={self.steps}; give at least 1")
        self.state = type(self.state)(*(t.detach() for t in self.state))
        self.slots, self.trained = {}, set()  # places of parameters and buffers by name; names of the parameters
        policy = [("policy.", self.controls)] if isinstance(self.controls, nn.Module) else []
        for prefix, module in [("", self.model), *policy]:
            for path, part in module.named_modules(prefix=prefix.rstrip(".")):
                for store in (part._parameters, part._buffers):
                    for key, value in store.items():
                        if value is not None and value.is_floating_point():
                            name = f"{path}.{key}" if path else key
                            self.slots[name] = (store, key)
                            if isinstance(value, nn.Parameter):
                                self.trained.add(name)

    def values(self, wrt) -> dict[str, Tensor]:
        """Values of inputs by name; of a parameter that stands in several places the first name is taken.

        Raises:
            SceneError: a name that is no input.
        """
        fields = {name: getattr(self.state, name, None) for name in STATE_INPUTS}
        found = {name: value for name, value in fields.items() if value is not None and value.numel()}
        if hasattr(self.model, "grid"):  # rest positions only say where a particle came from
            found.pop("X", None)
        if isinstance(self.controls, Tensor):
            found["controls"] = self.controls[: self.steps]
        known = {name: store[key] for name, (store, key) in self.slots.items()}
        if wrt is None:
            distinct = {id(known[name]): name for name in reversed(known) if name == "gravity" or name in self.trained}
            chosen = [*found, *reversed(distinct.values())]
        else:
            chosen = [wrt] if isinstance(wrt, str) else list(wrt)
        found |= known
        for name in chosen:
            if name not in found:
                near = difflib.get_close_matches(name, found, 1, 0.0)
                raise SceneError(f"gradcheck: wrt={name!r} is no input here; did you mean {near[0]!r}?")
        return {name: found[name].detach().to(context.dtype).clone() for name in chosen}

    def gradients(self, values, required: bool) -> dict[str, Tensor]:
        """Gradients of J by name; inputs that J does not depend on are left out. Sets base and branches.

        Raises:
            GradientError: no input matters, or one does not that is ``required``.
        """
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        with self._substituted(leaves):  # also during backward, which runs steps again
            value, self.branches = self._loss(leaves)
            if not value.requires_grad:
                raise GradientError("gradcheck: the objective depends on no input; compute it in torch from the path")
            found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        self.base = float(value.detach())
        gradients = dict(zip(leaves, found, strict=True))
        unused = [name for name, gradient in gradients.items() if gradient is None]
        if unused and required:
            raise GradientError(
                f"gradcheck: the rollout does not use {unused[0]!r}; what only the initial state depends on is checked "
                "through the fields of the state"
            )
        return {name: gradient for name, gradient in gradients.items() if gradient is not None}

    @torch.no_grad()
    def loss(self, values) -> tuple[float, list]:
        """J and the branches of every substep."""
        with self._substituted(values):
            value, branches = self._loss(values)
        return float(value), branches

    def _loss(self, values):
        state = self.state._replace(**{name: values[name] for name in STATE_INPUTS if name in values})
        controls = values.get("controls", self.controls)
        every = self.steps if self.objective is None else 1
        before = getattr(self.model, "trace", None)
        self.model.trace = []
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                path = rollout(self.model, state, controls, self.steps, every=every, memory=self.memory)
            value = self._default(path) if self.objective is None else self.objective(path)
            branches = list(self.model.trace)
        finally:
            self.model.trace = before
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise SceneError("gradcheck: the objective must return a scalar tensor")
        return value.reshape(()), branches

    @contextmanager
    def _substituted(self, values):
        """Put tensors in place of parameters and buffers, wherever the same one stands."""
        places = []
        for name in values.keys() & self.slots.keys():
            store, key = self.slots[name]
            same = [(s, k) for s, k in self.slots.values() if s[k] is store[key]]
            places += [(s, k, store[key], values[name]) for s, k in same]
        try:
            for store, key, _, value in places:
                store[key] = value
            yield
        finally:
            for store, key, original, _ in places:
                store[key] = original

    def _default(self, path):
        """sum W (z + z^2/2), z the change of the results from those of the first call, W fixed random numbers."""
        last = {name: getattr(path[-1], name, None) for name in RESULTS}
        last = {name: value for name, value in last.items() if value is not None and value.numel()}
        if not self.reference:
            generator = torch.Generator().manual_seed(self.seed)
            dx, duration = self.spacing, self.steps * self.model.substeps * self.model.dt
            # in uniform flight the spread over particles is rounding: a change that matters is the least unit
            least = {"x": dx, "v": dx / duration, "C": 1 / duration, "F": 1e-3}
            for name, value in last.items():
                value = value.detach().clone()
                spread = (value - value.mean(0)).abs().max() if len(value) > 1 else value.abs().max()
                spread = max(float(spread), least.get(name, 1e-6 * float(value.abs().max())))
                weight = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
                self.reference[name] = (value, spread if spread > 0 else 1.0, weight / math.sqrt(value.numel()))
        total = 0.0
        for name, (start, spread, weight) in self.reference.items():
            z = (last[name] - start) / spread
            total = total + (weight * (z + z * z / 2)).sum()
        return total

    @property
    def spacing(self) -> float:
        """Cell size of a grid, or the spacing of a mesh [m]."""
        return self.model.grid.dx if hasattr(self.model, "grid") else self.model.spacing

    def scale(self, name: str, value: Tensor) -> float:
        """Size of a change of an input that matters."""
        dx, duration = self.spacing, self.steps * self.model.substeps * self.model.dt
        if name in ("x", "X", "past", "pose") or (name == "controls" and value.shape[-1] == 7):
            return dx
        least = {"v": dx / duration, "a": dx / duration**2, "C": 1 / duration, "F": 1.0, "gravity": dx / duration**2}
        least["controls"] = least["v"]
        return max(float(value.abs().max()), least.get(name, 0.0)) or 1.0


NOTHING = 1e-9  # of J, for a change of an input that matters: no difference of J resolves less


class Probe:
    """Differences of J in one input.

    compared, switched: directions with a difference, and without since every step changed a branch. evaluations: of J;
    switches: those on another branch.
    """

    def __init__(self, problem: Problem, values, name: str, gradient: Tensor, accuracy: float):
        self.problem, self.values, self.name = problem, values, name
        self.gradient, self.accuracy = gradient, accuracy
        self.scale = problem.scale(name, values[name])
        self.compared = self.switched = self.evaluations = self.switches = 0

    def at(self, direction, h: float) -> float | None:
        """J(p + h d), or None on another branch."""
        moved = {self.name: self.values[self.name] + h * direction}
        value, branches = self.problem.loss({**self.values, **moved})
        self.evaluations += 1
        if branches != self.problem.branches:
            self.switches += 1
            return None
        return value

    def difference(self, direction, accuracy: float) -> float | None:
        """Derivative along a direction, or None when every step changes a branch."""
        best, doubt, step = None, math.inf, FIRST_STEP
        while step >= LAST_STEP and doubt > accuracy:
            slopes = []
            for h in (step * self.scale, step * self.scale / 2, step * self.scale / 4):
                high = self.at(direction, h)
                low = self.at(direction, -h) if high is not None else None
                if low is None:
                    break
                slopes.append((high - low) / (2 * h))
            else:
                coarse, fine = ((4 * b - a) / 3 for a, b in itertools.pairwise(slopes))
                if abs(fine - coarse) < doubt:
                    best, doubt = (16 * fine - coarse) / 15, abs(fine - coarse)
            step /= 8
        return best

    def compare(self, directions) -> float:
        """Largest error of the gradient along the directions over the largest derivative; nan if all switch."""
        exact = [float((self.gradient * direction).sum()) for direction in directions]
        accuracy = self.accuracy * max(map(abs, exact), default=0.0)
        found = [self.difference(direction, accuracy) for direction in directions]
        pairs = [(g, fd) for g, fd in zip(exact, found, strict=True) if fd is not None]
        self.compared += len(pairs)
        self.switched += len(found) - len(pairs)
        if not pairs:
            return math.nan
        worst, largest = max(abs(g - fd) for g, fd in pairs), max(abs(fd) for _, fd in pairs)
        if max(worst, largest) * self.scale < NOTHING * max(1.0, abs(self.problem.base)):
            return 0.0  # J does not depend on this input: what is left on both sides is rounding
        return worst / largest if largest else math.inf if worst else 0.0

    def taylor_slope(self, direction) -> tuple[float, bool]:
        """Slope over the smallest steps whose remainder stands a hundred times above roundoff, and whether J is linear.

        Each step halves the one before; five are fitted. nan where there are not so many on the branch of the start.
        """
        derivative = float((self.gradient * direction).sum())

        def remainder(h):
            value = self.at(direction, h)
            return None if value is None else abs(value - self.problem.base - h * derivative)

        # three remainders may all happen to be small: a few units in the last place of J is the least that it has
        rounding = 4 * torch.finfo(self.gradient.dtype).eps * abs(self.problem.base)
        floor = max(rounding, *(remainder(k * 1e-9 * self.scale) or 0.0 for k in (1, 2, 3))) + 1e-17
        points, blocked = [], False
        for step in TAYLOR_STEPS:
            value = remainder(step * self.scale)
            if value is None:
                points, blocked = [], True
            elif value > 100 * floor:
                points.append((math.log(step), math.log(value)))
            else:
                break
        if len(points) < TAYLOR_POINTS:
            return math.nan, not points and not blocked
        h, r = torch.tensor(points[-TAYLOR_POINTS:], dtype=torch.float64).T
        h = h - h.mean()
        return float((h * r).sum() / (h * h).sum()), False


def entry_directions(gradient: Tensor, count: int, generator) -> list[Tensor]:
    """Unit directions: half of them along the largest entries of the gradient, the others drawn."""
    size = gradient.numel()
    order = gradient.flatten().abs().argsort(descending=True, stable=True)
    if size > count:
        largest, rest = order[: (count + 1) // 2], order[(count + 1) // 2 :]
        order = torch.cat([largest, rest[torch.randperm(len(rest), generator=generator)[: count // 2]]])
    zero = torch.zeros(size, dtype=gradient.dtype)
    return [zero.index_fill(0, index, 1.0).reshape(gradient.shape) for index in order]


def random_direction(gradient: Tensor, generator) -> Tensor:
    """Independent normal entries."""
    return torch.randn(gradient.shape, generator=generator, dtype=torch.float64).to(gradient)
