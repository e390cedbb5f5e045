"""One control step of MPM whose laws are torch modules: S substeps with P and the return map evaluated between kernels.

    for each substep:  P = stress(F, q, C),  scatter, grid, gather, x' and F_trial of substep.py at that P,
                       F, q = update(F_trial, q, C', dt)

It runs in sorted order like control_step.py and shares its parts, so the laws see plain arrays and no graph spans the
substeps. The positions after each substep are handed out as well, for a loss on all of them.

Adjoint, substep by substep in reverse: add the gradient of this substep's positions; through the map to F_trial, q, C'
and the map's parameters; ``substeps_adjoint``, whose gradient by theta is that by P; through the stress to F, q, C and
its parameters. The laws' own adjoints are those that torch finds: of one evaluation of one law at a time.
"""

import torch
from torch.autograd.function import once_differentiable

from diffsim.errors import GradientError
from diffsim.kernels.arrays import context, unchanged
from diffsim.kernels.control_step import (
    UNTROUBLED,
    Segment,
    Setting,
    States,
    Workspace,
    arrange,
    brought_back,
    check_flags,
    finite,
    flat,
    one_torch_thread,
    specification,
)
from diffsim.kernels.grid import TOOL_GRADIENTS, TRACES
from diffsim.kernels.memory import block, scratch
from diffsim.kernels.packing import pack, unpack, width
from diffsim.kernels.particle_step import DONE, NOT_FINITE, SORT
from diffsim.kernels.reduction import ordered_sum
from diffsim.kernels.substep import substeps_adjoint, substeps_forward
from diffsim.kernels.tiles import CELLS


class Laws:
    """The materials as a step calls them.

    Args:
        stress: for each material a ``TorchLaw`` or ``OperatorLaw`` with the result P.
        update: for each material one with the results F and q, or None where there is no map.
        ordered: for each material whether its laws know the particles by their order; they are then given in the
            user's, else as they lie.
        parameters: tensors that may be learned, in the order of the gradients.
        material: (n,) index of the material of each particle, in the user's order.
    """

    def __init__(self, stress, update, ordered, parameters, material):
        self.stress, self.update, self.ordered = stress, update, ordered
        self.parameters, self.material = list(parameters), material
        self.versions = [parameter._version for parameter in self.parameters]
        self.place = {id(parameter): i for i, parameter in enumerate(self.parameters)}

    def members(self, order):
        """(number, sorted indices, or None for all as they lie) of each material that has particles."""
        if len(self.stress) == 1 and not self.ordered[0]:
            return [(0, None)]
        position = torch.empty(len(order), dtype=torch.int64, device=order.device)
        position[order] = torch.arange(len(order), device=order.device)
        found = [(number, position[self.material == number]) for number in range(len(self.stress))]
        return [(number, index) for number, index in found if len(index)]


class TorchLaw:
    """A law that torch evaluates and differentiates: call(F, q, C) -> one result or a tuple of them.

    ``forward`` returns the results and what ``adjoint`` needs, which returns the gradients of F, q, C (None for no
    dependence) and of the parameters.
    """

    def __init__(self, call, parameters):
        self.call, self.parameters = call, [p for p in parameters if p.requires_grad]

    def forward(self, columns, index, keep):
        inputs = columns.of(index)
        if not keep:
            with torch.no_grad():
                results = self.call(*inputs)
            return results if isinstance(results, tuple) else (results,), None
        with torch.enable_grad():
            leaves = [part.requires_grad_() for part in inputs]
            results = self.call(*leaves)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(result.detach() for result in results), (leaves, results)

    def adjoint(self, grads, kept):
        leaves, results = kept
        pairs = [(r, g) for r, g in zip(results, grads, strict=True) if r.requires_grad]
        if not pairs:
            return (None,) * 3, (None,) * len(self.parameters)
        found = torch.autograd.grad(
            [r for r, _ in pairs], [*leaves, *self.parameters], [g for _, g in pairs], allow_unused=True
        )
        return found[:3], found[3:]


class OperatorLaw:
    """A law that is one operator of F: operator.forward(F) -> result, kept and operator.adjoint(grad, kept, learn).

    It spares torch's graph, which for a thousand particles takes as long as a layer of a network. q passes through.
    """

    def __init__(self, operator, parameters):
        self.operator, self.parameters = operator, list(parameters)
        self.learn = any(p.requires_grad for p in self.parameters)

    def forward(self, columns, index, keep):
        result, kept = self.operator.forward(take(columns.F, index))
        return (result,), kept if keep else None

    def adjoint(self, grads, kept):
        on_F, *found = self.operator.adjoint(grads[0], kept, self.learn)
        return (on_F, None, None), found


