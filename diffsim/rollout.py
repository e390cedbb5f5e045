"""Rollouts: a chain of control steps whose gradient fits a given memory.

A control step stores its input and recomputes its substeps in backward. When the inputs of all steps do not fit, the
chain is checkpointed binomially (Griewank and Walther 2000, Algorithm 799: revolve): with c stored states and every
step run at most r times again, C(c + r, c) steps are within reach. The graph is the same in all cases, and so is every
sum, so the gradients are bitwise equal.
"""

import math
import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffsim.errors import SceneError, SimulationError, SolverError
from diffsim.kernels.tiles import CELLS, NODES, wrap

UNITS = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Trajectory:
    """Frames of a rollout, the initial one included; every tensor carries gradients.

    x, v: (frames, n, d) [m, m/s]. C, F: (frames, n, d, d). q: (frames, n, k). pose: (frames, T, 7). wrench: (frames, T,
    6) [N, N m]. times: (frames,) [s]. path[i] is a State.
    """

    def __init__(self, model, states):
        self.model, self.states = model, list(states)

    def __len__(self):
        return len(self.states)

    def __getitem__(self, index):
        return self.states[index]

    def __iter__(self):
        return iter(self.states)

    def _stack(self, name):
        return torch.stack([getattr(state, name) for state in self.states])

    x = property(lambda self: self._stack("x"))
    v = property(lambda self: self._stack("v"))
    C = property(lambda self: self._stack("C"))
    F = property(lambda self: self._stack("F"))
    q = property(lambda self: self._stack("q"))
    pose = property(lambda self: self._stack("pose"))
    wrench = property(lambda self: self._stack("wrench"))
    times = property(lambda self: self._stack("time"))


@dataclass(frozen=True)
class Estimate:
    """What a differentiated rollout will take: bytes, stored states, and how often the busiest step runs forward."""

    particles: int
    steps: int
    substeps: int
    state_bytes: int
    work_bytes: int
    snapshots: int
    repetitions: int
    store_substeps: bool
    peak_bytes: int

    def __str__(self):
        how = (
            "substep states stored"
            if self.store_substeps
            else "step states stored"
            if self.snapshots >= self.steps
            else f"{self.snapshots} states stored, steps recomputed up to {self.repetitions} times"
        )
        return (
            f"{self.particles:,} particles x {self.steps} steps x {self.substeps} substeps: "
            f"about {mebibytes(self.peak_bytes)} for the gradient ({how})"
        )


def mebibytes(count: int) -> str:
    """Bytes for a reader, rounded up: "0.35 MiB", "1,234 MiB"."""
    value = count / 2**20
    return f"{math.ceil(value):,} MiB" if value >= 10 else f"{math.ceil(100 * value) / 100:g} MiB"


def parse_memory(memory) -> int:
    """Bytes from a number or a text such as "512MiB" or "2 GB"."""
    if isinstance(memory, int | float) and memory > 0:
        return int(memory)
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", str(memory))
    if not match or match[2].lower() not in UNITS or float(match[1]) <= 0:
        raise SceneError(f"memory={memory!r} is not understood; write for example '2GiB' or '500MB'")
    return int(float(match[1]) * UNITS[match[2].lower()])


