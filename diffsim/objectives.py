"""Objectives: differentiable figures of a trajectory, to be added and weighted at will.

    loss = mean_squared_distance(path[-1].x, target) + 1e-3 * control_energy(controls)

Distances between clouds stand in ``diffsim.transport`` and are reached from here too; what must hold, rather than be
small, in ``diffsim.constraints``.

Every sum over particles, nodes or steps goes through ``total``, whose order no thread count changes (that of
``torch.sum`` does), so that losses and gradients are bitwise reproducible.
"""

import math

import torch
from scipy import ndimage
from torch import Tensor

from diffsim.errors import DataError, SceneError
from diffsim.kernels.density import node_mass
from diffsim.kernels.reduction import ordered_sum
from diffsim.kernels.tool_distance import tool_distance as signed_distances
from diffsim.models.tools import pack, rotation_matrix

_TRANSPORT = ("chamfer", "transport", "destinations", "sinkhorn")  # of diffsim.transport


def __getattr__(name):
    if name not in _TRANSPORT:
        raise AttributeError(f"module 'diffsim.objectives' has no attribute {name!r}")
    import diffsim.transport

    return getattr(diffsim.transport, name)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        ctx.shape = values.shape
        return ordered_sum(values)

    @staticmethod
    def backward(ctx, grad):
        return grad.expand(ctx.shape)


def total(values: Tensor, axis: int | None = None) -> Tensor:
    """Sum by halving, the same for any number of threads: of all elements, or over one axis.

    Adjoint: grad_values = grad, repeated.
    """
    values = values.reshape(-1) if axis is None else values.movedim(axis, 0)
    return _Total.apply(values) if values.shape[0] else values.sum(0)


def mean(values: Tensor, axis: int | None = None) -> Tensor:
    """``total`` over the number of its terms."""
    return total(values, axis) / (values.numel() if axis is None else values.shape[axis])


# --- motion


