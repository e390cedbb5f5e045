"""L-BFGS with bounds.

It continues after a kill as if nothing had happened, bit for bit: every evaluation is logged, and a resumed run replays
the log. SciPy's L-BFGS-B is deterministic, so the same losses and gradients lead it to the same point, and nothing of
its internal state needs to be saved.
"""

import numpy as np

DEFAULTS = {"maxcor": 10, "maxls": 20, "ftol": 0.0, "gtol": 0.0}


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
        self.options = {**DEFAULTS, **options}

    def run(self, problem, iterations: int, first: int = 0) -> str:
        """Iterate from iteration ``first``, replaying logged evaluations; returns why it stopped."""
        from scipy.optimize import Bounds, minimize

        problem.project()
        logged = problem.logged_evaluations()
        count, iteration, seen = 0, first, set()

        def evaluate(x):
            nonlocal count
            problem.set_flat(x)
            point = problem.flat().tobytes()
            if point in seen:
                raise _BelowRounding
            seen.add(point)
            candidate_of = iteration + 1 if count else first  # the iteration whose line search asks
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

        options = {**self.options, "maxiter": iterations - first, "maxfun": np.iinfo(np.int32).max}
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
