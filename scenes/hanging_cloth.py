"""Hanging cloth: a square cloth held at two corners swings down; motion of the corners carries its edge to a target."""

import numpy as np
import torch
from torch import nn

import diffsim as ds
from diffsim.geometry.surface import sheet
from diffsim.kernels.arrays import context
from diffsim.objectives import mean_squared_distance


def scene(
    cells: int = 16,
    size: float = 1.0,
    E: float = 2e5,
    nu: float = 0.3,
    thickness: float = 1e-3,
    density: float = 300.0,
    damping: float = 0.5,
    target: tuple[float, float, float] = (1.0, 0.5, -0.6),
    steps: int = 60,
    dt: float = 1.0 / 60,
) -> ds.Scene:
    """A cloth starts level, is held at two corners, and swings down under gravity 9.8 m/s^2. Needs --precision f64.

    The variable ``corners`` is the velocity of the two corners in every step [m/s], at most 1 along each axis, zero at
    the start; the objective is the squared distance [m^2] between the middle of the free edge and the target at the
    end.

    Args:
        cells: along each side.
        size: of the cloth [m].
        E: Young's modulus [Pa].
        nu: Poisson's ratio.
        thickness: [m].
        density: [kg/m^3].
        damping: rate of the air's drag [1/s].
        target: of the edge's middle [m].
        steps: of dt.
        dt: step of implicit Euler [s].
    """
    vertices, faces = sheet((cells, cells), (size, size), pattern="diagonal")
    held = [0, cells]  # both ends of the side x = 0
    model = ds.models.Shell(
        (vertices, faces), E=E, nu=nu, thickness=thickness, density=density, dt=dt, gravity=(0.0, 0.0, -9.8),
        prescribed=held, damping=damping,
    )  # fmt: skip
    state = model.initial_state()
    corners = nn.Parameter(torch.zeros(steps, 2, 3, dtype=context.dtype))
    middle = int(np.argmin(np.abs(vertices - [size, size / 2, 0.0]).sum(1)))
    goal = torch.tensor(target, dtype=context.dtype)

    def objective(path):
        return mean_squared_distance(path[-1].x[middle : middle + 1], goal)

    def metrics(path):
        return {"miss": float(objective(path)) ** 0.5, "lowest": float(path.x[..., 2].min())}

    return ds.Scene(
        name="hanging_cloth",
        model=model,
        steps=steps,
        setup=lambda: (state, corners),
        variables={"corners": corners},
        bounds={"corners": (-1.0, 1.0)},
        defaults={"method": "adam", "lr": 0.1, "iterations": 20},
        objective=objective,
        metrics=metrics,
        ghost=goal[None],
    )
