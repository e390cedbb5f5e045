"""Models: each maps (state, control) to the next state."""

from diffsim.models.mpm import MPM, State

__all__ = ["MPM", "State"]
