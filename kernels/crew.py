"""How many threads a launch of substeps takes.

The threads of such a launch wait for each other by looking again and again (``substep.meet``), which is the fastest way
while each has a processor of its own. Where other programs want the processors too, a thread that the system puts aside
lets the others wait for milliseconds; one thread alone is faster then. The system counts how often that happens, so a
launch during which it did is followed by some with one thread. Results do not depend on it, to the last bit.
"""

import os
from functools import cache

from diffsim.kernels.arrays import context

try:
    import resource
except ImportError:  # not a POSIX system: nobody counts
    resource = None

FEW = 4096  # particles that one thread advances as fast as two that wait for each other
# times per second that two threads are put aside: 20 to 116 on a quiet machine, 220 to 270 beside two other programs
BUSY = 180.0
WINDOW = 0.05  # s of launches over which they are counted: in one short launch three are chance
ALONE = 30  # launches with one thread after that


@cache
def cores():
    """Processors that this process may use: threads beyond them would wait for one that cannot run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def put_aside():
    """How often the system has taken a processor from a thread of this process that wanted to go on."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


class Crew:
    """The threads of the launches to come."""

    def __init__(self):
        self.alone = 0  # launches left with one thread
        self.times, self.seconds = 0, 0.0  # of the launches since the last judgment

    def threads(self, particles):
        """Number of threads for a launch on so many particles."""
        most = min(context.threads, cores())
        if particles <= FEW or most == 1 or context.device != "cpu":
            return 1
        if self.alone > 0:
            self.alone -= 1
            return 1
        return most

    def observed(self, threads, times, seconds):
        """Take note of a launch: how often its threads were put aside, and its wall time."""
        if threads == 1:
            return
        self.times, self.seconds = self.times + times, self.seconds + seconds
        if self.seconds >= WINDOW:
            if self.times > BUSY * self.seconds:
                self.alone = ALONE
            self.times, self.seconds = 0, 0.0


crew = Crew()