class Columns:
    """Views of a packed state."""

    def __init__(self, packed, dim):
        n, d2 = len(packed), dim * dim
        self.x = packed[:, :dim]
        self.C = packed[:, 2 * dim : 2 * dim + d2].view(n, dim, dim)
        self.F = packed[:, 2 * dim + d2 : 2 * dim + 2 * d2].view(n, dim, dim)
        self.q = packed[:, 2 * dim + 2 * d2 :]

    def of(self, index):
        """Contiguous F, q, C of some particles."""
        return tuple(take(part, index) for part in (self.F, self.q, self.C))


def take(column, index):
    """Some particles' values of a view: a copy, even where a view would do, since what it shows is overwritten."""
    return column.clone(memory_format=torch.contiguous_format) if index is None else column[index]


def put(column, index, values):
    """Write some particles' values to a view."""
    if index is None:
        column.copy_(values)
    else:
        column[index] = values


def advance(parts, work, laws, keep, frames):
    """Run the substeps.

    Returns the final state in sorted order, that order, the mean wrench, and the segments, if ``keep``, each with
    ``laws``: for each substep (results, kept) of the stress and of the map of each material.
    """
    setting, dim = work.setting, work.setting.dim
    count, internals = len(parts[0]), parts[4].shape[1]
    states = States((count, width(dim, internals)), setting.substeps, "graph" if keep else "")
    wrench = torch.zeros(max(1, 6 * setting.tool_count), **work.tensors)
    spec = specification(setting, setting.trace is not None)
    trace, codes = torch.zeros(1, TRACES, **work.integers), torch.zeros(1, **work.integers)
    segments, segment = [], None
    state = order = images = None
    theta = torch.zeros(count, dim * dim + 1, **work.tensors)
    P = theta[:, : dim * dim].view(-1, dim, dim)
    for s in range(setting.substeps):
        if segment is None:
            state, order, tiles, images = arrange(parts, state, order, images, work, states, s)
            segment = Segment(order, tiles, [], [])
            segment.laws, segment.members = [], laws.members(order)
            segments.append(segment)
            enter(work, segment)
            if spec.trace:
                codes = torch.zeros(work.nodes.shape[0], **work.integers)
        before = Columns(state, dim)
        stresses = []
        for number, index in segment.members:
            (value,), kept = laws.stress[number].forward(before, index, keep)
            put(P, index, value)
            stresses.append((value, kept))
        view, first, _ = states.ahead(1)
        shape = (1, segment.tiles.owner_count * CELLS**dim, dim + 1)
        history = block(shape) if keep else scratch("history", shape)
        work.flags.copy_(work.clean)
        if spec.trace:
            trace.zero_()
        work.theta = theta
        particle, topology, boundary = work.common()
        work.launch(
            substeps_forward, flat(view), *particle, work.nodes, work.sums, *topology, *boundary, work.wrench,
            flat(history), work.flags, trace, codes, phases=3, numbers=(first, len(view), 1, 1, s), spec=spec,
        )  # fmt: skip
        flags = work.flags.tolist()
        state = states.moved(1)
        if flags[NOT_FINITE:DONE] != UNTROUBLED:
            check_flags(flags, segment, state, setting, s)
        if setting.trace is not None:
            setting.trace.extend(trace.tolist())
        moved, maps = Columns(state, dim), []
        for number, index in segment.members:
            if laws.update[number] is None:
                maps.append(None)
                continue
            results, kept = laws.update[number].forward(moved, index, keep)
            put(moved.F, index, results[0])
            for q in results[1:]:
                put(moved.q[:, : q.shape[1]], index, q)
            maps.append((results, kept))
        if frames is not None:
            positions = state[:, :dim] if images is None else state[:, :dim] + images
            frames[s].index_copy_(0, order.long(), positions)
        if keep:
            segment.states.append(view)
            segment.history.append(history)
            segment.laws.append((stresses, maps))
        if flags[SORT] or s == setting.substeps - 1:
            wrench = wrench + ordered_sum(work.wrench)
            segment = None
    return brought_back(state, images), order, wrench, segments if keep else None


def enter(work, segment):
    """Arrange the particles' properties; the rows of theta are in sorted order already."""
    work.theta = work.density
    work.enter(segment)
    work.labels[:, 1] = torch.arange(len(segment.order), **work.integers)


