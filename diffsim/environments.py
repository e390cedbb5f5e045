"""Scenes as Gymnasium environments, and their rollouts as differentiable functions of the actions.

    import diffsim.environments
    env = gymnasium.make("diffsim/Move-v0", particles=500)

Importing this module registers every shipped scene under its name in capitals, as in ``diffsim/TripleMove-v0``. Reward,
observation and limits are those of the optimizers: the rewards of an episode add up to minus the objective.
"""

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffsim.errors import DataError, SceneError, SimulationError, SolverError
from diffsim.kernels.arrays import context
from diffsim.rollout import Trajectory, rollout
from diffsim.runtime import init
from diffsim.scene import Scene
from diffsim.scripts import list_scenes, load

OBSERVED = 200  # particles of an observation
FAILURE = -1000.0  # reward of a step that the simulation did not survive


class DiffEnv(gymnasium.Env):
    """An episode is a rollout of a scene, a step one control step.

    The action is a row of the scene's action table, flat: the variable that has a row per control step, within its
    bounds. The observation holds position and velocity of every so many-th particle, about 200, and the poses of the
    tools. The reward of step t is J_t-1 - J_t, with J_t the scene's loss of the frames so far and J_0 = 0. An episode
    is truncated after the scene's steps, and its last ``info`` has the scene's metrics. A simulation that fails ends
    the episode with the reward -1000 and the reason as ``info["failed"]``.

    Args:
        scene: a ``Scene``, or what ``diffsim.load`` takes.
        render_mode: "rgb_array" or None.
        device, precision: of ``diffsim.init``, where that was not called before.
        options: of the scene.

    Raises:
        SceneError: a scene without objective or action table.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, scene, render_mode: str | None = None, device: str = "cpu", precision: str = "f32", **options):
        if not context.ready:
            init(device=device, precision=precision)
        self.scene = scene if isinstance(scene, Scene) else load(scene, **options)
        self.render_mode = render_mode
        self._name, self._table = _action_table(self.scene)
        self._first = self._table.detach().clone()
        low, high = (torch.as_tensor(b).expand_as(self._table)[0] for b in self.scene.bounds[self._name])
        shape = (self._table[0].numel(),)
        bounds = [np.asarray(b.reshape(-1).cpu(), dtype=np.float32) for b in (low, high)]
        self.action_space = gymnasium.spaces.Box(*bounds, shape=shape, dtype=np.float32)
        self._states: list = []
        with torch.no_grad():
            size = len(self._observe(self.scene.start()[0]))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), dtype=np.float32)

    # --- Gymnasium

    @torch.no_grad()
    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode; returns observation and info."""
        super().reset(seed=seed)
        self._table.copy_(self._first)
        self._states, self._loss = [self.scene.start()[0]], 0.0
        return self._observe(self._states[0]), {}

    @torch.no_grad()
    def step(self, action):
        """Simulate one control step; returns observation, reward, terminated, truncated, info.

        Raises:
            DataError: an action of another shape, or not finite.
            SceneError: an action out of its bounds, or a step before ``reset`` or after the end.
        """
        number = len(self._states) - 1
        if number < 0 or number >= self.scene.steps:
            raise SceneError(f"environment {self.scene.name!r}: the episode is over or was not begun; call reset()")
        self._table[number] = self._checked(action, number).to(self._table).reshape(self._table[number].shape)
        control = self.scene.start()[1][number]
        info: dict[str, Any] = {}
        try:
            after = self.scene.model(self._states[-1], control)
        except (SimulationError, SolverError) as error:
            return self._observe(self._states[-1]), FAILURE, True, False, {"failed": str(error)}
        self._states.append(after)
        path = Trajectory(self.scene.model, self._states[:: self.scene.every])
        loss = float(self.scene.loss(path)) if len(path) > 1 else 0.0
        reward, self._loss = self._loss - loss, loss
        if not math.isfinite(reward):
            return self._observe(after), FAILURE, True, False, {"failed": f"the loss is {loss} in step {number}"}
        done = len(self._states) > self.scene.steps
        if done:
            info = self.scene.measure(path)
        return self._observe(after), reward, False, done, info

    def render(self):
        """The present state as an array (height, width, 3)."""
        import tempfile
        from pathlib import Path

        from PIL import Image

        from diffsim.video import render_trajectory

        if self.render_mode is None or not self._states:
            return None
        looks = {"color": self.scene.color, "camera": self.scene.camera, "ghost": self.scene.ghost}
        with tempfile.TemporaryDirectory() as folder:
            render_trajectory([self._states[-1]], out=None, png_frames=folder, model=self.scene.model, **looks)
            return np.asarray(Image.open(Path(folder, "frame_00000.png")).convert("RGB"))

    # --- gradients

    def rollout(self, actions: Tensor, memory="2GiB") -> tuple[Trajectory, Tensor]:
        """Simulate a whole table of actions, differentiably.

        Args:
            actions: (steps, action) or of the scene's table; gradients pass back to it.
            memory: budget of the gradient, as in ``diffsim.rollout``.

        Returns:
            The trajectory and the scene's loss, both with their gradients by the actions.

        Raises:
            DataError, SceneError: as ``step``.
        """
        if actions.shape != (self.scene.steps, *self.action_space.shape) and actions.shape != self._table.shape:
            raise DataError(
                f"actions have shape {tuple(actions.shape)}; environment {self.scene.name!r} needs "
                f"{(self.scene.steps, *self.action_space.shape)}"
            )
        table = actions.reshape(self._table.shape)
        for number, row in enumerate(table.detach()):
            self._checked(row.reshape(-1), number)
        with torch.no_grad():
            self._table.copy_(table)
            state = self.scene.start()[0]
        controls = _Controls.apply(table, self.scene, self._table)
        path = rollout(self.scene.model, state, controls, every=self.scene.every, memory=memory)
        loss = self.scene.loss(path)
        if loss.requires_grad:
            # what the loss reads of the table itself, beside the controls that came from it
            (direct,) = torch.autograd.grad(loss, self._table, retain_graph=True, allow_unused=True)
            if direct is not None:
                loss = loss.detach() + (loss - loss.detach()) + (direct * (table - table.detach())).sum()
        return path, loss

    # --- parts

    def _checked(self, action, number: int) -> Tensor:
        values = np.asarray(action.detach().cpu() if isinstance(action, Tensor) else action, dtype=float)
        if values.shape != self.action_space.shape:
            raise DataError(
                f"the action of step {number} has shape {values.shape}; environment {self.scene.name!r} needs "
                f"{self.action_space.shape}"
            )
        if not np.isfinite(values).all():
            raise DataError(
                f"entry {int((~np.isfinite(values)).argmax())} of the action of step {number} is not finite"
            )
        low, high = self.action_space.low, self.action_space.high
        outside = (values < low) | (values > high)
        if outside.any():
            k = int(outside.argmax())
            raise SceneError(
                f"entry {k} of the action of step {number} is {values[k]:.4g}, out of its range {low[k]:.4g} .. "
                f"{high[k]:.4g}; clip it"
            )
        return torch.from_numpy(values)

    def _observe(self, state) -> np.ndarray:
        every = max(1, len(state.x) // OBSERVED)
        parts = (state.x[::every], state.v[::every], state.pose)
        return torch.cat([part.reshape(-1) for part in parts]).float().cpu().numpy()


class _Controls(torch.autograd.Function):
    """Action table -> controls, by the scene's setup, which reads its own variable."""

    @staticmethod
    def forward(ctx, table, scene, variable):
        with torch.enable_grad():
            ctx.controls, ctx.variable = scene.start()[1], variable
        return ctx.controls.detach().clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (found,) = torch.autograd.grad(ctx.controls, ctx.variable, grad, retain_graph=True)
        return found, None, None


def _action_table(scene: Scene) -> tuple[str, torch.nn.Parameter]:
    """The scene's variable with a row per step, and its name."""
    if scene.objective is None:
        raise SceneError(f"scene {scene.name!r} has no objective, so no reward; give it one, or choose another scene")
    tables = [
        name
        for name, value in scene.variables.items()
        if value.ndim > 1 and len(value) == scene.steps and name in scene.bounds
    ]
    if len(tables) != 1 or scene.policy is not None:
        raise SceneError(
            f"scene {scene.name!r} has {len(tables)} variables with bounds and a row for each of its {scene.steps} "
            "steps; an environment needs one, its actions"
        )
    return tables[0], scene.variables[tables[0]]


def name_of(scene: str) -> str:
    """Name of a scene's environment: ``diffsim/TripleMove-v0`` for "triple_move"."""
    return f"diffsim/{''.join(word.capitalize() for word in scene.split('_'))}-v0"


def register() -> None:
    """Register every shipped scene; a scene that has no actions says so when its environment is made."""
    for scene in list_scenes():
        if name_of(scene) not in gymnasium.registry:
            gymnasium.register(name_of(scene), entry_point="diffsim.environments:DiffEnv", kwargs={"scene": scene})


register()
