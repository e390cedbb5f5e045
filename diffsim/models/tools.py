"""Tools: rigid bodies whose motion is prescribed, their tables for kernels, and their motion from controls.

A pose is (7,): position [m] and quaternion w, x, y, z of the rotation from the tool's frame to the world. In 2-D the
vectors are padded with z = 0 and tools turn about z.

Over a control step of T = substeps dt each tool moves with constant world velocity v and angular velocity omega:

    p(t) = p0 + t v,    q(t) = exp(t omega) q0,    exp(w) = (cos |w|/2, sin(|w|/2) w/|w|)

A tool in velocity mode is given v and omega; one in pose mode its pose (p1, q1) at the end of the step, so that
v = (p1 - p0) / T and omega = log(q1 q0^-1) / T, turning the shorter way.
"""

import math
from collections.abc import Sequence

import torch
import trimesh
from torch import Tensor, nn

from diffsim.errors import SceneError
from diffsim.geometry.shapes import Box, MeshSDF, Shape
from diffsim.kernels.arrays import context

MODES = ("velocity", "pose")
STICKY_FRICTION = 1e9  # what stands in the table for an infinite friction; the law reads the flag instead


class Tool(nn.Module):
    """A kinematic rigid body that touches the material by the contact law of ``diffsim.kernels.contact``.

    Args:
        shape: a shape of ``diffsim.geometry.shapes``, or a trimesh or the path of a mesh file, which become a MeshSDF.
        pose: initial position (3,) or (2,) [m] and quaternion w, x, y, z; tensors keep their gradient.
        mode: "velocity": controls are (6,) world linear and angular velocity; "pose": (7,) the pose at the step's end.
        softness: k of the contact law [1/m]; 0 is hard. Contact is felt up to ln(10) / k from the surface.
        friction: Coulomb coefficient; float("inf") is sticky. Like softness a float, a tensor or an nn.Parameter.

    Raises:
        SceneError: an unknown shape or mode, a pose that is not finite, a quaternion of length 0, negative friction or
            softness, or a mesh whose distance is not sampled as far as soft contact reaches.
    """

    def __init__(self, shape, pose=((0, 0, 0), (1, 0, 0, 0)), mode="velocity", softness=0.0, friction=0.0):
        super().__init__()
        if mode not in MODES:
            raise SceneError(f"Tool: mode {mode!r} is not known; use 'velocity' or 'pose'")
        self.mode = mode
        self._keep("softness", softness)
        self._keep("friction", friction)
        try:
            position, quaternion = pose
        except (TypeError, ValueError):
            raise SceneError("Tool: pose must be a pair (position, quaternion wxyz)") from None
        self._keep("position", position)
        self._keep("quaternion", quaternion)
        if self.position.shape not in ((2,), (3,)) or self.quaternion.shape != (4,):
            raise SceneError(
                f"Tool: pose has shapes {tuple(self.position.shape)} and {tuple(self.quaternion.shape)}; "
                "give a position of 3 (2-D: 2) numbers and a quaternion w, x, y, z"
            )
        self._check_pose()
        self._check_contact()
        if isinstance(shape, (str, trimesh.Trimesh)) or hasattr(shape, "__fspath__"):
            reach = self.reach()
            shape = MeshSDF(shape, padding=1.1 * reach if reach > 0 else None)
        if not isinstance(shape, Shape):
            raise SceneError(f"Tool: shape is a {type(shape).__name__}; give a diffsim shape, a trimesh or a mesh file")
        self.shape = shape
        self.check()

    def _keep(self, name: str, value):
        """An nn.Parameter stays one; anything else becomes a buffer."""
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
            return
        if not isinstance(value, Tensor):
            try:
                value = torch.tensor(value, dtype=torch.float64)
            except (TypeError, ValueError):
                raise SceneError(f"Tool: {name} is {value!r}; give numbers or a tensor") from None
        self.register_buffer(name, value)

    def _check_pose(self):
        if not (torch.isfinite(self.position).all() and torch.isfinite(self.quaternion).all()):
            raise SceneError("Tool: the pose is not finite; give a position in meters and a quaternion w, x, y, z")
        if not self.quaternion.norm() > 0:
            raise SceneError("Tool: the quaternion has length 0; no rotation is (1, 0, 0, 0)")

    def _check_contact(self):
        softness, friction = self.softness.item(), self.friction.item()
        if not (math.isfinite(softness) and softness >= 0):
            raise SceneError(f"Tool: softness is {softness}; it must be 0 (hard) or positive, in 1/m")
        if not friction >= 0:
            raise SceneError(f"Tool: friction is {friction}; it must be 0 or more, or float('inf') for sticky")

    def reach(self) -> float:
        """Distance from the surface at which contact is first felt [m]."""
        softness = self.softness.item()
        return math.log(10) / softness if softness > 0 else 0.0

    def check(self, dim: int = 3):
        """Validate what an optimizer may have changed since construction, for a scene of ``dim`` dimensions.

        Raises:
            SceneError: as the class does; in 2-D also for a box so thin along z that its nearest face is out of plane.
        """
        self._check_pose()
        self._check_contact()
        if isinstance(self.shape, MeshSDF) and self.reach() > self.shape.padding:
            raise SceneError(
                f"Tool: softness {self.softness.item():g} is felt {self.reach():g} m from the surface, but the mesh's "
                f"distance is known to {self.shape.padding:g} m; pass MeshSDF(..., padding={1.1 * self.reach():.3g}) "
                "or a larger softness"
            )
        if dim == 2 and isinstance(self.shape, Box) and min(self.shape.half_extents) < min(self.shape.half_extents[:2]):
            raise SceneError(
                f"Tool: in 2-D the half extents {self.shape.half_extents} put the nearest face out of the plane; "
                "give two, for a box that is endless along z"
            )

    @property
    def sticky(self) -> bool:
        """Whether friction is infinite."""
        return math.isinf(self.friction.item())


