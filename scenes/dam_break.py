"""Dam break: a column of water collapses and its front runs along the bed."""

import math

import torch
from torch import nn

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.scenes.columns import GRAVITY, column, positive, run_out


def scene(
    width: float = 0.05715,
    aspect: float = 2.0,
    sought_aspect: float = 1.6,
    dim: int = 2,
    density: float = 1000.0,
    viscosity: float = 1e-3,
    sound: float = 15.0,
    per_width: int = 20,
    time: float = 0.28,
    frames: int = 56,
    bed: float = 10.0,
) -> ds.Scene:
    """A water column falls against a wall and runs over a frictionless bed.

    Water by the equation of state of Tait with Newtonian viscosity. The column and its scale are those of Martin and
    Moyce, Phil. Trans. R. Soc. A 244 (1952), 2.25 inches wide and twice as high. The metric ``Z`` is the front's
    distance from the wall in widths, ``T`` the time in units of sqrt(width / 2 g); they measured Z = 2.29, 4.13 and
    6.98 at T = 2.00, 3.35 and 5.09. The variable is ``aspect``; the objective is the squared difference of the
    mean run-out of the water from that of a column with ``sought_aspect``, as a fraction of its value at the start:
    which column left this flood?

    Args:
        width: of the column [m].
        aspect: height of the column over its width, where the search begins.
        sought_aspect: that which the search shall find.
        dim: 2, or 3 for a quarter of a square column, in the corner of two smooth walls; for that Z is no longer that
            of the plane experiment.
        density: [kg/m^3].
        viscosity: [Pa s].
        sound: speed of sound [m/s], for a nearly incompressible flow at least ten times sqrt(2 g height).
        per_width: particles along the width; a cell holds two along each axis.
        time: duration [s].
        frames: control steps in it.
        bed: length of the bed in widths.
    """
    positive(width=width, aspect=aspect, sound=sound, per_width=per_width, time=time, frames=frames)
    if sought_aspect == aspect:
        raise SceneError(f"the search begins at the value that it seeks, aspect = {aspect}; give another sought_aspect")
    water = ds.Material(
        ds.materials.Tait(density * sound**2), viscous=ds.materials.Newtonian(viscosity), density=density
    )
    model, state = column(
        water,
        width,
        aspect * width,
        dim=dim,
        spacing=width / per_width,
        duration=time / frames,
        reach=bed * width,
        floor="slip",
    )
    ratio = nn.Parameter(torch.tensor(float(aspect), dtype=context.dtype))

    def start(value):
        """The lattice, stretched to another height."""
        rise = value / aspect
        stretch = torch.stack([torch.ones_like(rise), rise, torch.ones_like(rise)][:dim])
        return state._replace(x=state.x * stretch, X=state.X * stretch, volume=state.volume * rise)

    with torch.no_grad():
        sought, first = (
            run_out(ds.rollout(model, start(value), steps=frames, every=frames)[-1])
            for value in (torch.full_like(ratio, sought_aspect), ratio)
        )

    def metrics(path):
        unit = math.sqrt(width / (2 * GRAVITY))
        front = path[-1].x[:, 0].max().item() / width  # the fastest water, as the experiment has it
        return {"Z": front, "T": path[-1].time.item() / unit, "aspect": ratio.item()}

    return ds.Scene(
        name="dam_break",
        model=model,
        steps=frames,
        setup=lambda: (start(ratio), None),
        variables={"aspect": ratio},
        bounds={"aspect": (0.3 * aspect, 1.25 * aspect)},
        objective=lambda path: ((run_out(path[-1]) - sought) / (first - sought)) ** 2,
        metrics=metrics,
        defaults={"method": "lbfgs", "iterations": 8},
        color="speed",
    )