def retreat(grads, grad_frames, grad_wrench, segments, work, laws):
    """Run the adjoints from the gradients (x, v, C, F, q) of the final state.

    Returns the gradients of the initial one, of the particles' properties, of the boundary per substep, and of the
    parameters.
    """
    setting, dim = work.setting, work.setting.dim
    spec, stresses = specification(setting, False), slice(2 + dim, 2 + dim + dim * dim)
    shape = segments[0].states[0].shape[1:]
    per_particle = torch.zeros(shape[0], 2 + dim + dim * dim + 1, **work.tensors)
    boundary_width = TOOL_GRADIENTS * setting.tool_count + 2 * dim
    grad_boundary = torch.zeros(setting.substeps, boundary_width, **work.tensors)
    totals = [None] * len(laws.parameters)
    theta = torch.zeros(shape[0], dim * dim + 1, **work.tensors)
    halves, half = scratch("gradients", (2, *shape)), 0
    pack(*grads, segments[-1].order, halves[half])
    if not finite(halves[half]) or (grad_frames is not None and not finite(grad_frames)):
        raise GradientError(f"the gradient that reaches control step {setting.step} from behind is not finite")
    s = setting.substeps

    def add(law, gradients):
        for parameter, gradient in zip(law.parameters, gradients, strict=True):
            if gradient is not None and parameter.requires_grad:
                i = laws.place[id(parameter)]
                totals[i] = gradient.clone() if totals[i] is None else totals[i].add_(gradient)

    for number, segment in reversed(list(enumerate(segments))):
        enter(work, segment)
        tiles = segment.tiles
        grad_nodes = scratch("grad nodes", work.nodes.shape)
        rows = tiles.owner_count * CELLS**dim if setting.tool_count else 1
        stages = scratch("stages", (rows, max(1, setting.tool_count * (dim + 1))))
        parts = torch.empty(tiles.owner_count, boundary_width, **work.tensors)
        sorted_particle = scratch("sorted particle", per_particle.shape).zero_()
        for before, nodes in zip(reversed(segment.states), reversed(segment.history), strict=True):
            s -= 1
            kept_stress, kept_map = segment.laws.pop()
            later = Columns(halves[half], dim)
            if grad_frames is not None:
                later.x.add_(grad_frames[s].index_select(0, segment.order))
            for (material, index), kept in zip(segment.members, kept_map, strict=True):
                if kept is None:
                    continue
                law, results = laws.update[material], kept[0]
                grad_F, columns = take(later.F, index), results[1].shape[1] if len(results) > 1 else 0
                on_results = (grad_F,)
                if len(results) > 1:  # q, of which the map may change the first columns
                    grad_q = take(later.q, index)
                    on_results = (grad_F, grad_q[:, :columns].clone())  # a map may hand it back as it is
                (on_F, on_q, on_C), found = law.adjoint(on_results, kept[1])
                add(law, found)
                put(later.F, index, torch.zeros_like(grad_F) if on_F is None else on_F)
                if columns:
                    grad_q[:, :columns] = 0.0
                    put(later.q, index, grad_q if on_q is None else grad_q + on_q)
                if on_C is not None:
                    accumulate(later.C, index, on_C)
            for (_number, index), (value, _) in zip(segment.members, kept_stress, strict=True):
                put(theta[:, : dim * dim].view(-1, dim, dim), index, value)
            work.theta = theta
            sorted_particle[:, stresses] = 0.0
            particle, topology, boundary = work.common()
            work.launch(
                substeps_adjoint, flat(before), flat(halves), sorted_particle, *particle, work.nodes, grad_nodes,
                work.sums, flat(nodes), stages, *topology, *boundary, work.wrench, grad_wrench, parts, grad_boundary,
                phases=4, numbers=(half, 1, s), spec=spec,
            )  # fmt: skip
            half = 1 - half
            earlier, grad_P = Columns(halves[half], dim), sorted_particle[:, stresses].contiguous().view(-1, dim, dim)
            for (material, index), (_, kept) in zip(segment.members, kept_stress, strict=True):
                law = laws.stress[material]
                gradients, found = law.adjoint((grad_P if index is None else grad_P[index],), kept)
                add(law, found)
                for column, gradient in zip((earlier.F, earlier.q, earlier.C), gradients, strict=True):
                    if gradient is not None:
                        accumulate(column, index, gradient)
            if not finite(halves[half]):
                raise GradientError(
                    f"the gradient is not finite from substep {s + setting.first_substep} of control step "
                    f"{setting.step} backwards (t = {setting.time + s * setting.dt:.6g} s): shorten the horizon or "
                    "reduce dt"
                )
        sorted_particle[:, stresses] = 0.0
        per_particle.index_add_(0, segment.order, sorted_particle)
        if number:  # from the order of this sorting to that of the one before
            halves[1 - half].index_copy_(0, segment.order.long(), halves[half])
            torch.index_select(halves[1 - half], 0, segments[number - 1].order, out=halves[half])
    return unpack(halves[half], segments[0].order, dim), per_particle, grad_boundary, totals


