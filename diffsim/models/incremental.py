"""The incremental potential of one solve, as ``solvers.newton`` minimizes it."""

import math

import numpy as np
import scipy.sparse as sp
import torch

from diffsim.errors import SolverError
from diffsim.solvers.implicit import root
from diffsim.solvers.newton import Settings, minimize

HALVINGS = 6  # of the motion of the held nodes, where its end at once is not allowed


class Incremental:
    """E(y) = sum_i m_i/2 (|x_i - x^_i|^2/b^2 + c |x_i - y_i|^2/b) + Psi(x) - f.x of the free coordinates y of x.

    Args:
        terms, inputs: of Psi, and what each takes.
        pattern: ``solvers.assembly.Pattern`` of the terms.
        target: (n, d), for the held coordinates. load: f (n, d). free: indices of the free coordinates.
        motion: (masses, x^, y, c), or nothing for an equilibrium. b: as above.
    """

    def __init__(self, terms, pattern, inputs, target, load, free, motion, b):
        self.terms, self.pattern, self.inputs = terms, pattern, list(inputs)
        self.held, self.load, self.free = target.reshape(-1), load, free
        self.shape, self.motion, self.b = target.shape, motion, b
        self.origin = target
        self.contact = next((term for term in terms if hasattr(term, "stiffness_matrix")), None)  # the last one
        if self.contact is not None:
            self.number = np.full(target.numel(), -1)
            self.number[free.numpy()] = np.arange(len(free))
        self.diagonal = np.zeros(len(free))
        if motion:
            stiff = motion[0] * (1 / (b * b) + motion[3] / b)
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
            mass, hat, center, damping = self.motion
            inertia = mass[:, None] / 2 * ((x - hat) ** 2 / self.b**2 + damping * (x - center) ** 2 / self.b)
            total, size = total + float(inertia.sum()), size + float(inertia.sum())
        return (total if math.isfinite(total) else math.inf), 1e-15 * size

    def gradient(self, y):
        x = self.full(y)
        g = -self.load
        for term, own in zip(self.terms, self.inputs, strict=True):
            g = g + term.force(x, *own)
        if self.motion:
            mass, hat, center, damping = self.motion
            g = g + mass[:, None] * ((x - hat) / self.b**2 + damping * (x - center) / self.b)
        return g.reshape(-1)[self.free].numpy()

    def hessian(self, y, project):
        x = self.full(y)
        pairs = list(zip(self.terms, self.inputs, strict=True))
        groups = [term.stiffness(x, own, project) for term, own in pairs if term is not self.contact]
        A = self.pattern.assemble([block for group in groups for block in group], self.diagonal)
        if self.contact is None:
            return A
        H = self.contact.stiffness_matrix(x, self.inputs[-1], project)
        rows, columns = self.number[H.row], self.number[H.col]
        own = (rows >= 0) & (columns >= 0)
        return A + sp.csc_matrix((H.data[own], (rows[own], columns[own])), shape=A.shape)

    def limit(self, y, p):
        """Longest step, at most 1, on which nothing collides."""
        if self.contact is None:
            return 1.0
        now = self.inputs[-1][0]
        return self.contact.limit(self.full(y), self.full(y + p), now, now, self.inputs[-1][3])

    @torch.no_grad()
    def solve(self, old, guess, settings, name):
        """The free coordinates of the minimum, from the state ``old`` (n, d) or a guess where that is lower.

        Where the motion of held nodes and obstacles would invert an element or collide with what rests, they move in
        parts.
        """
        places = self.inputs[-1][:2] if self.contact is not None else (None, None)
        y, record = self._advance(old.reshape(-1), self.held, places, guess, settings, name, HALVINGS)
        return torch.from_numpy(y), record

    def _advance(self, old, goal, places, guess, settings, name, halvings):
        """From a state (n d) to the minimum with the held nodes at ``goal``; places: of obstacles, after and before."""
        self.held, (now, then) = goal, places
        if self.contact is not None:
            self.inputs[-1] = (now, *self.inputs[-1][1:])
        candidates = [old[self.free].numpy()]
        if guess is not None:
            candidates.append(guess.reshape(-1)[self.free].numpy())
        start = old.reshape(self.shape)
        allowed = [(self.energy(y)[0], k) for k, y in enumerate(candidates)
                   if self.contact is None
                   or self.contact.limit(start, self.full(y), then, now, self.inputs[-1][3]) >= 1.0]  # fmt: skip
        best, k = min(allowed, default=(math.inf, 0))
        if math.isfinite(best):
            return minimize(self, candidates[k], settings, name)
        if halvings == 0:
            raise SolverError(
                f"{name}: the motion of held nodes or obstacles inverts an element or collides with what cannot give "
                "way; take smaller time steps, or move them less"
            )
        half = (old + goal) / 2
        half[self.free] = old[self.free]
        middle = None if now is None else (now + then) / 2
        y, _ = self._advance(old, half, (middle, then), None, settings, f"{name}, half of the motion", halvings - 1)
        reached = half.index_copy(0, self.free, torch.from_numpy(y))
        return self._advance(reached, goal, (now, middle), None, settings, name, halvings - 1)


def minimum(terms, pattern, free, inputs, target, load, start, settings: Settings, name: str, *, motion=(), b=None,
            guess=None, records=None) -> torch.Tensor:  # fmt: skip
    """x (n, d): the held coordinates of ``target``, the free ones a root of dE/dy; differentiable in all tensors.

    Args:
        terms, pattern, free, inputs, target, load, motion, b: as of ``Incremental``.
        start, guess: (n, d), where the solve may start.
        records: a list that receives the record of the solve.
    """
    sizes, shape, moving = [len(own) for own in inputs], target.shape, len(motion)

    def unpack(values):
        target, load, *rest = values
        own, rest, grouped = rest[:moving], rest[moving:], []
        for size in sizes:
            grouped.append(rest[:size])
            rest = rest[size:]
        return target, load, own, grouped

    def residual(y, *values):
        target, load, own, grouped = unpack(values)
        x = target.reshape(-1).index_copy(0, free, y).reshape(shape)
        g = -load
        for term, tensors in zip(terms, grouped, strict=True):
            g = g + term.force(x, *tensors)
        if own:
            mass, hat, center, damping = own
            g = g + mass[:, None] * ((x - hat) / (b * b) + damping * (x - center) / b)
        return g.reshape(-1)[free]

    def potential(values):
        target, load, own, grouped = unpack(values)
        return Incremental(terms, pattern, grouped, target, load, free, own, b)

    def solve(_, *values):
        y, record = potential(values).solve(start.detach(), guess, settings, name)
        if records is not None:
            records.append(record)
        return y

    def jacobian(y, *values):
        return potential(values).hessian(y.numpy(), False)

    flat = [value for own in inputs for value in own]
    y = root(residual, start.detach().reshape(-1)[free], [target, load, *motion, *flat], solve=solve,
             jacobian=jacobian, linear=settings.linear, name=name)  # fmt: skip
    return target.reshape(-1).index_copy(0, free, y).reshape(shape)
