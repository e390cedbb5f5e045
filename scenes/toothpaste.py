"""Toothpaste: a paste with a yield stress slumps and stops, though nothing supports its sides."""

import diffsim as ds
from diffsim.scenes.columns import identify_fluid, positive


def scene(
    width: float = 0.03,
    aspect: float = 2.0,
    dim: int = 2,
    yield_stress: float = 100.0,
    sought_yield: float = 160.0,
    consistency: float = 10.0,
    index: float = 0.5,
    growth: float = 1.0,
    density: float = 1300.0,
    sound: float = 12.0,
    per_width: int = 12,
    time: float = 0.3,
    frames: int = 30,
) -> ds.Scene:
    """A column of paste beside a smooth wall slumps on a floor to which it sticks.

    The equation of state of Tait with Herschel-Bulkley viscosity; toothpaste yields at 100 to 200 Pa in shear. Where
    the weight does not reach the yield stress the paste stays, but for a creep of stress/(yield_stress growth).
    The metric ``height`` is that of the heap, as a fraction of the column's. The variable is ``yield_stress``
    [Pa]; the objective is the squared difference of the mean run-out from that of paste with ``sought_yield``, as a
    fraction of its value at the start.

    Args:
        width: of the column [m].
        aspect: height over width.
        dim: 2, or 3 for a quarter of a square column, in the corner of two smooth walls.
        yield_stress: in shear [Pa], where the search begins.
        sought_yield: that which the search shall find [Pa].
        consistency: [Pa s^index].
        index: flow index, 1 for a Bingham fluid.
        growth: of Papanastasiou's regularization [s]: yielding is sharp for shear rates far above 1/growth.
        density: [kg/m^3].
        sound: speed of sound [m/s], for a nearly incompressible flow at least ten times sqrt(2 g height).
        per_width: particles along the width; a cell holds two along each axis.
        time: duration [s].
        frames: control steps in it.
    """
    positive(sound=sound)

    def paste(value):
        viscous = ds.materials.HerschelBulkley(value, consistency, index, growth=growth, rate=1.0)
        return ds.Material(ds.materials.Tait(density * sound**2), viscous=viscous, density=density)

    return identify_fluid(
        "toothpaste",
        paste,
        "yield_stress",
        yield_stress,
        sought_yield,
        largest=1.5 * max(yield_stress, sought_yield),
        width=width,
        aspect=aspect,
        dim=dim,
        per_width=per_width,
        time=time,
        frames=frames,
        lr=8.0,
    )
