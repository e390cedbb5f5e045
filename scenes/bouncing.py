"""Bouncing: a creased sheet springs open on a table; its bending stiffness is recovered from the motion."""

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

import diffsim as ds
from diffsim.geometry.surface import hinges, sheet
from diffsim.kernels.arrays import context
from diffsim.objectives import mean_squared_distance
from diffsim.scenes.identify_stiffness import Exponential

SIZE = 0.06  # [m] of the sheet
AREA_DENSITY = 40.0  # [kg/m^2]; paper has 0.08: the number of the published scene
STRETCHING = 1.4e6  # E h [N/m], of its springs
THICKNESS = 1e-4
REST_ANGLE = 1.7
TABLE = 0.07


def scene(
    stiffness: float = 120.0,
    stiffness_start: float = 400.0,
    cells: int = 15,
    friction: float = 0.5,
    steps: int = 30,
    dt: float = 2e-3,
    bending: str = "hinge",
    linear: str = "auto",
) -> ds.Scene:
    """Recover the bending stiffness of a sheet from its motion as it springs open. Needs --precision f64.

    A flat sheet of 60 x 60 mm lies on a table. Along a third and two thirds of its length it would be bent by 1.7 rad,
    as a ridge: it springs up and stands on its ends. Gravity 9.8 m/s^2. The motion is recorded with the true stiffness.
    The variable is y with stiffness = exp(y); the objective is the mean squared distance to the recorded positions over
    all frames, as a fraction of its value at the start. ``reward``, the height of both ridges at the end summed over
    their vertices [m], is what the published task raises.

    The stiffness is given as in the publication, K_b of the energy K_b theta^2 dx^2/3 of an edge; the sheet has the
    rigidity D = 2/3 K_b dx^2 [N m] with dx = 4 mm, the published mesh's, on any mesh.

    Source: the task Bouncing of Wang et al., Thin-shell object manipulations with differentiable physics simulations
    (ICLR 2024), arXiv:2404.00451: mesh, areas, angles, gravity, friction and time step. Here with barrier contact, a
    membrane without Poisson's ratio for three kinds of springs, and masses that follow the areas.

    Args:
        stiffness: true K_b [N/m].
        stiffness_start: K_b to begin the search with [N/m].
        cells: along each side, a multiple of 3.
        friction: with the table.
        steps: of dt.
        dt: step of implicit Euler [s].
        bending: "hinge", as published, or "shape".
        linear: the linear solver.
    """
    dx = SIZE / cells
    if cells % 3 or cells < 3:
        raise ds.errors.SceneError(f"cells is {cells}; the creases need a multiple of 3")
    vertices, faces = sheet((cells, cells), (SIZE, SIZE), (-SIZE / 2, -SIZE / 2, 0.39e-3),
                            pattern="alternating" if bending == "hinge" else "diagonal")  # fmt: skip
    rows = np.arange(len(vertices)).reshape(cells + 1, cells + 1)
    ridges = rows[[cells // 3, 2 * cells // 3]]
    ends = hinges(faces)[:, :2]
    rest = np.zeros(len(ends))
    for ridge in ridges:
        rest[np.isin(ends, ridge).all(1)] = REST_ANGLE
    table = sheet((8, 8), (TABLE, TABLE), (-TABLE / 2, -TABLE / 2, 0.0))

    def rigidity(stiffness):
        return 2 / 3 * (SIZE / 15) ** 2 * stiffness

    def body(value):
        """Model of a sheet with this rigidity."""
        # the published gap is 0.39 mm, and surfaces repel below 0.4 mm; finer meshes must not repel themselves
        contact = ds.models.Contact(min(4e-4, 0.4 * dx), 1e5, friction=friction, slip_speed=0.01, obstacles=[table],
                                    itself=False)  # fmt: skip
        return ds.models.Shell(
            (vertices, faces), E=STRETCHING / THICKNESS, nu=0.0, thickness=THICKNESS, density=AREA_DENSITY / THICKNESS,
            bending_rigidity=value, rest_angles=rest, bending=bending, dt=dt, gravity=(0.0, 0.0, -9.8),
            contact=contact, tolerance=1e-7, linear=linear,
        )  # fmt: skip

    with torch.no_grad():
        true = body(rigidity(stiffness))
        recorded = ds.rollout(true, true.initial_state(), steps=steps).x

    model = body(nn.Parameter(torch.tensor(rigidity(stiffness_start), dtype=context.dtype)))
    register_parametrization(model, "bending_rigidity", Exponential())
    state = model.initial_state()
    with torch.no_grad():
        first = mean_squared_distance(ds.rollout(model, state, steps=steps).x, recorded)

    def metrics(path):
        found = float(model.bending_rigidity) / rigidity(1.0)
        reward = path[-1].x[torch.from_numpy(ridges)][..., 2].sum()
        return {"stiffness": found, "deviation": abs(found / stiffness - 1), "reward": float(reward)}

    return ds.Scene(
        name="bouncing",
        model=model,
        steps=steps,
        setup=lambda: (state, None),
        variables={"y": model.parametrizations.bending_rigidity.original},
        objective=lambda path: mean_squared_distance(path.x, recorded[: len(path)]) / first,
        metrics=metrics,
        defaults={"method": "lbfgs", "iterations": 20, "ftol": 1e-12},
        camera={"direction": (0.35, -1.0, 0.35)},
    )
