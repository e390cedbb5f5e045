"""Gradient checks of rollouts: ``gradcheck``.

A gradient g of J is compared with central differences along single entries and along random directions d,

    D(h) = (J(p + h d) - J(p - h d)) / 2h,    extrapolated over h, h/2, h/4 (Richardson),

with h lowered until no branch changes and the extrapolation has settled; g plays no part in the choice. A Taylor test
fits the slope of log |J(p + h d) - J(p) - h g.d| against log h, which is 2 for the gradient of a smooth function.

Contact, friction, yielding and the cell of a particle are branches. An evaluation whose branches differ from those at p
lies on another smooth piece of J: it is not compared, but counted and reported as a switch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffsim.perturbation import Probe, Problem, entry_directions, random_direction

SLOPE_TOLERANCE = 0.05
# columns of a trace record, after its hash; a model may name its own (``shares``)
SHARES = ("on a tool", "on a wall", "sliding", "sticking", "yielding")


@dataclass
class Row:
    """One input: how its gradient compares.

    difference: |g - fd|_inf / |fd|_inf, the larger of that over entries and that over directions; nan where all of them
    switched. slope: of the Taylor remainder; nan where J is linear in the input (``linear``), or where branches leave
    too few step sizes. norm: of the gradient. compared, switched: entries and directions. evaluations: of J; switches:
    those on another branch.
    """

    input: str
    norm: float
    difference: float
    slope: float
    linear: bool
    compared: int
    switched: int
    evaluations: int
    switches: int

    def status(self, tolerance: float) -> str:
        """ok; off: a difference above the tolerance or a slope that is not 2; switch: nothing could be compared."""
        if not self.compared:
            return "switch"
        straight = math.isnan(self.slope) or abs(self.slope - 2) <= SLOPE_TOLERANCE
        return "ok" if self.difference <= tolerance and straight else "off"


@dataclass
class Report:
    """Result of ``gradcheck``: a row per input, and the largest share of particles in each state over the substeps."""

    rows: list[Row]
    shares: dict[str, float]
    substeps: int
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether every input was compared, and none is off."""
        return all(row.status(self.tolerance) == "ok" for row in self.rows)

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.input == name)

    def __str__(self):
        width = max(5, *(len(row.input) for row in self.rows))
        titles = ("|gradient|", "difference", "slope", "compared", "switched")
        lines = ["  ".join([f"{'input':{width}}", *(f"{title:>10}" for title in titles)])]
        for row in self.rows:
            slope = "linear" if row.linear else "-" if math.isnan(row.slope) else f"{row.slope:.3f}"
            cells = [f"{row.norm:.3g}", f"{row.difference:.1e}", slope, str(row.compared), str(row.switched)]
            status = row.status(self.tolerance)
            cells = [f"{row.input:{width}}", *(f"{cell:>10}" for cell in cells), "" if status == "ok" else status]
            lines.append("  ".join(cells).rstrip())
        shares = "".join(f", {share:.0%} of the particles {name}" for name, share in self.shares.items() if share)
        return "\n".join([*lines, f"{self.substeps} substeps, tolerance {self.tolerance:.0e}{shares}"])


def gradcheck(
    model,
    state,
    controls: Tensor | Callable | None = None,
    *,
    wrt: str | Sequence[str] | None = None,
    steps: int | None = None,
    objective: Callable | None = None,
    tolerance: float = 1e-6,
    entries: int = 4,
    directions: int = 2,
    taylor: bool = True,
    memory="2GiB",
    seed: int = 0,
) -> Report:
    """Compare the gradient of a rollout with differences, input by input.

    Args:
        model, state, controls, steps, memory: of the rollout; steps is 1 unless given here or by the controls.
        wrt: names of inputs: fields of the state (x, v, C, F, q, volume, pose; of
            a body of nodes x, v, a, past, X), "controls", "gravity", and parameters
            or buffers of the model or the policy ("materials.0.elastic.E", "tools.0.friction", "policy.0.weight"). None
            takes all of these but the buffers.
        objective: trajectory -> scalar; by default a fixed smooth function of the last state and wrench.
        tolerance: of the relative difference.
        entries: of each input that are compared, half of them those with the largest gradient.
        directions: random ones, over all entries of the input at once.
        taylor: whether to fit the slope.
        seed: of the choice of entries and directions, of the default objective, and of a policy's noise.

    Returns:
        Report; ``report.ok`` says whether all is well, ``print(report)`` shows a table.

    Raises:
        SceneError: a name that is no input, an objective that is not a scalar, a rollout that is not possible.
        GradientError: a gradient that is not finite, or an input that the result does not depend on through autograd.
    """
    problem = Problem(model, state, controls, steps, objective, memory, seed)
    values = problem.values(wrt)
    gradients = problem.gradients(values, required=wrt is not None)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for name, gradient in gradients.items():
        probe = Probe(problem, values, name, gradient, 0.01 * tolerance)
        differences = [
            probe.compare(entry_directions(gradient, entries, generator)),
            probe.compare([random_direction(gradient, generator) for _ in range(directions)]),
        ]
        found = [difference for difference in differences if not math.isnan(difference)]
        slope, linear = probe.taylor_slope(random_direction(gradient, generator)) if taylor else (math.nan, False)
        rows.append(
            Row(
                input=name,
                norm=float(gradient.norm()),
                difference=max(found, default=math.nan),
                slope=slope,
                linear=linear,
                compared=probe.compared,
                switched=probe.switched,
                evaluations=probe.evaluations,
                switches=probe.switches,
            )
        )
    shares = _shares(problem.branches, len(state.x), getattr(model, "shares", SHARES))
    return Report(rows, shares, problem.steps * model.substeps, tolerance)


def _shares(records, count, names):
    """Largest share of the particles in each state over the substeps."""
    return {name: max((record[1 + i] for record in records), default=0) / count for i, name in enumerate(names)}
