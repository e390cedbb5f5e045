"""The material point method: MLS-MPM with APIC transfers and quadratic B-splines, in 2-D (plane strain) and 3-D."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context
from diffsim.kernels.control_step import ControlStep, Setting, one_torch_thread
from diffsim.kernels.learned_step import Laws, LearnedStep, OperatorLaw, TorchLaw
from diffsim.kernels.reduction import repeat
from diffsim.materials import prescribed
from diffsim.materials.composite import Identity, combine, compose
from diffsim.materials.law import Elastic
from diffsim.models.change import changed
from diffsim.models.domain import Grid, Walls
from diffsim.models.tools import initial_pose, pack, substep_motions


class State(NamedTuple):
    """Everything that a step reads and writes, in the user's order of particles.

    x: position [m], (n, d). v: velocity [m/s], (n, d). C: affine velocity [1/s], (n, d, d). F: deformation gradient,
    (n, d, d). q: internal variables, (n, k); in 2-D plastic laws keep F33 first. pose: position [m] and
    quaternion wxyz of the tools, (T, 7). wrench: mean force [N] and torque [N m] on them over the last control step,
    (T, 6). X: rest position [m], (n, d). volume: rest volume [m^3, in 2-D m^2], (n,). material: index into the model's
    list, (n,). time: [s], scalar.
    """

    x: Tensor
    v: Tensor
    C: Tensor
    F: Tensor
    q: Tensor
    pose: Tensor
    wrench: Tensor
    X: Tensor
    volume: Tensor
    material: Tensor
    time: Tensor


class MPM(nn.Module):
    """One control step of explicit symplectic Euler MPM (Hu et al. 2018, Jiang et al. 2015).

    Args:
        grid: the box.
        materials: ``ds.Material`` list that ``State.material`` points into.
        dt: substep [s].
        substeps: substeps per control step.
        gravity: acceleration [m/s^2], d numbers, a tensor or a parameter.
        walls: of the box.
        tools: kinematic bodies, moved by the controls.
        body_force: callable (X, t) -> acceleration [m/s^2], (n, d); evaluated at the start of each control step.

    Raises:
        SceneError: an option that does not fit; each message names it.
    """

    def __init__(
        self,
        grid: Grid,
        materials: Sequence,
        *,
        dt: float,
        substeps: int = 1,
        gravity=None,
        walls: Walls | None = None,
        tools: Sequence = (),
        body_force: Callable | None = None,
    ):
        super().__init__()
        if not (dt > 0 and math.isfinite(dt)):
            raise SceneError(f"MPM: dt={dt!r}; give a positive time step in seconds")
        if int(substeps) != substeps or substeps < 1:
            raise SceneError(f"MPM: substeps={substeps!r}; give a whole number, at least 1")
        if not materials:
            raise SceneError("MPM: the list of materials is empty; give at least one ds.Material")
        self.grid, self.dt, self.substeps, self.body_force = grid, float(dt), int(substeps), body_force
        self.materials = nn.ModuleList(materials)
        # of the particles last seen, and of the tools: shared by all steps of a rollout, whose graph keeps them
        self._labels = self._tool_tables = None
        self.walls = walls if walls is not None else Walls("slip")
        bounded = [cells for cells, periodic in zip(grid.cells, grid.periodic, strict=True) if not periodic]
        for index, side in enumerate(self.walls.sides(grid.dim)):
            if grid.periodic[index // 2] and side in self.walls.named:
                raise SceneError(
                    f"MPM: a wall on side {side!r}, but the grid is periodic along {side[0]}: leave it out"
                )
        if 2 * self.walls.margin > min(bounded, default=math.inf):
            raise SceneError(
                f"MPM: walls of margin {self.walls.margin} leave no room in {grid.cells} cells; use fewer nodes"
            )
        self.tools = nn.ModuleList(tools)
        gravity = (0.0,) * grid.dim if gravity is None else gravity
        if not isinstance(gravity, Tensor):
            gravity = torch.tensor([float(g) for g in gravity], dtype=torch.float64)
        if gravity.shape != (grid.dim,):
            raise SceneError(f"MPM: gravity has {gravity.numel()} numbers; the grid has {grid.dim} axes")
        if isinstance(gravity, nn.Parameter):
            self.gravity = gravity
        else:
            self.register_buffer("gravity", gravity)
        self.trace = None  # a list that receives the branches of every substep; see diffsim.testing
        self.fused = all(material.fused for material in materials)
        self.laws = compose(list(materials), grid.dim) if self.fused else None
        sample = [material.initial(1, grid.dim).shape[1] for material in materials]
        self.internals = max(sample)
        self.stretch = grid.dim == 2 and self.internals > 0

    @property
    def control_size(self) -> int:
        """Numbers per tool in a control: 7 when any tool takes poses, else 6."""
        return 7 if any(tool.mode == "pose" for tool in self.tools) else 6

    def with_materials(self, materials: Sequence) -> "MPM":
        """The same model of other materials."""
        options = {name: getattr(self, name) for name in ("dt", "substeps", "gravity", "walls", "body_force")}
        return MPM(self.grid, materials, tools=list(self.tools), **options)

    @one_torch_thread()
    def initial_state(self, x, v=0.0, *, volume, material=0, F=None, C=None) -> State:
        """A state from positions; F is the identity and C zero unless given.

        Args:
            x: (n, d) [m]. v: a number, (d,) or (n, d) [m/s]. volume: a number or (n,) [m^3].
            material: an index or (n,).

        Raises:
            DataError: shapes that do not fit, values that are not finite, particles outside the grid.
        """
        dim, dtype, device = self.grid.dim, context.dtype, context.tensor_device
        if not context.ready:
            raise SceneError("the engine is not initialized: call diffsim.init(device=..., precision=...) first")
        x = torch.as_tensor(x).to(device, dtype)
        if x.dim() != 2 or x.shape[1] != dim or not len(x):
            raise DataError(f"initial_state: x has shape {tuple(x.shape)}; the grid needs (n, {dim})")
        count = x.shape[0]

        def full(value, shape, name):
            value = torch.as_tensor(value).to(device, dtype)
            try:
                if value.shape != shape:
                    single = value[0] if value.dim() == len(shape) and len(value) == 1 else value
                    value = repeat(single.expand(shape[1:]), count)
            except RuntimeError:
                raise DataError(f"initial_state: {name} has shape {tuple(value.shape)}; expected {shape}") from None
            if not torch.isfinite(value).all():
                raise DataError(f"initial_state: {name} is not finite at particle {_first_bad(value)}")
            return value.contiguous()

        v = full(v, (count, dim), "v")
        volume = full(volume, (count,), "volume")
        if not (volume > 0).all():
            raise DataError(f"initial_state: volume of particle {int((volume <= 0).nonzero()[0])} is not positive")
        material = torch.as_tensor(material, device=device).expand(count).to(torch.int64).contiguous()
        if material.min() < 0 or material.max() >= len(self.materials):
            raise DataError(f"initial_state: material indices go up to {len(self.materials) - 1}")
        F = full(torch.eye(dim) if F is None else F, (count, dim, dim), "F")
        C = full(torch.zeros(dim, dim) if C is None else C, (count, dim, dim), "C")
        if not torch.isfinite(x).all():
            raise DataError(f"initial_state: x is not finite at particle {_first_bad(x)}")
        outside = ~self.inside(x)
        if outside.any():
            p = int(outside.nonzero()[0])
            raise DataError(
                f"initial_state: particle {p} at {tuple(round(c, 6) for c in x[p].tolist())} is outside the grid "
                f"(half a cell inside {self.grid.origin} .. {self.grid.upper}), {int(outside.sum())} are in all: "
                "move the body or enlarge the grid"
            )
        q = torch.zeros(count, self.internals, dtype=dtype, device=device)
        if self.stretch:
            q[:, 0] = 1.0
        for index, part in enumerate(self.materials):
            chosen = (material == index).nonzero().flatten()
            own = part.initial(len(chosen), dim).to(device, dtype)
            q[chosen, : own.shape[1]] = own
        self._check_stability(material)
        pose = initial_pose(self.tools).to(device, dtype) if len(self.tools) else x.new_zeros(0, 7)
        time = torch.zeros((), dtype=torch.float64)
        return State(x, v, C, F, q, pose, x.new_zeros(len(self.tools), 6), x, volume, material, time)

    def _check_stability(self, material):
        """Warn where a sound wave or the viscosity would cross too much of a cell in a substep.

        The bound 1/2 of the viscous number is that of explicit diffusion; runs of blocks in 2-D and 3-D are stable at
        it and unstable at 3/4.
        """
        for number, part in enumerate(self.materials):
            if not (material == number).any():
                continue
            density = torch.as_tensor(part.density).detach()
            modulus = getattr(part.elastic, "modulus", None)  # a prescribed stress has none
            if modulus is not None:
                speed = float((modulus().detach() / density).max().sqrt())
                courant = speed * self.dt / self.grid.dx
                if courant > 1:
                    warnings.warn(
                        f"material {number}: the acoustic Courant number is {courant:.2f} (sound {speed:.4g} m/s, dt "
                        f"{self.dt:.4g} s, dx {self.grid.dx:.4g} m); above 1 the step is unstable: reduce dt",
                        stacklevel=4,
                    )
            if hasattr(part.viscous, "viscosity"):
                viscosity = float((part.viscous.viscosity().detach() / density).max())
                diffusion = viscosity * self.dt / self.grid.dx**2
                if diffusion > 0.5:
                    warnings.warn(
                        f"material {number}: the viscous number is {diffusion:.2f} (kinematic viscosity {viscosity:.4g}"
                        f" m^2/s, dt {self.dt:.4g} s, dx {self.grid.dx:.4g} m); above 0.5 the step is unstable: reduce "
                        "dt",
                        stacklevel=4,
                    )

    def switch(self, state: State, material, mask=None) -> State:
        """The state with other materials of some particles, as in melting or freezing, between two control steps.

        A particle that changes keeps position, velocity, deformation (F33 too), mass and current volume, and starts
        from the other material's own internal variables (Jp = 1 of snow, no plastic strain). Where the density changes
        from rho to rho', the rest volume becomes V0 rho/rho' and F in d dimensions F (rho'/rho)^(1/d). One that has
        the material already stays as it is. Differentiable in the state and the densities; which particles change, and
        when, is not.

        Args:
            material: an index, or (n,). mask: (n,) bool, the particles that change; None: all.

        Raises:
            DataError: shapes or indices that do not fit. SceneError: the state of another model.
        """
        new = changed(self, state, material, mask)
        self._check_stability(new.material)
        return new

    def inside(self, x: Tensor) -> Tensor:
        """Whether the support of each position lies inside the grid, (n,)."""
        # the arithmetic of the kernels, so that both agree to the last bit
        u = (x - x.new_tensor(self.grid.origin)) * (1.0 / x.new_tensor(self.grid.dx))
        within = (u >= 0.5) & (u < x.new_tensor(self.grid.cells) - 0.5)
        return (within | torch.tensor(self.grid.periodic, device=x.device)).all(1)

    def forward(self, state: State, control: Tensor | None = None, *, store: bool = False) -> State:
        """One control step.

        Args:
            state: at the start.
            control: (T, 6) world linear and angular velocity [m/s, rad/s] of the tools, or (T, 7) poses at the end of
                the step; None leaves them at rest.
            store: keep the substep states for backward instead of recomputing them; the gradient is bitwise the same.

        Raises:
            SimulationError: a particle that left the grid, moved more than a cell, inverted or is not finite.
        """
        if state.q.shape[1] != self.internals:
            raise SceneError(
                f"the state has {state.q.shape[1]} internal variables, but the materials of the model need "
                f"{self.internals}; make it with this model's initial_state"
            )
        motion, pose = self._motion(state.pose, control)
        start = float(state.time)
        force = self.body_force(state.X, start).to(context.dtype) if self.body_force is not None else None
        if self.fused:
            state = self._substeps(state, motion, self._theta(state), force, self.substeps, store=store)
        else:
            state, _ = self._learned(state, motion, force, self.substeps, store=store)
        return state._replace(pose=pose)

    def positions(self, state: State, control: Tensor | None = None, *, steps: int, store: bool = True):
        """Positions after each of ``steps`` substeps, (steps, n, d), and the state at their end, for losses on all.

        Every law is evaluated in torch. The differentiated substeps need memory for their states and, with ``store``,
        for what the laws keep; without it the substeps are computed again in backward. The gradient is the same.

        Args and raises: as for ``forward``; a body force is held.
        """
        motion, pose = self._motion(state.pose, control)
        if len(self.tools):
            raise SceneError("positions() is for scenes without tools; roll out control steps instead")
        force = self.body_force(state.X, float(state.time)).to(context.dtype) if self.body_force is not None else None
        motion = motion[:1].expand(steps, -1, -1)
        state, frames = self._learned(state, motion, force, steps, store=store, frames=True)
        return frames, state._replace(pose=pose)

    def _learned(self, state, motion, force, substeps, *, store, frames=False):
        """The substeps with laws that are torch modules: P(F), one substep at that stress, return map."""
        materials, dim = list(self.materials), self.grid.dim
        maps = [material.elastic if material.plastic is None else material.plastic for material in materials]
        laws = Laws(
            [called(dim, m, [p for p in (m.elastic, m.viscous) if p is not None], m.stress) for m in materials],
            [called(dim, law, [law], law.update, self.dt) if mapped(law) else None for law in maps],
            [not all(getattr(part, "pointwise", False) for part in material.parts) for material in materials],
            [p for material in materials for p in (*material.parameters(), *material.buffers()) if p.requires_grad],
            state.material,
        )
        setting, tool_params = self._setting(
            state, motion, prescribed_laws(self.grid.dim, state.q.shape[1]), substeps, store and torch.is_grad_enabled()
        )
        x, v, C, F, q, wrench, path = LearnedStep.apply(
            setting,
            laws,
            frames,
            *(part.contiguous() for part in (state.x, state.v, state.C, state.F, state.q, state.volume)),
            self._density(state),
            self.gravity.to(context.tensor_device, context.dtype),
            force,
            motion.contiguous(),
            tool_params.contiguous(),
            self.walls.friction(self.grid.dim, context.dtype).to(context.tensor_device),
            *laws.parameters,
        )
        time = state.time + substeps * self.dt
        return state._replace(x=x, v=v, C=C, F=F, q=q, wrench=wrench, time=time), path

    def _density(self, state):
        """Density of each particle, (n,)."""
        density = torch.zeros_like(state.volume)
        for number, material in enumerate(self.materials):
            value = torch.as_tensor(material.density).to(density)
            value = value if value.ndim else repeat(value, len(density))
            density = torch.where(state.material == number, value, density)
        return density

    def _motion(self, pose, control):
        if not len(self.tools):
            if control is not None and control.numel():
                raise SceneError(f"control has shape {tuple(control.shape)}, but the model has no tools; pass None")
            return pose.new_zeros(self.substeps, 1, 18), pose
        if control is not None:
            control = control.to(pose)
        return substep_motions(list(self.tools), pose, control, self.dt, self.substeps)

    @one_torch_thread()
    def _theta(self, state):
        """Parameters of all laws, (rows, parameters + 1) with the density last: a row per material or per particle."""
        count, rows = len(state.x), []
        for number, material in enumerate(self.materials):
            values = [torch.as_tensor(t).to(context.tensor_device, context.dtype) for t in material.theta()]
            values.append(torch.as_tensor(material.density).to(context.tensor_device, context.dtype))
            size = max((v.numel() for v in values), default=1)
            if size not in (1, count):
                raise SceneError(
                    f"material {number}: a parameter has {size} values; give one or {count}, one per particle"
                )
            values = [v.reshape(-1) if v.numel() == size else repeat(v.reshape(()), size) for v in values]
            padding = [values[-1].new_zeros(size)] * (self.laws.parameters - len(values) + 1)
            rows.append(torch.stack([*values[:-1], *padding, values[-1]], 1))
        return torch.cat(rows).contiguous()

    @torch.no_grad()  # it runs once only, and a recomputed step must leave the same traces in the graph
    @one_torch_thread()
    def _label(self, material):
        """Row of theta of each particle, (n,), and the same beside the index of its law, (n, 2) int32."""
        count = len(material)
        sizes = tuple(max(v.numel() for v in (*m.theta(), m.density)) for m in self.materials)
        key = (material, None if material.is_inference() else material._version, sizes)
        if self._labels is None or self._labels[0][0] is not material or self._labels[0][1:] != key[1:]:
            firsts = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))], device=material.device)
            each = torch.tensor([size > 1 for size in sizes], device=material.device)
            rows = firsts[material] + each[material] * torch.arange(count, device=material.device)
            kinds = torch.tensor(self.laws.kinds, device=material.device)[material]
            labels = torch.stack([rows, kinds], 1).to(torch.int32)
            self._labels = (key, rows, labels)
        return self._labels[1:]

    def _tables(self, theta):
        """Tables of the tools: parameters, integers, samples."""
        if not len(self.tools):
            return theta.new_zeros(1, 16), torch.zeros(1, 8, dtype=torch.int32, device=theta.device), theta.new_zeros(1)
        tool_params, *fixed = pack(list(self.tools), context.dtype, self.grid.dim)
        known = self._tool_tables
        if known is None or not all(torch.equal(a, b) for a, b in zip(known, fixed, strict=True)):
            self._tool_tables = [table.contiguous() for table in fixed]
        return tool_params, *self._tool_tables

    def _setting(self, state, motion, laws, substeps, store):
        """What of a control step is not differentiated, and the parameters of the tools."""
        tool_params, tool_ints, sdf = self._tables(motion)
        learned = laws is not self.laws
        if learned:  # the step itself knows which law is whose
            rows = torch.arange(len(state.material), device=state.material.device)
            labels = torch.stack([rows, torch.zeros_like(rows)], 1).to(torch.int32)
        else:
            rows, labels = self._label(state.material)
        setting = Setting(
            cells=self.grid.cells,
            dx=self.grid.dx,
            origin=self.grid.origin,
            margin=self.walls.margin,
            wall_kinds=tuple(self.walls.kind_codes(self.grid)),
            periodic=self.grid.periodic,
            dt=self.dt,
            substeps=substeps,
            laws=laws,
            stretch=self.stretch and not learned,
            internals=state.q.shape[1],
            rows=rows,
            labels=labels,
            tool_count=len(self.tools),
            tool_ints=tool_ints,
            sdf=sdf,
            time=float(state.time),
            step=round(float(state.time) / (self.dt * self.substeps)),
            store=store,
            trace=self.trace,
        )
        return setting, tool_params

    def _substeps(self, state, motion, theta, force, substeps, *, store):
        dim, dtype = self.grid.dim, context.dtype
        setting, tool_params = self._setting(state, motion, self.laws, substeps, store)
        x, v, C, F, q, wrench = ControlStep.apply(
            setting,
            *(part.contiguous() for part in (state.x, state.v, state.C, state.F, state.q, state.volume)),
            theta,
            self.gravity.to(theta),
            force,
            motion.contiguous(),
            tool_params.contiguous(),
            self.walls.friction(dim, dtype).to(theta.device),
        )
        time = state.time + substeps * self.dt
        return state._replace(x=x, v=v, C=C, F=F, q=q, wrench=wrench, time=time)


def prescribed_laws(dim, internals):
    """Laws of a kernel that is given P and leaves F_trial and the internal variables as they are."""
    return combine(((prescribed.functions(dim), passing(internals)),))


@cache
def passing(count):
    """The identity map that keeps ``count`` internal variables."""
    return type("Passing", (Identity,), {"internals": count})


def called(dim, module, parts, method, *more):
    """A law as a step calls it: its operator, if it has one, else its method."""
    if len(parts) == 1 and getattr(parts[0], "dim", 3) == dim and hasattr(parts[0], "operator"):
        found = parts[0].operator(*more)
        if found is not None:
            return OperatorLaw(*found)
    parameters = (*module.parameters(), *module.buffers())
    return TorchLaw((lambda *inputs: method(*inputs, *more)) if more else method, parameters)


def mapped(law) -> bool:
    """Whether a law has a return map that may change anything."""
    return hasattr(law, "update") and not (isinstance(law, Elastic) and law.own_map is None)


def _first_bad(value):
    return int((~torch.isfinite(value)).nonzero()[0][0])
