"""Named materials of sheets, as options of ``Shell``: ``Shell(mesh, **sheet_material("copy paper"), dt=...)``."""

import math
from dataclasses import dataclass

from diffsim.errors import SceneError


@dataclass(frozen=True)
class SheetMaterial:
    """stretching: E h [N/m]. rigidity: D [N m]. area_density: [kg/m^2]. thickness: h [m]; None: not measured."""

    stretching: float
    rigidity: float
    nu: float
    area_density: float
    thickness: float | None
    source: str


def _homogeneous(E, nu, h, area_density, source):
    return SheetMaterial(E * h, E * h**3 / (12 * (1 - nu**2)), nu, area_density, h, source)


HANDBOOK = "typical handbook values, not measured here"
WANG = (
    "Wang, O'Brien and Ramamoorthi, Data-driven elastic models for cloth, ACM TOG 30 (2011), measured fabrics: "
    "density, mean of the bending samples in three directions, mean of the tangent stiffness along warp and weft at "
    "the second strain; Poisson's ratio 0.3 is assumed"
)
# rounded from the published samples
SHEETS = {
    "copy paper": _homogeneous(3e9, 0.3, 1.0e-4, 0.080, HANDBOOK),
    "card stock": _homogeneous(3e9, 0.3, 3.0e-4, 0.25, HANDBOOK),
    "PET film": _homogeneous(4e9, 0.38, 1.0e-4, 0.14, HANDBOOK),
    "aluminum foil": _homogeneous(70e9, 0.33, 1.6e-5, 0.043, HANDBOOK),
    "gray interlock": SheetMaterial(154.0, 2.18e-5, 0.3, 0.187, None, WANG),
    "black denim": SheetMaterial(643.0, 7.23e-5, 0.3, 0.324, None, WANG),
    "ivory rib knit": SheetMaterial(149.0, 4.63e-5, 0.3, 0.276, None, WANG),
    "camel ponte roma": SheetMaterial(174.0, 3.31e-5, 0.3, 0.284, None, WANG),
}


def sheet_material(name: str) -> dict[str, float]:
    """E, nu, thickness and density of a named sheet, for ``Shell``; ``SHEETS[name].source`` says where they are from.

    Of fabrics the thickness is the one of a homogeneous sheet with the measured stretching and bending stiffness.

    Raises:
        SceneError: a name that is not known.
    """
    if name not in SHEETS:
        raise SceneError(f"sheet material {name!r} is not known; use one of {', '.join(SHEETS)}")
    own = SHEETS[name]
    h = own.thickness or math.sqrt(12 * (1 - own.nu**2) * own.rigidity / own.stretching)
    return {"E": own.stretching / h, "nu": own.nu, "thickness": h, "density": own.area_density / h}
