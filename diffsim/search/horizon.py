"""``Horizon``: a rollout that grows while its loss no longer falls."""

import math

import torch

from diffsim.errors import SceneError


class Horizon:
    """Simulate and differentiate only the first control steps, and more of them at every plateau.

    Source: Xian et al., FluidLab (ICLR 2023), arXiv:2303.02346, and its code. An iteration is a plateau when the best
    loss of this horizon improves by less than ``rtol`` of itself, or by less than ``atol``; ``plateaus`` in a row
    expand the horizon by ``increment`` and begin a new best. The last evaluation is of the whole rollout, so the result
    is of all steps in any case.

    Args:
        start: control steps at the beginning.
        increment: control steps added at an expansion.
        plateaus: iterations in a row without enough gain that lead to an expansion.
        rtol, atol: what is too little gain.
        keep: rows of the variables that stay free: those more than so many steps before the end of the horizon are
            frozen, and no gradient is computed for them. None frees all.
        decay: the learning rate is multiplied by it at every expansion.

    Raises:
        SceneError: options out of their range.
    """

    def __init__(
        self,
        start: int = 10,
        increment: int = 10,
        plateaus: int = 5,
        rtol: float = 0.01,
        atol: float = 0.0,
        keep: int | None = None,
        decay: float = 1.0,
    ):
        for name, value in {"start": start, "increment": increment, "plateaus": plateaus, "keep": keep}.items():
            if value is not None and value < 1:
                raise SceneError(f"option {name}={value}; it must be at least 1")
        if not (rtol >= 0 and atol >= 0 and 0 < decay <= 1):
            raise SceneError(f"options rtol={rtol}, atol={atol}, decay={decay}: give 0 or more, and a decay in (0, 1]")
        self.start, self.increment, self.plateaus = start, increment, plateaus
        self.rtol, self.atol, self.keep, self.decay = rtol, atol, keep, decay

    def begin(self, problem) -> dict:
        """Set the first horizon; returns the state that ``advance`` changes."""
        problem.extend(min(self.start, problem.length))
        return {"plateaus": 0, "lowest": math.inf}

    def resume(self, problem, state: dict) -> None:
        """The checkpoint has put the horizon back."""

    def advance(self, problem, optimizer, loss: float, state: dict) -> dict:
        """Expand the horizon if it is time; returns the new state."""
        lowest, gain = state["lowest"], state["lowest"] - loss
        plateau = math.isfinite(lowest) and (gain < self.rtol * abs(lowest) or gain < self.atol)
        count = state["plateaus"] + 1 if plateau else 0
        if count < self.plateaus or problem.horizon == problem.length:
            return {"plateaus": count, "lowest": min(lowest, loss)}
        problem.extend(min(problem.horizon + self.increment, problem.length))
        for group in optimizer.param_groups:
            group["lr"] *= self.decay
        return {"plateaus": 0, "lowest": math.inf}

    def finish(self, problem) -> None:
        """Take all steps for the last evaluation."""
        if problem.horizon != problem.length:
            problem.extend(problem.length)

    def frozen(self, problem) -> int:
        """Rows at the start that no longer change."""
        return 0 if self.keep is None else max(0, problem.horizon - self.keep)

    @staticmethod
    def held(problem, frozen: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Rows that a step must leave alone, and their values: frozen ones, and those beyond the horizon, which
        momentum or weight decay would otherwise move."""
        rows, end = [], problem.horizon
        for value in problem.parameters.values():
            if value.ndim > 1 and len(value) == problem.scene.steps:
                rows += [value.detach()[:frozen]] if frozen else []
                rows += [value.detach()[end:]] if end is not None and end < len(value) else []
        return [(part, part.clone()) for part in rows]
