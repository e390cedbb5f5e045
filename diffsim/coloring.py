"""Colors of particles: bodies by a palette, scalars of a state by a colormap."""

import matplotlib
import numpy as np
import torch

from diffsim.errors import DataError

# colors of bodies (sRGB): apart in hue and in lightness, readable on the pale ground
PALETTE = np.array([
    (0.21, 0.48, 0.76), (0.93, 0.49, 0.19), (0.30, 0.64, 0.38), (0.80, 0.27, 0.31), (0.55, 0.43, 0.72),
    (0.95, 0.75, 0.25), (0.25, 0.68, 0.72), (0.86, 0.51, 0.66), (0.55, 0.42, 0.34), (0.45, 0.48, 0.53),
])  # fmt: skip
LABELS = {"speed": "speed [m/s]", "pressure": "pressure [Pa]", "plastic": "internal variable"}
COLORMAPS = {"pressure": "Spectral_r"}
RANGE = (0.5, 99.5)  # percentiles over all frames: a single stray particle must not flatten the colors


def as_array(values):
    """A tensor or array as a numpy array."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def palette(ids):
    """Colors (sRGB in [0, 1]) of body numbers, shape [n, 3]; they repeat after ten bodies."""
    return PALETTE[np.asarray(ids, dtype=int) % len(PALETTE)]


def map_colors(scalars, limits=None, colormap="viridis"):
    """Colors (sRGB in [0, 1]) of scalars, shape [n, 3], and the limits used; gray where a scalar is not finite."""
    if colormap not in matplotlib.colormaps:
        raise DataError(f"colormap {colormap!r} is not one of matplotlib's; use viridis, plasma, Spectral_r, ...")
    scalars = np.asarray(scalars, dtype=float)
    finite = scalars[np.isfinite(scalars)]
    if limits is None:
        limits = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    low, high = (float(v) for v in limits)
    share = (scalars - low) / (high - low) if high > low else np.zeros_like(scalars)
    colors = matplotlib.colormaps[colormap](share)[:, :3]
    colors[~np.isfinite(scalars)] = 0.5
    return colors, (low, high)


def color_limits(scalars, symmetric):
    """Limits (low, high) for the scalars of all frames, about zero when symmetric."""
    values = np.concatenate([np.asarray(s, dtype=float).ravel() for s in scalars])
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, RANGE)
    if symmetric:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


def scalar_of(color, model):
    """Function state -> scalars (n,) of a color's name."""
    if callable(color):
        return lambda state: as_array(color(state))
    if color == "speed":
        return lambda state: np.linalg.norm(as_array(_field(state, "v", color)), axis=1)
    if color == "pressure":
        if not hasattr(model, "materials"):
            raise DataError("color = 'pressure' needs the materials; give model=")
        return lambda state: as_array(pressure(model, state))
    if color == "plastic":
        return lambda state: _last_column(as_array(_field(state, "q", color)))
    return lambda state: as_array(_field(state, color, color))


def _last_column(q):
    if q.shape[1] == 0:
        raise DataError(
            "color = 'plastic': the materials have no internal variables; use 'body', 'speed' or 'pressure'"
        )
    return q[:, -1]


def _field(state, name, color):
    if getattr(state, name, None) is None:
        known = ", ".join(f for f in getattr(state, "_fields", ()) if getattr(state, f) is not None) or "none named"
        raise DataError(
            f"color = {color!r}: the states have no {name!r}; use body, speed, pressure, plastic or a field ({known})"
        )
    return getattr(state, name)


@torch.no_grad()
def pressure(model, state):
    """Pressure p = -tr(P F^T) / (d J) of the elastic stress [Pa], shape [n]; in two dimensions that of the plane."""
    n, dim = state.x.shape
    # in two dimensions q may start with the stretch out of the plane
    for name in ("F", "q"):
        _field(state, name, "pressure")
    J = torch.linalg.det(state.F) * (state.q[:, 0] if getattr(model, "stretch", False) else 1)
    total = torch.zeros(n, dtype=state.F.dtype, device=state.F.device)
    for index, material in enumerate(model.materials):
        P = material.elastic.stress(state.F, state.q)
        total = torch.where(state.material == index, -(P * state.F).sum(dim=(1, 2)) / (dim * J), total)
    return total
