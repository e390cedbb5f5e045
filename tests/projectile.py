"""A scene of one thrown particle, in torch alone: the tests of optimize and of the command line use it."""

import torch

from diffsim.errors import SimulationError
from diffsim.kernels.arrays import context
from diffsim.models.domain import Grid
from diffsim.models.mpm import State
from diffsim.scene import Scene


class Ballistic(torch.nn.Module):
    """x'' = push + g, by symplectic Euler; the control's first two numbers are the push [m/s^2]."""

    dt, substeps, tools, gravity = 0.1, 1, (), (0.0, -9.8)
    grid = Grid(cells=(16, 16), dx=1.0, origin=(-8.0, -8.0))

    def forward(self, state, control, **_):
        acceleration = control[:, :2] + torch.tensor(self.gravity, dtype=control.dtype)
        v = state.v + self.dt * acceleration
        x = state.x + self.dt * v
        if not x.detach().abs().max() < 1e3:
            raise SimulationError(f"at {float(state.time):.1f} s particle 0 left the domain; lower the controls")
        return state._replace(x=x, v=v, time=state.time + self.dt)


class Thruster(torch.nn.Module):
    """A small policy with a random start, and noise in its output as in reinforcement learning."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 6)).to(context.dtype)

    def forward(self, state, step):
        action = self.net(torch.cat([state.x, state.v], dim=-1))
        return action + 0.01 * torch.randn_like(action)


def at_rest():
    zero = torch.zeros(1, 2, dtype=context.dtype)
    F = torch.eye(2, dtype=context.dtype)[None]
    tool = torch.zeros(0, 7, dtype=context.dtype)
    volume = torch.full((1,), 0.25, dtype=context.dtype)
    material = torch.zeros(1, dtype=torch.int64)
    return State(zero, zero, 0 * F, F, zero[:, :0], tool, tool[:, :6], zero, volume, material, volume.sum() * 0)


def scene(
    steps: int = 10,
    target: tuple = (1.0, 2.0),
    limit: float = 50.0,
    policy: bool = False,
    ceiling: float | None = None,
    mode: str = "",
) -> Scene:
    """Push a particle so that it ends at a target.

    Args:
        ceiling: height that the particle must not exceed, as a constraint.
        mode: what is wrong with the scene; "" for nothing.
    """
    push = torch.nn.Parameter(torch.zeros(steps, 1, 6, dtype=context.dtype))
    goal = torch.tensor(target, dtype=context.dtype)

    def setup():
        controls = push / 0 if mode == "nan controls" else push
        return at_rest(), None if policy else controls

    def objective(path):
        if mode == "broken objective":
            return path.y.sum()
        if mode == "infinite gradient":
            return (path.x[-1] - path.x[-1]).abs().sqrt().sum()
        miss = ((path.x[-1] - goal) ** 2).sum() + 1e-4 * (torch.sin(3 * path.x) ** 2).sum()
        return miss * float("nan") if mode == "nan loss" else miss

    return Scene(
        name="projectile",
        model=Ballistic(),
        steps=steps,
        setup=setup,
        variables={} if policy else {"push": push},
        bounds={} if policy else {"push": (-limit, limit)},
        objective=objective,
        metrics=lambda path: {"score": 1 / (1 + (path.x[-1] - goal).norm())},
        policy=Thruster() if policy else None,
        constraints={} if ceiling is None else {"ceiling": lambda path: path.x[:, 0, 1] - ceiling},
        defaults={"method": "adam", "lr": 1.0, "iterations": 12},
    )
