"""Columns that collapse: their model, and the search for the material that left a given heap."""

import math

import torch
from torch import nn

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.objectives import center_of_mass
from diffsim.scenes.bodies import fill_box

GRAVITY = 9.81
MARGIN = 3  # the walls stand two cells inside of the grid's faces
WALL = MARGIN - 1


def positive(**values) -> None:
    """Refuse options that are not positive numbers.

    Raises:
        SceneError: naming the first of them.
    """
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise SceneError(f"{name} is {value}; it must be positive")


def substeps_for(material, dx: float, duration: float) -> int:
    """Substeps of a control step so that sound crosses 0.4 cells in one, and viscosity keeps 0.8 of its bound."""
    sound = (material.elastic.modulus().detach() / material.density).max().sqrt().item()
    dt = 0.4 * dx / sound
    if material.viscous is not None:
        viscosity = (material.viscous.viscosity().detach() / material.density).max().item()
        dt = min(dt, 0.4 * dx**2 / viscosity) if viscosity else dt
    return math.ceil(duration / dt)


def column(material, width, height, *, spacing, duration, reach, floor="sticky", friction=0.0, substeps=None):
    """Model and state of a column at rest between the smooth wall x = 0 and air, on the floor y = 0, in 2-D.

    Args:
        material: of the column.
        width, height: [m].
        spacing: of the particles [m]; a cell holds two along each axis.
        duration: of a control step [s].
        reach: length of the floor [m].
        floor, friction: kind of the floor and its Coulomb coefficient.
        substeps: per control step; those that ``substeps_for`` finds unless given.
    """
    dx = 2 * spacing
    substeps = substeps or substeps_for(material, dx, duration)
    model = ds.models.MPM(
        ds.Grid((math.ceil(reach / dx) + 2 * WALL, math.ceil(1.3 * height / dx) + 2 * WALL), dx, (-WALL * dx,) * 2),
        [material],
        dt=duration / substeps,
        substeps=substeps,
        gravity=(0.0, -GRAVITY),
        walls=ds.Walls({"y-": floor}, friction={"y-": friction}, margin=MARGIN),
    )
    x, volume = fill_box((0.0, 0.0), (width, height), spacing)
    return model, model.initial_state(x, volume=volume)


def run_out(frame):
    """Mean distance of a heap from the wall [m]: it depends on every particle, as that of the toe does not."""
    return center_of_mass(frame)[0]


def identify(name, build, variable, true, start, *, frames, width, height, bounds, defaults) -> ds.Scene:
    """The scene in which a parameter of the material is recovered from the heap that its true value leaves.

    The objective is the squared difference of the mean run-out from that of the true column, as a fraction of its value
    at the start.

    Args:
        name: of the scene.
        build: parameter -> (model, state).
        variable: name of the parameter.
        true, start: its true value, and where the search begins.
        frames: control steps.
        width, height: of the column [m].
        bounds, defaults: of the scene.
    """
    if true == start:
        raise SceneError(f"the search begins at the true value, {variable} = {true}; give another start")
    value = nn.Parameter(torch.tensor(float(start), dtype=context.dtype))
    model, state = build(value)
    with torch.no_grad():
        goal = run_out(ds.rollout(*build(true), steps=frames, every=frames)[-1])
        first = run_out(ds.rollout(model, state, steps=frames, every=frames)[-1])

    def metrics(path):
        x, v = path[-1].x.detach(), path[-1].v.detach()
        return {
            "run_out": x[:, 0].max().item() / width - 1,
            "height": x[:, 1].max().item() / height,
            "speed": v.norm(dim=1).max().item(),
            variable: value.item(),
        }

    return ds.Scene(
        name=name,
        model=model,
        steps=frames,
        setup=lambda: (state, None),
        variables={variable: value},
        bounds={variable: bounds},
        objective=lambda path: ((run_out(path[-1]) - goal) / (first - goal)) ** 2,
        metrics=metrics,
        defaults=defaults,
        color="speed",
    )
