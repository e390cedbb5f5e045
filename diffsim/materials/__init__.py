"""Constitutive laws, one per file, and the material that combines them."""

from diffsim.materials.composite import compose
from diffsim.materials.fixed_corotated import FixedCorotated
from diffsim.materials.hencky import Hencky
from diffsim.materials.liquid import Liquid
from diffsim.materials.material import Material
from diffsim.materials.neo_hookean import NeoHookean
from diffsim.materials.prescribed import Prescribed
from diffsim.materials.von_mises import VonMises

__all__ = ["FixedCorotated", "Hencky", "Liquid", "Material", "NeoHookean", "Prescribed", "VonMises", "compose"]
