"""Dam break: a column of water collapses and its front runs along the bed."""

import math

import torch
from torch import nn

import diffsim as ds
from diffsim.kernels.arrays import context
from diffsim.scenes.columns import GRAVITY, column, positive, run_out


def scene(
    width: float = 0.05715,
    aspect: float = 2.0,
    density: float = 1000.0,
    viscosity: float = 1e-3,
    sound: float = 15.0,
    per_width: int = 20,
    time: float = 0.28,
    frames: int = 56,
    bed: float = 10.0,
) -> ds.Scene:
    """A water column falls against a wall and runs over a frictionless bed, in 2-D.

    Water by the equation of state of Tait with Newtonian viscosity. The column and its scale are those of Martin and
    Moyce, Phil. Trans. R. Soc. A 244 (1952), 2.25 inches wide and twice as high. The metric ``Z`` is the front's
    distance from the wall in widths, ``T`` the time in units of sqrt(width / 2 g); they measured Z = 2.29, 4.13 and
    6.98 at T = 2.00, 3.35 and 5.09. The variable ``rise`` is the height of the column relative to ``aspect``'s; the
    objective is the squared difference of the mean run-out of the water from that of the true column, as a fraction of
    its value at the start: which column left this flood?

    Args:
        width: of the column [m].
        aspect: height of the column over its width.
        density: [kg/m^3].
        viscosity: [Pa s].
        sound: speed of sound [m/s], for a nearly incompressible flow at least ten times sqrt(2 g height).
        per_width: particles along the width; a cell holds two along each axis.
        time: duration [s].
        frames: control steps in it.
        bed: length of the bed in widths.
    """
    positive(width=width, aspect=aspect, sound=sound, per_width=per_width, time=time, frames=frames)
    water = ds.Material(
        ds.materials.Tait(density * sound**2), viscous=ds.materials.Newtonian(viscosity), density=density
    )
    model, state = column(
        water,
        width,
        aspect * width,
        spacing=width / per_width,
        duration=time / frames,
        reach=bed * width,
        floor="slip",
    )
    rise = nn.Parameter(torch.tensor(0.8, dtype=context.dtype))

    def start(scale):
        stretch = torch.stack([torch.ones_like(scale), scale])
        return state._replace(x=state.x * stretch, X=state.X * stretch, volume=state.volume * scale)

    with torch.no_grad():
        true, first = (run_out(ds.rollout(model, start(s), steps=frames, every=frames)[-1])
                       for s in (torch.ones_like(rise), rise))  # fmt: skip

    def metrics(path):
        unit = math.sqrt(width / (2 * GRAVITY))
        front = path[-1].x[:, 0].max().item() / width
        return {"Z": front, "T": path[-1].time.item() / unit, "rise": rise.item()}

    return ds.Scene(
        name="dam_break",
        model=model,
        steps=frames,
        setup=lambda: (start(rise), None),
        variables={"rise": rise},
        bounds={"rise": (0.3, 1.4)},
        objective=lambda path: ((run_out(path[-1]) - true) / (first - true)) ** 2,
        metrics=metrics,
        defaults={"method": "lbfgs", "iterations": 8},
        color="speed",
    )
