"""Sand column: a column of dry sand collapses and comes to rest as a heap."""

import diffsim as ds
from diffsim.scenes.columns import column, identify, positive


def scene(
    width: float = 0.1,
    aspect: float = 1.0,
    dim: int = 2,
    friction_angle: float = 25.0,
    sought_angle: float = 35.0,
    floor: float = 0.5,
    E: float = 1e6,
    nu: float = 0.3,
    density: float = 1600.0,
    per_width: int = 24,
    time: float = 0.6,
    frames: int = 60,
) -> ds.Scene:
    """A column of sand beside a smooth wall collapses on a rough floor.

    Drucker-Prager plasticity with St. Venant-Kirchhoff elasticity in Hencky strains, without cohesion. The metric
    ``run_out`` is the way of the heap's toe in widths, and ``published`` what is measured in plane experiments with
    sand of the aspect a: 1.2 a for a < 1.8 and 1.9 a^(2/3) for a > 2.8 (Lube et al., Phys. Rev. E 72, 041301 (2005), as
    quoted by others), here with the change at 2.3. The factor depends on the material and the power on the width of
    the channel: 0.65 +- 0.05 in narrow and 0.9 +- 0.1 in wide ones (Balmforth and Kerswell, J. Fluid Mech. 538 (2005)).
    The variable ``angle`` is the friction angle [degrees]; the objective is the squared difference of the mean run-out
    from that of sand with ``sought_angle``, as a fraction of its value at the start: which sand made this heap?

    Args:
        width: of the column [m].
        aspect: height over width.
        dim: 2, or 3 for a quarter of a square column, in the corner of two smooth walls; nothing published then.
        friction_angle: of triaxial compression [degrees], where the search begins; in plane shear 25 degrees are a
            ratio of shear to normal stress of 0.57, the slope of a heap of sand.
        sought_angle: that which the search shall find [degrees].
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
            dim=dim,
            spacing=width / per_width,
            duration=time / frames,
            reach=(2 + 2.5 * aspect) * width,
            floor="separating",
            friction=floor,
        )

    return identify(
        "sand_column",
        build,
        "angle",
        friction_angle,
        sought_angle,
        frames=frames,
        width=width,
        height=aspect * width,
        bounds=(10.0, 60.0),
        defaults={"method": "adam", "lr": 1.5, "iterations": 20},
        published={"published": 1.2 * aspect if aspect < 2.3 else 1.9 * aspect ** (2 / 3)} if dim == 2 else None,
    )
