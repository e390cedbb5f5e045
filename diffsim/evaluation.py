"""One evaluation of a scene: its loss, its figures and its gradient at the variables as they are; and as vectors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diffsim.errors import GradientError, SceneError
from diffsim.scene import Scene, blame, file_of


@dataclass(frozen=True)
class Evaluation:
    """What one rollout of a scene gave.

    Attributes:
        loss: the objective.
        figures: the scene's metrics.
        norm: of the gradient, which is left in the variables' ``.grad``; None where none was asked for.
        controls: what the rollout was driven by: a tensor, a policy or None.
        steps: control steps simulated.
    """

    loss: float
    figures: dict[str, float]
    norm: float | None
    controls: Any
    steps: int


def evaluate_scene(
    scene: Scene,
    *,
    gradient: bool = True,
    memory: str = "2GiB",
    steps: int | None = None,
    truncate: int | None = None,
    frozen: int = 0,
) -> Evaluation:
    """Simulate a scene at its present variables.

    Args:
        gradient: fill the variables' ``.grad``.
        memory, steps, truncate, frozen: of the rollout, as in ``Scene.rollout``.

    Raises:
        GradientError: a loss or a gradient that is not finite.
        SceneError: an objective that does not depend on the variables.
        SimulationError: the rollout failed.
    """
    for value in scene.parameters().values():
        value.grad = None
    with torch.set_grad_enabled(gradient):
        start = scene.start()
        path = scene.rollout(memory=memory, steps=steps, start=start, truncate=truncate, frozen=frozen)
        loss = scene.loss(path)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise GradientError(f"the loss is {value}; lower lr, or set bounds that keep the scene meaningful")
    with torch.no_grad():
        figures = scene.measure(path)
    norm = _backward(scene, loss) if gradient else None
    return Evaluation(value, figures, norm, start[1], scene.steps if steps is None else steps)


def _backward(scene: Scene, loss: torch.Tensor) -> float:
    """Fill the gradients and return their norm."""
    parameters = scene.parameters()
    if not loss.requires_grad:
        names = ", ".join(parameters)
        raise SceneError(f"scene {scene.name!r}: the objective does not depend on the variables ({names})")
    with blame(file_of(scene.objective), "the backward pass"):
        loss.backward()
    squares = 0.0
    for name, value in parameters.items():
        if value.grad is None:
            continue
        if not value.grad.isfinite().all():
            raise GradientError(f"the gradient of {name!r} is not finite; inspect it with check-gradients --horizon")
        squares += float(value.grad.double().square().sum())
    return math.sqrt(squares)


def flat(tensors: Iterable[torch.Tensor]) -> np.ndarray:
    """All entries as one vector of doubles."""
    return torch.cat([value.detach().double().cpu().reshape(-1) for value in tensors]).numpy()


def flat_gradient(parameters: Iterable[torch.Tensor]) -> np.ndarray:
    """Gradients as one vector of doubles; zero where the objective does not depend on a variable."""
    return flat(torch.zeros_like(value) if value.grad is None else value.grad for value in parameters)


@torch.no_grad()
def set_flat(parameters: Iterable[torch.Tensor], vector: np.ndarray) -> None:
    """Set variables from one vector, each in its own precision."""
    offset = 0
    for value in parameters:
        part = torch.from_numpy(np.array(vector[offset : offset + value.numel()]))
        value.copy_(part.reshape(value.shape))
        offset += value.numel()
