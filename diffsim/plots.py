"""Figures of runs: loss, curves and controls. matplotlib's objects are used directly: no global state, no display."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffsim.errors import DataError
from diffsim.runs import atomic_write, read_metrics

BLUE, ORANGE, GREEN, GRAY = "#2f6fb3", "#e07b2a", "#3d9150", "#8a8f98"
AXES6 = ("v_x", "v_y", "v_z", "omega_x", "omega_y", "omega_z")
AXES7 = ("x", "y", "z", "q_w", "q_x", "q_y", "q_z")


def _figure(count, width=7.0, height=2.6):
    figure = Figure(figsize=(width, 0.5 + height * count), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(count, 1, sharex=True))
    for ax in axes:
        ax.grid(True, color="#e3e5e9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure, path):
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png"))
    return Path(path)


def _column(rows, name):
    """Values of one name in all rows, NaN where a row lacks it."""
    return np.array([np.nan if row.get(name) is None else float(row[name]) for row in rows])


def _logarithmic(ax, values):
    """A log axis where all values are positive and span more than a factor of three."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() > 3 * finite.min():
        ax.set_yscale("log")


def plot_loss(rows, path):
    """Loss, gradient norm and score against the iteration.

    Args:
        rows: dicts with `loss` and, where known, `iteration`, `gradient_norm` and `score`; or the path of a
            `metrics.jsonl` file.
        path: the PNG file.

    Raises:
        DataError: no rows, or no finite loss in them.
    """
    rows = read_metrics(rows) if isinstance(rows, (str, Path)) else list(rows)
    losses = _column(rows, "loss") if rows else np.empty(0)
    if not np.isfinite(losses).any():
        raise DataError(f"{path}: no finite loss to plot; run at least one iteration")
    x = _column(rows, "iteration")
    x = np.where(np.isfinite(x), x, np.arange(len(rows)))
    panels = [("loss", losses, BLUE)]
    panels += [
        (label, values, color)
        for name, label, color in (("gradient_norm", "gradient norm", ORANGE), ("score", "score", GREEN))
        if np.isfinite(values := _column(rows, name)).any()
    ]
    figure, axes = _figure(len(panels), height=2.3)
    mark = "o" if len(rows) <= 60 else None
    for ax, (label, values, color) in zip(axes, panels, strict=True):
        ax.plot(x, values, color=color, marker=mark, markersize=3, linewidth=1.5)
        ax.set_ylabel(label)
        if label != "score":
            _logarithmic(ax, values)
    best = np.fmin.accumulate(losses)
    axes[0].plot(x, best, color=GRAY, linewidth=1, linestyle="--", label=f"best {np.nanmin(losses):.4g}", zorder=1)
    axes[0].legend(frameon=False, loc="upper right")
    axes[-1].set_xlabel("iteration")
    return _save(figure, path)


def plot_horizon(rows, path):
    """Gradient norm, and its relative difference from finite differences, against the number of control steps.

    Args:
        rows: dicts with `steps`, `gradient_norm` and `difference`, which may be None.
        path: the PNG file.
    """
    steps = _column(rows, "steps")
    panels = [
        ("gradient norm", _column(rows, "gradient_norm"), ORANGE),
        ("relative difference", _column(rows, "difference"), BLUE),
    ]
    figure, axes = _figure(2, height=2.3)
    for ax, (label, values, color) in zip(axes, panels, strict=True):
        values = np.where(values > 0, values, np.nan)  # what a logarithmic axis can show
        ax.plot(steps, values, color=color, marker="o", markersize=3, linewidth=1.5)
        ax.set_ylabel(label)
        if np.isfinite(values).any():
            ax.set_yscale("log")
    axes[-1].set_xlabel("control steps")
    axes[-1].set_xscale("log", base=2)
    return _save(figure, path)


def plot_curves(x, curves, path, *, xlabel="", ylabel="", log=False, title=""):
    """Curves over a common axis.

    Args:
        x: shape [n].
        curves: values [n] by label.
        log: logarithmic ordinate.

    Raises:
        DataError: no curves, or one whose length is not that of x.
    """
    x = np.asarray(x, dtype=float)
    curves = {label: np.asarray(values, dtype=float) for label, values in curves.items()}
    if not curves:
        raise DataError(f"{path}: no curves to plot")
    for label, values in curves.items():
        if values.shape != x.shape or x.ndim != 1:
            raise DataError(
                f"{path}: curve {label!r} has shape {values.shape}, the axis {x.shape}; give the same length"
            )
    figure, (ax,) = _figure(1, height=3.6)
    for label, values in curves.items():
        ax.plot(x, values, label=label, linewidth=1.5)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale="log" if log else "linear")
    if len(curves) > 1 or next(iter(curves)):
        ax.legend(frameon=False)
    return _save(figure, path)


def plot_controls(controls, dt, path):
    """Controls of each tool against time: velocities above, angular velocities (or quaternions) below.

    Args:
        controls: shape [steps, tools, k]; k = 6 velocities, 7 poses, or any other number.
        dt: duration of a control step [s].

    Raises:
        DataError: another shape, or no steps.
    """
    controls = np.asarray(controls.detach().cpu() if hasattr(controls, "detach") else controls, dtype=float)
    if controls.ndim != 3 or 0 in controls.shape:
        raise DataError(
            f"{path}: controls have shape {controls.shape}; give (steps, tools, k) with at least one of each"
        )
    steps, tools, k = controls.shape
    names = {6: AXES6, 7: AXES7}.get(k, tuple(f"u_{i}" for i in range(k)))
    groups = {
        6: [(range(3), "velocity [m/s]"), (range(3, 6), "angular velocity [rad/s]")],
        7: [(range(3), "position [m]"), (range(3, 7), "quaternion")],
    }.get(k, [(range(k), "control")])
    figure, axes = _figure(tools * len(groups), height=2.0)
    edges = np.arange(steps + 1) * dt
    panels = [(tool, *group) for tool in range(tools) for group in groups]
    for ax, (tool, columns, label) in zip(axes, panels, strict=True):
        for column in columns:
            ax.stairs(
                controls[:, tool, column],
                edges,
                baseline=None,
                label=f"${names[column].replace('omega', chr(92) + 'omega')}$",
            )
        ax.set_ylabel(label)
        if tools > 1:
            ax.set_title(f"tool {tool}", loc="left", fontsize="medium")
        ax.legend(
            frameon=False,
            ncols=len(columns),
            loc="lower right",
            bbox_to_anchor=(1, 0.97),
            borderaxespad=0,
            fontsize="small",
        )
    axes[-1].set_xlabel("time [s]")
    return _save(figure, path)
