"""Models: each maps (state, control) to the next state."""

from diffsim.models.boundary import Prescribed
from diffsim.models.contact import Contact, Obstacle
from diffsim.models.deformable import NodalState
from diffsim.models.fem import FEM
from diffsim.models.mpm import MPM, State
from diffsim.models.shell import Shell

__all__ = ["FEM", "MPM", "Contact", "NodalState", "Obstacle", "Prescribed", "Shell", "State"]
