"""How actions in [-1, 1] move tools: maps from actions (steps, ...) to velocities (steps, tools, 6), in plain torch.

A tool is held inside [lower, upper]: what an action asks for beyond is cut off. Where the bound decides, an action has
no influence and its gradient is 0; exactly at the bound the derivative is that of the inside.

Source: Huang et al., PlasticineLab (ICLR 2021), arXiv:2104.03311, its tools. There a tool moves substep by substep,
here with one velocity per control step, over which directions are those at the start of the step.
"""

import math

import torch
from torch import Tensor

from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.models.tools import exponential, quaternion_product, rotation_matrix

CONTROL_STEP = 2e-3  # [s]
EPISODE = 50  # control steps
UPRIGHT_TO_Z = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)  # turns a tool's axis y to z


def held(position: Tensor, step: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The part of ``step`` [m] that keeps a tool at ``position`` [m] inside [lower, upper]."""
    low, high = lower - position, upper - position
    step = torch.where(step < low, low, step)  # not torch.maximum, which halves the gradient of equal arguments
    return torch.where(step > high, high, step)


class Translations:
    """Tools that move along the axes and do not turn: p <- clip(p + scale a, lower, upper).

    Args:
        starts: position of each tool (T, 3) [m].
        scale: displacement per control step at an action of 1, per axis or one for all [m].
        axes: those that the actions move along.
        lower, upper: bounds of the positions, per axis or one for all [m].

    Attributes:
        shape: of the actions of one step, (T, axes).
        poses: at the start, (position, quaternion) of each tool.
    """

    def __init__(self, starts, scale, *, axes=(0, 1, 2), lower=0.0, upper=1.0):
        self.starts, self.axes = starts, axes
        self.scale, self.lower, self.upper = scale, lower, upper
        self.shape = (len(starts), len(axes))
        self.poses = [(tuple(start), (1.0, 0.0, 0.0, 0.0)) for start in starts]

    def __call__(self, actions: Tensor) -> Tensor:
        position = actions.new_tensor(self.starts)
        scale, lower, upper = (actions.new_tensor(value).expand(3) for value in (self.scale, self.lower, self.upper))
        wanted = actions.new_zeros(*actions.shape[:2], 3)
        wanted[:, :, list(self.axes)] = actions * scale[list(self.axes)]
        steps = []
        for step in wanted:
            steps.append(held(position, step, lower, upper))
            position = position + steps[-1]
        return torch.nn.functional.pad(torch.stack(steps) / CONTROL_STEP, (0, 3))

    def towards(self, *waypoints) -> Tensor:
        """Actions (EPISODE, 1, axes) that lead one tool to waypoints (3,) [m] in turn as fast as it can, then rest.

        Raises:
            SceneError: the way is too long for an episode.
        """
        axes, here, parts = list(self.axes), torch.tensor(self.starts[0], dtype=torch.float64), []
        scale = torch.tensor(self.scale, dtype=torch.float64).expand(3)[axes]
        for waypoint in waypoints:
            there = torch.tensor(waypoint, dtype=torch.float64)
            action = (there - here)[axes] / scale
            count = max(1, math.ceil(float(action.abs().max()) - 1e-9))
            parts.append((action / count).expand(count, 1, -1))
            here = there
        actions = torch.cat(parts)
        if len(actions) > EPISODE:
            raise SceneError(f"a script of {len(actions)} control steps is longer than the {EPISODE} of an episode")
        return torch.nn.functional.pad(actions, (0, 0, 0, 0, 0, EPISODE - len(actions))).to(context.dtype)


class Rolling:
    """A pin that lies flat: it spins about its axis and so rolls, turns about the vertical, and moves up and down.

    With u its axis, y up and the actions (spin, yaw, rise) scaled:  omega T = spin u + yaw y,
    v T = radius spin (u x y) + rise y,  the rolling without slip of its lowest line.

    Args:
        start: of its center [m]; the axis lies along z.
        radius: [m].
        scales: of spin [rad], yaw [rad] and rise [m] per control step.
    """

    shape = (3,)

    def __init__(self, start, radius, scales, *, lower=0.0, upper=1.0):
        self.start, self.radius, self.scales = start, radius, scales
        self.lower, self.upper = lower, upper
        self.poses = [(tuple(start), UPRIGHT_TO_Z)]

    def __call__(self, actions: Tensor) -> Tensor:
        position, heading = actions.new_tensor(self.start), actions.new_zeros(())
        lower, upper = (actions.new_tensor(value).expand(3) for value in (self.lower, self.upper))
        moves = []
        for spin, yaw, rise in actions * actions.new_tensor(self.scales):
            sine, cosine = heading.sin(), heading.cos()  # u = (sine, 0, cosine), u x y = (-cosine, 0, sine)
            wanted = torch.stack([-self.radius * spin * cosine, rise, self.radius * spin * sine])
            step = held(position, wanted, lower, upper)
            moves.append(torch.cat([step, torch.stack([spin * sine, yaw, spin * cosine])]))
            position, heading = position + step, heading + yaw
        return (torch.stack(moves) / CONTROL_STEP)[:, None]


class Chopsticks:
    """Two parallel sticks that hang from a hand: it moves, turns about its own axes, and opens and closes.

    With p, R and w the hand's position, rotation and opening, the sticks' centers are p + R (-+w/2, -length/2, 0), and

        p <- clip(p + s a, lower, upper),    R <- R exp(r a),    w <- max(w - g a, closed)

    Args:
        start: of the hand [m].
        length: from the hand to the sticks' ends [m].
        closed: least opening, and that of the start [m].
        scales: (s [m], r [rad], g [m]) per control step.

    The actions of a step are (7,): translation along the world's axes, rotation about the hand's, closing.
    """

    shape = (7,)

    def __init__(self, start, length, closed, scales, *, lower=0.0, upper=1.0):
        self.start, self.length, self.closed, self.scales = start, length, closed, scales
        self.lower, self.upper = lower, upper
        x, y, z = start
        centers = [(x + side * closed / 2, y - length / 2, z) for side in (-1, 1)]
        self.poses = [(center, (1.0, 0.0, 0.0, 0.0)) for center in centers]

    def __call__(self, actions: Tensor) -> Tensor:
        position, turn = actions.new_tensor(self.start), actions.new_tensor([1.0, 0.0, 0.0, 0.0])
        lower, upper = (actions.new_tensor(value).expand(3) for value in (self.lower, self.upper))
        opening = closed = actions.new_tensor(self.closed)
        centers, moves = self._centers(position, turn, opening), []
        shift, angle, closing = self.scales
        for action in actions:
            omega = (rotation_matrix(turn) * (angle * action[3:6])).sum(-1)
            position = position + held(position, shift * action[:3], lower, upper)
            turn = quaternion_product(exponential(omega), turn)
            wanted = opening - closing * action[6]
            opening = torch.where(wanted < closed, closed, wanted)
            before, centers = centers, self._centers(position, turn, opening)
            moves.append(torch.cat([centers - before, omega.expand(2, 3)], dim=1))
        return torch.stack(moves) / CONTROL_STEP

    def _centers(self, position, turn, opening):
        down = torch.full_like(opening, -self.length / 2)
        local = torch.stack([torch.stack([side * opening / 2, down, 0 * down]) for side in (-1, 1)])
        return position + (rotation_matrix(turn) * local[:, None]).sum(-1)
