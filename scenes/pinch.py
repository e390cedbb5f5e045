"""PlasticineLab's Pinch: a sphere presses dents into a cube of plasticine."""

import diffsim as ds
from diffsim.scenes.plasticine import ADAM, Options, block, build, fill
from diffsim.scenes.plasticine_targets import script
from diffsim.scenes.tool_actions import Translations

# ways of the sphere's center [m]
VARIANTS = {
    1: ((0.5, 0.12, 0.5), (0.5, 0.3, 0.5)),
    2: ((0.7, 0.3, 0.5), (0.7, 0.12, 0.5), (0.54, 0.12, 0.5), (0.7, 0.12, 0.5)),
    3: (
        *((0.44, 0.28, 0.44), (0.44, 0.13, 0.44), (0.44, 0.28, 0.44)),
        *((0.56, 0.28, 0.56), (0.56, 0.13, 0.56), (0.56, 0.28, 0.56)),
    ),
    4: ((0.5, 0.14, 0.5), (0.5, 0.26, 0.5), (0.32, 0.26, 0.5), (0.32, 0.12, 0.5), (0.44, 0.12, 0.5), (0.32, 0.12, 0.5)),
    5: (
        *((0.44, 0.25, 0.44), (0.44, 0.15, 0.44), (0.44, 0.25, 0.44)),
        *((0.56, 0.25, 0.44), (0.56, 0.15, 0.44), (0.56, 0.25, 0.44)),
        *((0.5, 0.25, 0.57), (0.5, 0.15, 0.57), (0.5, 0.25, 0.57)),
    ),
}


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
    """Press one to three dents into a cube that sticks to the floor.

    The variable ``actions`` (steps, 1, 3) in [-1, 1] moves the sphere by up to 0.02 per control step, its center
    between 0.1 and 0.9. The target is the cube after the sphere was led along the variant's way. Its mass is that of
    the cube; in the benchmark it is two thirds more, which no dent can make up for.

    Args:
        variant: 1 to 5: dents in the top, in a side, two in the top, top and side, three in the top.
        full: the benchmark's size, 64 cells and 10,000 particles; resolution and particles are then not read.
        resolution: cells of the box per axis; the substep follows.
        particles: about so many.
        steps: control steps.
        softness: of contact; it is felt up to ln(10) / softness from the tool.
        sharpness: of the soft minimum over particles, 1e4 in the benchmark; the exact minimum when None.
        target_file: npz of the target's node masses, under pinch3d_v1 ...; the task's own target when None.
        transport: weight of the particles' distance to where the optimal transport takes them, beside the benchmark's
            loss; 100 is about as strong.
        seed: of the first actions, uniform within 1e-4.
    """
    options = Options(variant, full, resolution, particles, steps, softness, sharpness, target_file, transport, seed)
    way = options.choose(VARIANTS)
    sphere = Translations([(0.5, 0.35, 0.5)], 0.02, lower=0.1, upper=0.9)
    return build(
        "pinch",
        options,
        bodies=fill([block((0.5, 0.1, 0.5), (0.2,) * 3)], options.size()[1]),
        motion=sphere,
        shapes=[ds.Sphere(0.04)],
        target=script(sphere, sphere.towards(*way)),
        yield_stress=50.0,
        ground=100.0,
        friction=0.9,
        defaults=ADAM,
    )
