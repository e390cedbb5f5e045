"""PlasticineLab's Torus: a ring is pressed into a slab of plasticine."""

import diffsim as ds
from diffsim.scenes.plasticine import ADAM, SLAB, Options, block, build, fill
from diffsim.scenes.plasticine_targets import script
from diffsim.scenes.tool_actions import Translations

# x and z of the imprint's center [m]
VARIANTS = {1: (0.43, 0.45), 2: (0.575, 0.43), 3: (0.57, 0.57), 4: (0.57, 0.47), 5: (0.45, 0.58)}
START, ABOVE, DEEPEST = (0.5, 0.2, 0.5), 0.13, 0.05  # [m] of the ring; heights of its center


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
    """Press a ring into a slab that sticks to the floor, so that its imprint is that of the target.

    The variable ``actions`` (steps, 1, 3) in [-1, 1] moves the ring by up to 0.004 per control step, its center never
    below 0.05. The target is the slab after the ring was pressed down at the variant's place and lifted again.

    Args:
        variant: 1 to 5: places of the imprint.
        full: the benchmark's size, 64 cells and 10,000 particles; resolution and particles are then not read.
        resolution: cells of the box per axis; the substep follows.
        particles: about so many.
        steps: control steps.
        softness: of contact; it is felt up to ln(10) / softness from the tool.
        sharpness: of the soft minimum over particles, 1e4 in the benchmark; the exact minimum when None.
        target_file: npz of the target's node masses, under torus3d_v1 ...; the task's own target when None.
        transport: weight of the particles' distance to where the optimal transport takes them, beside the benchmark's
            loss; 100 is about as strong.
        seed: of the first actions, uniform within 1e-4.
    """
    options = Options(variant, full, resolution, particles, steps, softness, sharpness, target_file, transport, seed)
    x, z = options.choose(VARIANTS)
    ring = Translations([START], 0.004, lower=(0.0, DEEPEST, 0.0))
    return build(
        "torus",
        options,
        bodies=fill([block(*SLAB)], options.size()[1]),
        motion=ring,
        shapes=[ds.Torus(0.05, 0.03)],
        target=script(ring, ring.towards((x, ABOVE, z), (x, DEEPEST, z), (x, 0.08, z))),
        yield_stress=50.0,
        ground=100.0,
        friction=0.9,
        defaults=ADAM,
    )