def estimate(model, state, steps: int, *, every: int = 1, memory="2GiB") -> Estimate:
    """Plan the gradient of a rollout within ``memory``.

    Raises:
        SceneError: not even two stored states fit.
    """
    budget, count = parse_memory(memory), len(state.x)
    if hasattr(model, "footprint"):
        return _plan_of_steps(model, state, steps, every, budget, memory)
    fields = (state.x, state.v, state.C, state.F, state.q)
    state_bytes = sum(t[0].numel() * t.element_size() for t in fields) * count
    item, dim, substeps = state.x.element_size(), state.x.shape[1], model.substeps
    tiles, owners = occupied(state.x.detach(), model.grid)
    nodes = tiles * NODES**dim * (dim + 1) * item * 3
    history = owners * CELLS**dim * (dim + 1) * item  # of a substep's nodes
    # in backward: the substep states, gradients and their reorderings (measured), particle properties and labels, nodes
    # laws evaluated in torch: the graph of a control step keeps P, its laws' own tensors and two states per substep
    substep_bytes = history + (state_bytes if getattr(model, "fused", True) else 6 * state_bytes)
    work = substeps * substep_bytes + 14 * state_bytes + count * (6 * item + 40) + nodes
    frames = (steps // every + 1) * state_bytes if every < steps else 2 * state_bytes
    left = budget - work - frames
    stored = (
        substeps * substep_bytes + 2 * state_bytes + 12 * count
    )  # a step's substeps in sorted order, its input, the order
    store = left >= steps * stored
    kept_bytes = 1.2 * state_bytes  # with its graph and what the allocator loses, measured over 10,000 substeps
    snapshots = steps if left >= steps * kept_bytes else int(left // kept_bytes)
    if snapshots < min(2, steps):
        need = work + frames + 3 * state_bytes
        raise SceneError(
            f"memory={memory!r} is too little for the gradient of {count:,} particles: give at least "
            f"{mebibytes(need)}, record fewer frames (every=), or use fewer substeps per control step"
        )
    kept = steps * stored if store else min(steps, snapshots) * kept_bytes
    peak = work + frames + kept
    return Estimate(
        count, steps, substeps, state_bytes, work, snapshots, repetitions(steps, snapshots), store, int(peak)
    )


def _plan_of_steps(model, state, steps, every, budget, memory) -> Estimate:
    """The plan of a model whose control steps keep what they need: ``model.footprint(state)`` -> bytes of a state, and
    of what one differentiated step keeps."""
    state_bytes, kept = model.footprint(state)
    frames = (steps // every + 1) * state_bytes
    work = kept + frames
    snapshots = min(steps, int((budget - work) // kept))
    if snapshots < min(2, steps):
        raise SceneError(
            f"memory={memory!r} is too little for the gradient of {len(state.x):,} nodes: give at least "
            f"{mebibytes(work + 2 * kept)}, or record fewer frames (every=)"
        )
    times, peak = repetitions(steps, snapshots), work + snapshots * kept
    return Estimate(
        len(state.x), steps, model.substeps, state_bytes, work, snapshots, times, snapshots >= steps, int(peak)
    )


def occupied(x, grid) -> tuple[int, int]:
    """Tiles with particles and blocks of nodes that these hold (kernels/tiles.py), and a quarter more for motion."""
    origin = torch.tensor(grid.origin, dtype=x.dtype, device=x.device)
    tile = torch.floor(((x - origin) / grid.dx - 0.5) / CELLS).long()
    blocks = tuple(cells // CELLS for cells in grid.cells)
    tile = wrap(tile, blocks, grid.periodic).unique(dim=0)
    corners = torch.cartesian_prod(*[torch.arange(2, device=x.device)] * x.shape[1])
    held = wrap(tile[:, None] + corners, blocks, grid.periodic).reshape(-1, x.shape[1]).unique(dim=0)
    return math.ceil(1.25 * len(tile)), math.ceil(1.25 * len(held))


def repetitions(steps: int, snapshots: int) -> int:
    """Least r with C(snapshots + r, snapshots) >= steps."""
    if snapshots >= steps:
        return 1
    r = 1
    while math.comb(snapshots + r, snapshots) < steps:
        r += 1
    return r


def split(steps: int, snapshots: int) -> int:
    """Length of the first part: it is run again with as many snapshots, the rest with one less."""
    r = repetitions(steps, snapshots)
    rest = math.comb(snapshots + r - 1, snapshots - 1)
    return min(max(1, steps - rest), math.comb(snapshots + r - 1, snapshots))


def windows(steps: int, length: int | None) -> set[int]:
    """Where truncated backpropagation cuts a rollout into parts of ``length`` steps; nowhere when it is None.

    Raises:
        SceneError: a length that is no whole number of steps, at least 1.
    """
    if length is None:
        return set()
    if int(length) != length or length < 1:
        raise SceneError(f"truncate={length!r}; give a whole number of control steps, at least 1")
    return set(range(length, steps, length))


def needs_gradient(model, state, controls) -> bool:
    tensors = [t for t in state if isinstance(t, Tensor)]
    if isinstance(controls, Tensor):
        tensors.append(controls)
    elif isinstance(controls, torch.nn.Module):
        tensors += controls.parameters()
    elif controls is not None:
        return torch.is_grad_enabled()  # a plain function may close over anything
    return torch.is_grad_enabled() and any(t.requires_grad for t in (*tensors, *model.parameters(), *model.buffers()))


def rollout(
    model,
    state,
    controls: Tensor | Callable | None = None,
    steps: int | None = None,
    *,
    every: int = 1,
    memory="2GiB",
    progress: Callable | None = None,
    detach: Collection[int] = (),
    frozen: int = 0,
) -> Trajectory:
    """Run ``steps`` control steps.

    Args:
        model: maps (state, control) to the next state.
        state: at the start.
        controls: (steps, T, 6 or 7), or a policy (state, step) -> control, or None.
        steps: their number; that of the controls unless given.
        every: frames are kept every so many steps, the initial one always: steps // every + 1 of them.
        memory: for the gradient, bytes or a text such as "2GiB".
        progress: called with the number of steps done, in the first forward run only.
        detach: steps, counted from 0, whose initial state is taken as a constant: no gradient passes back through it.
            What is computed is the same; the gradient is exact within each part. See ``windows``.
        frozen: the first so many steps get no gradient, neither their controls nor the initial state.

    Returns:
        Trajectory.

    Raises:
        SceneError: options that do not fit, or too little memory.
        SimulationError: from the model; its ``state`` is the last good one.
    """
    if isinstance(controls, Tensor):
        if controls.dim() != 3:
            raise SceneError(
                f"controls have shape {tuple(controls.shape)}; expected (steps, tools, 6 or 7), or (steps, nodes, d)"
            )
        steps = len(controls) if steps is None else steps
        if len(controls) < steps:
            raise SceneError(f"controls are given for {len(controls)} steps, but steps={steps}")
        bad = ~torch.isfinite(controls.detach()).flatten(1).all(1)
        if bad.any():
            raise SceneError(f"controls are not finite at step {int(bad.nonzero()[0])}; check how they are made")
    if steps is None or steps < 0 or int(steps) != steps:
        raise SceneError(f"steps={steps!r}; give a whole number of control steps")
    if int(every) != every or every < 1:
        raise SceneError(f"every={every!r}; give a whole number, at least 1")

    differentiate = needs_gradient(model, state, controls)
    plan = estimate(model, state, steps, every=every, memory=memory) if differentiate and steps else None
    if plan is not None and plan.repetitions > 1:
        print(plan, file=sys.stderr)
    options = {"store": True} if plan is not None and plan.store_substeps else {}
    done, kind = 0, type(state)

    def step(state, number):
        nonlocal done
        if number in detach or (number and number == frozen):
            state = kind(*(value.detach() for value in state))
        control = controls(state, number) if callable(controls) else None if controls is None else controls[number]
        if number < frozen:
            control = control if control is None else control.detach()
        try:
            after = model(state, control, **options)
        except (SimulationError, SolverError) as error:
            error.step, error.state = number, state
            raise
        if number >= done:  # not again while recomputing
            done = number + 1
            if progress is not None:
                progress(done)
        return after

    def run(state, first, count, snapshots):
        """States after steps first .. first + count - 1 that are frames, and the last one."""
        if count <= snapshots or count == 1:
            frames = []
            for number in range(first, first + count):
                state = step(state, number)
                if (number + 1) % every == 0:
                    frames.append(state)
            return state, frames
        part = split(count, snapshots)

        def again(*fields):  # must not refer to ``state``: the graph keeps this function, and so would keep the state
            last, frames = run(kind(*fields), first, part, snapshots)
            return tuple(last), [tuple(frame) for frame in frames]

        # a policy may draw random numbers: they must be the same when its steps are run again
        last, frames = checkpoint(again, *state, use_reentrant=False, preserve_rng_state=callable(controls))
        middle, frames = kind(*last), [kind(*frame) for frame in frames]
        last, more = run(middle, first + part, count - part, snapshots - 1)
        return last, frames + more

    last, frames = run(state, 0, steps, plan.snapshots if plan is not None else max(1, steps))
    return Trajectory(model, [state, *frames])
