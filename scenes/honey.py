"""Honey: a lump of a viscous liquid spreads under its own weight."""

import diffsim as ds
from diffsim.scenes.columns import identify_fluid, positive


def scene(
    width: float = 0.05,
    aspect: float = 1.0,
    dim: int = 2,
    viscosity: float = 10.0,
    sought_viscosity: float = 6.0,
    density: float = 1400.0,
    sound: float = 10.0,
    per_width: int = 16,
    time: float = 0.5,
    frames: int = 50,
) -> ds.Scene:
    """A lump of honey beside a smooth wall spreads on a floor to which it sticks.

    The equation of state of Tait with Newtonian viscosity; honey has about 10 Pa s at room temperature. The metric
    ``run_out`` is the way of its edge in widths. The variable is ``viscosity`` [Pa s]; the objective is the squared
    difference of the mean run-out from that of honey with ``sought_viscosity``, as a fraction of its value at the
    start.

    Args:
        width: of the lump [m].
        aspect: height over width.
        dim: 2, or 3 for a quarter of a square lump, in the corner of two smooth walls.
        viscosity: dynamic viscosity [Pa s], where the search begins.
        sought_viscosity: that which the search shall find [Pa s].
        density: [kg/m^3].
        sound: speed of sound [m/s], for a nearly incompressible flow at least ten times sqrt(2 g height).
        per_width: particles along the width; a cell holds two along each axis.
        time: duration [s].
        frames: control steps in it.
    """
    positive(sound=sound)

    def honey(value):
        return ds.Material(
            ds.materials.Tait(density * sound**2), viscous=ds.materials.Newtonian(value), density=density
        )

    return identify_fluid(
        "honey",
        honey,
        "viscosity",
        viscosity,
        sought_viscosity,
        largest=2 * max(viscosity, sought_viscosity),
        width=width,
        aspect=aspect,
        dim=dim,
        per_width=per_width,
        time=time,
        frames=frames,
        lr=1.0,
    )
