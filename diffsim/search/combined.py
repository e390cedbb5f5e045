"""Methods made of others: a search without gradients that goes on with them, and descents from several starts."""

import numpy as np
import torch

from diffsim.errors import SceneError
from diffsim.evaluation import flat
from diffsim.search.batch import evaluate_batch
from diffsim.search.descent import Descent
from diffsim.search.evaluators import evaluator_of
from diffsim.search.space import Space


class Hybrid:
    """Search without gradients first, then descend from the best candidate.

    The idea is that of ThinShellLab (Wang et al., ICLR 2024): a population finds the contact that a gradient cannot
    see, and the gradient refines it.

    Args:
        explore: a ``Population``.
        refine: a method with gradients.
        switch: iteration up to which the population searches.
    """

    parallel = True

    def __init__(self, explore, refine, switch: int = 10):
        if switch < 1:
            raise SceneError(f"option switch={switch}; it must be at least 1")
        self.explore, self.refine, self.switch = explore, refine, switch

    def run(self, problem, iterations: int, first: int = 0) -> str:
        """Both parts, resuming in the one that was interrupted; returns why the last one stopped."""
        switch = first + self.switch
        if iterations <= switch:
            raise SceneError(
                f"method 'hybrid' needs more than switch={self.switch} iterations; give more, or a lower switch"
            )
        patience, problem.patience = problem.patience, None  # it counts within the second part
        self.explore.run(problem, switch, first)
        problem.patience = patience
        problem.assign(problem.best["variables"])
        return self.refine.run(problem, iterations, switch + 1)


class MultiStart:
    """Descents from several starts side by side; the best iterate of all is the result.

    The first start is the scene's; the others are drawn around it, normally distributed, and projected onto the bounds.

    Args:
        descent: the method of each, with an optimizer of its own.
        starts: their number.
        sigma: standard deviation, relative to the scale of ``diffsim.search.space.Space``.
    """

    parallel = True

    def __init__(self, descent: Descent, starts: int = 4, sigma: float = 0.5):
        if starts < 1:
            raise SceneError(f"option starts={starts}; it must be at least 1")
        if not sigma > 0:
            raise SceneError(f"option sigma={sigma}; it must be positive")
        self.descent, self.starts, self.sigma = descent, starts, sigma

    def run(self, problem, iterations: int, first: int = 0) -> str:
        """All descents, an iteration of each after the other; returns why they stopped."""
        problem.project()
        parameters = list(problem.parameters.values())
        points = self._starts(problem)
        optimizers = [self.descent.build(parameters) for _ in points]
        first, state = problem.restore(optimizers, first, points=torch.from_numpy(points))
        points = state["points"].numpy().copy()
        with evaluator_of(problem) as evaluator:
            for iteration in range(first, iterations + 1):
                last = iteration == iterations
                found = evaluate_batch(problem, evaluator, iteration, list(points), gradient=not last)
                if last:
                    break
                if problem.stale(iteration):
                    return "no improvement"
                for k, (_, gradient) in enumerate(found):
                    if gradient is None:
                        continue  # its simulation failed: it stays where it is, and fails again
                    problem.set_flat(points[k])
                    _set_gradients(parameters, gradient)
                    self.descent.step(problem, optimizers[k])
                    problem.check_variables(iteration)
                    points[k] = problem.flat()
                problem.save(iteration + 1, optimizers, points=torch.from_numpy(points))
        return "all iterations done"

    def _starts(self, problem) -> np.ndarray:
        space = Space(problem)
        noise = np.random.Generator(np.random.PCG64(problem.seed)).standard_normal((self.starts, len(space.start)))
        noise[0] = 0.0
        points = np.clip(space.start + self.sigma * noise, space.low, space.high) * space.scale
        points[0] = flat(problem.parameters.values())
        return points


@torch.no_grad()
def _set_gradients(parameters, vector: np.ndarray) -> None:
    offset = 0
    for value in parameters:
        part = torch.from_numpy(vector[offset : offset + value.numel()])
        value.grad = part.to(value).reshape(value.shape)
        offset += value.numel()
