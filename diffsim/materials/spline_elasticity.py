"""An isotropic elastic law of three scalar splines."""

import torch
from torch import nn

from diffsim.kernels.arrays import context
from diffsim.kernels.principal_stress import principal_stress, singular_values
from diffsim.materials.law import POSITIVE, hold
from diffsim.materials.plane_strain import in_plane, spatial

KNOTS = (*[i / 10 for i in range(10)], *[1 + 0.9 * i for i in range(11)])


class SplineElasticity(nn.Module):
    """P_i = f(s_i) + g(s_i s_j) s_j + g(s_i s_k) s_k + h(J) s_j s_k,   P = U diag(P_i) V^T for F = U diag(s) V^T.

    f, g, h are cubic splines on 21 knots, 11 on [0, 1] and 11 on [1, 10] which share the 1, continued by straight
    lines; learned are their values there. The slope at a knot is the quotient (y_{k+1} - y_{k-1})/(x_{k+1} - x_{k-1}),
    at the ends that of the last interval. The law is objective and isotropic, tau is symmetric, and there is an energy
    (the sum of the integrals of f, g, h); rest is free of stress only where f(1) + 2 g(1) + h(1) = 0, as before
    training. In 2-D: plane strain, F33 = 1.

    Source: Xu, Sin, Zhu and Barbic, Nonlinear material design using principal stretches (2015),
    doi:10.1145/2766917, as the NCLaw baseline states it. Adjoint: kernels/principal_stress.py; the quotients
    (P_i - P_j)/(s_i - s_j) are means of a spline's slope over the pieces between, so that nothing cancels.

    Args:
        scale: reference stress [Pa]: the values begin on the line from -scale to scale.
    """

    pointwise = True  # the same for any order of the particles

    def __init__(self, *, scale=1e4):
        super().__init__()
        hold(self, "scale", scale, POSITIVE, " Pa")
        line = torch.linspace(-1, 1, len(KNOTS), dtype=context.dtype, device=context.tensor_device)
        self.values = nn.Parameter(line.repeat(3, 1))  # of f, g, h, in units of scale
        self.register_buffer("knots", torch.tensor(KNOTS, dtype=context.dtype, device=context.tensor_device))

    def configuration(self) -> dict:
        """Arguments that build a law of the same shape."""
        return {"scale": self.scale.item()}

    def pieces(self):
        """Coefficients (3, pieces, 4) of the powers of x - left, and left (pieces,); the outer pieces are straight."""
        y = self.scale.to(self.values.dtype) * self.values
        x = self.knots
        h = x.diff()
        chord = y.diff() / h
        slope = torch.cat([chord[:, :1], (y[:, 2:] - y[:, :-2]) / (x[2:] - x[:-2]), chord[:, -1:]], 1)
        m0, m1 = slope[:, :-1], slope[:, 1:]
        inner = torch.stack([y[:, :-1], m0, (3 * chord - 2 * m0 - m1) / h, (m0 + m1 - 2 * chord) / h**2], 2)
        zero = torch.zeros_like(y[:, :1])
        first = torch.stack([y[:, :1], slope[:, :1], zero, zero], 2)
        last = torch.stack([y[:, -1:], slope[:, -1:], zero, zero], 2)
        return torch.cat([first, inner, last], 1), torch.cat([x[:1], x])

    @staticmethod
    def evaluate(coefficients, left, knots, x):
        """Spline (pieces, 4) at x."""
        number = torch.searchsorted(knots, x.detach().contiguous(), right=True)
        t = x - left[number]
        c = coefficients[number]
        return c[..., 0] + t * (c[..., 1] + t * (c[..., 2] + t * c[..., 3]))

    @staticmethod
    def quotient(coefficients, left, knots, x, y):
        """(f(x) - f(y))/(x - y), its limit f' where they are equal: the mean over the pieces of their mean slopes."""
        low, high = torch.minimum(x, y)[..., None], torch.maximum(x, y)[..., None]
        infinity = knots.new_full((1,), torch.inf)
        start, end = torch.cat([-infinity, knots]), torch.cat([knots, infinity])
        a = torch.maximum(torch.minimum(low, end), start) - left  # the part of [low, high] within each piece
        b = torch.maximum(torch.minimum(high, end), start) - left
        length = b - a
        a, b = torch.where(length > 0, a, 0 * a), torch.where(length > 0, b, 0 * b)  # outer ones are infinite
        c = coefficients
        mean = c[:, 1] + c[:, 2] * (a + b) + c[:, 3] * (a * a + a * b + b * b)
        total = length.sum(-1)
        several = (length * mean).sum(-1) / torch.where(total > 0, total, torch.ones_like(total))
        t = low[..., 0] - left[torch.searchsorted(knots, low[..., 0].contiguous(), right=True)]
        p = c[torch.searchsorted(knots, low[..., 0].contiguous(), right=True)]
        return torch.where(total > 0, several, p[..., 1] + t * (2 * p[..., 2] + 3 * t * p[..., 3]))

    def stress(self, F, q=None, L=None):
        """First Piola-Kirchhoff stress (n, d, d) [Pa]."""
        whole = spatial(F, q)
        s, factors = singular_values(whole)
        (f, g, h), left = self.pieces()
        s0, s1, s2 = s.unbind(1)
        pairs = torch.stack([s0 * s1, s0 * s2, s1 * s2], 1)  # 01, 02, 12
        others = torch.stack([s2, s1, s0], 1)
        on_f, on_g = self.evaluate(f, left, self.knots, s), self.evaluate(g, left, self.knots, pairs)
        on_h = self.evaluate(h, left, self.knots, (s0 * s1 * s2)[:, None])
        g01, g02, g12 = on_g.unbind(1)
        stress = on_f + torch.stack([g01 * s1 + g02 * s2, g01 * s0 + g12 * s2, g02 * s0 + g12 * s1], 1)
        stress = stress + on_h * torch.stack([s1 * s2, s0 * s2, s0 * s1], 1)
        with torch.no_grad():
            first, second = torch.stack([s0, s0, s1], 1), torch.stack([s1, s2, s2], 1)
            by_f = self.quotient(f, left, self.knots, first, second)
            by_g = self.quotient(g, left, self.knots, first * others, second * others)
            quotients = by_f + others**2 * by_g - on_g - on_h * others
        return in_plane(principal_stress(whole, factors, stress, quotients), F.shape[-1])
