"""Tumbling cube: a cube of jelly, plasticine, sand or water is thrown into a box; laws are learned from it."""

import math

import torch

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.objectives import center_of_mass

M = ds.materials
MATERIALS = ("jelly", "plasticine", "sand", "water")


def true_laws(material: str):
    """Elastic and plastic law (or None) of a material of the NCLaw study.

    Source: Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369; without its floor on stretches.
    """
    laws = {
        "jelly": lambda: (M.FixedCorotated(1e5, 0.2), None),
        "plasticine": lambda: (M.Hencky(3e5, 0.25), M.VonMises.from_deviatoric(3e5, 0.25, 5e3)),
        "sand": lambda: (M.Hencky(1e6, 0.2), M.DruckerPrager.from_apex_strain(1e6, 0.2, 25.0)),
        "water": lambda: (M.Liquid(1e5, 0.3), None),
    }
    if material not in laws:
        raise SceneError(f"material is {material!r}; choose from {', '.join(MATERIALS)}")
    return laws[material]()


def scene(
    material: str = "jelly",
    per_side: int = 10,
    side: float = 0.5,
    resolution: int = 20,
    steps: int = 1000,
    every: int = 1,
    dt: float = 5e-4,
    velocity: tuple = (1.0, -1.5, -2.0),
    spin: tuple = (4.0, 4.0, 4.0),
    density: float = 1e3,
) -> ds.Scene:
    """Throw a spinning cube of one of four materials into a box with frictionless walls.

    The cube flies, tumbles, hits the floor and two walls, and rebounds. One substep per control step, so that every
    step can be a frame: what ``diffsim run`` writes is a data set for ``diffsim fit``. The objective is the height of
    the center at the end.

    Source: the training scene of Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369.

    Args:
        material: jelly, plasticine, sand or water.
        per_side: particles along an edge of the cube, on a lattice that includes its faces.
        side: edge of the cube [m], in the middle of a box 1 m wide.
        resolution: cells along the box.
        steps: of dt each.
        every: steps between two frames.
        dt: time step [s].
        velocity: of the center at the start [m/s].
        spin: angular velocity at the start [rad/s].
        density: [kg/m^3].
    """
    if per_side < 2 or not 0 < side < 1:
        raise SceneError(f"per_side is {per_side} and side {side}; give 2 particles at least and a side below 1 m")
    elastic, plastic = true_laws(material)
    model = ds.models.MPM(
        ds.Grid((resolution,) * 3, 1 / resolution),
        [ds.Material(elastic, plastic, density=density)],
        dt=dt,
        gravity=(0.0, -9.8, 0.0),
        walls=ds.Walls("separating"),
    )
    axis = torch.linspace(0.5 - side / 2, 0.5 + side / 2, per_side, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis, axis)
    turning = torch.tensor(spin, dtype=torch.float64).expand_as(x)
    v = torch.tensor(velocity, dtype=torch.float64) + torch.linalg.cross(turning, x - 0.5)
    state = model.initial_state(x, v=v, volume=side**3 / len(x))

    def metrics(path):
        last = path[-1]
        energy = 0.5 * density * (last.volume[:, None] * last.v**2).sum()
        center = center_of_mass(last)
        return {
            "kinetic energy": energy.item(),
            **{f"center {axis}": center[a].item() for a, axis in enumerate("xyz")},
            "least det F": torch.linalg.det(last.F).min().item(),
            "distance": math.dist(center.tolist(), (0.5, 0.5, 0.5)),
        }

    return ds.Scene(
        name=f"tumbling_cube_{material}",
        model=model,
        steps=steps,
        every=every,
        setup=lambda: (state, None),
        objective=lambda path: center_of_mass(path[-1])[1],
        metrics=metrics,
        color="speed",
    )
