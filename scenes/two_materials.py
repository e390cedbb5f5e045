"""Two materials: a soft body falls into a pool of water, and may melt there."""

import torch
from torch import nn

import diffsim as ds
from diffsim.kernels.arrays import context
from diffsim.objectives import center_of_mass
from diffsim.scenes.bodies import fill_box, fill_mesh, vertical
from diffsim.scenes.columns import MARGIN, positive, substeps_for

WATER, BODY, MELT = 0, 1, 2  # indices of the materials


class Melting(ds.models.MPM):
    """The body turns into a liquid from its surface inwards: ``delays`` (n,) says when each particle does [s]."""

    def forward(self, state, control=None, **options):
        melts = (state.material == BODY) & (state.time >= self.delays)
        return super().forward(self.switch(state, MELT, melts) if melts.any() else state, control, **options)


def scene(
    mesh: str = "blob",
    dim: int = 2,
    size: float = 0.25,
    height: float = 0.6,
    depth: float = 0.25,
    E: float = 2e4,
    nu: float = 0.3,
    density: float = 600.0,
    sound: float = 30.0,
    melts: float = 0.0,
    resolution: int = 40,
    per_cell: int = 2,
    time: float = 1.0,
    frames: int = 100,
) -> ds.Scene:
    """A neo-Hookean body, lighter than water, drops into a pool, dives and comes up; both meet on the grid.

    Water by the equation of state of Tait with the viscosity of water. The variable ``v0`` is the velocity of the throw
    [m/s]; the objective is the height of the body at the end [m]: how to throw it so that it stays below?

    With ``melts`` the body melts into a liquid of its own density and the viscosity of castor oil, from its surface
    inwards; the melt comes up and spreads on the water. The metric ``melted`` is its share at the end.

    Args:
        mesh: closed triangle mesh, a file or the name of a shipped one.
        dim: 2 for the mesh's cross-section in plane strain, or 3.
        size: largest extent of the body [m].
        height: of its center at the start [m].
        depth: of the pool [m].
        E: Young's modulus of the body [Pa].
        nu: Poisson's ratio of the body.
        density: of the body [kg/m^3]; water has 1000.
        sound: speed of sound in the water and the melt [m/s].
        melts: time at which the last of the body has melted [s]; 0: it does not.
        resolution: cells along the box, 1 m wide.
        per_cell: particles of a cell along each axis.
        time: duration [s].
        frames: control steps in it.
    """
    positive(size=size, depth=depth, sound=sound, time=time, frames=frames, per_cell=per_cell)
    dx = 1 / resolution
    wall = (MARGIN - 1) * dx
    body = ds.Material(ds.materials.NeoHookean(E, nu), density=density)
    water = ds.Material(ds.materials.Tait(1000.0 * sound**2), viscous=ds.materials.Newtonian(1e-3), density=1000.0)
    materials = [water, body]
    if melts:
        positive(melts=melts)
        liquid = ds.materials.Tait(density * sound**2)
        materials.append(ds.Material(liquid, viscous=ds.materials.Newtonian(1.0), density=density))
    substeps = max(substeps_for(part, dx, time / frames) for part in materials)
    model = (Melting if melts else ds.models.MPM)(
        ds.Grid((resolution,) * dim, dx),
        materials,
        dt=time / frames / substeps,
        substeps=substeps,
        gravity=vertical(dim, -9.81),
        walls=ds.Walls("slip", margin=MARGIN),
    )
    low, high = (wall, wall, wall)[:dim], (1 - wall, wall + depth, 1 - wall)[:dim]
    pool, drop = fill_box(low, high, dx / per_cell)
    share = 0.3 * size**dim / drop  # a body fills about a third of its bounding box
    x, volume = fill_mesh(mesh, size, (0.5, height, 0.5)[:dim], max(20, round(share)))
    kinds = torch.cat([torch.full((len(x),), BODY), torch.full((len(pool),), WATER)])
    state = model.initial_state(
        torch.cat([x, pool]),
        volume=torch.cat([volume, torch.full((len(pool),), drop, dtype=volume.dtype)]),
        material=kinds,
    )
    swims = (kinds == BODY).to(context.dtype)
    if melts:
        radius = (x - x.mean(0)).norm(dim=1)
        model.delays = torch.zeros(len(kinds), dtype=context.dtype, device=context.tensor_device)
        model.delays[: len(x)] = melts * (1 - radius / radius.max())
    v0 = nn.Parameter(torch.zeros(dim, dtype=context.dtype))

    def body_height(frame):
        return center_of_mass(frame, swims * frame.volume)[1]

    def metrics(path):
        heights = [body_height(frame).item() for frame in path]
        melted = (path[-1].material == MELT).sum().item() / len(x)
        return {"height": heights[-1], "lowest": min(heights)} | ({"melted": melted} if melts else {})

    return ds.Scene(
        name="two_materials",
        model=model,
        steps=frames,
        setup=lambda: (state._replace(v=state.v + swims[:, None] * v0), None),
        variables={"v0": v0},
        bounds={"v0": (-3.0, 3.0)},
        objective=lambda path: body_height(path[-1]),
        metrics=metrics,
        defaults={"method": "adam", "lr": 0.3, "iterations": 10},
        color="body",
    )
