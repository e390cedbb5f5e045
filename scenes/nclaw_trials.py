"""NCLaw trials: the motions by which the study judges a learned law, each for its materials."""

from pathlib import Path

import torch

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.geometry.mesh import load_mesh
from diffsim.geometry.sampling import fill, fill_box
from diffsim.objectives import center_of_mass
from diffsim.scenes.tumbling_cube import MATERIALS, true_laws

TRIALS = (
    "reconstruction", "time", "velocity_1", "velocity_7", "velocity_8", "geometry", "slope", "contact", "pool",
    "melting", "large",
)  # fmt: skip
VELOCITIES = {  # linear and angular, of numpy's PCG64 of these seeds as the study draws them
    "velocity_1": ((0.058595, -2.232753, -1.763747), (0.935494, 1.269979, 2.483108)),
    "velocity_7": ((0.169227, -0.537345, 0.372944), (0.900499, 2.620660, 0.015796)),
    "velocity_8": ((-0.747015, -2.103726, -0.782682), (2.609690, 1.173254, 1.313646)),
}
GEOMETRY = {  # mesh, size, particles
    "jelly": ("armadillo", 0.7, 25_600),
    "plasticine": ("bunny_785v", 0.7, 24_800),
    "sand": ("blub", 0.8, 23_600),
    "water": ("spot", 0.8, 23_400),
}
CONTACT = (  # mesh, center, velocity, particles
    ("blub", (0.25, 0.4, 0.25), (2.0, 0.0, 2.0), 23_600),
    ("bunny_785v", (0.25, 0.4, 0.75), (2.0, 0.0, -2.0), 24_800),
    ("bob", (0.75, 0.4, 0.25), (-2.0, 0.0, 2.0), 28_200),
    ("spot", (0.75, 0.4, 0.75), (-2.0, 0.0, -2.0), 23_400),
)
DT = 5e-4
FROM, RISE = 500, 1000  # melting: first step, and steps until all has melted


