"""PlasticineLab's Assembly: two spheres lift a ball of plasticine onto a cube."""

import torch

import diffsim as ds
from diffsim.scenes.plasticine import Options, ball, block, build, fill
from diffsim.scenes.plasticine_targets import points
from diffsim.scenes.tool_actions import Translations

# center of the ball in the target [m]
VARIANTS = {
    1: (0.60, 0.22, 0.50),
    2: (0.58, 0.22, 0.50),
    3: (0.62, 0.22, 0.50),
    4: (0.60, 0.22, 0.48),
    5: (0.60, 0.22, 0.52),
}
CUBE, BALL = ((0.6, 0.08, 0.5), (0.16,) * 3), ((0.3, 0.06, 0.5), 0.06)  # centers, sides and radius [m]


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
    """Lift a ball of plasticine with two spheres and put it on a cube.

    The variable ``actions`` (steps, 2, 3) in [-1, 1] moves each sphere by up to 0.009 per control step. In loss and
    score the cube carries three fifths of the mass and the ball the rest, as in the benchmark. The target is the cube
    as it stands and the ball, round as it is, on top.

    Args:
        variant: 1 to 5: places of the ball on the cube; the benchmark's five are nearly the same.
        full: the benchmark's size, 64 cells and 10,000 particles; resolution and particles are then not read.
        resolution: cells of the box per axis; the substep follows.
        particles: about so many.
        steps: control steps.
        softness: of contact; it is felt up to ln(10) / softness from the tool.
        sharpness: of the soft minimum over particles, 1e4 in the benchmark; the exact minimum when None.
        target_file: npz of the target's node masses, under assembly3d_v1 ...; the task's own target when None.
        transport: weight of the particles' distance to where the optimal transport takes them, beside the benchmark's
            loss; 100 is about as strong.
        seed: of the first actions, uniform within 1e-4.
    """
    options = Options(variant, full, resolution, particles, steps, softness, sharpness, target_file, transport, seed)
    goal = options.choose(VARIANTS)
    cube, lump = fill([block(*CUBE), ball(*BALL)], options.size()[1])
    return build(
        "assembly",
        options,
        bodies=[cube, lump],
        motion=Translations([(0.38, 0.06, 0.5), (0.22, 0.06, 0.5)], 0.009),
        shapes=[ds.Sphere(0.04)] * 2,
        target=points(torch.cat([cube[0], lump[0] + torch.tensor(goal) - torch.tensor(BALL[0])])),
        yield_stress=100.0,
        ground=100.0,
        friction=0.9,
        shares=(0.6, 0.4),
    )
