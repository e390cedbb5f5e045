"""Projected Newton: the minimum of a potential whose Hessian may be indefinite on the way.

    H p = -g,  x <- x + alpha p,  alpha = 1, 1/2, ...  until  E(x + alpha p) <= E(x) + 1e-4 alpha p.g    (Armijo)

Where H is not positive definite it is projected, element by element, for the direction only; after some such
directions in a row alpha may be 2, 4, ..., as long as E falls, to get away from saddles. The iteration stops when
the largest entry of the step is below a length (or a speed times the time step), or at rounding.

Source: Nocedal and Wright, Numerical Optimization, 2nd ed. (2006), chapter 3 (Newton's method with a modified Hessian,
sufficient decrease); Teran et al., Robust quasistatic finite elements and flesh simulation (SCA 2005), for the
projection of single elements.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from diffsim.errors import SolverError
from diffsim.solvers.linear import factorize

ARMIJO = 1e-4
SHORTEST = 2.0**-40  # step length at which the line search gives up
LEAVING = 3  # directions in a row from projected Hessians, after which steps may be longer than 1
PAUSE = 2  # iterations for which the exact Hessian is left out once it was not positive definite


class Potential(Protocol):
    """What is minimized; x and gradients are (n,) arrays.

    energy(x) -> (E, rounding): the value, infinite where x is not allowed, and what rounding it may carry.
    gradient(x) -> g. hessian(x, project) -> sparse (n, n). limit(x, p) -> largest step length allowed, 1 at most.
    """

    def energy(self, x): ...

    def gradient(self, x): ...

    def hessian(self, x, project): ...

    def limit(self, x, p): ...


@dataclass(frozen=True)
class Settings:
    """How far and by what means.

    tolerance: largest entry of the last step, in the unit of x. iterations: at most. linear: method of
    ``linear.factorize``.
    """

    tolerance: float
    iterations: int = 100
    linear: str = "auto"


@dataclass
class Record:
    """What a solve did, per iteration: largest entries of gradient and step, energy, step length, direction.

    projected: whether the Hessian of the direction was. refused: numbers of the iterations, counted from 0, whose exact
    Hessian was not positive definite.
    """

    gradients: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    energies: list = field(default_factory=list)
    lengths: list = field(default_factory=list)
    projected: list = field(default_factory=list)
    refused: list = field(default_factory=list)

    @property
    def iterations(self) -> int:
        return len(self.steps)


def minimize(
    potential: Potential, x: np.ndarray, settings: Settings, name: str = "newton"
) -> tuple[np.ndarray, Record]:
    """The minimum near x.

    Returns:
        x and the ``Record``.

    Raises:
        SolverError: with ``history``, the record: no convergence, no decrease along a direction, a start that is not
            allowed, or a singular matrix.
    """
    record = Record()
    x = x.copy()
    energy, rounding = potential.energy(x)
    if not np.isfinite(energy):
        raise SolverError(
            f"{name}: the energy is not finite at the start of the solve: an element is inverted, bodies intersect, or "
            "the state is not finite; start from another state or take smaller steps",
            record,
        )
    g = potential.gradient(x)
    for _ in range(settings.iterations):
        p = _direction(potential, x, g, settings, name, record)
        step = float(np.abs(p).max(initial=0.0))
        record.gradients.append(float(np.abs(g).max(initial=0.0)))
        record.steps.append(step)
        record.energies.append(energy)
        alpha, slope = min(1.0, potential.limit(x, p)), float(p @ g)
        if step <= max(settings.tolerance, 4 * np.finfo(float).eps * float(np.abs(x).max(initial=0.0))):
            return _last(potential, x, g, alpha * p), record
        while True:
            trial = x + alpha * p
            trial_energy, trial_rounding = potential.energy(trial)
            trial_g, noise = None, 100 * (rounding + trial_rounding)
            if trial_energy <= energy + ARMIJO * alpha * slope:
                break
            if trial_energy <= energy + noise and -alpha * slope <= 100 * noise:
                # the decrease to expect drowns in the rounding of the energy: the gradient has to tell
                trial_g = potential.gradient(trial)
                if np.linalg.norm(trial_g) <= 0.9 * np.linalg.norm(g):
                    break
            alpha /= 2
            if alpha < SHORTEST:
                raise SolverError(
                    f"{name}: no decrease of the energy along the step of iteration {record.iterations} (largest "
                    f"entry {step:.3g}, gradient {record.gradients[-1]:.3g}); take smaller time steps or load steps",
                    record,
                )
        if alpha == 1.0 and all(record.projected[-LEAVING:]) and len(record.projected) >= LEAVING:
            longer = _further(potential, x, p, trial_energy)
            if longer > 1.0:
                alpha, trial, trial_g = longer, x + longer * p, None
                trial_energy, trial_rounding = potential.energy(trial)
        record.lengths.append(alpha)
        x, energy, rounding = trial, trial_energy, trial_rounding
        g = potential.gradient(x) if trial_g is None else trial_g
    raise SolverError(
        f"{name}: not converged after {settings.iterations} iterations: the last step was {record.steps[-1]:.3g}, the "
        f"tolerance is {settings.tolerance:.3g} (first steps {', '.join(f'{s:.2g}' for s in record.steps[:4])}); take "
        "smaller time steps, or allow more iterations",
        record,
    )


def _further(potential, x, p, energy) -> float:
    """The longest of the steps 1, 2, 4, ... along p that are allowed and each lower than the one before.

    Near a saddle the projected Hessian is much stiffer than the exact one along the way down, so that steps of 1 creep.
    """
    alpha = 1.0
    while potential.limit(x, 2 * alpha * p) >= 1.0:
        lower = potential.energy(x + 2 * alpha * p)[0]
        if not lower < energy:
            break
        alpha, energy = 2 * alpha, lower
    return alpha


def _last(potential, x, g, p):
    """x after a step below the tolerance, unless that is worse."""
    trial = x + p
    if np.isfinite(potential.energy(trial)[0]) and np.linalg.norm(potential.gradient(trial)) <= np.linalg.norm(g):
        return trial
    return x


def _direction(potential, x, g, settings, name, record):
    """Newton's step with the exact Hessian where that is positive definite, else with the projected one.

    Near a minimum the exact one converges quadratically, the projected one may not. Where the exact one was refused, it
    is not tried in the next ``PAUSE`` iterations.
    """
    number = len(record.projected)
    try:
        if not record.refused or number - record.refused[-1] > PAUSE:
            factors = factorize(potential.hessian(x, False), settings.linear)
            if factors.positive() is not False:
                try:
                    p = -factors.solve(g)
                except SolverError:  # singular to rounding: the projected one need not be
                    p = g
                if p @ g < 0:
                    record.projected.append(False)
                    return p
            record.refused.append(number)
        record.projected.append(True)
        return -factorize(potential.hessian(x, True), settings.linear).solve(g)
    except SolverError as error:
        raise SolverError(f"{name}, iteration {record.iterations + 1}: {error}", record) from error
