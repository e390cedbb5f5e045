"""The incremental potential of one solve, as ``solvers.newton`` minimizes it."""

import math

import numpy as np
import torch

from diffsim.solvers.newton import minimize

HALVINGS = 6  # of the motion of the held nodes, where its end at once is not allowed


class Incremental:
    """E(y) = sum_i m_i/2 (|x_i - x^_i|^2/b^2 + c |x_i - y_i|^2/b) + Psi(x) - f.x of the free coordinates y of x.

    Args:
        terms, inputs: of Psi, and what each takes.
        pattern: ``solvers.assembly.Pattern`` of the terms.
        target: (n, d), for the held coordinates. load: f (n, d). free: indices of the free coordinates.
        motion: (masses, x^, y), or nothing for an equilibrium. b, damping: as above.
    """

    def __init__(self, terms, pattern, inputs, target, load, free, motion, b, damping):
        self.terms, self.pattern, self.inputs = terms, pattern, inputs
        self.held, self.load, self.free = target.reshape(-1), load, free
        self.shape, self.motion, self.b, self.damping = target.shape, motion, b, damping
        self.origin = target
        self.diagonal = np.zeros(len(free))
        if motion:
            stiff = motion[0] * (1 / (b * b) + damping / b)
            self.diagonal = stiff[:, None].expand(self.shape).reshape(-1)[free].numpy()

    def full(self, y) -> torch.Tensor:
        """x (n, d) of the free coordinates."""
        return self.held.index_copy(0, self.free, torch.from_numpy(y)).reshape(self.shape)

    def energy(self, y):
        x = self.full(y)
        total, size = 0.0, 0.0
        for term, own in zip(self.terms, self.inputs, strict=True):
            value, magnitude = term.energy(x, own)
            total, size = total + value, size + magnitude
        work = self.load * (x - self.origin)
        total, size = total - float(work.sum()), size + float(work.abs().sum())
        if self.motion:
            mass, hat, center = self.motion
            inertia = mass[:, None] / 2 * ((x - hat) ** 2 / self.b**2 + self.damping * (x - center) ** 2 / self.b)
            total, size = total + float(inertia.sum()), size + float(inertia.sum())
        return (total if math.isfinite(total) else math.inf), 1e-15 * size

    def gradient(self, y):
        x = self.full(y)
        g = -self.load
        for term, own in zip(self.terms, self.inputs, strict=True):
            g = g + term.force(x, *own)
        if self.motion:
            mass, hat, center = self.motion
            g = g + mass[:, None] * ((x - hat) / self.b**2 + self.damping * (x - center) / self.b)
        return g.reshape(-1)[self.free].numpy()

    def hessian(self, y, project):
        x = self.full(y)
        groups = [term.stiffness(x, own, project) for term, own in zip(self.terms, self.inputs, strict=True)]
        blocks = [block for group in groups for block in group]
        return self.pattern.assemble(blocks, self.diagonal)

    def limit(self, y, p):
        """Longest step (at most 1) that no term forbids."""
        x = self.full(y)
        ahead = self.full(y + p)
        return min([1.0, *(term.limit(x, ahead) for term in self.terms if hasattr(term, "limit"))])

    @torch.no_grad()
    def solve(self, old, guess, settings, name):
        """The free coordinates of the minimum, from the state ``old`` (n, d) or a guess where that is lower.

        Where an element would be inverted by the held nodes' motion at once, they move in parts.
        """
        goal = self.held
        y, record = self._advance(old.reshape(-1), goal, guess, settings, name, HALVINGS)
        return torch.from_numpy(y), record

    def _advance(self, old, goal, guess, settings, name, halvings):
        self.held = goal
        candidates = [old[self.free].numpy()]
        if guess is not None:
            candidates.append(guess.reshape(-1)[self.free].numpy())
        allowed = [(self.energy(y)[0], k) for k, y in enumerate(candidates) if self.reachable(old, y)]
        best, k = min(allowed, default=(math.inf, 0))
        if math.isfinite(best) or halvings == 0:
            return minimize(self, candidates[k], settings, name)
        half = (old + goal) / 2
        half[self.free] = old[self.free]
        y, _ = self._advance(old, half, None, settings, f"{name}, half of the motion", halvings - 1)
        middle = half.index_copy(0, self.free, torch.from_numpy(y))
        return self._advance(middle, goal, None, settings, name, halvings - 1)

    def reachable(self, old, y) -> bool:
        """Whether no term forbids the way from a state (n d) to free coordinates y and the held ones."""
        start, end = old.reshape(self.shape), self.full(y)
        return all(term.limit(start, end) >= 1.0 for term in self.terms if hasattr(term, "limit"))
