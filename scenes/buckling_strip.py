"""Buckling strip: a clamped strip is pushed together, gives way, and carries Euler's load."""

import math

import numpy as np
import torch
from torch import nn

import diffsim as ds
from diffsim.geometry.surface import hinges, sheet
from diffsim.kernels.arrays import context


def scene(
    cells: int = 40,
    length: float = 0.2,
    width: float = 0.01,
    E: float = 3e9,
    thickness: float = 3e-4,
    density: float = 800.0,
    flaw: float = 2e-4,
    target: float = 0.04,
    steps: int = 20,
    dt: float = 0.02,
) -> ds.Scene:
    """Push the ends of a clamped strip together so that it rises to a given height. Needs --precision f64.

    The strip is a little bent at rest. Both ends are held; the variable ``push`` is the speed of one of them in every
    step [m/s]; the objective is the squared relative deviation of the middle's height from the target. ``load``, the
    push on the held end at the end over Euler's load 4 pi^2 D/l^2 of clamped ends, is about 1 once it has buckled, and
    grows with the height. Poisson's ratio is 0, there is no gravity.

    Source: Timoshenko and Gere, Theory of elastic stability, 2nd ed. (1961), section 2.2, for the load.

    Args:
        cells: along the strip.
        length: of the strip [m].
        width: [m].
        E: Young's modulus [Pa].
        thickness: [m].
        density: [kg/m^3].
        flaw: height of the middle at rest [m].
        target: height of the middle at the end [m].
        steps: of dt.
        dt: step of implicit Euler [s].
    """
    V, F = sheet((cells, 1), (length, width), pattern="diagonal")
    V[:, 2] = flaw * np.sin(math.pi * V[:, 0] / length) ** 2
    dx = length / cells
    low, high = np.flatnonzero(V[:, 0] < 1.5 * dx), np.flatnonzero(V[:, 0] > length - 1.5 * dx)
    model = ds.models.Shell(
        (V, F), E=E, nu=0.0, thickness=thickness, density=density, dt=dt, prescribed=np.concatenate([low, high]),
        rest_angles=torch.zeros(len(hinges(F))), damping=20.0,
    )  # fmt: skip
    state = model.initial_state()
    push = nn.Parameter(torch.full((steps,), 0.01, dtype=context.dtype))
    moves = torch.zeros(len(low) + len(high), 3, dtype=context.dtype)
    moves[len(low) :, 0] = -1.0
    middle = torch.from_numpy(np.flatnonzero(np.isclose(V[:, 0], length / 2, atol=dx / 1.9)))
    free = length - dx  # the held rows turn half way between them
    euler = 4 * math.pi**2 * E * thickness**3 / 12 * width / free**2

    def height(path):
        return path[-1].x[middle, 2].mean()

    def metrics(path):
        still = model.solve_static(path[-1])
        load = float(model.reactions(still)[low, 0].sum()) / euler
        return {"height": float(height(path)), "load": load}

    return ds.Scene(
        name="buckling_strip",
        model=model,
        steps=steps,
        setup=lambda: (state, push[:, None, None] * moves),
        variables={"push": push},
        bounds={"push": (0.0, 0.1)},
        objective=lambda path: (height(path) / target - 1) ** 2,
        metrics=metrics,
        defaults={"method": "lbfgs", "iterations": 15},
        camera={"up": (0.0, 0.0, 1.0), "direction": (0.35, -1.0, 0.3)},
    )
