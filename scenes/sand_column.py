"""Sand column: a column of dry sand collapses and comes to rest as a heap."""

import diffsim as ds
from diffsim.scenes.columns import column, identify, positive


def scene(
    width: float = 0.1,
    aspect: float = 1.0,
    friction_angle: float = 30.0,
    start_angle: float = 40.0,
    floor: float = 0.5,
    E: float = 1e6,
    nu: float = 0.3,
    density: float = 1600.0,
    per_width: int = 16,
    time: float = 0.6,
    frames: int = 60,
) -> ds.Scene:
    """A column of sand beside a smooth wall collapses on a rough floor, in 2-D.

    Drucker-Prager plasticity with St. Venant-Kirchhoff elasticity in Hencky strains, without cohesion. The metric
    ``run_out`` is the way of the heap's toe, its farthest particle, in widths. Experiments on two-dimensional columns
    find about 1.2 aspect for aspects up to 2 (Lajeunesse, Monnier and Homsy, Phys. Fluids 17, 103302 (2005); Lube et
    al., Phys. Rev. E 72, 041301 (2005)); with 24 particles along the width this model gives 0.8 for an aspect of 1 and
    2.4 for 2. The variable ``angle`` is the friction angle [degrees]; the objective is the squared difference of the
    mean run-out from that of the column with ``friction_angle``, as a fraction of its value at the start: which sand
    made this heap?

    Args:
        width: of the column [m].
        aspect: height over width.
        friction_angle: true friction angle [degrees].
        start_angle: where the search begins [degrees].
        floor: Coulomb coefficient of the floor.
        E: Young's modulus [Pa].
        nu: Poisson's ratio.
        density: [kg/m^3].
        per_width: particles along the width; a cell holds two along each axis.
        time: duration [s].
        frames: control steps in it.
    """
    positive(width=width, aspect=aspect, per_width=per_width, time=time, frames=frames)

    def build(angle):
        sand = ds.materials.DruckerPrager(E, nu, angle)
        return column(
            ds.Material(ds.materials.Hencky(E, nu), sand, density=density),
            width,
            aspect * width,
            spacing=width / per_width,
            duration=time / frames,
            reach=(1.5 + 2.5 * aspect) * width,
            floor="separating",
            friction=floor,
        )

    return identify(
        "sand_column",
        build,
        "angle",
        friction_angle,
        start_angle,
        frames=frames,
        width=width,
        height=aspect * width,
        bounds=(10.0, 60.0),
        defaults={"method": "adam", "lr": 1.5, "iterations": 20},
    )
