"""Columns that collapse: their model, and the search for the material that left a given heap."""

import math

import torch
from torch import nn

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.objectives import center_of_mass
from diffsim.scenes.bodies import fill_box, vertical

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


def column(material, width, height, *, dim=2, spacing, duration, reach, floor="sticky", friction=0.0, substeps=None):
    """Model and state of a column at rest on the floor y = 0, between the smooth wall x = 0 and air.

    In 3-D it is a quarter of a square column, in the corner of the smooth walls x = 0 and z = 0.

    Args:
        material: of the column.
        width, height: [m].
        dim: 2 or 3.
        spacing: of the particles [m]; a cell holds two along each axis.
        duration: of a control step [s].
        reach: length of the floor, along z as well [m].
        floor, friction: kind of the floor and its Coulomb coefficient.
        substeps: per control step; those that ``substeps_for`` finds unless given.
    """
    gravity = vertical(dim, -GRAVITY)
    dx = 2 * spacing
    long, high = (math.ceil(length / dx) + 2 * WALL for length in (reach, 1.3 * height))
    substeps = substeps or substeps_for(material, dx, duration)
    model = ds.models.MPM(
        ds.Grid((long, high, long)[:dim], dx, (-WALL * dx,) * dim),
        [material],
        dt=duration / substeps,
        substeps=substeps,
        gravity=gravity,
        walls=ds.Walls({"y-": floor}, friction={"y-": friction}, margin=MARGIN),
    )
    x, volume = fill_box((0.0,) * dim, (width, height, width)[:dim], spacing)
    return model, model.initial_state(x, volume=volume)


def run_out(frame):
    """Mean distance of a heap from the wall [m]: it depends on every particle, as that of the toe does not."""
    return center_of_mass(frame)[0]


def toe(frame):
    """Distance from the wall within which lie 99.5 % of the particles [m]: the edge of a heap but for strays."""
    return torch.quantile(frame.x[:, 0].detach().double(), 0.995).item()


def identify(name, build, variable, start, sought, *, frames, width, height, bounds, defaults, published=None):
    """The scene of a column whose material is known, and of the search for that which left another heap.

    The objective is the squared difference of the mean run-out from that of the sought material, as a fraction of its
    value at the start.

    Args:
        name: of the scene.
        build: parameter -> (model, state).
        variable: name of the parameter.
        start, sought: the value that is simulated, where the search begins; and that which it shall find.
        frames: control steps.
        width, height: of the column [m].
        bounds, defaults: of the scene.
        published: measurements by name, to stand beside the metrics.
    """
    if sought == start:
        raise SceneError(f"the search begins at the value that it seeks, {variable} = {start}; give another one")
    value = nn.Parameter(torch.tensor(float(start), dtype=context.dtype))
    model, state = build(value)
    with torch.no_grad():
        goal = run_out(ds.rollout(*build(sought), steps=frames, every=frames)[-1])
        first = run_out(ds.rollout(model, state, steps=frames, every=frames)[-1])

    def metrics(path):
        x, v = path[-1].x.detach(), path[-1].v.detach()
        return {
            "run_out": toe(path[-1]) / width - 1,
            **(published or {}),
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


def identify_fluid(name, fluid, variable, start, sought, *, largest, width, aspect, dim, per_width, time, frames, lr):
    """``identify`` for a fluid that sticks to the floor, by a parameter that its viscosity grows with.

    Args:
        fluid: parameter -> material.
        largest: the largest value that the search may try: the substeps must suit it; a twentieth is the least.
        per_width: particles along the width.
        time: duration [s].
        lr: learning rate of the search.
    """
    positive(width=width, aspect=aspect, per_width=per_width, time=time, frames=frames)
    shape = {"dim": dim, "spacing": width / per_width, "duration": time / frames, "reach": (2 + 2 * aspect) * width}
    model, _ = column(fluid(largest), width, aspect * width, **shape)
    return identify(
        name,
        lambda value: column(fluid(value), width, aspect * width, substeps=model.substeps, **shape),
        variable,
        start,
        sought,
        frames=frames,
        width=width,
        height=aspect * width,
        bounds=(0.05 * largest, largest),
        defaults={"method": "adam", "lr": lr, "iterations": 20},
    )
