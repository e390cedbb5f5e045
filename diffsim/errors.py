"""The exceptions of the package: each says what went wrong, where, and what to do."""


class DiffsimError(Exception):
    """Base of every error that a user's input or a simulation can cause; its text is one line."""


class SceneError(DiffsimError):
    """A scene, an option or a model that cannot be built."""


class MeshError(DiffsimError):
    """A mesh file that is missing, broken, or not fit for its use."""


class DataError(DiffsimError):
    """A data file or a tensor that has the wrong shape, units or content."""


class SimulationError(DiffsimError):
    """A simulation that left its domain of validity.

    Attributes:
        step: control step, counted from the first of the rollout.
        substep: substep within it.
        particle: index of the first particle concerned, in the user's order.
        state: the last good state.
    """

    def __init__(self, message, step=None, substep=None, particle=None, state=None):
        super().__init__(message)
        self.step, self.substep, self.particle, self.state = step, substep, particle, state


class SolverError(DiffsimError):
    """A solver that did not converge.

    Attributes:
        history: what the iterations did, where there were any (``diffsim.solvers.newton.Record``).
        step: control step of a rollout, counted from its first.
        state: the last good state of a rollout.
    """

    def __init__(self, message, history=None, step=None, state=None):
        super().__init__(message)
        self.history, self.step, self.state = history, step, state


class GradientError(DiffsimError):
    """A gradient that is not finite."""
