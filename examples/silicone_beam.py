"""Does a beam of silicone that was fitted once swing like the real one in other takes?

Problem: a cantilever of 3 x 3 x 10 cm is let go, under its own weight or with 52 g at its tip, and filmed by motion
capture (100 Hz, 3 markers at the tip). Finite elements: half of the beam in quadratic tetrahedra, neo-Hookean, the
trapezoidal rule.
Equation: min over Young's modulus E, the damping rate c and the moment of release of mean |u(t; E, c) - u_recorded|^2
over 0.8 s of one take under its own weight; the other three takes are predicted, but for their moment of release.
Expected: E within 15 % of 263,824 Pa, which the authors of the recording fitted to it with another program.

    python examples/silicone_beam.py swing.png      writes a plot, too
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.optimize import curve_fit

import diffsim as ds
from diffsim.errors import DataError
from diffsim.geometry.solid import SolidMesh, block

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "motion" / "silicone_beam_mocap.npz"
EXPECTED, TOLERANCE = 263_824.0, 0.15 * 263_824.0  # [Pa]
SIZE, DENSITY, POISSON, G, WEIGHT = (0.10, 0.015, 0.03), 1070.0, 0.49, 9.81, 0.052  # SI units
MARKERS = torch.tensor([[0.0, 0.015, 0.036], [0.0, -0.006, 0.024], [0.0, -0.006, 0.006]], dtype=torch.float64)
DT, FRAMES = 5e-3, 160  # [s], steps after the release


def recording(path=DATA) -> dict:
    """Displacements (frames, 3 markers, 3 axes along, sideways, up) [m] of every take since its first frames."""
    if not Path(path).exists():
        raise DataError(f"{path} is missing; this example needs the motion capture of the silicone beam")
    with np.load(path) as file:
        takes = {name: file[name][:, :3, [2, 1, 0]].astype(float) for name in file.files if file[name].ndim == 3}
    return {name: take - take[:20].mean(0) for name, take in takes.items()}


class Beam:
    """Half of the beam, y = 1.5 cm being the plane of symmetry; x = 0 at the tip, clamped at x = -10 cm."""

    def __init__(self, cells=(8, 1, 2)):
        mesh = block(cells, SIZE, (-SIZE[0], 0.0, 0.0))
        X = mesh.nodes.copy()  # finer towards the clamp and the tip
        X[:, 0] -= 0.6 / (2 * math.pi) * SIZE[0] * np.sin(2 * math.pi * X[:, 0] / SIZE[0])
        self.mesh = SolidMesh(X, mesh.elements).to_quadratic()
        X = self.mesh.nodes
        tip = np.flatnonzero(X[:, 0] > -1e-6)
        # markers are glued to the tip: they move with the affine map that fits the nodes of its face and the next ones
        near = np.flatnonzero(X[:, 0] > -0.01)
        flat = np.concatenate([X[near], np.ones((len(near), 1))], 1)
        marks = np.concatenate([MARKERS.numpy(), np.ones((3, 1))], 1)
        self.near, self.weights = torch.from_numpy(near), torch.from_numpy(marks @ np.linalg.pinv(flat))
        corners = X[self.mesh.elements[:, :4]]
        volumes = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1])) / 6
        loaded = np.isin(self.mesh.elements, tip).any(1) & (corners[..., 2] > SIZE[2] - 1e-9).any(1)
        self.extra = torch.from_numpy(loaded * (WEIGHT / 2) / volumes[loaded].sum())

    def model(self, E, damping, loaded: bool):
        """The model, with the weight as further mass of the elements at the upper edge of the tip."""
        P, density = ds.models.Prescribed, torch.full((len(self.mesh.elements),), DENSITY, dtype=torch.float64)
        clamp = self.mesh.select(lambda X: X[:, 0] < -SIZE[0] + 1e-6)
        middle = np.setdiff1d(self.mesh.select(lambda X: X[:, 1] > SIZE[1] - 1e-9), clamp)
        material = ds.Material(ds.materials.NeoHookean(E, POISSON), density=density + self.extra * loaded)
        return ds.models.FEM(self.mesh, material, dt=DT, integrator="newmark", gravity=(0.0, 0.0, -G), damping=damping,
                             prescribed=[P(clamp), P(middle, axes=(1,))])  # fmt: skip

    def displacements(self, states):
        """Of the markers (frames, 3, 3) [m]."""
        return torch.stack([self.weights @ (state.x - state.X)[self.near] for state in states])

    def swing(self, model):
        """Displacements of the markers from the release on, (FRAMES + 1, 3, 3)."""
        return self.displacements(ds.rollout(model, model.initial_state(), steps=FRAMES))


def error(found, spline, release):
    """Root mean square distance of the markers [m], differentiable; release: moment in the recording [s]."""
    times = release + DT * torch.arange(len(found))
    at, rate = (torch.from_numpy(spline(times.detach().numpy(), k)) for k in (0, 1))
    recorded = at + rate * (times - times.detach())[:, None, None]  # the value, and its derivative by the release
    return (found - recorded).square().sum(2).mean().sqrt()


def released(take) -> float:
    """About when a take begins to move [s]."""
    return float(np.argmax(take[:, 0, 2] < -1e-3)) / 100 - 0.012


def aligned(found, take):
    """Moment of release that fits best [s], and the error with it [m]."""
    spline = CubicSpline(np.arange(len(take)) / 100, take)
    moments = released(take) + np.linspace(-0.03, 0.03, 121)
    errors = [float(error(found, spline, torch.tensor(moment))) for moment in moments]
    return float(moments[int(np.argmin(errors))]), min(errors)


def fit(beam, take, iterations=8):
    """E [Pa] and damping [1/s] by L-BFGS on gradients through the whole swing."""
    u = torch.zeros(3, dtype=torch.float64, requires_grad=True)  # in units that matter about as much
    spline, start = CubicSpline(np.arange(len(take)) / 100, take), released(take)
    optimizer = torch.optim.LBFGS([u], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        E, damping = 2e5 * torch.exp(0.1 * u[0]), 4.0 * torch.exp(u[1])
        rms = 1e3 * error(beam.swing(beam.model(E, damping, False)), spline, start + 5e-3 * u[2])
        rms.square().backward()
        print(f"E = {E.item():6.0f} Pa, damping = {damping.item():.3f} 1/s: {rms.item():.3f} mm")
        return rms.square().detach()

    optimizer.step(closure)
    return 2e5 * math.exp(0.1 * u[0].item()), 4.0 * math.exp(u[1].item())


def oscillation(times, heights):
    """Settled height [m] and frequency [Hz] of the damped cosine that fits best."""
    guess = [heights[-20:].mean(), np.ptp(heights) / 2, 3.0, 0.0]
    shape = lambda t, z, size, rate, phase, f: z + size * np.exp(-rate * t) * np.cos(2 * np.pi * f * t + phase)  # noqa: E731
    fits = [curve_fit(shape, times, heights, [*guess, f], maxfev=20000)[0] for f in (4.0, 5.5, 7.5)]
    best = min(fits, key=lambda found: np.square(shape(times, *found) - heights).sum())
    return best[0], abs(best[4])


def predict(beam, takes, E, damping, loaded):
    """Compare takes with a swing; rows of (take, error, heights of the first marker simulated and recorded)."""
    with torch.no_grad():
        model = beam.model(torch.tensor(E), torch.tensor(damping), loaded)
        found = beam.swing(model)
        rest = beam.displacements([model.solve_static(model.initial_state(), load_steps=2)])[0, 0, 2].item()
    times, rows = DT * np.arange(FRAMES + 1), []
    for name, take in takes.items():
        if ("load" in name) == loaded:
            release, rms = aligned(found, take)
            recorded = CubicSpline(np.arange(len(take)) / 100, take[:, 0, 2])(release + times)
            settled, skip = take[-50:, 0, 2].mean(), 10  # the first 50 ms are no damped cosine yet
            f, g = (oscillation(times[skip:], heights[skip:])[1] for heights in (found[:, 0, 2].numpy(), recorded))
            print(f"{name}: {1e3 * rms:.2f} mm; settles at {1e3 * rest:.2f} mm, recorded {1e3 * settled:.2f} mm "
                  f"({rest / settled - 1:+.1%}); {f:.2f} Hz, recorded {g:.2f} Hz ({f / g - 1:+.1%})")  # fmt: skip
            rows.append((name, times, found[:, 0, 2].numpy(), recorded))
    return rows


def plot(rows, file):
    """Heights of the first marker over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 5), sharex=True, layout="constrained")
    for axis, (name, times, found, recorded) in zip(axes.flat, rows, strict=True):
        axis.plot(times, 1e3 * recorded, color="black", label="recorded")
        axis.plot(times, 1e3 * found, color="tab:orange", label="fitted" if name == "gravity_a" else "predicted")
        axis.set(title=name, xlabel="time since the release [s]", ylabel="height of the tip [mm]")
        axis.legend()
    figure.savefig(file, dpi=120)


def main(file=None) -> float:
    """Young's modulus that was found [Pa]."""
    ds.init(device="cpu", precision="f64")
    takes, beam = recording(), Beam()
    E, damping = fit(beam, takes["gravity_a"])
    rows = [row for loaded in (False, True) for row in predict(beam, takes, E, damping, loaded)]
    if file is not None:
        plot(rows, file)
    return E


if __name__ == "__main__":
    main(*sys.argv[1:])
