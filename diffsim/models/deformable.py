"""Bodies of nodes moved by an incremental potential: time steps, equilibria, reactions, and their gradients.

A step solves, for the free coordinates of x,

    g(x) = M ((x - x^)/b^2 + c (x - y)/b) + dPsi/dx (x) - f = 0,      v = (x - y)/b,   a = (x - x^)/b^2

with lumped masses M, a damping rate c, elastic energy Psi and loads f, and

    implicit Euler  b = h          y = x_t                       x^ = y + b v_t
    BDF2            b = 2 h/3      y = (4 x_t - x_(t-1))/3       x^ = y + b (4 v_t - v_(t-1))/3
    Newmark         b = h/2        y = x^ - b (v_t + b a_t)      x^ = x_t + h v_t + h^2/4 a_t

(Newmark: the trapezoidal rule, beta = 1/4, gamma = 1/2). Psi + inertia - f.x is minimized by projected Newton. The
adjoint is one linear solve with the exact Hessian at the solution (``solvers.implicit``).

Source: Martin et al., Example-based elastic materials, ACM TOG 30 (2011), for the incremental potential; Newmark,
J. Eng. Mech. Div. 85 (1959). Both second-order rules are exact for motion at constant acceleration.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from diffsim.errors import SceneError, SimulationError
from diffsim.kernels.arrays import context
from diffsim.kernels.control_step import one_torch_thread
from diffsim.materials.law import NOT_NEGATIVE, hold
from diffsim.models.boundary import Support, nodal_load
from diffsim.models.incremental import minimum
from diffsim.models.nodal_state import NodalState, at_start, first_bad
from diffsim.solvers.assembly import Pattern
from diffsim.solvers.newton import Settings

INTEGRATORS = ("euler", "bdf2", "newmark", "explicit")


class Deformable(nn.Module):
    """What ``FEM`` and ``Shell`` share: time steps, equilibria, supports, loads, and these options.

    A subclass sets ``terms`` and calls ``_finish``; ``term_inputs(X)`` returns, per term, the tensors that the term's
    force depends on, ``nodal(X)`` the masses and the consistent weights of loads per unit mass.

    Loads per unit mass act with the lumped masses in motion, so that a free body falls as one, and with the consistent
    weights in an equilibrium, which are more accurate; both are equal but for quadratic elements.

    ``trace``, when it is a list, receives a record per step: a hash of the branches that were taken, and the numbers of
    nodes in each of the states that ``shares`` names.

    Args:
        X: rest positions (n, d) [m].
        dt: step [s].
        substeps: steps per control step.
        integrator: "euler" (implicit, damps), "bdf2" or "newmark" (second order), "explicit" (symplectic Euler).
        gravity: acceleration [m/s^2], d numbers, a tensor or a parameter.
        body_force: callable (X, t) -> acceleration [m/s^2], (n, d), of the rest position.
        prescribed: nodes that are held (indices), (indices, callable (X, t) -> positions), or a list of
            ``ds.models.Prescribed``.
        tractions: pairs of faces (f, k), such as ``mesh.faces(condition)``, and a dead load per rest area [Pa], (d,) or
            a callable of t.
        forces: nodal forces (n, d) [N], or a callable (X, t).
        contact: ``ds.models.Contact``, with obstacles and with itself; None: none.
        damping: rate c of the force -c M v [1/s], a number or a parameter.
        tolerance: of a solve: the last Newton step is shorter than tolerance * dt [m/s]; of an equilibrium shorter than
            tolerance/100 of the mesh's spacing. As Newton converges quadratically, what is left is far less.
        iterations: of Newton, at most.
        linear: method of ``solvers.factorize``.

    Raises:
        SceneError: an option that does not fit.
    """

    shares = ("in contact", "sliding", "sticking", "yielding")

    def __init__(self, X, *, dt: float, substeps: int = 1, integrator: str = "euler", gravity=None,
                 body_force: Callable | None = None, prescribed=(), tractions: Sequence = (), forces=None,
                 contact=None, damping=0.0, tolerance: float = 1e-6, iterations: int = 100,
                 linear: str = "auto"):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        if not context.ready:
            raise SceneError("the engine is not initialized: call diffsim.init(device=..., precision=...) first")
        if context.dtype != torch.float64 or context.device != "cpu":
            raise SceneError(
                f"{name} solves in f64 on the CPU: call diffsim.init(device='cpu', precision='f64'), or pass "
                "--precision f64"
            )
        if not (dt > 0 and math.isfinite(dt)):
            raise SceneError(f"{name}: dt={dt!r}; give a positive time step in seconds")
        if int(substeps) != substeps or substeps < 1:
            raise SceneError(f"{name}: substeps={substeps!r}; give a whole number, at least 1")
        if integrator not in INTEGRATORS:
            raise SceneError(f"{name}: integrator={integrator!r}; use one of {', '.join(INTEGRATORS)}")
        if not tolerance > 0:
            raise SceneError(f"{name}: tolerance={tolerance!r}; give a positive speed")
        hold(self, "damping", damping, NOT_NEGATIVE, " 1/s")
        if self.damping.ndim:
            raise SceneError(f"{name}: damping has shape {tuple(self.damping.shape)}; give one number")
        self.dt, self.substeps, self.integrator = float(dt), int(substeps), integrator
        self.tolerance, self.iterations, self.linear = tolerance, int(iterations), linear
        self.body_force, self.tractions, self.forces = body_force, list(tractions), forces
        X = torch.as_tensor(X).to(context.dtype)
        self.register_buffer("X", X)
        count, self.dim = X.shape
        gravity = (0.0,) * self.dim if gravity is None else gravity
        if not isinstance(gravity, Tensor):
            gravity = torch.tensor([float(g) for g in gravity], dtype=context.dtype)
        if gravity.shape != (self.dim,):
            raise SceneError(f"{name}: gravity has {gravity.numel()} numbers; the mesh has {self.dim} axes")
        if isinstance(gravity, nn.Parameter):
            self.gravity = gravity
        else:
            self.register_buffer("gravity", gravity)
        self.support = Support(prescribed, count, self.dim)
        self.free = (~self.support.held).reshape(-1).nonzero().flatten()
        if contact is not None and integrator == "explicit":
            raise SceneError(f"{name}: the explicit integrator has no contact; use integrator='euler'")
        self.contact = contact
        self.terms, self.records, self.trace = [], None, None

    def _finish(self, faces):
        """Called with the surface (f, d) when the elastic terms are set."""
        self.skin = faces
        if self.contact is not None:
            self.terms.append(self.contact.bind(faces, self.X, self.dt))
        free = (~self.support.held).reshape(-1).numpy()
        self.pattern = Pattern([dofs for term in self.terms for dofs in term.dofs(self.dim)], free)

    @property
    def spacing(self) -> float:
        """A length that matters [m]: the extent over the number of nodes along an axis."""
        X = self.X.detach()
        extent = float((X.amax(0) - X.amin(0)).max())
        return extent / max(1.0, len(self.X) ** (1 / self.dim) - 1)

    @property
    def control_size(self) -> int:
        """Numbers per driven node in a control."""
        return self.dim

    def initial_state(self, x=None, v=0.0, *, X=None) -> NodalState:
        """A state at time 0: at rest in the rest shape unless given.

        Args:
            x: positions (n, d) [m]. v: a number, (d,) or (n, d) [m/s]. X: rest positions (n, d), the mesh's when None.

        Raises:
            DataError: shapes that do not fit, or values that are not finite.
        """
        return self._started(self._at_start(x, v, X))

    def _at_start(self, x, v, X):
        x, v, X = at_start(self.X, x, v, X)
        zero, time = torch.zeros_like(self.X), torch.zeros((), dtype=torch.float64)
        return NodalState(x, v, zero, x[:, None], X, time, time.clone(), self.internals())

    def _started(self, state):
        """A first state with what its integrator needs of the time before it."""
        if self.contact is not None:
            self.contact.check(state.x, state.X)
        if self.integrator in ("newmark", "bdf2"):
            inputs = self._inputs(state, state.x, 0.0, 0.0, frozen=True)
            mass, load = self._loads(state.X, 0.0)
            a = (load - self._forces(state.x, inputs)) / mass[:, None] - self.damping * state.v
            a, h = torch.where(self.support.held, torch.zeros_like(a), a), self.dt
            if self.integrator == "newmark":
                return state._replace(a=a)
            # as if it had moved with this acceleration before: what an error there costs is of second order
            return state._replace(past=torch.stack([state.x - h * state.v + h * h / 2 * a, state.v - h * a], 1))
        return state

    def internals(self) -> Tensor:
        """q of the rest state."""
        return self.X.new_zeros(0, 0)

    def material_inputs(self, state, frozen):
        """Inputs of the terms but contact in a step from a state; frozen: as they are in it, without further flow."""
        return self.term_inputs(state.X)

    def flowed(self, state, x, static=False) -> tuple[Tensor, tuple, int]:
        """q after a step or a static solve to x, the branches of the material, and the number of nodes that yield."""
        return state.q, (), 0

    def _inputs(self, state, x_old, before, after, frozen=False):
        """Per term what its force depends on besides x; x_old and the times are those of the step, for contact."""
        inputs = self.material_inputs(state, frozen)
        return inputs if self.contact is None else [*inputs, self.contact.inputs(state.X, x_old, before, after)]

    def _inputs_of(self, state):
        """The inputs of the step or the static solve that led to a state."""
        time, interval = float(state.time), float(state.interval)
        inputs = self._inputs(state, state.past[:, 0], time - interval, time, frozen=True)
        return inputs if interval else self._frictionless(inputs)

    def _frictionless(self, inputs):
        if self.contact is None:
            return inputs
        return [*inputs[:-1], (*inputs[-1][:-1], torch.zeros_like(inputs[-1][-1]))]

    # --- loads and reactions

    def _loads(self, X, time, static=False):
        """Masses (n,) and nodal loads (n, d) [N] at a time, of a step or of an equilibrium."""
        mass, consistent = self.nodal(X)
        weight = consistent if static else mass
        gravity = self.gravity.to(X).expand_as(X)
        return mass, nodal_load(X, time, weight, gravity, self.body_force, self.tractions, self.forces)

    def _forces(self, x, inputs):
        total = self.terms[0].force(x, *inputs[0])
        for term, own in zip(self.terms[1:], inputs[1:], strict=True):
            total = total + term.force(x, *own)
        return total

    def reactions(self, state: NodalState) -> Tensor:
        """Forces of the supports on the body (n, d) [N], zero where nothing is held; differentiable.

        R = M (a + c v) + dPsi/dx - f in the step that led to the state: at its end, but for the explicit integrator at
        its start, where that takes the forces. Friction is that of the step. Of a static solution a = v = 0, without
        friction; a state at the start is taken like one, with its a and v.

        Raises:
            SceneError: after an explicit step of a plastic body, whose state no longer holds what the step began from.
        """
        time, interval, v, x = float(state.time), float(state.interval), state.v, state.x
        if interval and self.integrator == "explicit":
            if state.q.numel():
                raise SceneError(
                    "reactions: explicit steps of a plastic body do not keep them; use an implicit integrator"
                )
            time, v, x = time - interval, v - interval * state.a, state.past[:, 0]
        mass, load = self._loads(state.X, time, static=not interval)
        total = mass[:, None] * (state.a + self.damping * v) - load + self._forces(x, self._inputs_of(state))
        return torch.where(self.support.held, total, torch.zeros_like(total))

    @torch.no_grad()
    def energy(self, state: NodalState) -> dict[str, float]:
        """Elastic energy, that of contact included, and kinetic energy [J]; friction stores none."""
        inputs = self._frictionless(self._inputs_of(state))
        elastic = sum(term.energy(state.x, own)[0] for term, own in zip(self.terms, inputs, strict=True))
        mass, _ = self.nodal(state.X)
        return {"elastic": elastic, "kinetic": float((mass[:, None] * state.v.square()).sum() / 2)}

    # --- steps

    @one_torch_thread()
    def forward(self, state: NodalState, control: Tensor | None = None, *, store: bool = False) -> NodalState:
        """One control step of ``substeps`` steps.

        Args:
            state: at the start.
            control: velocities (k, d) [m/s] of the prescribed nodes without a motion of their own, in their order.
            store: accepted for ``rollout``; a step keeps its solution in any case.

        Raises:
            SolverError: no convergence; ``history`` says what the iterations did.
            SimulationError: of the explicit integrator, a position that is not finite.
        """
        for _ in range(self.substeps):
            state = self._step(state, control)
        return state

    def _step(self, state, control):
        h = self.dt
        time = float(state.time) + h
        inputs = self._inputs(state, state.x, float(state.time), time, frozen=self.integrator == "explicit")
        target = self.support.positions(state.x, state.X, time, control, h)
        if self.integrator == "explicit":
            return self._explicit(state, target, inputs, time)
        mass, load = self._loads(state.X, time)
        if self.integrator == "euler":
            b, y, u = h, state.x, state.v
            hat = y + b * u
        elif self.integrator == "bdf2":
            b, y = 2 * h / 3, (4 * state.x - state.past[:, 0]) / 3
            hat = y + b * (4 * state.v - state.past[:, 1]) / 3
        else:
            b, hat = h / 2, state.x + h * state.v + h * h / 4 * state.a
            y = hat - b * (state.v + b * state.a)
        guess = state.x.detach() + h * state.v.detach()
        x = self._solve(
            state.x, target, inputs, load, f"step to t = {time:.6g} s", (mass, hat, y, self.damping), b, guess
        )
        q = self._flowed(state, x, inputs)
        past = torch.stack([state.x, state.v], 1) if self.integrator == "bdf2" else state.x[:, None]
        v, a = (x - y) / b, (x - hat) / (b * b)
        if self.integrator != "euler":  # the rules of higher order would let the rates of a prescribed motion swing
            v = torch.where(self.support.held, (x - state.x) / h, v)
            a = torch.where(self.support.held, (v - state.v) / h, a)
        return state._replace(x=x, v=v, a=a, past=past, time=state.time + h, interval=torch.full_like(state.time, h),
                              q=q)  # fmt: skip

    def _flowed(self, state, x, inputs, static=False):
        """q after a step or a static solve to x, whose branches are recorded."""
        q, branches, yielding = self.flowed(state, x, static)
        if self.trace is not None:
            touching = (0, 0, 0, 0) if self.contact is None else self.contact.record(x, inputs[-1])
            own = hash((touching[0], branches)) if branches else touching[0]
            self.trace.append((own, *touching[1:], yielding))
        return q

    def _explicit(self, state, target, inputs, time):
        """Symplectic Euler: v' = v + h a, x' = x + h v', the force at the old position."""
        mass, load = self._loads(state.X, float(state.time))
        a = (load - self._forces(state.x, inputs)) / mass[:, None] - self.damping * state.v
        v = torch.where(self.support.held, (target - state.x) / self.dt, state.v + self.dt * a)
        x = state.x + self.dt * v
        if not torch.isfinite(x).all():
            raise SimulationError(
                f"node {first_bad(x)} is not finite at t = {time:.6g} s: dt = {self.dt:.3g} s is too long for the "
                "explicit integrator, or an element is inverted; reduce dt",
                particle=first_bad(x),
                state=state,
            )
        q = self._flowed(state, x, inputs)
        return state._replace(x=x, v=v, a=(v - state.v) / self.dt, past=state.x[:, None], time=state.time + self.dt,
                              interval=torch.full_like(state.time, self.dt), q=q)  # fmt: skip

    @one_torch_thread()
    def solve_static(self, state: NodalState, control: Tensor | None = None, *, load_steps: int = 1) -> NodalState:
        """The equilibrium near a state: dPsi/dx = f on the free coordinates, at the time of the state.

        Contact acts without friction, whose forces depend on the way there.

        Args:
            state: where to start; its X is the rest shape. The result does not depend on its x differentiably, but for
                held nodes that stay.
            control: displacements (k, d) [m] of the prescribed nodes without a motion of their own.
            load_steps: apply loads and displacements in so many parts; the gradient is that of the last one.

        Raises:
            SolverError: no convergence, or a body that is not held.
        """
        time = float(state.time)
        if load_steps > 1 and state.q.numel():
            raise SceneError(
                f"{type(self).__name__}: load_steps={load_steps}, but where a plastic body ends depends on the way; "
                "call solve_static for each load"
            )
        inputs = self._frictionless(self._inputs(state, state.x, time, time))
        _, load = self._loads(state.X, time, static=True)
        target = self.support.positions(state.x, state.X, time, control, 1.0)
        start = state.x.detach()
        with torch.no_grad():
            for k in range(1, load_steps):
                share = k / load_steps
                middle = torch.lerp(state.x.detach(), target.detach(), share)
                fixed = [[value.detach() for value in own] for own in inputs]
                name = f"load step {k} of {load_steps}"
                start = self._solve(start, middle, fixed, share * load.detach(), name)
        x = self._solve(start, target, inputs, load, "static solve")
        q, zero = self._flowed(state, x, inputs, static=True), torch.zeros_like(x)
        past = torch.stack([x, zero], 1) if self.integrator == "bdf2" else x[:, None]  # as if it had rested before
        return state._replace(x=x, v=zero, a=zero, past=past, interval=torch.zeros_like(state.time), q=q)

    def _solve(self, start, target, inputs, load, name, motion=(), b=None, guess=None):
        length = self.tolerance * self.dt if motion else 1e-2 * self.tolerance * self.spacing
        settings = Settings(length, self.iterations, self.linear)
        return minimum(self.terms, self.pattern, self.free, inputs, target, load, start, settings,
                       f"{type(self).__name__}, {name}", motion=motion, b=b, guess=guess,
                       records=self.records)  # fmt: skip

    def footprint(self, state: NodalState) -> tuple[int, int]:
        """Bytes of a state, and of what one differentiated control step keeps; for ``rollout``."""
        own = sum(t.numel() * t.element_size() for t in (state.x, state.v, state.a, state.past, state.q))
        kept = 10 * own
        if state.X.requires_grad:  # then the graph keeps the rest geometry of every step
            kept += sum(term.geometry_bytes() for term in self.terms if hasattr(term, "geometry_bytes"))
        return own, self.substeps * kept
