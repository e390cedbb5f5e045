"""Identify stiffness: recover Young's modulus and Poisson's ratio of a body from its recorded motion."""

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.objectives import mean_squared_distance
from diffsim.scenes.bodies import fill_mesh, vertical

FRAME = 1e-2  # [s] between two recorded frames
NU_LIMIT = 0.49  # the search keeps Poisson's ratio between 0 and this


class Exponential(nn.Module):
    """E = exp(y): positive, and steps of y are relative changes."""

    def forward(self, y):
        return y.exp()

    def right_inverse(self, E):
        return E.log()


class Bounded(nn.Module):
    """nu = limit / (1 + exp(-y)), between 0 and the limit."""

    def forward(self, y):
        return NU_LIMIT * torch.sigmoid(y)

    def right_inverse(self, nu):
        return torch.logit(nu / NU_LIMIT)


def scene(
    mesh: str = "blob",
    dim: int = 3,
    E: float = 1e5,
    nu: float = 0.3,
    E_start: float = 4e4,
    nu_start: float = 0.15,
    size: float = 0.4,
    height: float = 0.3,
    speed: float = 2.0,
    resolution: int = 24,
    particles: int = 1500,
    steps: int = 20,
    substeps: int = 10,
) -> ds.Scene:
    """Recover E and nu of a body from the motion of its particles as it hits the floor.

    The motion is recorded from a simulation with the true values. The variables are y with E = exp(y), and z with
    nu = 0.49 / (1 + exp(-z)); the objective is the mean squared distance to the recorded positions over all frames, as
    a fraction of its value at the start. Fixed corotated elasticity, gravity 9.8 m/s^2, frictionless walls that let go.

    Args:
        mesh: closed triangle mesh, a file or the name of a shipped one.
        dim: 3, or 2 for the mesh's cross-section in plane strain.
        E: true Young's modulus [Pa].
        nu: true Poisson's ratio, between 0 and 0.49.
        E_start: Young's modulus to begin the search with [Pa].
        nu_start: Poisson's ratio to begin the search with.
        size: largest extent of the body [m].
        height: of its center at the start [m].
        speed: downwards at the start [m/s].
        resolution: cells along the box, 1 m wide.
        particles: about so many.
        steps: control steps, one frame each, of 10 ms.
        substeps: per control step.
    """
    gravity = vertical(dim, -9.8)
    for name, value in {"nu": nu, "nu_start": nu_start}.items():
        if not 0 < value < NU_LIMIT:
            raise SceneError(f"{name} is {value}; it must lie between 0 and {NU_LIMIT}")
    x, volume = fill_mesh(mesh, size, (0.5, height, 0.5)[:dim], particles)
    velocity = torch.tensor(vertical(dim, -speed))

    def body(law):
        """Model and start of the body made of ``law``."""
        model = ds.models.MPM(
            ds.Grid((resolution,) * dim, 1 / resolution),
            [ds.Material(law, density=1000.0)],
            dt=FRAME / substeps,
            substeps=substeps,
            gravity=gravity,
            walls=ds.Walls("separating"),
        )
        return model, model.initial_state(x, v=velocity, volume=volume)

    with torch.no_grad():
        recorded = ds.rollout(*body(ds.materials.FixedCorotated(E, nu)), steps=steps).x

    law = ds.materials.FixedCorotated(
        *(nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (E_start, nu_start))
    )
    register_parametrization(law, "E", Exponential())
    register_parametrization(law, "nu", Bounded())
    model, state = body(law)
    with torch.no_grad():
        first = mean_squared_distance(ds.rollout(model, state, steps=steps).x, recorded)

    def metrics(path):
        return {"E": law.E, "nu": law.nu, "E_error": abs(law.E / E - 1), "nu_error": abs(law.nu / nu - 1)}

    return ds.Scene(
        name="identify_stiffness",
        model=model,
        steps=steps,
        setup=lambda: (state, None),
        variables={"y": law.parametrizations.E.original, "z": law.parametrizations.nu.original},
        objective=lambda path: mean_squared_distance(path.x, recorded) / first,
        metrics=metrics,
        defaults={"method": "lbfgs", "iterations": 30, "ftol": 1e-10},
        color="speed",
    )
