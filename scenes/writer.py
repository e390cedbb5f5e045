"""PlasticineLab's Writer: a pen draws a groove into a slab of plasticine."""

import diffsim as ds
from diffsim.scenes.plasticine import ADAM, SLAB, Options, block, build, fill
from diffsim.scenes.plasticine_targets import script
from diffsim.scenes.tool_actions import Translations

# the strokes' corners, x and z [m]
VARIANTS = {
    1: ((0.58, 0.42), (0.42, 0.58)),
    2: ((0.42, 0.42), (0.58, 0.58)),
    3: ((0.42, 0.5), (0.42, 0.58), (0.58, 0.58)),
    4: ((0.58, 0.5), (0.58, 0.42), (0.5, 0.42), (0.42, 0.42)),
    5: ((0.5, 0.6), (0.6, 0.6), (0.6, 0.5)),
}
START, WRITING, LIFTED = (0.5, 0.13, 0.5), 0.1, 0.2  # [m] of the pen; heights of its center


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
    """Draw a groove into a slab that sticks to the floor, as deep and along the same lines as the target's.

    The variable ``actions`` (steps, 1, 3) in [-1, 1] moves the pen, a smooth capsule whose tip starts inside the slab,
    by up to 0.01 per control step, its center never below 0.05. The target is the slab after the pen was led along the
    variant's strokes and lifted.

    Args:
        variant: 1 to 5: strokes of the pen.
        full: the benchmark's size, 64 cells and 10,000 particles; resolution and particles are then not read.
        resolution: cells of the box per axis; the substep follows.
        particles: about so many.
        steps: control steps.
        softness: of contact; it is felt up to ln(10) / softness from the tool.
        sharpness: of the soft minimum over particles, 1e4 in the benchmark; the exact minimum when None.
        target_file: npz of the target's node masses, under writer3d_v1 ...; the task's own target when None.
        transport: weight of the particles' distance to where the optimal transport takes them, beside the benchmark's
            loss; 100 is about as strong.
        seed: of the first actions, uniform within 1e-4.
    """
    options = Options(variant, full, resolution, particles, steps, softness, sharpness, target_file, transport, seed)
    corners = options.choose(VARIANTS)
    pen = Translations([START], 0.01, lower=(0.0, 0.05, 0.0))
    strokes = [(0.5, WRITING, 0.5), *((x, WRITING, z) for x, z in corners)]
    return build(
        "writer",
        options,
        bodies=fill([block(*SLAB)], options.size()[1]),
        motion=pen,
        shapes=[ds.Capsule(0.06, 0.03)],
        target=script(pen, pen.towards(*strokes, (strokes[-1][0], LIFTED, strokes[-1][2]))),
        yield_stress=50.0,
        ground=100.0,
        friction=0.0,
        defaults=ADAM,
    )
