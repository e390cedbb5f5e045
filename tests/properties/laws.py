"""Every law of ``diffsim.materials`` in a material. A new law is one row of MATERIALS."""

from collections.abc import Callable
from dataclasses import dataclass

import diffsim as ds
from diffsim.materials.law import Law

E, NU, DENSITY = 1e3, 0.3, 10.0  # [Pa], -, [kg/m^3]


@dataclass(frozen=True)
class Row:
    """A material: ``make(number)`` builds it, handing every physical parameter through ``number``.

    objective: P(Q F) = Q P(F). isotropic: P(F Q) = P(F) Q. yields: it has a branch beyond yield, which strains of 5 %
    reach.
    """

    make: Callable
    objective: bool = True
    isotropic: bool = True
    yields: bool = False


def elastic(law, **options):
    """A law with E and nu alone; options are those of Row and of the law."""
    about = {name: options.pop(name) for name in ("objective", "isotropic") if name in options}
    return Row(lambda number: ds.Material(law(number(E), number(NU), **options), density=number(DENSITY)), **about)


def plastic(law, *parameters, **options):
    """A return map on Hencky elasticity; parameters are those beside E and nu, options are passed on as they are."""

    def make(number):
        flow = law(number(E), number(NU), *map(number, parameters), **options)
        return ds.Material(ds.materials.Hencky(number(E), number(NU)), flow, density=number(DENSITY))

    return Row(make, yields=True)


def viscous(solid, law, *parameters, **options):
    """A viscous law beside an elastic one; options are numbers of the viscous law by name."""

    def make(number):
        flow = law(*map(number, parameters), **{name: number(value) for name, value in options.items()})
        return ds.Material(solid(number(E), number(NU)), viscous=flow, density=number(DENSITY))

    return Row(make)


def tait(number):
    return ds.Material(laws.Tait(number(E), number(7.0)), density=number(DENSITY))


def snow(number):
    return ds.Material(
        laws.Snow(number(E), number(NU), number(2.5e-2), number(7.5e-3), number(10.0)), density=number(DENSITY)
    )


laws = ds.materials
MATERIALS = {
    "FixedCorotated": elastic(laws.FixedCorotated),
    "NeoHookean": elastic(laws.NeoHookean),
    "Hencky": elastic(laws.Hencky),
    "StableNeoHookean": elastic(laws.StableNeoHookean),
    "StableNeoHookean, no logarithm": elastic(laws.StableNeoHookean, logarithm=False),
    "StVenantKirchhoff": elastic(laws.StVenantKirchhoff),
    "LinearElastic": elastic(laws.LinearElastic, objective=False, isotropic=False),
    "Liquid": elastic(laws.Liquid),
    "Tait": Row(tait),
    "Newtonian": viscous(laws.Liquid, laws.Newtonian, 2.0, 1.0),
    "KelvinVoigt": viscous(laws.NeoHookean, laws.KelvinVoigt, 2.0, 1.0),
    "HerschelBulkley": viscous(laws.Liquid, laws.HerschelBulkley, 5.0, 1.0, 0.7, growth=0.05, rate=1.0, kappa=0.5),
    "VonMises": plastic(laws.VonMises, 20.0),
    "VonMises, hardening": plastic(laws.VonMises, 20.0, 100.0),
    "DruckerPrager": plastic(laws.DruckerPrager, 30.0, 20.0),
    "DruckerPrager, no correction": plastic(laws.DruckerPrager, 30.0, 20.0, volume_correction=False),
    "Snow": Row(snow, yields=True),
}


def without_row() -> set[str]:
    """Names of the laws that no row holds. A prescribed stress is no function of F and needs none."""
    held = {type(part) for row in MATERIALS.values() for part in row.make(float).parts} | {laws.Prescribed}
    offered = [getattr(laws, name) for name in laws.__all__]
    return {law.__name__ for law in offered if isinstance(law, type) and issubclass(law, Law) and law not in held}
