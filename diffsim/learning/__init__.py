"""Learning constitutive laws from motion: data, fits, files of trained laws."""

from diffsim.learning.evaluate import Cell, Learned, Trial, evaluate, learned
from diffsim.learning.fit import Fit, fit
from diffsim.learning.law_file import load_law, save_law
from diffsim.learning.motion import Motion, read_motion, write_motion
from diffsim.learning.segments import Segments

__all__ = [
    "Cell", "Fit", "Learned", "Motion", "Segments", "Trial", "evaluate", "fit", "learned", "load_law", "read_motion",
    "save_law", "write_motion",
]  # fmt: skip
