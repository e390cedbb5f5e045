"""PlasticineLab's Chopsticks: a pair of chopsticks lifts and turns a bar of plasticine."""

import torch

import diffsim as ds
from diffsim.kernels.arrays import context
from diffsim.scenes.plasticine import Options, block, build, fill
from diffsim.scenes.plasticine_targets import script
from diffsim.scenes.tool_actions import EPISODE, Chopsticks

# displacement of the hand [m] and its turn about the vertical [rad]
VARIANTS = {
    1: ((0.10, 0.12, 0.12), 0.6),
    2: ((0.00, 0.12, 0.22), 0.0),
    3: ((0.11, 0.12, 0.05), -0.6),
    4: ((-0.06, 0.12, 0.20), 0.3),
    5: ((-0.09, 0.12, 0.18), -0.3),
}
BAR = ((0.5, 0.02, 0.5), (0.04, 0.04, 0.6))  # center and sides [m]
LENGTH, RADIUS, CLOSED, SCALES = 0.2, 0.02, 0.06, (0.02, 0.04, 0.02)  # [m]; [m, rad, m] per control step
MOVING = 30  # control steps of the script in which the hand moves


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
    """Lift a bar of plasticine from a smooth floor with two chopsticks, carry and turn it.

    The variable ``actions`` (steps, 7) in [-1, 1] moves the hand by up to 0.02 per control step along each axis, turns
    it by up to 0.04 about each of its own, and closes the chopsticks by up to 0.02, to no less than 0.06 from axis to
    axis: so they start, pressed into the bar. Gravity is five times that of the other tasks. The target is the bar
    after the hand was moved and turned as the variant says.

    Args:
        variant: 1 to 5: displacements and turns of the hand.
        full: the benchmark's size, 64 cells and 10,000 particles; resolution and particles are then not read.
        resolution: cells of the box per axis; the substep follows.
        particles: about so many.
        steps: control steps.
        softness: of contact; it is felt up to ln(10) / softness from the tool.
        sharpness: of the soft minimum over particles, 1e4 in the benchmark; the exact minimum when None.
        target_file: npz of the target's node masses, under chopsticks3d_v1 ...; the task's own target when None.
        transport: weight of the particles' distance to where the optimal transport takes them, beside the benchmark's
            loss; 100 is about as strong.
        seed: of the first actions, uniform within 1e-4.
    """
    options = Options(variant, full, resolution, particles, steps, softness, sharpness, target_file, transport, seed)
    shift, angle = options.choose(VARIANTS)
    hand = Chopsticks((0.5, 0.15, 0.5), LENGTH, CLOSED, SCALES)
    actions = torch.zeros(EPISODE, 7, dtype=torch.float64)
    actions[:MOVING, :3] = torch.tensor(shift, dtype=torch.float64) / (MOVING * SCALES[0])
    actions[:MOVING, 4] = angle / (MOVING * SCALES[1])
    return build(
        "chopsticks",
        options,
        bodies=fill([block(*BAR)], options.size()[1]),
        motion=hand,
        shapes=[ds.Capsule(LENGTH, RADIUS)] * 2,
        target=script(hand, actions.to(context.dtype)),
        yield_stress=200.0,
        ground=0.0,
        friction=10.0,
        gravity=150.0,
    )
