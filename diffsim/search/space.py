"""``Space``: the variables as one vector for methods without gradients, scaled, and held over several steps."""

import numpy as np

from diffsim.errors import SceneError
from diffsim.evaluation import flat


class Space:
    """Vectors z of which the variables are x = z * scale, entry by entry.

    The scale of an entry is half the distance of its bounds where both are finite, else the largest entry of the
    variable, at least 1. A variable with a row per control step may be held: z then has one row for each block of
    ``hold`` steps, which makes the search of a long rollout one of few numbers.

    Args:
        problem: the ``Problem``.
        hold: control steps per row.

    Attributes:
        start: the variables' vector; of a held variable the first row of each block.
        low, high: bounds of z, infinite where there are none.
    """

    def __init__(self, problem, hold: int = 1):
        if hold < 1:
            raise SceneError(f"option hold={hold}; it must be at least 1")
        low, high = problem.flat_bounds()
        finite = np.isfinite(low) & np.isfinite(high) & (high > low)
        sizes = [np.full(v.numel(), max(1.0, float(v.detach().abs().max()))) for v in problem.parameters.values()]
        with np.errstate(invalid="ignore"):
            scale = np.where(finite, (high - low) / 2, np.concatenate(sizes))
        shapes = [tuple(value.shape) for value in problem.parameters.values()]
        self._sources = _sources(shapes, problem.scene.steps, hold)
        first = np.unique(self._sources, return_index=True)[1]  # the entry that stands for each of z
        self.scale = scale
        self.start = (flat(problem.parameters.values()) / scale)[first]
        self.low, self.high = (low / scale)[first], (high / scale)[first]

    def variables(self, z: np.ndarray) -> np.ndarray:
        """The flat vector of variables."""
        return np.asarray(z)[self._sources] * self.scale


def _sources(shapes, steps: int, hold: int) -> np.ndarray:
    """Entry of z that each entry of the flat variables takes."""
    sources, offset = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        own = np.arange(size)
        if hold > 1 and len(shape) > 1 and shape[0] == steps:
            width = size // steps
            own = (np.arange(steps) // hold)[:, None] * width + np.arange(width)
        sources.append(offset + own.ravel())
        offset += int(own.max()) + 1 if size else 0
    return np.concatenate(sources)
