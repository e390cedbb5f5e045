"""diffsim: a differentiable physics engine with hand-written adjoints."""

from diffsim import errors
from diffsim.runtime import init

__all__ = ["errors", "init"]
