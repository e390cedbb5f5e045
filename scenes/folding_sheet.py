"""Folding sheet: a finger presses a bent sheet on a table; its path is found that leaves a given crease."""

import math

import numpy as np
import torch
import trimesh
from torch import nn

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.geometry.surface import hinges, sheet
from diffsim.kernels.arrays import context

LENGTH, WIDTH, CELLS = 0.1, 0.02, (15, 3)
STIFFNESS, STRETCHING = 400.0, 8.1e5  # K_b and E h [N/m]
AREA_DENSITY = 40.0  # [kg/m^2], a number of the published scene
YIELD_ANGLE = 0.5
TABLE, FINGER = 0.07, 7.43e-3  # [m]
HELD = -0.07  # x of the held end
GAP = 6e-4  # between finger and sheet at the start


def scene(
    angle: float = 1.4,
    speed: float = 0.05,
    place: float = -0.004,
    hardening: float = 0.0,
    friction: float = 0.5,
    parts: int = 5,
    steps: int = 25,
    dt: float = 5e-3,
) -> ds.Scene:
    """Find the motion of a finger that leaves a crease of a given angle in a sheet. Needs --precision f64.

    A strip of 100 x 20 mm is bent to a hairpin and lies on a table, one end held; a round finger of 7.4 mm presses the
    upper layer. Edges yield at 0.5 rad, and what they are bent beyond stays. There is no gravity. The variable
    ``velocity`` is the finger's along x and z in each part of the time [m/s]; the objective is the squared difference
    between the rest angle of the upper of the bend's edges, a row of the mesh, and the wanted one [rad^2].

    Source: the task Folding of Wang et al., Thin-shell object manipulations with differentiable physics simulations
    (ICLR 2024), arXiv:2404.00451: strip, start, yield angle, table and time step. Here the finger is rigid, contact is
    a barrier, and the strip a membrane for three kinds of springs.

    Args:
        angle: of the crease that shall stay [rad].
        speed: of the finger downwards at the start of the search [m/s].
        place: of the finger along the sheet at the start, from where the bend begins [m].
        hardening: K of the creases [N m].
        friction: of all pairs.
        parts: of the time, each with one velocity.
        steps: of dt, a multiple of parts.
        dt: step of implicit Euler [s].
    """
    if parts < 1 or steps % parts:
        raise SceneError(f"folding_sheet: steps={steps}, parts={parts}; give a multiple of parts")
    dx = LENGTH / CELLS[0]
    vertices, faces = sheet(CELLS, (LENGTH, WIDTH), pattern="alternating")
    rows = np.arange(len(vertices)).reshape(CELLS[0] + 1, -1)
    # rows 0 to 6 above, 7 and 8 on a half circle whose chords are the mesh's rows, 9 to 15 below, the last one held
    i, r, z0 = np.round(vertices[:, 0] / dx), dx, 0.4e-3
    turned = (np.clip(i, 6, 9) - 6) / 3 * math.pi
    x = HELD + 6 * dx + r * np.sin(turned) - dx * np.where(i < 6, 6 - i, np.where(i > 9, i - 9, 0))
    z = z0 + r + r * np.cos(turned)
    bent = np.stack([x, vertices[:, 1] - WIDTH / 2, z], 1)
    ends = hinges(faces)[:, :2]
    crease_row = torch.from_numpy(np.flatnonzero(np.isin(ends, rows[7]).all(1)))
    table = sheet((8, 8), (TABLE, TABLE), (-TABLE / 2 - 0.045, -TABLE / 2, 0.0))
    ball = trimesh.creation.icosphere(2, FINGER)
    ball.vertices += [HELD + 6 * dx + place, 0.0, z0 + 2 * r + GAP + FINGER]
    velocity = nn.Parameter(torch.zeros(parts, 2, dtype=context.dtype))
    velocity.data[:, 1] = -speed
    whole = steps // parts

    def motion(X, t):
        """Every part has a constant velocity."""
        done = min(t / (whole * dt), float(parts))
        shares = (done - torch.arange(parts, dtype=context.dtype)).clamp(0.0, 1.0)
        way = whole * dt * shares @ velocity
        return X + torch.stack([way[0], torch.zeros_like(way[0]), way[1]])

    contact = ds.models.Contact(4e-4, 1e5, friction=friction, slip_speed=0.01,
                                obstacles=[table, ds.models.Obstacle(ball, motion)])  # fmt: skip
    rigidity = 2 / 3 * STIFFNESS * dx * dx
    thickness = math.sqrt(12 * rigidity / STRETCHING)
    creases = ds.models.Creases(yield_angle=YIELD_ANGLE, hardening=hardening)
    model = ds.models.Shell(
        (vertices, faces), E=STRETCHING / thickness, nu=0.0, thickness=thickness, density=AREA_DENSITY / thickness,
        bending="hinge", creases=creases, dt=dt, contact=contact, prescribed=rows[-1], damping=20.0,
    )  # fmt: skip
    flat = model.initial_state(x=bent)
    state = flat._replace(crease=creases.update(*model._bent(flat)).detach())

    def crease(path):
        return model.rest_angles_of(path[-1])[crease_row].mean()

    def metrics(path):
        found = float(crease(path))
        return {"crease": found, "miss": abs(found - angle)}

    return ds.Scene(
        name="folding_sheet",
        model=model,
        steps=steps,
        setup=lambda: (state, None),
        variables={"velocity": velocity},
        bounds={"velocity": (-0.1, 0.1)},
        objective=lambda path: (crease(path) - angle) ** 2,
        metrics=metrics,
        defaults={"method": "lbfgs", "iterations": 15},
        camera={"up": (0.0, 0.0, 1.0), "direction": (0.4, -1.0, 0.3)},
    )
