"""Methods without gradients: a population is drawn, evaluated, and drawn again where it was good.

Such a method is led by losses and its own random numbers alone, so a killed run goes on by drawing the same populations
and taking the logged losses: nothing of its state is saved.
"""

from abc import ABC, abstractmethod
from collections import deque
from contextlib import contextmanager

import numpy as np

from diffsim.errors import SceneError
from diffsim.search.batch import evaluate_batch
from diffsim.search.evaluators import evaluator_of
from diffsim.search.space import Space


class Population(ABC):
    """The loop of such a method; a subclass names its options and gives a strategy.

    Args:
        hold: control steps over which a row of a variable is held; see ``Space``.
    """

    parallel = True

    def __init__(self, hold: int = 1):
        if hold < 1:
            raise SceneError(f"option hold={hold}; it must be at least 1")
        self.hold = hold

    @abstractmethod
    def strategy(self, space: Space, seed: int):
        """An object with ``ask() -> vectors`` of z, or None at the end, and ``tell(vectors, losses)``."""

    def run(self, problem, iterations: int, first: int = 0) -> str:
        """Evaluate the start and then a population per iteration; returns why it stopped."""
        problem.project()
        logged = deque(problem.logged_records())
        space = Space(problem, self.hold)
        strategy = self.strategy(space, problem.seed)
        with evaluator_of(problem) as evaluator:
            evaluate_batch(problem, evaluator, first, [space.variables(space.start)], logged=logged)
            for iteration in range(first + 1, iterations + 1):
                if problem.stale(iteration - 1):
                    return "no improvement"
                vectors = strategy.ask()
                if vectors is None:
                    return "no further descent (the population has converged)"
                candidates = [space.variables(z) for z in vectors]
                found = evaluate_batch(problem, evaluator, iteration, candidates, logged=logged)
                strategy.tell(vectors, [loss for loss, _ in found])
        return "all iterations done"


class Cma(Population):
    """CMA-ES (Hansen and Ostermeier 2001, doi:10.1162/106365601750190398) as in the package ``cma``, with bounds.

    Args:
        sigma: standard deviation of the first population, relative to the scale of ``Space``.
        population: candidates per iteration; 4 + 3 log(n) for n numbers when None.
        diagonal: learn variances only, which is cheaper for thousands of numbers.
        hold: as in ``Space``.
    """

    def __init__(self, sigma: float = 0.3, population: int | None = None, diagonal: bool = False, hold: int = 1):
        super().__init__(hold)
        if not sigma > 0:
            raise SceneError(f"option sigma={sigma}; it must be positive")
        if population is not None and population < 3:
            raise SceneError(f"option population={population}; CMA-ES needs at least 3")
        self.sigma, self.population, self.diagonal = sigma, population, diagonal

    def strategy(self, space: Space, seed: int):
        return _Evolution(space, seed, self.sigma, self.population, self.diagonal)


class _Evolution:
    def __init__(self, space, seed, sigma, population, diagonal):
        import cma

        self._state = np.random.RandomState(seed % 2**32).get_state()
        options = {
            "seed": np.nan,  # the generator is set here, around each call, and never the one of the user
            "verbose": -9,
            "CMA_diagonal": diagonal,
            "bounds": [_listed(space.low), _listed(space.high)],
        }
        if population is not None:
            options["popsize"] = population
        with self._own_random():
            self._search = cma.CMAEvolutionStrategy(space.start, sigma, options)

    @contextmanager
    def _own_random(self):
        """The package draws from NumPy's global generator: lend it a state of its own."""
        before = np.random.get_state()
        np.random.set_state(self._state)
        try:
            yield
        finally:
            self._state = np.random.get_state()
            np.random.set_state(before)

    def ask(self):
        with self._own_random():
            return None if self._search.stop() else self._search.ask()

    def tell(self, vectors, losses):
        with self._own_random():
            self._search.tell(vectors, losses)


def _listed(bounds) -> list:
    return [float(bound) if np.isfinite(bound) else None for bound in bounds]


class Consensus(Population):
    """Consensus-based optimization with anisotropic noise.

        m = sum_i w_i z_i / sum_i w_i,    w_i = exp(-alpha (f_i - f_min) / (f_mean - f_min))
        z_i <- z_i - drift dt (z_i - m) + diffusion sqrt(dt) (z_i - m) * N(0, 1)

    Sources: Pinnau, Totzeck, Tse and Martin (2017), doi:10.1142/S0218202517400061; componentwise noise from Carrillo,
    Jin, Li and Zhu (2021), doi:10.1051/cocv/2020046, which contracts for 2 drift > diffusion^2 in any dimension. Here
    alpha is relative to the spread of the losses, so that their unit does not matter, and candidates are projected onto
    the bounds.

    Args:
        population: candidates, drawn around the start.
        sigma: their standard deviation at first, relative to the scale of ``Space``.
        alpha: how strongly the best ones are preferred.
        drift, diffusion, dt: of the motion above.
        hold: as in ``Space``.
    """

    def __init__(
        self,
        population: int = 20,
        sigma: float = 0.3,
        alpha: float = 30.0,
        drift: float = 1.0,
        diffusion: float = 1.0,
        dt: float = 0.5,
        hold: int = 1,
    ):
        super().__init__(hold)
        if population < 2:
            raise SceneError(f"option population={population}; a consensus needs at least 2")
        for name, value in {"sigma": sigma, "alpha": alpha, "drift": drift, "dt": dt}.items():
            if not value > 0:
                raise SceneError(f"option {name}={value}; it must be positive")
        if not 0 <= diffusion**2 < 2 * drift:
            raise SceneError(
                f"option diffusion={diffusion}; its square must be below 2 drift, {2 * drift}, to contract"
            )
        self.population, self.sigma, self.alpha = population, sigma, alpha
        self.drift, self.diffusion, self.dt = drift, diffusion, dt

    def strategy(self, space: Space, seed: int):
        return _Swarm(space, seed, self)


class _Swarm:
    def __init__(self, space, seed, options):
        self.space, self.options = space, options
        self.random = np.random.Generator(np.random.PCG64(seed))
        noise = self.random.standard_normal((options.population, len(space.start)))
        noise[0] = 0.0  # the start itself takes part
        self.z = self._bounded(space.start + options.sigma * noise)

    def _bounded(self, z):
        return np.clip(z, self.space.low, self.space.high)

    def ask(self):
        return list(self.z)

    def tell(self, vectors, losses):
        options, losses = self.options, np.array(losses)
        finite = losses[np.isfinite(losses)]
        spread = finite.mean() - finite.min()
        weights = np.exp(-options.alpha * (losses - finite.min()) / spread) if spread > 0 else np.isfinite(losses) * 1.0
        away = self.z - weights @ self.z / weights.sum()
        noise = self.random.standard_normal(self.z.shape)
        root = np.sqrt(options.dt)
        self.z = self._bounded(self.z + away * (options.diffusion * root * noise - options.drift * options.dt))
