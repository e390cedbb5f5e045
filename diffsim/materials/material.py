"""A material: an elastic law, perhaps a plastic one, and a density."""

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
        viscous: no viscous law is available, so None.
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
            raise SceneError("Material: no viscous law is available; leave viscous out")
        self.elastic = elastic
        self.plastic = plastic
        hold(self, "density", density, POSITIVE, " kg/m^3")

    @property
    def fused(self) -> bool:
        """Whether every part has ti.funcs, so that a kernel evaluates the whole material."""
        parts = [self.elastic] if self.plastic is None else [self.elastic, self.plastic]
        return all(getattr(law, "functions", None) is not None for law in parts)

    def functions(self, d: int) -> tuple:
        """(elastic functions, return map or None) for kernels; see ``composite.compose`` for parts without any."""
        elastic = getattr(self.elastic, "functions", None) or prescribed.functions(d)
        if self.plastic is None:
            return elastic, getattr(self.elastic, "own_map", None)
        return elastic, getattr(self.plastic, "functions", None)

    def theta(self) -> list:
        """Parameters in the order of ``functions``: the elastic law's, then the plastic law's. Fused materials only."""
        return self.elastic.theta() + ([] if self.plastic is None else self.plastic.theta())

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
