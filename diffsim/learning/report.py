"""What a fit is judged by: stress along deformation paths, learned against true, and what the training data cover."""

import json

import numpy as np
import torch

from diffsim.kernels.arrays import context
from diffsim.plots import BLUE, GRAY, ORANGE, _figure, _save, plot_loss
from diffsim.runs import atomic_write

POINTS = 40  # of a path, each way
PATHS = ("uniaxial", "shear", "volumetric", "biaxial")


def deformation(path: str, strain: torch.Tensor) -> torch.Tensor:
    """F (k, 3, 3) along a path. strain: (k,)."""
    F = torch.eye(3, dtype=strain.dtype).repeat(len(strain), 1, 1)
    if path == "shear":
        F[:, 0, 1] = strain
    for axis in {"uniaxial": (0,), "biaxial": (0, 1), "volumetric": (0, 1, 2)}.get(path, ()):
        F[:, axis, axis] = 1 + strain
    return F


@torch.no_grad()
def response(material, path: str, largest: float, dt: float):
    """Strain (2 k + 1,) and the stress tau_11 (tau_12 in shear) [Pa] while the strain grows from 0 to +-``largest``.

    The path is followed in steps of dt, after each of which the material's map may flow.
    """
    law = material.elastic if material.plastic is None else material.plastic
    row, column = (0, 1) if path == "shear" else (0, 0)
    sides = []
    for sign in (-1, 1):
        strain = sign * largest * torch.arange(POINTS + 1, dtype=torch.float64) / POINTS
        whole = deformation(path, strain).to(context.dtype)
        F, q, stress = whole[:1], material.initial(1, 3), []
        for k in range(POINTS + 1):
            if k:
                F = whole[k : k + 1] @ torch.linalg.inv(whole[k - 1 : k]) @ F
                if hasattr(law, "update"):
                    F, q = law.update(F, q, torch.zeros_like(F), dt)
            tau = material.stress(F, q, torch.zeros_like(F)) @ F.mT
            stress.append(float(tau[0, row, column]))
        sides.append((strain.numpy(), np.array(stress)))
    (left, tau_left), (right, tau_right) = sides
    return np.concatenate([left[:0:-1], right]), np.concatenate([tau_left[:0:-1], tau_right])


def covered(motion) -> dict[str, np.ndarray]:
    """Per particle and frame of the training data: log J and |dev eps| of F; empty where F is not known."""
    if motion.F is None or motion.x.shape[2] != 3:
        return {}
    every = max(1, motion.F[:, :, 0, 0].numel() // 200_000)
    s = torch.linalg.svdvals(motion.F.reshape(-1, 3, 3)[::every].double())
    eps = s.clamp_min(1e-12).log()
    trace = eps.sum(1)
    return {"log J": trace.numpy(), "|dev eps|": (eps - trace[:, None] / 3).norm(dim=1).numpy()}


def reach(data: dict) -> float:
    """Strain up to which the paths go: where 99 of 100 training states lie, 0.02 to 0.5."""
    if not data:
        return 0.2
    far = max(np.quantile(np.abs(data["log J"]) / 3, 0.99), np.quantile(data["|dev eps|"], 0.99))
    return float(np.clip(far, 0.02, 0.5))


def plot_paths(curves: dict, path):
    """Learned and true stress against strain, a panel for each path of ``curves``."""
    figure, axes = _figure(len(curves), height=2.0)
    for ax, (name, (strain, learned, true)) in zip(axes, curves.items(), strict=True):
        if true is not None:
            ax.plot(strain, true, color=GRAY, linewidth=3, label="true")
        ax.plot(strain, learned, color=ORANGE, linewidth=1.5, label="learned")
        ax.set_ylabel(r"$\tau_{12}$ [Pa]" if name == "shear" else r"$\tau_{11}$ [Pa]")
        ax.set_title(name, loc="left", fontsize="medium")
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("strain")
    return _save(figure, path)


def plot_covered(data: dict, path):
    """Histograms of the invariants of the training data."""
    figure, axes = _figure(len(data), height=2.2)
    for ax, (name, values) in zip(axes, data.items(), strict=True):
        ax.hist(values, bins=80, color=BLUE, log=True)
        ax.set_title(name, loc="left", fontsize="medium")
        ax.set_ylabel("states")
    return _save(figure, path)


def write_report(folder, material, true, motion, dt: float) -> dict:
    """loss.png, curves.png, invariants.png and report.json of a fit.

    Returns:
        For each path the largest difference of learned and true stress, as a fraction of the largest true stress.
    """
    plot_loss(folder.metrics_path, folder.path / "loss.png")
    data, deviations = covered(motion), {}
    if data:
        plot_covered(data, folder.path / "invariants.png")
    if motion.x.shape[2] == 3:
        largest, curves = reach(data), {}
        for name in PATHS:
            strain, learned = response(material, name, largest, dt)
            truth = None if true is None else response(true, name, largest, dt)[1]
            curves[name] = (strain, learned, truth)
            if truth is not None and np.abs(truth).max() > 0:
                deviations[name] = float(np.abs(learned - truth).max() / np.abs(truth).max())
        plot_paths(curves, folder.path / "curves.png")
    content = {"deviation of stress": deviations, "largest strain": reach(data)}
    atomic_write(folder.path / "report.json", json.dumps(content, indent=2) + "\n")
    return deviations
