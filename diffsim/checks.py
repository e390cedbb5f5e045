"""``diffsim check-gradients``: a scene's gradients against finite differences, and their growth with the horizon."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace

import torch

from diffsim.errors import SceneError
from diffsim.scene import Scene

STEPS = 3  # control steps of a check unless given
SIZES = tuple(10.0**-k for k in range(2, 8))  # of the perturbations, relative to the variable


@dataclass(frozen=True)
class Row:
    """One line of the table.

    difference: relative difference of gradient and finite differences; inf if all of them switched. slope: order of
    the Taylor remainder, 2 for a correct gradient; nan where the remainder is at rounding. switches: perturbed runs
    that took another branch (contact, yield, stencil) than the unperturbed one, and were left out.
    """

    input: str
    difference: float
    slope: float
    switches: int

    def status(self, tolerance: float) -> str:
        """ok; off: a difference above the tolerance; switch: nothing could be compared."""
        if math.isinf(self.difference):
            return "switch"
        return "ok" if self.difference <= tolerance else "off"


def check_variables(scene: Scene, steps: int, seed: int = 0) -> list[Row]:
    """Derivative of the objective by each variable, along one direction, against central differences.

    The direction is the mean of the gradient's and a random one, so that the derivative is never small by cancellation;
    of the differences of several sizes the nearest counts, since each has its own best size.

    Raises:
        SceneError: the scene has no objective.
    """
    generator = torch.Generator().manual_seed(seed)
    base, branches = _evaluate(scene, steps)
    if not base.requires_grad:
        return []
    gradients = torch.autograd.grad(base, list(scene.parameters().values()), allow_unused=True)
    rows = []
    for (name, variable), gradient in zip(scene.parameters().items(), gradients, strict=True):
        if gradient is None or not gradient.any():
            continue  # without influence on so few steps
        noise = torch.randn(variable.shape, generator=generator, dtype=torch.float64).to(variable)
        direction = gradient / gradient.norm() + noise / noise.norm()
        direction *= max(1.0, float(variable.detach().abs().max())) / direction.norm()
        rows.append(_row(scene, steps, name, variable, direction, gradient, base, branches))
    return rows


@torch.no_grad()
def _row(scene, steps, name, variable, direction, gradient, base, branches) -> Row:
    start, best, remainders, switches = variable.clone(), math.inf, [], 0
    base = float(base)
    for size in SIZES:
        values = []
        for sign in (1, -1):
            variable.copy_(start + sign * size * direction)
            # by what it has really changed: a variable of single precision rounds the direction
            predicted = float((gradient.double() * (variable.double() - start.double())).sum())
            value, taken = _evaluate(scene, steps)
            if taken == branches:
                values.append((float(value), predicted))
            else:
                switches += 1
        if len(values) == 2:
            change, expected = (plus - minus for plus, minus in zip(*values, strict=True))
            best = min(best, abs(change - expected) / abs(expected))
            remainders.append(abs(values[0][0] - base - values[0][1]))
    variable.copy_(start)
    return Row(name, best, _slope(remainders, base), switches)


def _slope(remainders: list[float], base: float) -> float:
    """Order of the remainder between the two largest sizes, if they are above rounding."""
    floor = 1e3 * torch.finfo(torch.float64).eps * abs(base)
    if len(remainders) < 2 or min(remainders[:2]) <= floor:
        return math.nan
    return math.log(remainders[0] / remainders[1]) / math.log(SIZES[0] / SIZES[1])


def _evaluate(scene: Scene, steps: int, memory: str = "2GiB"):
    """Objective of a short rollout, and the branches that its substeps took, if the model records them."""
    records = hasattr(scene.model, "trace")
    trace = []
    if records:
        scene.model.trace = trace
    try:
        return scene.loss(scene.rollout(steps=steps, memory=memory)), trace
    finally:
        if records:
            scene.model.trace = None


def show_gradients(scene: Scene, steps: int | None, tolerance: float, memory: str, seed: int, as_json: bool) -> bool:
    """Check every input of the model, and the objective by every variable; print a table.

    Returns:
        Whether none is off. One whose every perturbation takes another branch is shown as such, and is no failure.
    """
    from diffsim.testing import gradcheck

    steps = min(STEPS, scene.steps) if steps is None else steps
    with torch.no_grad():
        state, controls = scene.start()
    if isinstance(controls, torch.Tensor):
        controls = controls[:steps]
    report = gradcheck(scene.model, state, controls, steps=steps, tolerance=tolerance, memory=memory, seed=seed)
    rows = [Row(row.input, row.difference, row.slope, row.switches) for row in report.rows]
    states = [row.status(tolerance) for row in report.rows]
    if scene.objective is not None:
        variables = check_variables(scene, steps, seed)
        rows += [replace(row, input=f"objective by {row.input}") for row in variables]
        states += [row.status(tolerance) for row in variables]
    good = "off" not in states
    if as_json:
        lines = [_finite(asdict(row)) | {"status": state} for row, state in zip(rows, states, strict=True)]
        about = {"passed": good, "tolerance": tolerance, "substeps": report.substeps, "shares": report.shares}
        print(json.dumps({**about, "inputs": lines}))
        return good
    columns = ("input", "relative difference", "Taylor slope", "switches", "")
    cells = [
        (row.input, _number(row.difference, ".1e"), _number(row.slope, ".3f"), str(row.switches), state)
        for row, state in zip(rows, states, strict=True)
    ]
    shares = "".join(f", {share:.0%} of the particles {name}" for name, share in report.shares.items() if share)
    _table(f"{scene.name}: {report.substeps} substeps, tolerance {tolerance:.0e}{shares}", columns, cells)
    return good


@dataclass(frozen=True)
class Reach:
    """Loss and gradient of a rollout of so many steps.

    difference: relative difference of the derivative along one direction from central differences, the nearest of
    several sizes; None where the gradient is 0. switches: perturbed runs that took another branch; they are compared
    all the same, since what an optimizer meets when it takes a step is this side and the other.
    """

    steps: int
    loss: float
    gradient_norm: float
    difference: float | None
    switches: int


def measure_horizon(scene: Scene, steps: int | None = None, memory: str = "2GiB", seed: int = 0) -> list[Reach]:
    """Gradient against the number of control steps, for 1, 2, 4, ... steps.

    Raises:
        SceneError: the scene has no objective or no variables.
    """
    parameters = list(scene.parameters().values())
    if not parameters:
        raise SceneError(f"scene {scene.name!r} has no variables, so no gradient; name some in Scene(variables=...)")
    last = scene.steps if steps is None else steps
    rows = []
    for count in sorted({min(2**k, last) for k in range(last.bit_length() + 1)}):
        base, branches = _evaluate(scene, count, memory)
        gradients = torch.autograd.grad(base, parameters, allow_unused=True) if base.requires_grad else ()
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=False)]
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        difference, switches = None, 0
        if norm > 0:
            difference, switches = _agreement(scene, count, memory, parameters, gradients, norm, branches, seed)
        rows.append(Reach(count, float(base.detach()), norm, difference, switches))
    return rows


@torch.no_grad()
def _agreement(scene, steps, memory, parameters, gradients, norm, branches, seed) -> tuple[float, int]:
    """Smallest relative difference along the gradient and a random direction together, and switches of branch."""
    generator = torch.Generator().manual_seed(seed)
    starts = [value.clone() for value in parameters]
    noise = [torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value) for value in parameters]
    length = math.sqrt(sum(float(part.double().square().sum()) for part in noise))
    largest = max(1.0, max(float(value.abs().max()) for value in starts))
    directions = [largest * (g / norm + n / length) / 2 for g, n in zip(gradients, noise, strict=True)]
    best, switches = math.inf, 0
    for size in SIZES:
        sides, predicted = [], []
        for sign in (1, -1):
            for value, start, direction in zip(parameters, starts, directions, strict=True):
                value.copy_(start + sign * size * direction)
            moves = [value.double() - start.double() for value, start in zip(parameters, starts, strict=True)]
            predicted.append(sum(float((g.double() * m).sum()) for g, m in zip(gradients, moves, strict=True)))
            value, taken = _evaluate(scene, steps, memory)
            sides.append(float(value))
            switches += taken != branches
        expected = predicted[0] - predicted[1]
        if expected:
            best = min(best, abs(sides[0] - sides[1] - expected) / abs(expected))
    for value, start in zip(parameters, starts, strict=True):
        value.copy_(start)
    return best, switches


def show_horizon(scene: Scene, steps: int | None, memory: str, seed: int, plot, as_json: bool) -> None:
    """Print ``measure_horizon`` and draw it: a norm that grows without bound, or a difference that does, says that the
    motion is chaotic, and that a shorter horizon (--steps), a truncated one or a population serves better.

    Args:
        plot: the PNG file; NAME-horizon.png when None.
    """
    from diffsim.plots import plot_horizon

    rows = [asdict(row) for row in measure_horizon(scene, steps, memory, seed)]
    picture = plot_horizon(rows, plot or f"{scene.name}-horizon.png")
    if as_json:
        print(json.dumps([_finite(row) for row in rows]))
        return
    cells = [
        (
            str(row["steps"]),
            f"{row['loss']:.6g}",
            f"{row['gradient_norm']:.4e}",
            "-" if row["difference"] is None else _number(row["difference"], ".1e"),
            str(row["switches"]),
        )
        for row in rows
    ]
    columns = ("steps", "loss", "gradient norm", "relative difference", "switches")
    _table(f"{scene.name}: gradient against the number of control steps", columns, cells)
    print(picture)


def _finite(row: dict) -> dict:
    """What is not finite as None, which JSON can hold."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _table(title: str, columns, cells) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column)
    for row in cells:
        table.add_row(*row)
    Console().print(table)
