"""Taylor test of a gradient with few evaluations: the slope of |J(p + h d) - J(p) - h g.d| against h."""

import math

import torch


def slope(loss, leaf, direction, steps=(4e-2, 2e-2, 1e-2)):
    """Slope between the last two step sizes, of a scalar function of the leaf as it stands."""
    value = loss()
    (gradient,) = torch.autograd.grad(value, leaf)
    derivative, start = float((gradient * direction).sum()), leaf.detach().clone()
    rests = []
    with torch.no_grad():
        for h in steps:
            leaf.copy_(start + h * direction)
            rests.append(abs(float(loss()) - float(value) - h * derivative))
        leaf.copy_(start)
    return math.log(rests[-2] / rests[-1]) / math.log(steps[-2] / steps[-1])


def differences(loss, leaves, *, sizes=None, seed=5, steps=(2e-2, 1e-2)):
    """Relative error of the gradient of a scalar function by each leaf, along one random direction of a given size.

    Central differences with two step sizes, extrapolated. The leaves are tensors that the function reads in place.
    """
    gradients = torch.autograd.grad(loss(), list(leaves.values()))
    errors = {}
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        generator = torch.Generator().manual_seed(seed)
        d = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        d *= (sizes or {}).get(name, float(leaf.detach().abs().max()))
        start, quotients = leaf.detach().clone(), []
        with torch.no_grad():
            for h in steps:
                values = []
                for sign in (1, -1):
                    leaf.copy_(start + sign * h * d)
                    values.append(float(loss()))
                quotients.append((values[0] - values[1]) / (2 * h))
            leaf.copy_(start)
        ratio = (steps[0] / steps[1]) ** 2
        exact = (ratio * quotients[1] - quotients[0]) / (ratio - 1)
        errors[name] = abs(float((gradient * d).sum()) - exact) / abs(exact)
    return errors
