"""Jelly drop: an elastic body of any shape falls on the floor and bounces."""

import torch
from torch import nn

import diffsim as ds
from diffsim.kernels.arrays import context
from diffsim.objectives import center_of_mass
from diffsim.scenes.bodies import fill_mesh, vertical

BOX = 1.0  # [m] side of the box; its walls stand two cells further inside


def scene(
    mesh: str = "blob",
    dim: int = 3,
    E: float = 1e5,
    nu: float = 0.2,
    density: float = 1000.0,
    size: float = 0.4,
    height: float = 0.5,
    resolution: int = 32,
    particles: int = 3000,
    steps: int = 60,
    dt: float = 1e-3,
    substeps: int = 10,
) -> ds.Scene:
    """An elastic body falls on the floor and bounces.

    Fixed corotated elasticity, gravity 9.8 m/s^2, frictionless walls that let go. The variable ``v0`` is the velocity
    of the throw [m/s], at most 2 along each axis, zero at the start; the objective is minus the height of the center of
    mass at the end [m].

    Args:
        mesh: closed triangle mesh, a file or the name of a shipped one.
        dim: 3, or 2 for the mesh's cross-section in plane strain.
        E: Young's modulus [Pa].
        nu: Poisson's ratio.
        density: [kg/m^3].
        size: largest extent of the body [m].
        height: of its center at the start [m].
        resolution: cells along the box, 1 m wide.
        particles: about so many.
        steps: control steps of dt * substeps [s].
        dt: substep [s]; the sound must not cross a cell in it.
        substeps: per control step.
    """
    gravity = vertical(dim, -9.8)
    center = (0.5, height, 0.5)[:dim]
    x, volume = fill_mesh(mesh, size, center, particles)
    jelly = ds.Material(ds.materials.FixedCorotated(E, nu), density=density)
    grid = ds.Grid((resolution,) * dim, BOX / resolution)
    model = ds.models.MPM(
        grid, [jelly], dt=dt, substeps=substeps, gravity=gravity, walls=ds.Walls("separating", margin=3)
    )
    state = model.initial_state(x, volume=volume)

    v0 = nn.Parameter(torch.zeros(dim, dtype=context.dtype))

    def setup():
        return state._replace(v=state.v + v0), None

    def metrics(path):
        heights = [center_of_mass(frame)[1].item() for frame in path]
        return {"height": heights[-1], "lowest": min(heights)}

    return ds.Scene(
        name="jelly_drop",
        model=model,
        steps=steps,
        setup=setup,
        variables={"v0": v0},
        bounds={"v0": (-2.0, 2.0)},
        defaults={"method": "adam", "lr": 0.2, "iterations": 20},
        objective=lambda path: -center_of_mass(path[-1])[1],
        metrics=metrics,
        color="pressure",
    )
