"""Throw to target: find the velocity with which an elastic body, bouncing once, ends at a target."""

import torch
from torch import nn

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.objectives import center_of_mass, total
from diffsim.scenes.bodies import fill_mesh, vertical

LENGTH = 2.0  # [m] of the box; it is half as high and deep


def scene(
    mesh: str = "blob",
    dim: int = 3,
    target: tuple = (1.5, 0.35, 0.6),
    start: tuple = (0.3, 0.5, 0.5),
    v0: tuple = (1.0, 0.0, 0.0),
    E: float = 1e5,
    nu: float = 0.3,
    size: float = 0.25,
    resolution: int = 48,
    particles: int = 1500,
    steps: int = 60,
) -> ds.Scene:
    """Find the initial velocity that brings a body to a target in a given time, by way of the floor.

    The variable ``v0`` [m/s] is the same for all particles; the objective is the squared distance of the center of mass
    from the target at the end [m^2]. Fixed corotated elasticity, gravity 9.8 m/s^2, frictionless walls that let go.

    Args:
        mesh: closed triangle mesh, a file or the name of a shipped one.
        dim: 3, or 2 for the mesh's cross-section in plane strain; points and velocities then lose their z.
        target: where the center of mass shall be after the last step [m].
        start: center of the body at the start [m].
        v0: velocity to begin the search with [m/s].
        E: Young's modulus [Pa].
        nu: Poisson's ratio.
        size: largest extent of the body [m].
        resolution: cells along the box, 2 x 1 x 1 m; an even number.
        particles: about so many.
        steps: control steps of 10 ms.
    """
    gravity = vertical(dim, -9.8)
    if resolution % 2:
        raise SceneError(f"resolution is {resolution}; the box is half as high as long, so use an even number")
    for name, value in {"target": target, "start": start, "v0": v0}.items():
        if len(value) < dim:
            raise SceneError(f"{name} is {value}; dim={dim} needs {dim} numbers")
    goal = torch.tensor(target[:dim], dtype=context.dtype)
    x, volume = fill_mesh(mesh, size, start[:dim], particles)
    cells = (resolution, *(resolution // 2,) * (dim - 1))
    model = ds.models.MPM(
        ds.Grid(cells, LENGTH / resolution),
        [ds.Material(ds.materials.FixedCorotated(E, nu), density=1000.0)],
        dt=1e-3,
        substeps=10,
        gravity=gravity,
        walls=ds.Walls("separating"),
    )
    at_rest = model.initial_state(x, volume=volume)
    velocity = nn.Parameter(torch.tensor(v0[:dim], dtype=context.dtype))

    def setup():
        return at_rest._replace(v=velocity.expand(len(x), dim)), None

    def miss(path):
        return total((center_of_mass(path[-1]) - goal).square())

    return ds.Scene(
        name="throw_to_target",
        model=model,
        steps=steps,
        setup=setup,
        variables={"v0": velocity},
        objective=miss,
        metrics=lambda path: {"miss": miss(path).sqrt()},
        defaults={"method": "lbfgs", "iterations": 20, "gtol": 1e-5},
        color="speed",
        camera={"direction": (0.15, 0.25, 1.0)} if dim == 3 else None,
    )
