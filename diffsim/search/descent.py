"""Descent by a torch optimizer; it is saved after every iteration and goes on after a kill bit for bit."""

import inspect

import torch

from diffsim.errors import SceneError
from diffsim.search.horizon import Horizon

PROBE = {torch.float32: 5e-3, torch.float64: 6e-6}  # cube root of the precision
NEVER = 2**62  # iterations until Sophia would differentiate a gradient, which hand-written adjoints do not allow


class Descent:
    """A torch optimizer, followed by projection onto the bounds.

    Args:
        optimizer: the class.
        clip_norm: scale the gradient down to this norm; None leaves it as it is.
        schedule: a ``Horizon`` or ``Multipliers``, which change the problem between iterations.
        options: of the optimizer.
    """

    def __init__(self, optimizer: type, clip_norm: float | None = None, schedule=None, **options):
        if clip_norm is not None and not clip_norm > 0:
            raise SceneError(f"option clip_norm={clip_norm}; it must be positive")
        self.optimizer, self.clip_norm, self.schedule, self.options = optimizer, clip_norm, schedule, options
        self.build([torch.nn.Parameter(torch.zeros(1, 1))])  # refuses a bad value before anything is written

    def build(self, parameters):
        """The optimizer of these parameters."""
        try:
            return self.optimizer(parameters, **self.options)
        except (ValueError, TypeError, RuntimeError) as error:
            text = str(error).splitlines()[0]
            raise SceneError(f"method {self.optimizer.__name__.lower()!r}: {text}; correct its options") from error

    def run(self, problem, iterations: int, first: int = 0) -> str:
        """Iterate from iteration ``first``, or from the last checkpoint if there is one; returns why it stopped."""
        parameters = list(problem.parameters.values())
        optimizer = self.build(parameters)
        problem.project()
        schedule = self.schedule
        begun = schedule.begin(problem) if schedule is not None else {}
        first, state = problem.restore([optimizer], first, **begun)
        if schedule is not None:
            schedule.resume(problem, state)
        for iteration in range(first, iterations + 1):
            last = iteration == iterations
            if schedule is not None and last:
                schedule.finish(problem)
            frozen = schedule.frozen(problem) if schedule is not None else 0
            loss = problem.evaluate(iteration, gradient=not last, frozen=frozen)
            if last:
                break
            if problem.horizon in (None, problem.length) and problem.stale(iteration):
                return "no improvement"
            self.step(problem, optimizer, frozen)
            problem.check_variables(iteration)
            if schedule is not None:
                state = schedule.advance(problem, optimizer, loss, state)
            problem.save(iteration + 1, [optimizer], **state)
        return "all iterations done"

    def step(self, problem, optimizer, frozen: int = 0) -> None:
        """One step of the optimizer, from the gradients in place; the first ``frozen`` rows stay as they are."""
        held = Horizon.held(problem, frozen)
        parameters = list(problem.parameters.values())
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm, foreach=False)
        self.move(problem, optimizer)
        problem.project()
        with torch.no_grad():
            for rows, values in held:
                rows.copy_(values)

    def move(self, problem, optimizer) -> None:
        """Let the optimizer take its step."""
        optimizer.step()


class Sophia(Descent):
    """Sophia (Liu, Li, Hall, Liang and Ma 2023, arXiv:2305.14342) with its Hutchinson estimate from differences.

    The optimizer divides the averaged gradient by an averaged diagonal of the Hessian and clips the quotient. That
    diagonal comes from H d = (g(x + d) - g(x - d))/2 with d of random signs: the mean of (H d)_i / d_i over draws is
    H_ii. A hand-written adjoint gives g exactly but no second derivative, hence the difference. Probes keep to the
    bounds.

    Args:
        hessian_period: iterations between two estimates.
        hessian_samples: draws per estimate; each takes two more evaluations with gradient.
        probe: size of d relative to the largest entry of a variable, at least 1; the cube root of the precision when
            None.
        options: of ``Descent`` and of the optimizer.
    """

    def __init__(
        self,
        optimizer: type,
        hessian_period: int = 10,
        hessian_samples: int = 1,
        probe: float | None = None,
        **options,
    ):
        if hessian_period < 1 or hessian_samples < 1:
            raise SceneError("options hessian_period and hessian_samples must be at least 1")
        if probe is not None and not probe > 0:
            raise SceneError(f"option probe={probe}; it must be positive")
        self.period, self.samples, self.probe = hessian_period, hessian_samples, probe
        super().__init__(optimizer, update_period=NEVER, **options)

    def move(self, problem, optimizer) -> None:
        due = optimizer.param_groups[0].get("step", 0) % self.period == 0
        optimizer.step(hessian=self.diagonal(problem) if due else None)

    def diagonal(self, problem) -> list[torch.Tensor]:
        """Estimate of the Hessian's diagonal at the variables, which stay, with their gradients and constraints."""
        parameters = list(problem.parameters.values())
        centers = [value.detach().clone() for value in parameters]
        gradients, constrained = [value.grad for value in parameters], problem.scene.constraint_values
        total = [torch.zeros_like(value) for value in centers]
        for _ in range(self.samples):
            signs = [torch.randint(0, 2, value.shape).to(value) * 2 - 1 for value in centers]
            state = torch.get_rng_state()  # a policy draws the same numbers on both sides
            sides = []
            for side in (1, -1):
                torch.set_rng_state(state)
                for value, center, sign in zip(parameters, centers, signs, strict=True):
                    size = PROBE[center.dtype] if self.probe is None else self.probe
                    size *= max(1.0, float(center.abs().max()))
                    with torch.no_grad():
                        value.copy_(center + side * size * sign)
                problem.project()
                problem.simulate(gradient=True)
                sides.append(([v.detach().clone() for v in parameters], [_gradient(v) for v in parameters]))
            for k, (sum_, high, low) in enumerate(zip(total, sides[0][0], sides[1][0], strict=True)):
                d = high - low
                change = sides[0][1][k] - sides[1][1][k]
                sum_ += torch.where(d == 0, torch.zeros_like(d), change / torch.where(d == 0, torch.ones_like(d), d))
        with torch.no_grad():
            for value, center, gradient in zip(parameters, centers, gradients, strict=True):
                value.copy_(center)
                value.grad = gradient
        problem.scene.constraint_values = constrained  # multipliers follow from the iterate, not from a probe
        return [value / self.samples for value in total]


def _gradient(value: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(value) if value.grad is None else value.grad.clone()


def options_of(optimizer: type) -> dict[str, inspect.Parameter]:
    """Options of an optimizer's class by name."""
    parameters = inspect.signature(optimizer, eval_str=True).parameters
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: p for name, p in parameters.items() if name != "params" and p.kind not in variadic}