def pack(tools: Sequence[Tool], dtype: torch.dtype | None = None, dim: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """The tables of the tools for kernels.

    Args:
        dtype: of the floats; None takes the precision of ``diffsim.init``.
        dim: of the scene; only what is valid depends on it.

    Returns:
        tool_params (T, 16): friction, softness [1/m], bounding radius [m], shape; differentiable in the first two.
        tool_ints (T, 8) int32: kind of shape, sticky flag, then for a mesh its nodes per axis and offset into sdf.
        sdf (N,): spline coefficients of all meshes, N >= 1.

    Raises:
        SceneError: a tool that an optimizer moved out of its range.
    """
    floats = {"dtype": dtype or context.dtype, "device": context.tensor_device}
    params, ints, sampled, offset = [], [], [], 0
    for tool in tools:
        tool.check(dim)
        friction = torch.tensor(STICKY_FRICTION) if tool.sticky else tool.friction
        rest = [tool.shape.bounding_radius, *tool.shape.parameters()]
        rest = torch.tensor(rest + [0.0] * (14 - len(rest)), **floats)
        params.append(torch.cat([friction.to(**floats).reshape(1), tool.softness.to(**floats).reshape(1), rest]))
        row = [tool.shape.kind, int(tool.sticky), *tool.shape.integers()]
        samples = tool.shape.samples()
        if samples is not None:
            row.append(offset)
            offset += len(samples)
            sampled.append(samples.to(**floats))
        ints.append(row + [0] * (8 - len(row)))
    tool_params = torch.stack(params) if params else torch.zeros(0, 16, **floats)
    tool_ints = torch.tensor(ints, dtype=torch.int32, device=context.tensor_device).reshape(-1, 8)
    return tool_params, tool_ints, torch.cat(sampled) if sampled else torch.zeros(1, **floats)


def initial_pose(tools: Sequence[Tool], dtype: torch.dtype | None = None) -> Tensor:
    """Poses (T, 7) of the tools at the start, quaternions of unit length; differentiable in the tools' poses."""
    floats = {"dtype": dtype or context.dtype, "device": context.tensor_device}
    poses = []
    for tool in tools:
        position, quaternion = tool.position.to(**floats), tool.quaternion.to(**floats)
        missing = torch.zeros(3 - len(position), **floats)
        poses.append(torch.cat([position, missing, quaternion / quaternion.norm()]))
    return torch.stack(poses) if poses else torch.zeros(0, 7, **floats)


def substep_motions(
    tools: Sequence[Tool | str], pose: Tensor, control: Tensor | None, dt: float, substeps: int
) -> tuple[Tensor, Tensor]:
    """Motion of the tools over one control step; exact also at omega = 0, and differentiable there.

    Args:
        tools: the tools, or only their modes.
        pose: (T, 7) at the start of the step; quaternions need not be of unit length.
        control: (T, 6) [m/s, rad/s], or (T, 7) if any tool is in pose mode: a tool in velocity mode then reads the
            first 6. None holds every tool at rest.
        dt: substep [s].
        substeps: substeps per control step.

    Returns:
        motion (substeps, T, 18): at the start of each substep position, rotation matrix by rows, v, omega.
        pose (T, 7) at the end of the step, quaternions of unit length.

    Raises:
        SceneError: a control of another shape, or one that is not finite.
    """
    p0, q0 = pose[:, :3], pose[:, 3:] / pose[:, 3:].norm(dim=-1, keepdim=True)
    duration = substeps * dt
    modes = [tool if isinstance(tool, str) else tool.mode for tool in tools]
    v, omega = velocities(modes, p0, q0, control, duration)
    times = dt * torch.arange(substeps + 1, dtype=pose.dtype, device=pose.device)[:, None, None]
    p = p0 + times * v
    q = quaternion_product(exponential(times * omega), q0.expand(substeps + 1, -1, -1))
    q = q / q.norm(dim=-1, keepdim=True)
    R = rotation_matrix(q[:-1]).flatten(-2)
    motion = torch.cat([p[:-1], R, v.expand(substeps, -1, -1), omega.expand(substeps, -1, -1)], dim=-1)
    return motion, torch.cat([p[-1], q[-1]], dim=-1)


def velocities(
    modes: Sequence[str], p0: Tensor, q0: Tensor, control: Tensor | None, duration: float
) -> tuple[Tensor, Tensor]:
    """World linear and angular velocity (T, 3) each over a control step of ``duration`` [s]."""
    if control is None:
        return torch.zeros_like(p0), torch.zeros_like(p0)
    width = 7 if "pose" in modes else 6
    if tuple(control.shape) != (len(modes), width):
        meaning = "poses, since a tool is in pose mode" if width == 7 else "linear and angular velocities"
        raise SceneError(
            f"the control of a step has shape {tuple(control.shape)}; {len(modes)} tools need "
            f"({len(modes)}, {width}): {meaning}"
        )
    if not torch.isfinite(control).all():
        tool = int((~torch.isfinite(control)).any(dim=-1).nonzero()[0])
        raise SceneError(f"the control of tool {tool} is not finite; look at what computes the controls")
    if width == 6:
        return control[:, :3], control[:, 3:]
    posed = torch.tensor([mode == "pose" for mode in modes], device=control.device)[:, None]
    # a tool in velocity mode takes the branch below for its own pose, so that its unused gradient stays finite
    p1, q1 = torch.where(posed, control[:, :3], p0), torch.where(posed, control[:, 3:], q0)
    length = q1.norm(dim=-1, keepdim=True)
    if not (length > 0).all():
        tool = int((length[:, 0] == 0).nonzero()[0])
        raise SceneError(f"the target quaternion of tool {tool} has length 0; no rotation is (1, 0, 0, 0)")
    conjugate = q0 * q0.new_tensor([1, -1, -1, -1])
    turn = logarithm(quaternion_product(q1 / length, conjugate))
    v = torch.where(posed, (p1 - p0) / duration, control[:, :3])
    return v, torch.where(posed, turn / duration, control[:, 3:6])


def quaternion_product(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product of quaternions w, x, y, z (..., 4)."""
    real = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdim=True)
    imaginary = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + torch.linalg.cross(a[..., 1:], b[..., 1:])
    return torch.cat([real, imaginary], dim=-1)


def rotation_matrix(q: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of unit quaternions w, x, y, z (..., 4)."""
    w, x, y, z = q.unbind(-1)
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def exponential(w: Tensor) -> Tensor:
    """Quaternion (..., 4) of the rotation vector w (..., 3) [rad].

    cos(|w|/2) and sin(|w|/2)/|w| are smooth in z = |w|^2; below 0.005 their series to z^3 is exact in f64.
    """
    z = (w * w).sum(-1, keepdim=True)
    small = z < 5e-3
    angle = torch.where(small, torch.ones_like(z), z).sqrt()  # the branch not taken must have a finite gradient
    cosine = torch.where(small, 1 - z / 8 * (1 - z / 48 * (1 - z / 120)), torch.cos(angle / 2))
    sine = torch.where(small, 0.5 - z / 48 * (1 - z / 80 * (1 - z / 168)), torch.sin(angle / 2) / angle)
    return torch.cat([cosine, sine * w], dim=-1)


def logarithm(q: Tensor) -> Tensor:
    """Rotation vector (..., 3) [rad], at most pi long, of unit quaternions (..., 4).

    2 atan(|u|/w) u/|u| with u = (x, y, z); smooth in y = |u|^2. At exactly pi the shorter way is not unique.
    """
    q = torch.where(q[..., :1] < 0, -q, q)
    w, u = q[..., :1], q[..., 1:]
    y = (u * u).sum(-1, keepdim=True)
    small = y < 1e-3 * w * w
    one = torch.ones_like(w)
    safe = torch.where(small, w, one)
    r = torch.where(small, y, torch.zeros_like(y)) / (safe * safe)
    series = 2 / safe * (1 - r * (1 / 3 - r * (1 / 5 - r * (1 / 7 - r / 9))))
    length = torch.where(small, one, y).sqrt()
    return torch.where(small, series, 2 * torch.atan2(length, w) / length) * u
