"""The laws that a fit may begin with, by name, and which of their tensors it changes at which rate."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from diffsim import materials as M
from diffsim.errors import SceneError
from diffsim.materials.material import Material
from diffsim.scripts import suggestion

KINDS = ("neural", "nclaw", "hyperelastic", "polyconvex", "spline", "sysid", "blind", "unconstrained")
FACTOR = 0.8  # of a parameter, or of its logarithm where it is learned by that: the wrong start of an identification
LOGARITHMS = ("log_T", "log_t_v", "log_t_s")  # of a plasticity network: they cross decades where weights move by tenths
FASTER = 10  # their learning rate, in that of the weights


class Exponential(nn.Module):
    """value = exp(y): positive, and steps of y are relative changes."""

    def forward(self, y):
        return y.exp()

    def right_inverse(self, value):
        return value.log()


@dataclass
class Candidate:
    """A material to be learned, and its groups of parameters: name -> (parameters, learning rate)."""

    material: Material
    groups: dict[str, tuple[list, float]]


def candidate(kind: str, true: Material | None, *, density, dim: int, dt: float, seed: int = 0, **rates) -> Candidate:
    """The law called ``kind`` before training.

    Args:
        kind: "neural", NCLaw's networks; "nclaw", the same as published, without an output scale and with its rates;
            "hyperelastic" and "polyconvex", an energy network with a plasticity network; "spline", elasticity alone;
            "unconstrained", networks of F's entries; "sysid", the true laws with wrong parameters; "blind", Hencky and
            von Mises whatever the material is.
        true: the material that the motion is of; for "sysid".
        dt: step [s], of which the relaxation times of the plasticity network are a few at the start.
        rates: elastic, plastic: learning rates instead of the usual ones.

    Raises:
        SceneError: an unknown kind, or "sysid" without a true material of analytic laws.
        DataError: a true material with a viscous part, which no candidate has.
    """
    from diffsim.learning.law_file import refuse_viscosity

    if true is not None:
        refuse_viscosity(true)
    if kind not in KINDS:
        raise SceneError(f"law {kind!r} is not known; {suggestion(kind, KINDS)}")
    usual = {"elastic": 1e-2, "plastic": 1e-2}
    if kind == "nclaw":
        elastic, plastic = M.NeuralElasticity(scale=1, dim=dim, seed=seed), M.NeuralPlasticity(dim=dim, seed=seed + 1)
        usual = {"elastic": 1.0, "plastic": 0.1}
    elif kind in ("neural", "unconstrained"):
        laws = {"neural": (M.NeuralElasticity, M.NeuralPlasticity)}.get(
            kind, (M.UnconstrainedElasticity, M.UnconstrainedPlasticity)
        )
        elastic, plastic = laws[0](dim=dim, seed=seed), laws[1](dim=dim, seed=seed + 1)
        usual = {"elastic": 3e-3, "plastic": 3e-3}
    elif kind in ("hyperelastic", "polyconvex"):
        elastic = M.HyperelasticNetwork(polyconvex=kind == "polyconvex", seed=seed)
        plastic = M.PlasticityNetwork(time=4 * dt, seed=seed + 1)
    elif kind == "spline":
        elastic, plastic = M.SplineElasticity(), None
    elif kind == "blind":
        elastic, plastic = M.Hencky(1e5, 0.3), M.VonMises.from_deviatoric(1e5, 0.3, 1e4)
    else:
        if true is None:
            raise SceneError("law 'sysid' needs the true law: fit a scene, or data in the folder of a run")
        elastic, plastic = copied(true.elastic), None if true.plastic is None else copied(true.plastic)
    if kind in ("sysid", "blind"):
        usual = {"elastic": 5e-2, "plastic": 5e-2}
        for law in (elastic, plastic):
            if law is not None:
                learn(law, FACTOR if kind == "sysid" else 1.0)
    usual |= {name: rate for name, rate in rates.items() if rate is not None}
    groups = {}
    for name, law in (("elastic", elastic), ("plastic", plastic)):
        chosen = {} if law is None else {k: p for k, p in law.named_parameters() if p.requires_grad}
        slow = [chosen.pop(k) for k in LOGARITHMS if k in chosen]
        if chosen:
            groups[name] = (list(chosen.values()), usual[name])
        if slow:
            groups[f"{name}, logarithms"] = (slow, FASTER * usual[name])
    return Candidate(Material(elastic, plastic, density=density), groups)


def copied(law):
    """The same analytic law with numbers of its own."""
    from diffsim.learning.law_file import build, describe

    return build(describe(law))


def learn(law, factor: float) -> None:
    """Make E, the yield stress and the friction angle of an analytic law learnable by their logarithms."""
    for name in ("E", "yield_norm", "yield_stress", "friction_angle"):
        if hasattr(law, name):
            value = float(getattr(law, name))
            start = math.exp(factor * math.log(value)) if name == "E" else factor * value
            delattr(law, name)
            law.register_parameter(name, nn.Parameter(torch.tensor(start, dtype=torch.float64)))
            register_parametrization(law, name, Exponential())


def settled(material: Material) -> Material:
    """The material without parametrizations, as it is written to a file."""
    for law in (material.elastic, material.plastic):
        for name in list(getattr(law, "parametrizations", {})):
            remove_parametrizations(law, name)
    return material
