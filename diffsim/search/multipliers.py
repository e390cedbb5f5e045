"""``Multipliers``: the outer loop of an augmented Lagrangian, run within a descent."""

from diffsim.constraints import violation
from diffsim.errors import SceneError


class Multipliers:
    """Update the multipliers of a scene's constraints after every so many iterations.

    Where the largest violation has not fallen to ``reduction`` of what it was at the update before, the penalty grows,
    by ``growth``. The objective changes at an update, so the best iterate is that since the last one.

    Source: Nocedal and Wright, Numerical Optimization (2006), framework 17.3.

    Args:
        every: iterations between two updates.
        rho: the first penalty; that of ``scene.lagrangian``, 10 unless it was set, when None.
        growth, reduction: as above.

    Raises:
        SceneError: options out of their range.
    """

    def __init__(self, every: int = 10, rho: float | None = None, growth: float = 3.0, reduction: float = 0.25):
        if every < 1 or not (rho is None or rho > 0) or growth < 1 or not 0 <= reduction < 1:
            raise SceneError(
                f"options every={every}, rho={rho}, growth={growth}, reduction={reduction}: give at least 1, a "
                "positive number, at least 1, and a share below 1"
            )
        self.every, self.rho, self.growth, self.reduction = every, rho, growth, reduction

    def begin(self, problem) -> dict:
        """Set the first penalty; returns the state that ``advance`` changes."""
        if not problem.scene.constraints:
            raise SceneError(
                f"scene {problem.scene.name!r} has no constraints, so it needs no augmented Lagrangian; name some in "
                "Scene(constraints=...), or choose another method"
            )
        lagrangian = problem.scene.lagrangian
        lagrangian.take(lagrangian.rho if self.rho is None else self.rho, {})
        return {"since": 0, "before": -1.0, "rho": lagrangian.rho, "multipliers": {}}

    def resume(self, problem, state: dict) -> None:
        """Put the multipliers of a checkpoint back."""
        problem.scene.lagrangian.take(state["rho"], state["multipliers"])

    def advance(self, problem, optimizer, loss: float, state: dict) -> dict:
        """Update if it is time; returns the new state."""
        since = state["since"] + 1
        if since < self.every:
            return {**state, "since": since}
        lagrangian, values = problem.scene.lagrangian, problem.scene.constraint_values
        worst = violation(values)
        lagrangian.update(values)
        if state["before"] >= 0 and worst > self.reduction * state["before"]:
            lagrangian.take(self.growth * lagrangian.rho, lagrangian.multipliers)
        problem.extend(problem.horizon)
        found = {"rho": lagrangian.rho, "multipliers": dict(lagrangian.multipliers)}
        return {"since": 0, "before": worst, **found}

    def finish(self, problem) -> None:
        """Nothing is left to do before the last evaluation."""

    def frozen(self, problem) -> int:
        """No row is frozen."""
        return 0
