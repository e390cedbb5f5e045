"""PlasticineLab's TripleMove: six spheres carry three cubes of plasticine to three places."""

import torch

import diffsim as ds
from diffsim.scenes.plasticine import Options, block, build, fill
from diffsim.scenes.plasticine_targets import points
from diffsim.scenes.tool_actions import Translations

# centers of the three cubes' targets [m]
VARIANTS = {
    1: ((0.200, 0.200, 0.502), (0.625, 0.344, 0.200), (0.800, 0.199, 0.200)),
    2: ((0.251, 0.199, 0.369), (0.382, 0.270, 0.799), (0.738, 0.366, 0.514)),
    3: ((0.366, 0.199, 0.200), (0.419, 0.470, 0.331), (0.800, 0.364, 0.293)),
    4: ((0.510, 0.477, 0.525), (0.605, 0.237, 0.631), (0.800, 0.200, 0.701)),
    5: ((0.574, 0.200, 0.586), (0.800, 0.212, 0.479), (0.800, 0.212, 0.579)),
}
STARTS = ((0.3, 0.05, 0.5), (0.5, 0.05, 0.5), (0.7, 0.05, 0.5))
SIDE, RADIUS, APART = 0.1, 0.03, 0.07  # [m] of a cube and of a sphere; from a cube's center to a sphere's


def scene(
    variant: int = 1,
    full: bool = False,
    resolution: int = 32,
    particles: int = 1500,
    steps: int = 50,
    softness: float = 666.0,
    sharpness: float | None = None,
    target_file: str | None = None,
    transport: float = 0.0,
    seed: int = 0,
) -> ds.Scene:
    """Carry three cubes of plasticine with six spheres to where their targets are.

    The variable ``actions`` (steps, 6, 3) in [-1, 1] moves each sphere by up to 0.01 per control step. Loss and score
    are those of every task; nothing tells which cube belongs where.

    Args:
        variant: 1 to 5: places of the three targets.
        full: the benchmark's size, 64 cells and 10,000 particles; resolution and particles are then not read.
        resolution: cells of the box per axis; the substep follows.
        particles: about so many.
        steps: control steps.
        softness: of contact; it is felt up to ln(10) / softness from the tool.
        sharpness: of the soft minimum over particles, 1e4 in the benchmark; the exact minimum when None.
        target_file: npz of the target's node masses, under triplemove3d_v1 ...; the task's own target when None.
        transport: weight of the particles' distance to where the optimal transport takes them, beside the benchmark's
            loss; 100 is about as strong.
        seed: of the first actions, uniform within 1e-4.
    """
    options = Options(variant, full, resolution, particles, steps, softness, sharpness, target_file, transport, seed)
    goals = options.choose(VARIANTS)
    bodies = fill([block(start, (SIDE,) * 3) for start in STARTS], options.size()[1])
    spheres = [(x + side * APART, y, z) for x, y, z in STARTS for side in (-1, 1)]
    shifts = torch.tensor(goals, dtype=torch.float64) - torch.tensor(STARTS, dtype=torch.float64)
    moved = [x + shift for (x, _), shift in zip(bodies, shifts, strict=True)]
    return build(
        "triple_move",
        options,
        bodies=bodies,
        motion=Translations(spheres, 0.01),
        shapes=[ds.Sphere(RADIUS)] * 6,
        target=points(torch.cat(moved)),
        yield_stress=200.0,
        ground=1.5,
        friction=0.9,
    )
