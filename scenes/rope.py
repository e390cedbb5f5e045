"""PlasticineLab's Rope: two spheres wind a bar of plasticine around a pillar."""

import math

import trimesh

import diffsim as ds
from diffsim.geometry import sampling
from diffsim.scenes.plasticine import ADAM, MASS, Options, block, build, fill
from diffsim.scenes.plasticine_targets import points
from diffsim.scenes.tool_actions import Translations

# x and z of the pillar [m]
VARIANTS = {1: (0.392, 0.499), 2: (0.483, 0.573), 3: (0.490, 0.520), 4: (0.470, 0.387), 5: (0.493, 0.595)}
BAR = ((0.5, 0.03, 0.73), (0.6, 0.06, 0.06))  # center and sides [m]
PILLAR, OUTER, HEIGHT = 0.1, 0.16, 0.06  # [m] radius of the pillar; outer radius and height of the ring


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
    """Wind a bar of plasticine around a pillar with two spheres.

    The variable ``actions`` (steps, 2, 3) in [-1, 1] moves each sphere by up to 0.01 per control step. The target is a
    closed ring around the pillar, with the mass of the bar though a third more volume, as in the benchmark.

    Args:
        variant: 1 to 5: places of the pillar.
        full: the benchmark's size, 64 cells and 10,000 particles; resolution and particles are then not read.
        resolution: cells of the box per axis; the substep follows.
        particles: about so many.
        steps: control steps.
        softness: of contact; it is felt up to ln(10) / softness from the tool.
        sharpness: of the soft minimum over particles, 1e4 in the benchmark; the exact minimum when None.
        target_file: npz of the target's node masses, under rope3d_v1 ...; the task's own target when None.
        transport: weight of the particles' distance to where the optimal transport takes them, beside the benchmark's
            loss; 100 is about as strong.
        seed: of the first actions, uniform within 1e-4.
    """
    options = Options(variant, full, resolution, particles, steps, softness, sharpness, target_file, transport, seed)
    x, z = options.choose(VARIANTS)
    return build(
        "rope",
        options,
        bodies=fill([block(*BAR)], options.size()[1]),
        motion=Translations([(0.22, 0.015, 0.82), (0.78, 0.015, 0.82)], 0.01),
        shapes=[ds.Sphere(0.03)] * 2,
        fixed=((ds.Cylinder(PILLAR, 0.2), (x, 0.0, z)),),
        target=points(goal := ring(x, z, options.size()[1]), MASS / len(goal)),
        yield_stress=50.0,
        ground=0.3,
        friction=0.9,
        defaults=ADAM,
    )


def ring(x: float, z: float, particles: int):
    """Particles of the ring around the pillar at x, z, lying on the floor."""
    surface = trimesh.creation.annulus(PILLAR, OUTER, HEIGHT, sections=96)
    surface.apply_transform(trimesh.transformations.rotation_matrix(math.pi / 2, (1, 0, 0)))
    surface.apply_translation((x, HEIGHT / 2, z))
    return sampling.fill(surface, count=particles)[0]
