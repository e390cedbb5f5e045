"""What the ten tasks of PlasticineLab share: the box, the plasticine, loss and score.

Source: Huang et al., PlasticineLab (ICLR 2021), arXiv:2104.03311. The unit box and the benchmark's units (density 1);
E = 5000, nu = 0.2, fixed corotated stress, von Mises |2 mu dev eps| <= sigma_y; walls that let go. With m the node
masses, m* those of the target and D their distance to it, the loss of a step is

    10 sum_i D_i m_i + 10 sum_i |m_i - m*_i| + sum over moved tools (min over particles max(phi, 0))^2

and the objective its sum over the steps. ``score`` is the normalized incremental soft IoU after the last step.

Nothing in that loss tells which body belongs where, and D leads to the nearest place of the target, whether or not it
is taken. The option ``transport`` adds, with that weight, the mean of |x_p - T(x_p)|^2 to every step, where T takes the
start's particles to the target by the optimal transport: it leads every particle to a place of its own.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.geometry import sampling
from diffsim.geometry.bodies import Ball, Box
from diffsim.kernels.arrays import context
from diffsim.objectives import tool_distance, total
from diffsim.scenes.plasticine_targets import OUTSIDE, Destinations, recorded
from diffsim.scenes.tool_actions import CONTROL_STEP

E, NU, DENSITY = 5000.0, 0.2, 1.0
FULL = {"resolution": 64, "particles": 10_000}
COURANT_SUBSTEPS = 20 / 64  # substeps per control step and cell: 1e-4 s on 64 cells, Courant number 0.48
MASS = 10_000 * (0.5 / 64) ** 2  # of the benchmark's particles, in the units of its losses
SUNK = 3.5 / 64  # [m] below this the benchmark's floor, its three lowest layers of nodes, is felt; other walls alike
SLAB = ((0.5, 0.05, 0.5), (0.3, 0.1, 0.3))  # center and sides [m], of three tasks
STICKY = 10.0  # ground friction from which on the benchmark's floor lets nothing slide
# Rprop settles where Adam's steps of 0.1 keep carried plasticine shaking: 50 actions add up to 50 scales
RPROP = {"method": "rprop", "lr": 0.05, "step_sizes": (1e-4, 0.2), "iterations": 30}
# the benchmark's: where a tool must come near first, its early dents are in the wrong place, and Rprop draws it back
ADAM = {"method": "adam", "lr": 0.1, "iterations": 50}


@dataclass(frozen=True)
class Options:
    """What every task can be asked for; ``scene`` functions document them."""

    variant: int
    full: bool
    resolution: int
    particles: int
    steps: int
    softness: float
    sharpness: float | None
    target_file: str | None
    transport: float
    seed: int

    def size(self) -> tuple[int, int]:
        """Cells per axis and wanted particles.

        Raises:
            SceneError: fewer than 16 cells, no particles, or a weight that is not.
        """
        cells, particles = (FULL["resolution"], FULL["particles"]) if self.full else (self.resolution, self.particles)
        if cells < 16:
            raise SceneError(f"resolution is {cells}; the box needs at least 16 cells")
        if not (self.transport >= 0 and math.isfinite(self.transport)):
            raise SceneError(f"transport is {self.transport}; it is the weight of a part of the loss, 0 or more")
        if particles < 1:
            raise SceneError(f"particles is {particles}; it must be at least 1")
        return cells, particles

    def choose(self, variants: dict):
        """The entry of ``variants`` that was asked for.

        Raises:
            SceneError: there is none.
        """
        if self.variant not in variants:
            raise SceneError(f"variant is {self.variant}; choose one of {', '.join(map(str, variants))}")
        return variants[self.variant]


# --- bodies


def block(center, sides) -> Box:
    """The box of these sides about a center [m]."""
    center, half = np.asarray(center), np.asarray(sides) / 2
    return Box(np.stack([center - half, center + half]))


def ball(center, radius) -> Ball:
    """The ball about a center [m]."""
    return Ball(np.asarray(center), radius)


def fill(bodies, particles: int) -> list[tuple]:
    """Positions and volumes of so many particles in all, shared by volume, a pair for each body.

    They are random and uniform, as in the benchmark: the score compares densities scaled by their peaks, and a lattice,
    whose density has hardly a peak, overlaps a target that was pressed more than that target does itself.
    """
    volume = sum(body.volume for body in bodies)
    counts = [max(1, round(particles * body.volume / volume)) for body in bodies]
    return [sampling.fill(body, count=count, method="random") for body, count in zip(bodies, counts, strict=True)]


# --- the task


@dataclass
class World:
    """Model, start and masses of a task, before its target is known."""

    model: ds.models.MPM
    state: tuple
    mass: torch.Tensor  # of each particle, in the units of the losses
    motion: object

    def controls(self, actions):
        """Velocities (steps, tools, 6) of all tools; those after the moved ones stand still."""
        moved = self.motion(actions)
        return torch.nn.functional.pad(moved, (0, 0, 0, len(self.model.tools) - moved.shape[1]))


def build(
    name: str,
    options: Options,
    *,
    bodies: list[tuple],
    motion,
    shapes: list,
    target,
    yield_stress: float,
    ground: float,
    friction: float,
    gravity: float = 30.0,
    nu: float = NU,
    shares: tuple | None = None,
    fixed: tuple = (),
    metrics=None,
    camera: dict | None = None,
    defaults: dict = RPROP,
) -> ds.Scene:
    """A task as a scene; the variable ``actions`` (steps, *motion.shape) lies in [-1, 1].

    Args:
        bodies: positions and volumes of the particles of each body.
        motion: from actions to velocities, with the tools' poses at the start; see ``diffsim.scenes.tool_actions``.
        shapes: of the moved tools.
        target: World -> DensityTarget.
        yield_stress: sigma_y.
        ground: friction of the floor; sticky from 10 on.
        friction: of the tools.
        gravity: downwards.
        shares: of each body in the masses of loss and score; by its number of particles when None.
        fixed: (shape, position) of tools that stand still.
        metrics: further figures, path -> dict.
        defaults: of ``optimize``.
    """
    if options.steps < 1:
        raise SceneError(f"steps is {options.steps}; it must be at least 1")
    cells, _ = options.size()
    dx, substeps = 1 / cells, math.ceil(COURANT_SUBSTEPS * cells)
    grid = ds.Grid((cells + 2 * OUTSIDE,) * 3, dx, (-OUTSIDE * dx,) * 3)
    # the last node of the wall, so that a particle feels it from where it does in the benchmark on
    wall = max(round(SUNK * cells - 1.5), 1 - OUTSIDE)
    kinds = {side: "separating" for side in ds.Walls.sides(3)} | ({"y-": "sticky"} if ground >= STICKY else {})
    contact = {"softness": options.softness, "friction": friction}
    tools = [ds.Tool(shape, pose=pose, **contact) for shape, pose in zip(shapes, motion.poses, strict=True)]
    tools += [ds.Tool(shape, pose=(position, (1.0, 0.0, 0.0, 0.0)), **contact) for shape, position in fixed]
    law = ds.materials.FixedCorotated(E, nu)
    model = ds.models.MPM(
        grid,
        [ds.Material(law, ds.materials.VonMises.from_deviatoric(E, nu, yield_stress), density=DENSITY)],
        dt=CONTROL_STEP / substeps,
        substeps=substeps,
        gravity=(0.0, -gravity, 0.0),
        walls=ds.Walls(kinds, friction={} if ground >= STICKY else {"y-": ground}, margin=OUTSIDE + wall + 1),
        tools=tools,
    )
    counts = [len(x) for x, _ in bodies]
    state = model.initial_state(torch.cat([x for x, _ in bodies]), volume=torch.cat([volume for _, volume in bodies]))
    shares = [count / sum(counts) for count in counts] if shares is None else shares
    mass = torch.cat([state.x.new_full((n,), MASS * share / n) for n, share in zip(counts, shares, strict=True)])
    world = World(model, state, mass, motion)
    key = f"{name.replace('_', '')}3d_v{options.variant}"
    goal = recorded(options.target_file, key, cells) if options.target_file else target(world)
    initial, moved = goal.density(state.x, mass), len(shapes)
    if not goal.overlap(goal.mass) > goal.overlap(initial):
        raise SceneError(
            f"{name}: with {cells} cells and {len(mass)} particles the target is too faint to be told from the start; "
            "use resolution=48 and particles=4000, or full=True"
        )
    generator = torch.Generator().manual_seed(options.seed)
    first = torch.rand(options.steps, *motion.shape, generator=generator, dtype=torch.float64)
    actions = nn.Parameter((1e-4 * (2 * first - 1)).to(context.dtype))

    way = Destinations(state.x, mass, goal) if options.transport else None

    def step_loss(frame):
        density = goal.density(frame.x, mass)
        gap = tool_distance(frame._replace(pose=frame.pose[:moved]), model.tools[:moved], options.sharpness)
        loss = 10 * goal.distance(density) + 10 * goal.mismatch(density) + gap
        return loss if way is None else loss + options.transport * way.squared_distance(frame.x)

    def figures(path):
        density = goal.density(path[-1].x, mass)
        found = {"score": goal.score(density, initial), "iou": goal.overlap(density)}
        found["matched"] = 1 - goal.mismatch(density) / goal.mismatch(initial)
        return found | (metrics(path) if metrics else {})

    return ds.Scene(
        name=name,
        model=model,
        steps=options.steps,
        setup=lambda: (state, world.controls(actions)),
        variables={"actions": actions},
        objective=lambda path: total(torch.stack([step_loss(path[i]) for i in range(1, len(path))])),
        metrics=figures,
        bounds={"actions": (-1.0, 1.0)},
        defaults=defaults,
        camera=camera,
        ghost=goal.x,
    )
