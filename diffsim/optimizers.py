"""The ways ``optimize`` changes the variables: every torch optimizer by name, and L-BFGS with bounds.

Each continues after a kill as if nothing had happened, bit for bit. ``Descent`` saves its optimizer after every
iteration. ``Lbfgs`` logs every evaluation instead and replays the log: SciPy's L-BFGS-B is deterministic, so the same
losses and gradients lead it to the same point, and nothing of its internal state needs to be saved.
"""

import inspect

import numpy as np
import torch

from diffsim.errors import SceneError
from diffsim.scripts import convert, kinds_of, suggestion

_LBFGS_DEFAULTS = {"maxcor": 10, "maxls": 20, "ftol": 0.0, "gtol": 0.0}


def _torch_methods() -> dict[str, type]:
    classes = (value for value in vars(torch.optim).values() if inspect.isclass(value))
    known = {cls.__name__.lower(): cls for cls in classes if issubclass(cls, torch.optim.Optimizer)}
    # Optimizer is abstract, torch's LBFGS has no bounds, and SparseAdam needs sparse gradients
    return {name: cls for name, cls in known.items() if name not in ("optimizer", "lbfgs", "sparseadam")}


def methods() -> list[str]:
    """Names of the methods that ``optimize`` knows."""
    return sorted([*_torch_methods(), "lbfgs"])


def method_named(name: str, options: dict):
    """The method called ``name``, with these options; an option given as a text is converted.

    Raises:
        SceneError: an unknown method or option, or a value that the method refuses.
    """
    key, classes = name.lower(), _torch_methods()
    if key == "lbfgs":
        kinds = {option: (type(default),) for option, default in _LBFGS_DEFAULTS.items()}
    elif key in classes:
        parameters = inspect.signature(classes[key], eval_str=True).parameters
        kinds = {option: kinds_of(parameter) for option, parameter in parameters.items() if option != "params"}
        kinds["clip_norm"] = (float, type(None))
    else:
        raise SceneError(f"method {name!r} is not known; {suggestion(key, methods())}")
    for option in options:
        if option not in kinds:
            raise SceneError(f"method {key!r} has no option {option!r}; {suggestion(option, kinds)}")
    options = {option: convert(option, value, kinds[option]) for option, value in options.items()}
    return Lbfgs(**options) if key == "lbfgs" else Descent(classes[key], **options)


class Descent:
    """A ``torch.optim`` optimizer, followed by projection onto the bounds.

    Args:
        optimizer: the class.
        clip_norm: scale the gradient down to this norm; None leaves it as it is.
        options: of the optimizer.
    """

    def __init__(self, optimizer: type, clip_norm: float | None = None, **options):
        if clip_norm is not None and not clip_norm > 0:
            raise SceneError(f"option clip_norm={clip_norm}; it must be positive")
        self.optimizer, self.clip_norm, self.options = optimizer, clip_norm, options
        self._build([torch.nn.Parameter(torch.zeros(1, 1))])  # refuses a bad value before anything is written

    def _build(self, parameters):
        try:
            return self.optimizer(parameters, **self.options)
        except (ValueError, TypeError, RuntimeError) as error:
            text = str(error).splitlines()[0]
            raise SceneError(f"method {self.optimizer.__name__.lower()!r}: {text}; correct its options") from error

    def run(self, problem, iterations: int) -> str:
        """Iterate, from the last checkpoint if there is one; returns why it stopped."""
        parameters = list(problem.parameters.values())
        optimizer = self._build(parameters)
        problem.project()
        first = problem.restore(optimizer)
        for iteration in range(first, iterations + 1):
            last = iteration == iterations
            problem.evaluate(iteration, gradient=not last)
            if last:
                break
            if problem.stale(iteration):
                return "no improvement"
            if self.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm, foreach=False)
            optimizer.step()
            problem.project()
            problem.check_variables(iteration)
            problem.save(iteration + 1, optimizer)
        return "all iterations done"


class _BelowRounding(Exception):
    """A line search asks for variables that, in their own precision, were evaluated before."""


class Lbfgs:
    """L-BFGS-B (Byrd, Lu, Nocedal and Zhu 1995, doi:10.1137/0916069) as in ``scipy.optimize``, in double precision.

    Args:
        maxcor: pairs of steps and gradient changes kept.
        maxls: evaluations per line search.
        ftol, gtol: SciPy's stopping tolerances; both are absolute below 1, so they are off unless set.
    """

    def __init__(self, **options):
        self.options = {**_LBFGS_DEFAULTS, **options}

    def run(self, problem, iterations: int) -> str:
        """Iterate, replaying logged evaluations first; returns why it stopped."""
        from scipy.optimize import Bounds, minimize

        problem.project()
        logged = problem.logged_evaluations()
        count, iteration, seen = 0, 0, set()

        def evaluate(x):
            nonlocal count
            problem.set_flat(x)
            point = problem.flat().tobytes()
            if point in seen:
                raise _BelowRounding
            seen.add(point)
            candidate_of = iteration + 1 if count else 0  # the iteration whose line search asks
            if count < len(logged):
                loss, gradient = logged[count]
                problem.note(candidate_of, loss)
            else:
                loss = problem.evaluate(candidate_of)
                gradient = problem.flat_gradient()
                problem.log_evaluation(loss, gradient)
            count += 1
            return loss, gradient

        def advance(intermediate_result):
            nonlocal iteration
            iteration += 1
            if problem.stale(iteration):
                raise StopIteration

        options = {**self.options, "maxiter": iterations, "maxfun": np.iinfo(np.int32).max}
        try:
            result = minimize(
                evaluate,
                problem.flat(),
                jac=True,
                method="L-BFGS-B",
                bounds=Bounds(*problem.flat_bounds()),
                callback=advance,
                options=options,
            )
        except _BelowRounding:
            return "no further descent (the steps are below the rounding of the variables)"
        if problem.stale(iteration):
            return "no improvement"
        if iteration == iterations:
            return "all iterations done"
        return f"no further descent ({result.message.strip(' :').lower()})"