def mean_squared_distance(x: Tensor, target: Tensor) -> Tensor:
    """Mean over particles (and frames) of |x - x*|^2 [m^2], each particle against the target of the same index.

    Args:
        x: (..., n, d) [m]; a frame, or ``path.x``.
        target: of the same shape, or (n, d) or (d,) for every frame or particle [m].

    Raises:
        DataError: a target of another shape.
    """
    try:
        difference = x - target
    except RuntimeError:
        raise DataError(f"target has shape {tuple(target.shape)} for positions of shape {tuple(x.shape)}") from None
    if difference.shape != x.shape:
        raise DataError(f"target has shape {tuple(target.shape)} for positions of shape {tuple(x.shape)}")
    return total(difference.square()) / (x.numel() // x.shape[-1])


def center_of_mass(state, mass: Tensor | None = None) -> Tensor:
    """sum m x / sum m (d,) [m]. mass: (n,) [kg]; the volumes when None, which is right for one density."""
    return _weighted(state.x, state.volume if mass is None else mass)


def mean_velocity(state, mass: Tensor | None = None) -> Tensor:
    """sum m v / sum m (d,) [m/s], the momentum per mass; mass as in ``center_of_mass``."""
    return _weighted(state.v, state.volume if mass is None else mass)


def _weighted(values, mass):
    return total(mass[:, None] * values, 0) / total(mass)


def mean_squared_velocity(v: Tensor, target=0.0) -> Tensor:
    """Mean over particles (and frames) of |v - v*|^2 [m^2/s^2].

    Args:
        v: (..., n, d) [m/s]; of a frame, or ``path.v``.
        target: v*, a number or a tensor that broadcasts to v.

    Raises:
        DataError: a target of another shape.
    """
    return mean_squared_distance(v, torch.as_tensor(target).to(v))


# --- controls


def control_energy(controls: Tensor) -> Tensor:
    """Mean of the squared controls (steps, ...)."""
    return mean(controls.square())


def control_smoothness(controls: Tensor) -> Tensor:
    """Mean of the squared differences between successive controls (steps, ...); 0 for a single step."""
    return mean(controls.diff(dim=0).square()) if len(controls) > 1 else 0 * total(controls)


def mean_squared_jerk(values: Tensor, dt: float, order: int = 3) -> Tensor:
    """Mean of the squared ``order``-th difference quotient of values (steps, ...) over control steps of dt [s].

    The jerk of positions takes order 3, that of velocities, such as controls of a tool, order 2. 0 for too few steps.
    """
    if order < 1 or not dt > 0:
        raise SceneError(f"mean_squared_jerk: order={order}, dt={dt}; give an order of at least 1 and a positive dt")
    return mean((values.diff(n=order, dim=0) / dt**order).square()) if len(values) > order else 0 * total(values)


def wrench_excess(wrench: Tensor, force: float = math.inf, torque: float = math.inf) -> Tensor:
    """Mean over frames and tools of max(|f|/force - 1, 0)^2 + max(|t|/torque - 1, 0)^2, for limits [N, N m].

    Args:
        wrench: (..., T, 6), as ``path.wrench``: force and torque on each tool.

    Raises:
        SceneError: a limit that is not positive.
    """
    if not (force > 0 and torque > 0):
        raise SceneError(f"wrench_excess: force={force}, torque={torque}; limits must be positive")
    excess = 0 * total(wrench)
    for part, limit in ((wrench[..., :3], force), (wrench[..., 3:], torque)):
        if math.isfinite(limit):
            excess = excess + mean((part.square().sum(-1) / limit**2).clamp_min(1).sqrt().sub(1).square())
    return excess


# --- tools


def tool_gaps(state, tools) -> Tensor:
    """Signed distance (n, T) [m] of every particle to every tool at its pose; negative inside."""
    tool_params, tool_ints, sdf = pack(list(tools), state.x.dtype, state.x.shape[1])
    pose = state.pose
    quaternion = pose[:, 3:] / pose[:, 3:].norm(dim=-1, keepdim=True)
    return signed_distances(state.x, pose[:, :3], rotation_matrix(quaternion), tool_params, tool_ints, sdf)


def tool_distance(state, tools, sharpness: float | None = None) -> Tensor:
    """sum over tools of (min over particles of max(phi, 0))^2 [m^2]: draws tools to the material.

    Source: Huang et al., PlasticineLab (ICLR 2021), its contact loss. The minimum passes its gradient to one particle;
    the soft one weights all by w_p = 1 / (1 + sharpness d_p^2) / sum, with d_p = max(phi_p, 0).

    Args:
        state: with the tools' poses.
        tools: the tools, as ``model.tools``.
        sharpness: of the soft minimum [1/m^2], 1e4 in PlasticineLab; None for the exact minimum.
    """
    gap = tool_gaps(state, tools)
    if sharpness is None:
        nearest = gap.detach().argmin(0)  # the first of equal ones
        return total(gap.gather(0, nearest[None])[0].clamp_min(0).square())
    if not (sharpness > 0 and math.isfinite(sharpness)):
        raise SceneError(f"tool_distance: sharpness={sharpness!r}; give a positive number [1/m^2], or None")
    distance = gap.clamp_min(0)
    weight = 1 / (1 + sharpness * distance.square())
    return total((total(weight * distance, 0) / total(weight, 0)).square())


# --- shapes


class DensityTarget:
    """A shape to reach, given as node masses, and how far particles are from it.

    m_i are the node masses of the particles (``diffsim.kernels.density``), m*_i those of the target, D_i the distance
    [m] of node i to the nearest node with m* > threshold, 0 there. Source: Huang et al., PlasticineLab (ICLR 2021),
    arXiv:2104.03311, its density loss, distance-field loss and score; D is the exact Euclidean distance.

    Args:
        grid: ``ds.Grid`` of the density; need not be the model's.
        x: particles of the target (n, d) [m].
        mass: of each particle of the target, a number or (n,), in any unit.
        threshold: node mass above which a node counts as inside, in the same unit.

    Attributes:
        x: particles of the target, to draw.
        weight: mass of each of them.
        mass: m*, (cells + 1, ...).
        field: D [m], of the same shape.

    Raises:
        DataError: particles outside the grid, or no node above the threshold.
    """

    def __init__(self, grid, x: Tensor, mass, threshold: float = 0.0):
        self.grid, self.x = grid, x.detach()
        self.weight = torch.as_tensor(mass).detach().to(self.x).expand(len(self.x))
        self._measure(self.density(self.x, mass), threshold)

    @classmethod
    def from_mass(cls, grid, mass: Tensor, threshold: float = 0.0):
        """A target given as its node masses, (cells + 1, ...); ``x`` are the nodes inside.

        Raises:
            DataError: masses of another shape, or none above the threshold.
        """
        if tuple(mass.shape) != tuple(cells + 1 for cells in grid.cells):
            raise DataError(f"DensityTarget: masses of shape {tuple(mass.shape)} do not fit {grid.cells} cells")
        target = cls.__new__(cls)
        target.grid = grid
        target.x = (mass > threshold).nonzero() * grid.dx + mass.new_tensor(grid.origin)
        target.weight = mass[mass > threshold].detach()
        target._measure(mass.detach(), threshold)
        return target

    def _measure(self, mass, threshold):
        self.mass = mass
        inside = mass > threshold
        if not inside.any():
            raise DataError(f"DensityTarget: no node has more mass than threshold={threshold:g}; lower it")
        field = ndimage.distance_transform_edt(~inside.cpu().numpy(), sampling=self.grid.dx)
        self.field = torch.as_tensor(field).to(self.mass)

    def density(self, x: Tensor, mass) -> Tensor:
        """Node masses m of particles, (cells + 1, ...), differentiable."""
        return node_mass(x, mass, self.grid.cells, self.grid.dx, self.grid.origin)

    def mismatch(self, density: Tensor) -> Tensor:
        """sum_i |m_i - m*_i|. Where m_i = m*_i the gradient is 0, one of its limits."""
        return total((density - self.mass).abs())

    def distance(self, density: Tensor) -> Tensor:
        """sum_i D_i m_i: mass times its distance to the target."""
        return total(self.field * density)

    def overlap(self, density: Tensor) -> Tensor:
        """Soft intersection over union with the target, both scaled to 1: I / (sum a + sum b - I) with I = sum ab."""
        return soft_iou(density, self.mass)

    def score(self, density: Tensor, initial: Tensor) -> Tensor:
        """Normalized incremental overlap: clip((IoU - IoU_0) / (IoU* - IoU_0), 0, 1).

        0 at the ``initial`` density and 1 on the target, whose overlap with itself, IoU*, is below 1 where its density
        varies.

        Raises:
            DataError: an initial density that is the target.
        """
        start, best = self.overlap(initial), self.overlap(self.mass)
        if not best > start:
            raise DataError(
                "DensityTarget: the start overlaps the target as well as the target itself; move one of them"
            )
        return ((self.overlap(density) - start) / (best - start)).clamp(0, 1)


def soft_iou(a: Tensor, b: Tensor) -> Tensor:
    """Soft intersection over union of two densities, each scaled to a maximum of 1."""
    # the peaks divide the sums, not the densities: their gradients then need no sum of torch's
    peak_a, peak_b = a.amax(), b.amax()
    intersection = total(a * b) / (peak_a * peak_b)
    return intersection / (total(a) / peak_a + total(b) / peak_b - intersection)