def accumulate(column, index, values):
    """Add some particles' values to a view."""
    if index is None:
        column.add_(values)
    else:
        column[index] += values


class LearnedStep(torch.autograd.Function):
    """(x, v, C, F, q, volume, density, gravity, force, motion, tool_params, friction, *parameters)
    -> (x, v, C, F, q, wrench, frames).

    density: (n,). frames: (S, n, d) positions after each substep, or empty unless ``setting.frames``. The others as for
    ``ControlStep``.
    """

    @staticmethod
    @one_torch_thread()
    def forward(ctx, setting, laws, wanted, x, v, C, F, q, volume, density, gravity, force, motion, tool_params,
                friction, *parameters):  # fmt: skip
        for name, part in {"x": x, "v": v, "C": C, "F": F, "q": q, "volume": volume}.items():
            if part.dtype != context.dtype:
                raise TypeError(
                    f"the state's {name} is {part.dtype}, but diffsim.init set precision={context.precision!r}; "
                    f"convert it with .to({context.dtype})"
                )
        work = LearnedStep.workspace(setting, volume, density, gravity, force, motion, tool_params, friction)
        frames = x.new_empty(setting.substeps if wanted else 0, *x.shape)
        keep = setting.store and any(ctx.needs_input_grad)
        state, order, wrench, segments = advance((x, v, C, F, q), work, laws, keep, frames if wanted else None)
        ctx.setting, ctx.laws, ctx.wanted = setting, laws, wanted
        ctx.segments = segments
        start = () if keep else (x, v, C, F, q)  # the first stored state says the same
        ctx.save_for_backward(volume, density, gravity, force, motion, tool_params, friction, *start)
        return (*unpack(state, order, setting.dim), wrench[: 6 * setting.tool_count].reshape(-1, 6), frames)

    @staticmethod
    def workspace(setting, volume, density, gravity, force, motion, tool_params, friction):
        work = Workspace(setting, volume, None, gravity, force, motion, tool_params, friction)
        work.density = density[:, None].contiguous()  # theta while the particles' masses are computed
        return work

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx, grad_x, grad_v, grad_C, grad_F, grad_q, grad_wrench, grad_frames):
        setting, laws, segments = ctx.setting, ctx.laws, ctx.segments
        unchanged(laws.parameters, laws.versions)  # substeps that are computed again would see the new values
        volume, density, gravity, force, motion, tool_params, friction, *start = ctx.saved_tensors
        if setting.trace is not None:
            setting = Setting(**{**setting.__dict__, "trace": None})
        work = LearnedStep.workspace(setting, volume, density, gravity, force, motion, tool_params, friction)
        if start:
            *_, segments = advance(start, work, laws, True, None)
        elif segments is None:
            raise GradientError(
                "the stored graph of a control step is used up: call backward once, or run it with store=False"
            )
        ctx.segments = None  # the laws' graphs are freed as they are used
        grads = (grad_x, grad_v, grad_C, grad_F, grad_q)
        tools, dim = setting.tool_count, setting.dim
        grad_wrench = grad_wrench.contiguous() if tools else grad_v.new_zeros(1, 6)
        grads, per_particle, grad_boundary, totals = retreat(
            grads, grad_frames if ctx.wanted else None, grad_wrench, segments, work, laws
        )
        grad_mass, grad_volume = per_particle[:, 0], per_particle[:, 1] + per_particle[:, 0] * density
        grad_accel = per_particle[:, 2 : 2 + dim]
        grad_motion = grad_params = None
        if tools:
            tool_part = grad_boundary[:, : TOOL_GRADIENTS * tools].reshape(setting.substeps, tools, TOOL_GRADIENTS)
            grad_motion = tool_part[:, :, :18].contiguous()
            grad_params = torch.zeros_like(tool_params)
            grad_params[:, :2] = ordered_sum(tool_part[:, :, 18:])
        return (
            None,
            None,
            None,
            *grads,
            grad_volume,
            grad_mass * volume,
            ordered_sum(grad_accel),
            grad_accel.clone() if force is not None else None,
            grad_motion,
            grad_params,
            ordered_sum(grad_boundary[:, TOOL_GRADIENTS * tools :]),
            *totals,
        )
