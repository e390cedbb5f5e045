"""A scene of one thrown point, in torch alone: what optimize and the command line do needs no kernels to be tested."""

from typing import NamedTuple

import torch

from diffsim.errors import SimulationError
from diffsim.scene import Scene

DT = 0.1


class State(NamedTuple):
    x: torch.Tensor
    v: torch.Tensor


class Path:
    def __init__(self, states):
        self.x = torch.stack([state.x for state in states])
        self.states = states


class Projectile(Scene):
    """A scene whose rollout is a plain loop."""

    def rollout(self, memory="2GiB", steps=None, progress=None, start=None):
        state, controls = start or self.start()
        states = [state]
        for step in range(steps or self.steps):
            push = self.policy(state, step) if self.policy is not None else controls[step]
            v = state.v + DT * (push - torch.tensor([0.0, 9.8], dtype=push.dtype))
            state = State(state.x + DT * v, v)
            if state.x.abs().max() > 1e3:
                raise SimulationError(f"step {step}: particle 0 left the domain; lower the controls", step=step)
            states.append(state)
        return Path(states)


class Thruster(torch.nn.Module):
    """A small policy with a random start, and noise in its output as in reinforcement learning."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()

    def forward(self, state, step):
        action = self.net(torch.cat([state.x, state.v], dim=-1))
        return action + 0.01 * torch.randn_like(action)


def scene(
    steps: int = 10, target: tuple = (1.0, 2.0), limit: float = 50.0, policy: bool = False, mode: str = ""
) -> Scene:
    """Push a point so that it ends at a target.

    Args:
        mode: what is wrong with the scene; "" for nothing.
    """
    push = torch.nn.Parameter(torch.zeros(steps, 2, dtype=torch.float64))
    goal = torch.tensor(target, dtype=torch.float64)

    def setup():
        zero = torch.zeros(2, dtype=torch.float64)
        controls = push / 0 if mode == "nan controls" else push
        return State(zero, zero), None if policy else controls

    def objective(path):
        if mode == "broken objective":
            return path.y.sum()
        if mode == "infinite gradient":
            return (path.x[-1] - path.x[-1]).abs().sqrt().sum()
        miss = ((path.x[-1] - goal) ** 2).sum() + 1e-4 * (torch.sin(3 * path.x) ** 2).sum()
        return miss * float("nan") if mode == "nan loss" else miss

    return Projectile(
        name="projectile",
        model=None,
        steps=steps,
        setup=setup,
        variables={} if policy else {"push": push},
        bounds={} if policy else {"push": (-limit, limit)},
        objective=objective,
        metrics=lambda path: {"miss": (path.x[-1] - goal).norm()},
        policy=Thruster() if policy else None,
        defaults={"method": "adam", "lr": 1.0, "iterations": 12},
    )
