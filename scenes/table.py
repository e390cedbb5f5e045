"""PlasticineLab's Table: a sphere bends one leg of a table outward."""

import diffsim as ds
from diffsim.scenes.plasticine import Options, block, build, fill
from diffsim.scenes.plasticine_targets import script
from diffsim.scenes.tool_actions import Translations

# x and z to which the sphere is moved [m]
VARIANTS = {1: (0.57, 0.43), 2: (0.44, 0.57), 3: (0.555, 0.555), 4: (0.56, 0.565), 5: (0.43, 0.58)}
LEGS = [(0.5 + a, 0.1, 0.5 + b) for a in (-0.075, 0.075) for b in (-0.075, 0.075)]
LEG, TOP = (0.04, 0.1, 0.04), ((0.5, 0.18, 0.5), (0.2, 0.05, 0.2))  # [m] sides; center and sides
PUSHING = 20  # control steps of the script in which the sphere moves


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
    """Bend one leg of a table outward by a sphere between the legs.

    The variable ``actions`` (steps, 1, 2) in [-1, 1] moves the sphere by up to 0.03 per control step along x and z.
    Every leg counts in loss and score as much as the top, as in the benchmark, whose bodies have equally many
    particles. The target is the table after the sphere was pushed against the variant's leg.

    Args:
        variant: 1 to 5: which leg is bent, and how far.
        full: the benchmark's size, 64 cells and 10,000 particles; resolution and particles are then not read.
        resolution: cells of the box per axis; the substep follows.
        particles: about so many.
        steps: control steps.
        softness: of contact; it is felt up to ln(10) / softness from the tool.
        sharpness: of the soft minimum over particles, 1e4 in the benchmark; the exact minimum when None.
        target_file: npz of the target's node masses, under table3d_v1 ...; the task's own target when None.
        transport: weight of the particles' distance to where the optimal transport takes them, beside the benchmark's
            loss; 100 is about as strong.
        seed: of the first actions, uniform within 1e-4.
    """
    options = Options(variant, full, resolution, particles, steps, softness, sharpness, target_file, transport, seed)
    x, z = options.choose(VARIANTS)
    sphere = Translations([(0.5, 0.06, 0.5)], 0.03, axes=(0, 2))
    way = [(0.5 + share * (x - 0.5), 0.06, 0.5 + share * (z - 0.5)) for share in (k / PUSHING for k in range(1, 21))]
    return build(
        "table",
        options,
        bodies=fill([*(block(leg, LEG) for leg in LEGS), block(*TOP)], options.size()[1]),
        motion=sphere,
        shapes=[ds.Sphere(0.04)],
        target=script(sphere, sphere.towards(*way)),
        yield_stress=50.0,
        ground=0.3,
        friction=0.9,
        nu=0.05,
        shares=(0.2,) * 5,
    )
