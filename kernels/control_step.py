"""One control step of MPM, S substeps at constant controls, as a differentiable operator on torch tensors.

Forward sorts the particles into tiles from the user's order, keeps them sorted during the substeps and puts them back.
Backward recomputes the substep states from the step's input (or takes them from ``store``) and runs the adjoints of
substep.py in reverse. Sorting is a permutation: its adjoint is the inverse permutation. In a periodic box a sorting
also moves particles by whole periods, which the end of the step takes back: positions stay continuous in time.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch.autograd.function import once_differentiable

from diffsim.errors import GradientError, SimulationError
from diffsim.kernels.arrays import context, launch
from diffsim.kernels.crew import crew, put_aside
from diffsim.kernels.grid import TOOL_GRADIENTS, TRACES
from diffsim.kernels.memory import block, scratch
from diffsim.kernels.packing import label_particles, pack, unpack, width
from diffsim.kernels.particle_step import DONE, FLAGS, INVERTED, NONE, NOT_FINITE, OUTSIDE, SORT, TOO_FAST
from diffsim.kernels.reduction import ordered_sum, reduce_rows
from diffsim.kernels.substep import substeps_adjoint, substeps_forward
from diffsim.kernels.tiles import CELLS, NODES, Outside, Tiles, sort
from diffsim.kernels.transfer import SUMS

UNTROUBLED = [NONE] * (DONE - NOT_FINITE)
LAST_INDEX = torch.iinfo(torch.int32).max  # of an array's entries, in a kernel


@dataclass(frozen=True)
class Setting:
    """What of a control step is not differentiated.

    cells, dx, origin, margin, wall_kinds, periodic: the box. dt: substep [s]. substeps: their number. laws: from
    materials.composite. stretch, internals: whether q starts with F33, and its columns. rows: (n,) row of theta of each
    particle. labels: (n, 2) the same and its law, int32. tool_ints, sdf: from tools.pack. trace: None, or a list that
    receives one record of the branches per substep. time [s], step, first_substep: at the start, for messages. store:
    keep substep states.
    """

    cells: tuple
    dx: float
    origin: tuple
    margin: int
    wall_kinds: tuple
    periodic: tuple
    dt: float
    substeps: int
    laws: type
    stretch: bool
    internals: int
    rows: torch.Tensor
    labels: torch.Tensor
    tool_count: int
    tool_ints: torch.Tensor
    sdf: torch.Tensor
    time: float = 0.0
    step: int = 0
    first_substep: int = 0
    store: bool = False
    trace: list | None = field(default=None, compare=False)

    @property
    def dim(self):
        return len(self.cells)

    @property
    def rate(self):
        return 1.0 / (self.substeps * self.dt)


_specs = {}


def specification(setting, trace):
    """The template argument of the kernels: one class per combination, since each instantiates them anew."""
    atomic = context.device not in ("cpu",)
    dim, tools = setting.dim, setting.tool_count > 0
    key = (dim, setting.laws, setting.stretch, setting.internals, tools, trace, atomic)
    if key not in _specs:
        _specs[key] = type(
            "Specification",
            (),
            {
                "dim": dim,
                "laws": setting.laws,
                "stretch": setting.stretch,
                "internals": setting.internals,
                "F": 2 * dim + dim * dim,
                "q": 2 * dim + 2 * dim * dim,
                "tools": tools,
                "trace": trace,
                "atomic": atomic,
            },
        )
    return _specs[key]


@dataclass
class Segment:
    """Substeps between two sortings: the order (user's index per sorted particle), and what each launch has left.

    states: (m + 1, n, w) for each launch of m substeps, from the state it began with to its last. history: the nodes'
    velocities before tools and walls, and their masses, (m, owners 4^d, d + 1).
    """

    order: torch.Tensor
    tiles: Tiles
    states: list
    history: list


class Workspace:
    """The arrays of one control step that are no state: particle properties in sorted order, nodes, boundary data."""

    def __init__(self, setting, volume, theta, gravity, force, motion, tool_params, friction):
        self.setting, self.volume, self.theta = setting, volume, theta
        tensors = {"dtype": context.dtype, "device": context.tensor_device}
        integers = {"dtype": torch.int32, "device": context.tensor_device}
        self.accel = gravity.reshape(1, -1) if force is None else gravity + force
        self.motion, self.tool_params = motion.reshape(-1, 18), tool_params
        self.boundary = torch.cat([torch.tensor(setting.origin, **tensors), friction.to(**tensors)])
        self.layout = torch.tensor([*setting.cells, setting.margin, *setting.wall_kinds], **integers)
        self.origin = torch.tensor(setting.origin, **tensors)
        self.flags = torch.empty(FLAGS, **integers)
        self.clean = torch.full_like(self.flags, NONE)
        self.clean[SORT] = 0
        self.numbers = (setting.dt, setting.dx, setting.rate)
        self.tensors, self.integers = tensors, integers

    def enter(self, segment):
        """Arrange the particles' properties and the nodes for a sorting."""
        setting, order, tiles = self.setting, segment.order, segment.tiles
        self.particles = scratch("particles", (len(order), 2))
        self.labels = scratch("labels", (len(order), 3), torch.int32)
        launch(
            label_particles, self.volume, self.theta, setting.labels, tiles.tile, order, self.particles, self.labels
        )  # fmt: skip
        self.segment_accel = self.accel if self.accel.shape[0] == 1 else self.accel.index_select(0, order)
        self.nodes = scratch("nodes", (tiles.tile_count * NODES**setting.dim, setting.dim + 1))
        slots = context.threads if context.device == "cpu" else len(order)
        self.sums = torch.zeros(SUMS * slots, setting.dim + 1, **self.tensors)
        width = max(1, 6 * setting.tool_count)
        self.wrench = torch.zeros(tiles.owner_count, width, **self.tensors)
        self.tiles = tiles

    def common(self):
        """Arguments that forward and adjoint share, by name of their group."""
        setting, tiles = self.setting, self.tiles
        return (
            (self.particles, self.labels, self.theta, self.segment_accel),
            (tiles.tile_info, tiles.owners, tiles.shares),
            (self.motion, self.tool_params, setting.tool_ints, setting.sdf, self.boundary, self.layout),
        )

    def progress(self, phases):
        """What the threads of a launch tell each other: how often they met, and the shares taken of each phase."""
        return torch.zeros(1 + phases, **self.integers)

    def launch(self, kernel, *arguments, phases, numbers, spec):
        """Run substeps or their adjoints with as many threads as serve at the moment.

        The kernel takes ``arguments``, the threads' common progress through so many ``phases``, the integers
        ``numbers``, and what every launch takes.
        """
        particles = len(self.particles)
        threads, times, start = crew.threads(particles), put_aside(), perf_counter()
        launch(kernel, *arguments, self.progress(phases), *numbers, threads, *self.numbers, spec)
        crew.observed(threads, put_aside() - times, perf_counter() - start)

    def sort(self, x):
        return sort(x, self.origin, self.setting.cells, self.setting.dx, self.setting.periodic)

    def images(self, packed):
        """Whole periods between each position and the box, (n, d): 0 along an axis that is not periodic."""
        setting = self.setting
        low = self.origin + 0.5 * setting.dx  # the first point whose support begins at node 0
        period = torch.tensor(setting.cells, **self.tensors) * setting.dx
        images = torch.floor((packed[:, : setting.dim] - low) / period)
        return images * torch.tensor(setting.periodic, **self.tensors) * period


def finite(values):
    """Whether all values are finite: their sum tells it in a fraction of the time, unless it overflows."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


TROUBLES = {
    NOT_FINITE: ("is not finite", "look for a NaN in the state or the controls, or reduce dt"),
    OUTSIDE: ("left the grid", "enlarge the grid, add walls, or slow it down"),
    TOO_FAST: ("moved more than one cell in a substep", "use a smaller dt or more substeps"),
    INVERTED: ("has det F <= 0", "use a smaller dt, a stiffer law, or slower tools"),
}


def trouble(which, particle, row, setting, substep):
    """The error for a particle, in the user's order, whose row of the packed state is given."""
    what, remedy = TROUBLES[which]
    where = ", ".join(f"{value:.6g}" for value in row[: setting.dim].tolist())
    substep += setting.first_substep
    step = setting.step
    return SimulationError(
        f"particle {particle} at ({where}) {what} in substep {substep} of control step {step} "
        f"(t = {setting.time + (substep - setting.first_substep) * setting.dt:.6g} s): {remedy}",
        step=step,
        substep=substep,
        particle=particle,
    )


def check_flags(flags, segment, packed, setting, substep):
    """Raise SimulationError for the first particle in trouble; flags are those of the substep just made."""
    for which in TROUBLES:
        if flags[which] != NONE:
            raise trouble(which, int(segment.order[flags[which]]), packed[flags[which]], setting, substep)


class States:
    """Memory for the successive states of a control step, (slots, n, w), of which slot ``at`` holds the current one.

    keep: "" (three slots that take turns), "work" (a slot each, in scratch) or "graph" (a slot each).
    """

    def __init__(self, shape, substeps, keep):
        self.shape, self.keep, self.at = shape, keep, -1
        count = substeps + 2 if keep else 3  # a sorting takes one more
        self.memory = block((count, *shape)) if keep == "graph" else scratch("states", (count, *shape))
        most = LAST_INDEX // max(1, shape[0] * shape[1])
        if most < 3:
            most_particles = LAST_INDEX // shape[1] // 3
            raise ValueError(f"{shape[0]} particles are more than an array can hold: at most {most_particles}")
        self.most = most

    def current(self):
        return self.memory[self.at]

    def sorted(self, left):
        """The slot for the state sorted anew, with room for those of the ``left`` substeps behind it."""
        if not self.keep:
            self.at = (self.at + 1) % len(self.memory)
        elif self.at + 1 + left < len(self.memory):
            self.at += 1
        else:
            self.memory, self.at = block((left + 2, *self.shape)), 0
        return self.memory[self.at]

    def ahead(self, left):
        """For the next launch: its slots, the first among them, and how many of the substeps ``left`` it can make."""
        if context.device != "cpu":
            left = 1
        if not self.keep:
            return self.memory, self.at, left
        left = min(left, self.most - 1)
        return self.memory[self.at : self.at + left + 1], 0, left

    def moved(self, done):
        """Make the state after ``done`` more substeps the current one."""
        self.at = self.at + done if self.keep else (self.at + done) % len(self.memory)
        return self.current()


def sorted_anew(x, work, order, s):
    """Tiles of positions (n, d), and the whole periods by which they were moved into the box.

    ``order`` is the user's index of each of them, None for the user's own order, ``s`` the substep.
    """
    shift = work.images(x) if any(work.setting.periodic) else None
    try:
        return work.sort(x.contiguous() if shift is None else x - shift), shift
    except Outside as outside:
        particle = outside.particle if order is None else int(order[outside.particle])
        which = OUTSIDE if torch.isfinite(x[outside.particle]).all() else NOT_FINITE
        raise trouble(which, particle, x[outside.particle], work.setting, s) from None


def arrange(parts, state, order, images, work, states, s):
    """Sort the particles before substep s, from the user's order (``state`` None) or from that of a sorting before.

    Returns the state and its order, the tiles, and ``images``: the whole periods taken off so far, or None.
    """
    dim = work.setting.dim
    tiles, shift = sorted_anew(parts[0] if state is None else state[:, :dim], work, order, s)
    slot = states.sorted(work.setting.substeps - s)
    if state is None:
        order = tiles.order
        state = pack(*parts, order, slot)
    else:
        order = order[tiles.order]
        state = torch.index_select(state, 0, tiles.order, out=slot)
    if shift is not None:
        shift = shift[tiles.order]
        state[:, :dim] -= shift
        images = shift if images is None else images[tiles.order] + shift
    return state, order, tiles, images


def brought_back(state, images):
    """The state with the whole periods that sortings took off its positions, in scratch."""
    if images is None:
        return state
    final = scratch("final", state.shape).copy_(state)
    final[:, : images.shape[1]] += images
    return final


def advance(parts, work, keep):
    """Run the substeps from the state ``parts`` = (x, v, C, F, q); ``keep`` as in States.

    Returns the final state in sorted order, in scratch, that order, the mean wrench, and the segments if kept.
    """
    setting, dim = work.setting, work.setting.dim
    count, internals = len(parts[0]), parts[4].shape[1]
    states = States((count, width(dim, internals)), setting.substeps, keep)
    wrench = torch.zeros(max(1, 6 * setting.tool_count), **work.tensors)
    spec = specification(setting, setting.trace is not None)
    segments, segment = [], None
    state = order = images = None
    s = launches = 0
    while s < setting.substeps:
        if segment is None:
            state, order, tiles, images = arrange(parts, state, order, images, work, states, s)
            segment = Segment(order, tiles, [], [])
            if keep:
                segments.append(segment)
            work.enter(segment)
            codes = torch.zeros(work.nodes.shape[0] if spec.trace else 1, **work.integers)
        view, first, count = states.ahead(setting.substeps - s)
        nodes = segment.tiles.owner_count * CELLS**dim
        if keep:  # the histories of a launch are one array, too
            count = min(count, max(1, LAST_INDEX // (nodes * (dim + 1))))
        nodes_shape = (count if keep else 1, nodes, dim + 1)
        history = block(nodes_shape) if keep == "graph" else scratch(f"history {launches}", nodes_shape)
        launches += bool(keep)
        trace = torch.zeros(count if spec.trace else 1, TRACES, **work.integers)
        work.flags.copy_(work.clean)
        particle, topology, boundary = work.common()
        work.launch(
            substeps_forward, flat(view), *particle, work.nodes, work.sums, *topology, *boundary, work.wrench,
            flat(history), work.flags, trace, codes,
            phases=3 * count, numbers=(first, len(view), count, int(bool(keep)), s), spec=spec,
        )  # fmt: skip
        flags = work.flags.tolist()
        done = flags[DONE]
        state = states.moved(done)
        if flags[NOT_FINITE:DONE] != UNTROUBLED:
            check_flags(flags, segment, state, setting, s + done - 1)
        if setting.trace is not None:
            setting.trace.extend(trace[:done].tolist())
        if keep:
            segment.states.append(view[: done + 1])
            segment.history.append(history[:done])
        s += done
        if flags[SORT] or s == setting.substeps:
            if setting.tool_count:
                wrench = wrench + ordered_sum(work.wrench)
            segment = None
    return brought_back(state, images), order, wrench, segments if keep else None


def retreat(grads, grad_wrench, segments, work, named=False):
    """Run the adjoints from the gradients (x, v, C, F, q) of the final state.

    Returns the gradients of the initial one, those of the particles' properties, and of the boundary per substep.
    """
    setting = work.setting
    dim = setting.dim
    spec = specification(setting, False)
    columns = work.theta.shape[1]
    shape = segments[0].states[0].shape[1:]
    tensors = work.tensors
    per_particle = torch.zeros(shape[0], 2 + dim + columns, **tensors)
    boundary_width = TOOL_GRADIENTS * setting.tool_count + 2 * dim
    grad_boundary = torch.zeros(setting.substeps, boundary_width, **tensors)
    halves, half = scratch("gradients", (2, *shape)), 0
    pack(*grads, segments[-1].order, halves[half])
    if not finite(halves[half]):
        raise GradientError(f"the gradient that reaches control step {setting.step} from behind is not finite")
    s = setting.substeps
    for number, segment in reversed(list(enumerate(segments))):
        work.enter(segment)
        tiles = segment.tiles
        grad_nodes = scratch("grad nodes", work.nodes.shape)
        rows = tiles.owner_count * CELLS**dim if setting.tool_count else 1
        stages = scratch("stages", (rows, max(1, setting.tool_count * (dim + 1))))
        parts = torch.empty(tiles.owner_count, boundary_width, **tensors)
        sorted_particle = scratch("sorted particle", per_particle.shape).zero_()
        for states, history in zip(reversed(segment.states), reversed(segment.history), strict=True):
            if named:  # one substep a launch
                launches = [(states[i : i + 2], history[i : i + 1]) for i in reversed(range(len(history)))]
            else:
                launches = [(states, history)]
            for before, nodes in launches:
                count = len(nodes)
                s -= count
                particle, topology, boundary = work.common()
                work.launch(
                    substeps_adjoint, flat(before), flat(halves), sorted_particle, *particle, work.nodes, grad_nodes,
                    work.sums, flat(nodes), stages, *topology, *boundary, work.wrench, grad_wrench, parts,
                    grad_boundary, phases=4 * count, numbers=(half, count, s), spec=spec,
                )  # fmt: skip
                half = (half + count) % 2
                outputs = (halves[half], sorted_particle, grad_boundary[s])
                if named and not all(torch.isfinite(output).all() for output in outputs):
                    raise GradientError(
                        f"the gradient is not finite from substep {s} of control step {setting.step} backwards "
                        f"(t = {setting.time + s * setting.dt:.6g} s): shorten the horizon or reduce dt"
                    )
        per_particle.index_add_(0, segment.order, sorted_particle)
        if number:  # from the order of this sorting to that of the one before
            halves[1 - half].index_copy_(0, segment.order.long(), halves[half])
            torch.index_select(halves[1 - half], 0, segments[number - 1].order, out=halves[half])
    grad_after = halves[half]
    if not all(finite(result) for result in (grad_after, per_particle, grad_boundary)):
        if not named:
            retreat(grads, grad_wrench, segments, work, named=True)  # raises at the substep where it begins
        raise GradientError(f"the gradient overflows where it is summed over control step {setting.step}")
    return unpack(grad_after, segments[0].order, dim), per_particle, grad_boundary


def flat(blocks):
    """(m, rows, columns) as (m rows, columns)."""
    return blocks.view(-1, blocks.shape[-1])


@contextmanager
def one_torch_thread():
    """Copies between the kernels on the calling thread: waking torch's pool for them costs more than they do.

    It also keeps torch's own sums the same for any number of threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ControlStep(torch.autograd.Function):
    """(x, v, C, F, q, volume, theta, gravity, force, motion, tool_params, friction) -> (x, v, C, F, q, wrench).

    theta: (rows, parameters + 1) of the laws, the density last. gravity: (d,). force: (n, d) acceleration or None.
    motion: (S, T, 18). wrench: (T, 6) mean over the step.
    """

    @staticmethod
    @one_torch_thread()
    def forward(ctx, setting, x, v, C, F, q, volume, theta, gravity, force, motion, tool_params, friction):
        for name, part in {"x": x, "v": v, "C": C, "F": F, "q": q, "volume": volume}.items():
            if part.dtype != context.dtype:
                raise TypeError(
                    f"the state's {name} is {part.dtype}, but diffsim.init set precision={context.precision!r}; "
                    f"convert it with .to({context.dtype})"
                )
        work = Workspace(setting, volume, theta, gravity, force, motion, tool_params, friction)
        state, order, wrench, segments = advance((x, v, C, F, q), work, "graph" if setting.store else "")
        kept = []
        if segments is not None:
            for segment in segments:
                tiles = segment.tiles
                kept += [segment.order, tiles.tile, tiles.tile_info, tiles.owners, tiles.shares]
                kept += [*segment.history, *segment.states]
            ctx.lengths = [len(segment.states) for segment in segments]
        ctx.setting = setting
        start = () if kept else (x, v, C, F, q)  # the first stored state says the same
        ctx.save_for_backward(volume, theta, gravity, force, motion, tool_params, friction, *(kept or start))
        return (*unpack(state, order, setting.dim), wrench[: 6 * setting.tool_count].reshape(-1, 6))

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx, grad_x, grad_v, grad_C, grad_F, grad_q, grad_wrench):
        setting = ctx.setting
        volume, theta, gravity, force, motion, tool_params, friction, *kept = ctx.saved_tensors
        work = Workspace(setting, volume, theta, gravity, force, motion, tool_params, friction)
        if setting.store:
            segments = []
            for length in ctx.lengths:
                tiles, rest = Tiles(*kept[:5]), kept[5:]  # order, tile, tile_info, owners, shares
                history, states, kept = rest[:length], rest[length : 2 * length], rest[2 * length :]
                segments.append(Segment(tiles.order, tiles, states, history))
        else:
            traced, silent = setting.trace, setting
            if traced is not None:
                silent = work.setting = _without_trace(setting)
            *_, segments = advance(kept, work, "work")
            work.setting = silent
        grads = (grad_x, grad_v, grad_C, grad_F, grad_q)
        tools = setting.tool_count
        grad_wrench = grad_wrench.contiguous() if tools else grad_v.new_zeros(1, 6)
        grads, per_particle, grad_boundary = retreat(grads, grad_wrench, segments, work)
        dim = setting.dim
        grad_mass, grad_volume = per_particle[:, 0], per_particle[:, 1]
        grad_accel, grad_theta = per_particle[:, 2 : 2 + dim], per_particle[:, 2 + dim :].clone()
        grad_theta[:, -1] = grad_mass * volume
        grad_volume = grad_volume + grad_mass * theta[:, -1][setting.rows]
        by_row = reduce_rows(grad_theta, setting.labels[:, 0].contiguous(), theta.shape[0])
        tool_part = grad_boundary[:, : TOOL_GRADIENTS * tools].reshape(setting.substeps, tools, TOOL_GRADIENTS)
        grad_motion = grad_params = None
        if tools:
            grad_motion = tool_part[:, :, :18].contiguous()
            grad_params = torch.zeros_like(tool_params)
            grad_params[:, :2] = ordered_sum(tool_part[:, :, 18:])
        grad_friction = ordered_sum(grad_boundary[:, TOOL_GRADIENTS * tools :])
        return (
            None,
            *grads,
            grad_volume,
            by_row,
            ordered_sum(grad_accel),
            grad_accel.clone() if force is not None else None,
            grad_motion,
            grad_params,
            grad_friction,
        )


def _without_trace(setting):
    return Setting(**{**setting.__dict__, "trace": None})
