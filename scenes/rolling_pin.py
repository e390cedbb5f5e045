"""PlasticineLab's RollingPin: a pin rolls out a slab of dough."""

import torch

import diffsim as ds
from diffsim.kernels.arrays import context
from diffsim.scenes.plasticine import SLAB, Options, block, build, fill
from diffsim.scenes.plasticine_targets import script
from diffsim.scenes.tool_actions import EPISODE, Rolling

# how far the pin is lowered [m], the angle that it is turned by [rad], half of its way [control steps]
VARIANTS = {1: (0.035, 0.0, 7), 2: (0.025, 0.0, 7), 3: (0.035, 0.8, 7), 4: (0.03, -0.8, 5), 5: (0.04, 0.0, 4)}
RADIUS, SCALES = 0.03, (2 / 3, 1 / 15, 0.001)  # [m]; spin [rad], yaw [rad] and rise [m] per control step


def scene(
    variant: int = 1,
    full: bool = False,
    resolution: int = 48,
    particles: int = 4000,
    steps: int = 50,
    softness: float = 666.0,
    sharpness: float | None = None,
    target_file: str | None = None,
    transport: float = 0.0,
    seed: int = 0,
) -> ds.Scene:
    """Roll out a slab of dough, to the height and width of the target.

    The variable ``actions`` (steps, 3) in [-1, 1] spins the pin, which rolls it without slip by up to 0.02 per control
    step, turns it about the vertical and lifts it by up to 0.001. The target is the slab after the pin was lowered
    while it rolled to and fro.

    Args:
        variant: 1 to 5: depth, direction and width of the rolling.
        full: the benchmark's size, 64 cells and 10,000 particles; resolution and particles are then not read.
        resolution: cells of the box per axis; the substep follows.
        particles: about so many.
        steps: control steps.
        softness: of contact; it is felt up to ln(10) / softness from the tool.
        sharpness: of the soft minimum over particles, 1e4 in the benchmark; the exact minimum when None.
        target_file: npz of the target's node masses, under rollingpin3d_v1 ...; the task's own target when None.
        transport: weight of the particles' distance to where the optimal transport takes them, beside the benchmark's
            loss; 100 is about as strong.
        seed: of the first actions, uniform within 1e-4.
    """
    options = Options(variant, full, resolution, particles, steps, softness, sharpness, target_file, transport, seed)
    depth, angle, half = options.choose(VARIANTS)
    pin = Rolling((0.5, 0.123, 0.5), RADIUS, SCALES)
    return build(
        "rolling_pin",
        options,
        bodies=fill([block(*SLAB)], options.size()[1]),
        motion=pin,
        shapes=[ds.Capsule(0.3, RADIUS)],
        target=script(pin, to_and_fro(depth, angle, half)),
        yield_stress=50.0,
        ground=1.5,
        friction=0.9,
    )


def to_and_fro(depth: float, angle: float, half: int) -> torch.Tensor:
    """Actions (EPISODE, 3): down by ``depth``, turned by ``angle``, rolling ``half`` steps away and then to and fro."""
    actions = torch.zeros(EPISODE, 3, dtype=torch.float64)
    for step in range(EPISODE):
        actions[step, 0] = 1 if (step + half) // (2 * half) % 2 == 0 else -1
        actions[step, 1] = min(1.0, max(0.0, abs(angle) / SCALES[1] - step)) * (1 if angle > 0 else -1)
        actions[step, 2] = -min(1.0, max(0.0, depth / SCALES[2] - step))
    return actions.to(context.dtype)
