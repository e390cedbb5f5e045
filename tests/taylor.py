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
