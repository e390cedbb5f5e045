"""Snowball: a ball of snow is thrown at a wall and sticks there, crushed."""

import math

import torch
from torch import nn

import diffsim as ds
from diffsim.kernels.arrays import context
from diffsim.objectives import center_of_mass
from diffsim.scenes.bodies import fill_mesh, vertical
from diffsim.scenes.columns import MARGIN, positive, substeps_for

DISTANCE = 0.6  # [m] from the ball's center to the wall


def scene(
    mesh: str = "blob",
    dim: int = 2,
    size: float = 0.2,
    speed: float = 8.0,
    target: float = 0.6,
    E: float = 1.4e5,
    nu: float = 0.2,
    hardening: float = 10.0,
    density: float = 400.0,
    resolution: int = 48,
    particles: int = 1500,
    time: float = 0.12,
    frames: int = 60,
) -> ds.Scene:
    """Snow by Stomakhin et al. (2013) hits a wall to which it sticks; colors show how far it is packed (Jp < 1).

    The variable ``v0`` is the velocity of the throw [m/s]; the objective is the squared distance of the center of mass
    at the end from the height ``target`` at the wall, in sizes of the ball.

    Args:
        mesh: closed triangle mesh of the ball, a file or the name of a shipped one.
        dim: 2 for the mesh's cross-section in plane strain, or 3.
        size: largest extent of the ball [m].
        speed: of the throw at the start of the search, level [m/s].
        target: height to hit [m]; the throw starts at 0.5.
        E: Young's modulus of loose snow [Pa].
        nu: Poisson's ratio.
        hardening: xi.
        density: [kg/m^3].
        resolution: cells along the box, 1 m wide.
        particles: about so many.
        time: duration [s].
        frames: control steps in it.
    """
    positive(size=size, speed=speed, time=time, frames=frames)
    dx = 1 / resolution
    wall = (MARGIN - 1) * dx
    snow = ds.Material(ds.materials.Snow(E, nu, hardening=hardening), density=density)
    # packed snow is stiffer: sound is three times as fast where Jp = 0.78
    substeps = 3 * substeps_for(snow, dx, time / frames)
    model = ds.models.MPM(
        ds.Grid((resolution,) * dim, dx),
        [snow],
        dt=time / frames / substeps,
        substeps=substeps,
        gravity=vertical(dim, -9.81),
        walls=ds.Walls({"x-": "sticky", "y-": "separating"}, margin=MARGIN),
    )
    x, volume = fill_mesh(mesh, size, (wall + DISTANCE, 0.5, 0.5)[:dim], particles)
    state = model.initial_state(x, volume=volume)
    v0 = nn.Parameter(torch.tensor((-speed, 0.0, 0.0)[:dim], dtype=context.dtype))
    goal = torch.tensor((wall + size / 4, target, 0.5)[:dim], dtype=context.dtype)

    def miss(path):
        return ((center_of_mass(path[-1]) - goal) / size).square().sum()

    def metrics(path):
        Jp = path[-1].q[:, -1].detach()
        return {"miss": math.sqrt(miss(path).item()) * size, "packed": Jp.min().item(), "loosest": Jp.max().item()}

    return ds.Scene(
        name="snowball",
        model=model,
        steps=frames,
        setup=lambda: (state._replace(v=state.v + v0), None),
        variables={"v0": v0},
        bounds={"v0": (-1.5 * speed, 1.5 * speed)},
        objective=miss,
        metrics=metrics,
        defaults={"method": "adam", "lr": 0.3, "iterations": 20},
        color="plastic",
    )
