"""Every law of ``diffsim.materials`` in a material. A new law is one row of MATERIALS."""

from collections.abc import Callable
from dataclasses import dataclass

import diffsim as ds
from diffsim.materials.law import Law

E, NU, DENSITY = 1e3, 0.3, 10.0  # [Pa], -, [kg/m^3]


@dataclass(frozen=True)
class Row:
    """A material: ``make(number)`` builds it, handing every physical parameter through ``number``.

    isotropic: P(F Q) = P(F) Q. yields: it has a branch beyond yield, which strains of 5 % reach.
    """

    make: Callable
    isotropic: bool = True
    yields: bool = False


def elastic(law):
    return Row(lambda number: ds.Material(law(number(E), number(NU)), density=number(DENSITY)))


def von_mises(number):
    plastic = ds.materials.VonMises(number(E), number(NU), number(20.0))
    return ds.Material(ds.materials.Hencky(number(E), number(NU)), plastic, density=number(DENSITY))


MATERIALS = {
    "FixedCorotated": elastic(ds.materials.FixedCorotated),
    "NeoHookean": elastic(ds.materials.NeoHookean),
    "Hencky": elastic(ds.materials.Hencky),
    "Liquid": elastic(ds.materials.Liquid),
    "VonMises": Row(von_mises, yields=True),
}


def without_row() -> set[str]:
    """Names of the laws that no row holds. A prescribed stress is no function of F and needs none."""
    held = {type(part) for row in MATERIALS.values() for part in row.make(float).parts}
    offered = [getattr(ds.materials, name) for name in ds.materials.__all__]
    laws = [law for law in offered if isinstance(law, type) and issubclass(law, Law) and law.functions is not None]
    return {law.__name__ for law in laws if law not in held}
