"""The curriculum of segments that a motion is cut into, and the state that each begins with."""

import math
from dataclasses import dataclass

from diffsim.errors import SceneError


@dataclass(frozen=True)
class Segments:
    """Lengths of segments [steps] that grow over the epochs: Lambda = last + (first - last) (1 + cos(pi e/E))/2.

    A motion of T steps is cut into n = ceil(T/Lambda) segments; step t belongs to segment floor(t n/T). Each begins
    with the recorded state, and no gradient crosses from one to the next.

    Source: Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369, with 25 and 200 steps.
    """

    first: float = 25.0
    last: float = 200.0

    def __post_init__(self):
        if not (1 <= self.first <= self.last):
            raise SceneError(f"segments of {self.first} to {self.last} steps; give 1 <= first <= last")

    def cuts(self, steps: int, epoch: int, epochs: int) -> list[int]:
        """First step of each segment, and the number of steps at the end of the list."""
        length = self.last + (self.first - self.last) * (1 + math.cos(math.pi * epoch / epochs)) / 2
        count = math.ceil(steps / length)
        return [-(-k * steps // count) for k in range(count + 1)]


def begin(motion, frame: int, blank, carried=None, positions_only: bool = False):
    """The state at a frame: as recorded, or from positions only.

    From positions only, v is (x_k - x_{k-1})/interval, which is what symplectic Euler has moved the particles with when
    frames are one step apart (at the first frame: of the next interval), and C, F and q are those that the model has
    reached at the end of the segment before, or of a body at rest.

    Args:
        blank: a state of the model at rest, for what the motion does not tell.
        carried: the model's state at this frame, or None.
        positions_only: take nothing else from the motion, whatever it holds.
    """
    like = blank.x
    x = motion.x[frame].to(like)
    time = blank.time + motion.times[frame] - motion.times[0]
    if motion.full and carried is None and not positions_only:
        state = {name: getattr(motion, name)[frame].to(like) for name in ("v", "C", "F")}
        q = motion.q[frame].to(like) if motion.q is not None and motion.q.shape[-1] == blank.q.shape[1] else blank.q
        return blank._replace(x=x, time=time, q=q, **state)
    other = max(frame, 1)
    v = (motion.x[other].to(like) - motion.x[other - 1].to(like)) / motion.interval
    if carried is None:
        return blank._replace(x=x, v=v, time=time)
    rest = {name: getattr(carried, name).detach() for name in ("C", "F", "q")}
    return blank._replace(x=x, v=v, time=time, **rest)


def losses(frames, target):
    """Sum over the frames of the mean squared coordinate error [m^2]. frames, target: (k, n, d)."""
    return (frames - target.to(frames)).square().mean((1, 2)).sum()