class Melting(ds.models.MPM):
    """MPM in which plasticine (materials 0 and 2) turns into sand (1 and 3) from the bottom upward."""

    def forward(self, state, control=None, **options):
        k = round(float(state.time) / self.dt) - FROM
        if k >= 0:
            y = state.X[:, 1]
            level = y.min() + (k + 1) / RISE * (y.max() - y.min())
            state = self.switch(state, state.material // 2 * 2 + 1, y <= level)
        return super().forward(state, control, **options)

    def with_materials(self, materials):
        same = {name: getattr(self, name) for name in ("dt", "substeps", "gravity", "walls", "body_force")}
        return Melting(self.grid, materials, tools=list(self.tools), **same)


def names(trial: str, material: str) -> tuple[str, ...]:
    """The materials of a trial, in the order of its model, by the names of ``tumbling_cube``; empty: it is not of it.

    Raises:
        SceneError: an unknown trial or material.
    """
    if trial not in TRIALS:
        raise SceneError(f"trial is {trial!r}; choose from {', '.join(TRIALS)}")
    if material not in MATERIALS:
        raise SceneError(f"material is {material!r}; choose from {', '.join(MATERIALS)}")
    of = {"slope": "water", "contact": "jelly", "pool": "jelly", "melting": "plasticine", "large": "water"}
    if of.get(trial, material) != material:
        return ()
    several = {"pool": ("jelly", "water"), "melting": ("plasticine", "sand") * 2}
    return several.get(trial, (material,))


def duration(trial: str, material: str) -> int:
    """Steps of 5e-4 s."""
    if trial == "time":
        return 5000 if material == "water" else 2000
    return {"geometry": 2000, "slope": 1500, "pool": 3000, "melting": 2000, "large": 10_000}.get(trial, 1000)


def solid(mesh: str, center, size: float, count: int, meshes: str, method: str = "lattice"):
    """Particles (n, 3) and their volumes in a mesh, centered on its bounding box, the largest extent being ``size``."""
    path = Path(meshes) / f"{mesh}.obj"
    if not path.is_file():
        raise SceneError(f"the mesh {path} does not exist; give the folder of the meshes as the option meshes")
    body = load_mesh(path, solid=True, size=size, center=center)
    return fill(body, count=max(count, 8), method=method)


def cube(side: float = 0.5, per_side: int = 10):
    """The training cube: a lattice that includes its faces."""
    axis = torch.linspace(0.5 - side / 2, 0.5 + side / 2, per_side, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis, axis)
    return x, torch.full((len(x),), side**3 / len(x), dtype=torch.float64)


def bodies(trial: str, material: str, count, meshes: str) -> list:
    """(positions, volumes, index of the material, velocity, spin) of each body."""
    middle, thrown = (0.5, 0.5, 0.5), ((1.0, -1.5, -1.5), (1.0, 1.0, 1.0))
    rest = (0.0, 0.0, 0.0)
    if trial in VELOCITIES:
        return [(*cube(), 0, *VELOCITIES[trial])]
    if trial == "geometry":
        mesh, size, particles = GEOMETRY[material]
        return [(*solid(mesh, middle, size, count(particles), meshes), 0, *thrown)]
    if trial == "slope":
        return [(*solid("armadillo", (0.5, 0.075, 0.3), 0.1, count(21_100), meshes), 0, rest, rest)]
    if trial == "contact":
        return [(*solid(mesh, center, 0.4, count(particles), meshes), 0, v, rest)
                for mesh, center, v, particles in CONTACT]  # fmt: skip
    if trial == "pool":
        water = fill_box((0.065, 0.05, 0.085), (0.915, 0.35, 0.935), count=count(94_208), method="random")
        return [(*solid("bob", (0.5, 0.6, 0.5), 0.6, count(6600), meshes), 0, rest, rest), (*water, 1, rest, rest)]
    if trial == "melting":
        scoop = solid("icecream_scoop", (0.5, 0.2, 0.5), 0.8, count(23_100), meshes)
        syrup = solid("chocolate_syrup", (0.5, 0.2, 0.5), 0.8, count(3200), meshes, "blue")
        return [(*scoop, 0, rest, rest), (*syrup, 2, rest, rest)]
    if trial == "large":
        return [(*solid("armadillo", middle, 0.8, count(800_000), meshes), 0, *thrown)]
    return [(*cube(), 0, (1.0, -1.5, -2.0), (4.0, 4.0, 4.0))]


def scene(
    trial: str = "velocity_1",
    material: str = "jelly",
    fraction: float = 1.0,
    meshes: str = "../shared/data/meshes",
    every: int = 5,
    steps: int = 0,
) -> ds.Scene:
    """Throw a cube otherwise than in training, or other bodies: one trial of learned laws.

    reconstruction and time throw the cube of ``tumbling_cube`` as it is, the latter for longer; velocity_1, _7 and _8
    otherwise; geometry throws a mesh. For one material each: slope (water, gravity turned by 40.9 degrees), contact
    (jelly, four meshes collide), pool (jelly falls into water), melting (plasticine turns into sand from the bottom
    upward), large (water). A frame is ``every`` steps of 5e-4 s, one control step; in melting, where materials change
    between control steps, a control step is one of them. The objective is the height of the center at the end.

    The study's dragon is not to be had, so the armadillo stands in for it; counts of particles are estimates of the
    study's, and positions are not clamped to the box.

    Source: Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369.

    Args:
        trial: see above.
        material: jelly, plasticine, sand or water.
        fraction: of the study's count of particles, in bodies from meshes.
        meshes: folder of the meshes.
        every: steps between two frames.
        steps: of 5e-4 s; 0 for the study's.
    """
    of = names(trial, material)
    if not of:
        raise SceneError(f"trial {trial!r} is not of {material}; leave the material to the trial or choose another")
    if not 0 < fraction <= 1 or every < 1 or steps < 0:
        raise SceneError(f"fraction is {fraction}, every {every}, steps {steps}; give 0 < fraction <= 1, every >= 1")
    parts = bodies(trial, material, lambda particles: round(fraction * particles), meshes)
    cells = {"geometry": 32, "contact": 32, "slope": 128, "pool": 64, "melting": 64, "large": 64}.get(trial, 20)
    densities = {"pool": (1e3, 3e3), "melting": (1e3, 1e3, 2e3, 2e3), "slope": (5e3,)}.get(trial, (1e3,))
    length = steps or duration(trial, material)
    melting = trial == "melting"
    model = (Melting if melting else ds.models.MPM)(
        ds.Grid((cells,) * 3, 1 / cells),
        [ds.Material(*true_laws(name), density=density) for name, density in zip(of, densities, strict=True)],
        dt=DT,
        substeps=1 if melting else every,
        gravity=(0.0, -1.0, 0.866) if trial == "slope" else (0.0, -9.8, 0.0),
        walls=ds.Walls("separating"),
    )

    def speeds(x, v, spin):
        turning = torch.tensor(spin, dtype=x.dtype).expand_as(x)
        return torch.tensor(v, dtype=x.dtype) + torch.linalg.cross(turning, x - 0.5)

    state = model.initial_state(
        torch.cat([x for x, *_ in parts]),
        v=torch.cat([speeds(x, v, spin) for x, _, _, v, spin in parts]),
        volume=torch.cat([volume for _, volume, *_ in parts]),
        material=torch.cat([torch.full((len(x),), number) for x, _, number, *_ in parts]),
    )
    return ds.Scene(
        name=f"nclaw_{trial}_{material}",
        model=model,
        steps=length if melting else max(1, length // every),
        every=every if melting else 1,
        setup=lambda: (state, None),
        objective=lambda path: center_of_mass(path[-1])[1],
        metrics=lambda path: {"center y": center_of_mass(path[-1])[1].item()},
        color="speed",
    )
