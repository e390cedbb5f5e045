"""A material: an elastic law, perhaps a plastic and a viscous one, and a density."""

import torch
from torch import nn

from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.materials import prescribed
from diffsim.materials.law import POSITIVE, hold


class Material(nn.Module):
    """What a body is made of.

    Args:
        elastic: a law of ``diffsim.materials``, or any torch module with ``stress(F, q, L) -> P``.
        plastic: a plastic law, or any torch module with ``update(F_trial, q, L, dt) -> (F, q)``; None: no return map
            but the elastic law's own.
        viscous: a viscous law, or any torch module with ``stress(F, q, L) -> P``: its stress is added; None: none.
        density: rest density [kg/m^3], > 0: a float, an ``nn.Parameter`` or a tensor (n,).

    Raises:
        SceneError: a part that lacks its method, a density <= 0, or a plastic law beside a law with its own map.
    """

    def __init__(self, elastic, plastic=None, viscous=None, *, density):
        super().__init__()
        part(elastic, "elastic", "stress")
        if plastic is not None:
            part(plastic, "plastic", "update")
            if getattr(elastic, "own_map", None) is not None:
                raise SceneError(
                    f"Material: {type(elastic).__name__} has a return map of its own and cannot be combined with "
                    f"plastic={type(plastic).__name__}; leave plastic out or take another elastic law"
                )
        if viscous is not None:
            part(viscous, "viscous", "stress")
            if hasattr(viscous, "energy"):
                raise SceneError(
                    f"Material: viscous={type(viscous).__name__} is an elastic law; pass it as elastic, or take a "
                    f"viscous law such as Newtonian"
                )
        self.elastic = elastic
        self.plastic = plastic
        self.viscous = viscous
        hold(self, "density", density, POSITIVE, " kg/m^3")

    @property
    def parts(self) -> list:
        """The laws that the material has: elastic, plastic, viscous."""
        return [law for law in (self.elastic, self.plastic, self.viscous) if law is not None]

    @property
    def fused(self) -> bool:
        """Whether every part has ti.funcs, so that a kernel evaluates the whole material."""
        return all(getattr(law, "functions", None) is not None for law in self.parts)

    def functions(self, d: int) -> tuple:
        """(elastic functions, return map or None, viscous functions or None) for kernels.

        See ``composite.compose`` for parts without any.
        """
        elastic = getattr(self.elastic, "functions", None) or prescribed.functions(d)
        viscous = getattr(self.viscous, "functions", None)
        if self.plastic is None:
            return elastic, getattr(self.elastic, "own_map", None), viscous
        return elastic, getattr(self.plastic, "functions", None), viscous

    def theta(self) -> list:
        """Parameters in the order of ``functions``: elastic, plastic, viscous. Fused materials only."""
        return [value for law in self.parts for value in law.theta()]

    def stress(self, F, q=None, L=None):
        """First Piola-Kirchhoff stress (n, d, d) [Pa], elastic and viscous; L: velocity gradient (n, d, d) [1/s]."""
        P = self.elastic.stress(F, q, L)
        return P if self.viscous is None else P + self.viscous.stress(F, q, L).to(P.dtype)

    def initial(self, n: int, d: int):
        """Internal variables q (n, k) of n undeformed particles."""
        law = self.elastic if self.plastic is None else self.plastic
        if not hasattr(law, "initial"):  # a torch module that keeps none
            return torch.empty(n, 0, dtype=context.dtype, device=context.tensor_device)
        return law.initial(n, d)


def part(law, name: str, method: str) -> None:
    """Check that a part of a material is a module with its method."""
    if not isinstance(law, nn.Module) or not callable(getattr(law, method, None)):
        raise SceneError(
            f"Material: {name} is {type(law).__name__}, which is no torch module with a method {method}(); "
            f"pass a law of diffsim.materials or such a module"
        )
