"""The elastic network of NCLaw."""

import torch
from torch import nn

from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.kernels.invariant_network import Operator, invariant_network
from diffsim.materials.law import POSITIVE, hold


def layers(module: nn.Module, inputs: int, width: int, outputs: int, seed: int | None) -> None:
    """Give a module the weights W1, W2, W3 of a perceptron: Xavier's uniform, of a generator of its own with a seed.

    Raises:
        SceneError: a width below 1.
    """
    if int(width) != width or width < 1:
        raise SceneError(f"{type(module).__name__}: width={width!r}; give a whole number of neurons, at least 1")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    sizes = (inputs, int(width), int(width), outputs)
    for number in (1, 2, 3):
        weight = torch.empty(sizes[number], sizes[number - 1], dtype=torch.float64)
        nn.init.xavier_uniform_(weight, generator=generator)
        setattr(module, f"W{number}", nn.Parameter(weight.to(context.tensor_device, context.dtype)))


class InvariantLaw(nn.Module):
    """What the two networks share: weights W1, W2, W3 and an output scale; in d dimensions d + d^2 + 1 inputs."""

    base = 0.0
    pointwise = True  # the same for any order of the particles

    def __init__(self, *, scale, width: int = 64, dim: int = 3, seed: int | None = None):
        super().__init__()
        if dim not in (2, 3):
            raise SceneError(f"{type(self).__name__}: dim={dim!r}; give 2 or 3")
        self.dim, self.width = dim, width
        layers(self, dim + dim * dim + 1, width, dim * dim, seed)
        hold(self, "scale", scale, POSITIVE)

    def configuration(self) -> dict:
        """Arguments that build a law of the same shape."""
        return {"scale": self.scale.item(), "width": self.width, "dim": self.dim}

    def operator(self, dt=None):
        """The law as an operator of F, and the tensors that its adjoint has gradients of, in their order."""
        weights = (self.scale, self.W1, self.W2, self.W3)
        return Operator(self.base, *weights), weights

    def evaluate(self, F):
        """base F + scale R sym(X), (n, d, d)."""
        if F.shape[-1] != self.dim:
            raise SceneError(
                f"{type(self).__name__}: a network of dim={self.dim} is given F of {F.shape[-1]} dimensions; "
                f"make it with dim={F.shape[-1]}"
            )
        return invariant_network(F, self.base, self.scale, self.W1, self.W2, self.W3)


class NeuralElasticity(InvariantLaw):
    """P = scale R sym(X),   X = W3 gelu(W2 gelu(W1 z)),   z = (s - 1, F^T F - I, J - 1).

    F = U diag(s) V^T, R = U V^T, J = det F; 13 inputs in 3-D, no bias. tau = P F^T.

    It is objective (z does not change under F -> Q F, and R turns with it), and rest is free of stress: z = 0 for
    every rotation, so P = 0. Nothing else holds: F^T F enters entry by entry, so the law is not isotropic; tau is
    symmetric only where X and F^T F commute; there is no energy. For these see ``HyperelasticNetwork``.

    Source: Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369, where scale = 1: the network
    answers in pascals. Adjoint: kernels/invariant_network.py; at equal singular values, F = I among them, the law has a
    corner, since s is sorted: the derivative is that of the order which the decomposition returned.

    Args:
        scale: of the output [Pa]; a float or an ``nn.Parameter``.
        width: neurons of the two hidden layers.
        dim: of F; in 2-D z has 7 numbers.
        seed: of the weights; None takes torch's generator.
    """

    def __init__(self, *, scale=1e5, width: int = 64, dim: int = 3, seed: int | None = None):
        super().__init__(scale=scale, width=width, dim=dim, seed=seed)

    def stress(self, F, q=None, L=None):
        """First Piola-Kirchhoff stress (n, d, d) [Pa]."""
        return self.evaluate(F)
