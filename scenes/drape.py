"""Drape: a cloth falls on a ball and slides; friction is recovered from the motion."""

import numpy as np
import torch
import trimesh
from torch import nn

import diffsim as ds
from diffsim.geometry.surface import sheet
from diffsim.kernels.arrays import context
from diffsim.objectives import mean_squared_distance

RADIUS = 0.08  # [m] of the ball


def scene(
    material: str = "black denim",
    cells: int = 10,
    size: float = 0.3,
    place: float = 0.06,
    friction: float = 0.3,
    friction_start: float = 0.1,
    damping: float = 1.0,
    steps: int = 50,
    dt: float = 6e-3,
) -> ds.Scene:
    """Recover the friction between a cloth and the ball on which it falls, off center. Needs --precision f64.

    The motion is recorded with the true friction. The variable is ``friction``; the objective is the mean squared
    distance to the recorded positions over all frames, as a fraction of its value at the start. Gravity 9.8 m/s^2.

    Args:
        material: name of a sheet's material, see ``ds.models.SHEETS``.
        cells: of the cloth, along each side.
        size: of the cloth [m].
        place: of the cloth's center from above the ball's, along x [m].
        friction: the true coefficient.
        friction_start: to begin the search with.
        damping: rate of the air's drag [1/s].
        steps: of dt.
        dt: step of implicit Euler [s].
    """
    ball = trimesh.creation.icosphere(2, RADIUS)
    vertices, faces = sheet((cells, cells), (size, size), pattern="diagonal")
    turn = np.deg2rad(17.0)  # off the ball's edges
    c, s = np.cos(turn), np.sin(turn)
    vertices = (vertices - [size / 2, size / 2, 0.0]) @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    vertices = vertices + [place, 0.003, RADIUS + 0.006]

    def body(mu):
        contact = ds.models.Contact(3e-3, 1e3, friction=mu, slip_speed=5e-3, obstacles=[ball])
        return ds.models.Shell((vertices, faces), **ds.models.sheet_material(material), dt=dt, damping=damping,
                               gravity=(0.0, 0.0, -9.8), contact=contact, iterations=300)  # fmt: skip

    with torch.no_grad():
        true = body(friction)
        recorded = ds.rollout(true, true.initial_state(), steps=steps).x
    variable = nn.Parameter(torch.tensor(friction_start, dtype=context.dtype))
    model = body(variable)
    state = model.initial_state()
    with torch.no_grad():
        first = mean_squared_distance(ds.rollout(model, state, steps=steps).x, recorded)

    def metrics(path):
        return {"friction": float(variable), "deviation": abs(float(variable) / friction - 1)}

    return ds.Scene(
        name="drape",
        model=model,
        steps=steps,
        setup=lambda: (state, None),
        variables={"friction": variable},
        bounds={"friction": (0.01, 0.95)},
        objective=lambda path: mean_squared_distance(path.x, recorded[: len(path)]) / first,
        metrics=metrics,
        defaults={"method": "lbfgs", "iterations": 12},
        camera={"up": (0.0, 0.0, 1.0), "direction": (0.5, -1.0, 0.25)},
    )
