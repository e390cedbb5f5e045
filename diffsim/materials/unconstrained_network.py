"""Networks of the bare entries of F: the baseline that knows no physics but the rest state."""

import torch
from torch import nn

from diffsim.errors import SceneError
from diffsim.kernels.perceptron import perceptron
from diffsim.materials.law import POSITIVE, hold
from diffsim.materials.neural_elasticity import layers


class EntryNetwork(nn.Module):
    """X (n, d, d) = W3 gelu(W2 gelu(W1 z)) with z = F - I, entry by entry."""

    pointwise = True  # the same for any order of the particles

    def __init__(self, *, scale, width: int = 64, dim: int = 3, seed: int | None = None):
        super().__init__()
        if dim not in (2, 3):
            raise SceneError(f"{type(self).__name__}: dim={dim!r}; give 2 or 3")
        self.dim, self.width = dim, width
        layers(self, dim * dim, width, dim * dim, seed)
        hold(self, "scale", scale, POSITIVE)

    def configuration(self) -> dict:
        """Arguments that build a law of the same shape."""
        return {"scale": self.scale.item(), "width": self.width, "dim": self.dim}

    def evaluate(self, F):
        if F.shape[-1] != self.dim:
            raise SceneError(
                f"{type(self).__name__}: a network of dim={self.dim} is given F of {F.shape[-1]} dimensions; "
                f"make it with dim={F.shape[-1]}"
            )
        eye = torch.eye(self.dim, dtype=F.dtype, device=F.device)
        X = perceptron((F - eye).reshape(len(F), -1), self.W1, self.W2, self.W3)
        return self.scale.to(F.dtype) * X.reshape(F.shape)


class UnconstrainedElasticity(EntryNetwork):
    """P = scale X(F - I). At F = I the stress is zero; objectivity, isotropy, symmetry and energy do not hold.

    Source: Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369, the network without constraints.

    Args:
        scale: of the output [Pa]. width, dim, seed: as for ``NeuralElasticity``.
    """

    def __init__(self, *, scale=1e5, width: int = 64, dim: int = 3, seed: int | None = None):
        super().__init__(scale=scale, width=width, dim=dim, seed=seed)

    def stress(self, F, q=None, L=None):
        """First Piola-Kirchhoff stress (n, d, d) [Pa]."""
        return self.evaluate(F)


class UnconstrainedPlasticity(EntryNetwork):
    """F = F_trial + scale X(F_trial - I). Only F = I is sure to stay.

    Args:
        scale: of the correction. width, dim, seed: as for ``NeuralElasticity``.
    """

    def __init__(self, *, scale=1e-3, width: int = 64, dim: int = 3, seed: int | None = None):
        super().__init__(scale=scale, width=width, dim=dim, seed=seed)

    def update(self, F_trial, q, L=None, dt=0.0):
        """(F, q) after the map; q is not used."""
        return F_trial + self.evaluate(F_trial), q
