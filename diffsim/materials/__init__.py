"""Constitutive laws, one per file, and the material that combines them."""

from diffsim.materials.composite import compose
from diffsim.materials.drucker_prager import DruckerPrager
from diffsim.materials.fixed_corotated import FixedCorotated
from diffsim.materials.hencky import Hencky
from diffsim.materials.herschel_bulkley import HerschelBulkley
from diffsim.materials.hyperelastic_network import HyperelasticNetwork
from diffsim.materials.kelvin_voigt import KelvinVoigt
from diffsim.materials.linear_elastic import LinearElastic
from diffsim.materials.liquid import Liquid
from diffsim.materials.material import Material
from diffsim.materials.neo_hookean import NeoHookean
from diffsim.materials.neural_elasticity import NeuralElasticity
from diffsim.materials.neural_plasticity import NeuralPlasticity
from diffsim.materials.newtonian import Newtonian
from diffsim.materials.plasticity_network import PlasticityNetwork
from diffsim.materials.prescribed import Prescribed
from diffsim.materials.snow import Snow
from diffsim.materials.spline_elasticity import SplineElasticity
from diffsim.materials.st_venant_kirchhoff import StVenantKirchhoff
from diffsim.materials.stable_neo_hookean import StableNeoHookean
from diffsim.materials.tait import Tait
from diffsim.materials.unconstrained_network import UnconstrainedElasticity, UnconstrainedPlasticity
from diffsim.materials.von_mises import VonMises

__all__ = [
    "DruckerPrager",
    "FixedCorotated",
    "Hencky",
    "HerschelBulkley",
    "HyperelasticNetwork",
    "KelvinVoigt",
    "LinearElastic",
    "Liquid",
    "Material",
    "NeoHookean",
    "NeuralElasticity",
    "NeuralPlasticity",
    "Newtonian",
    "PlasticityNetwork",
    "Prescribed",
    "Snow",
    "SplineElasticity",
    "StVenantKirchhoff",
    "StableNeoHookean",
    "Tait",
    "UnconstrainedElasticity",
    "UnconstrainedPlasticity",
    "VonMises",
    "compose",
]
