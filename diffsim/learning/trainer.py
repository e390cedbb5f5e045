"""The loop of a fit: epochs over the segments of a motion, updates of the laws, checkpoints."""

import math

import torch

from diffsim.errors import GradientError, SimulationError
from diffsim.kernels.arrays import context
from diffsim.kernels.control_step import one_torch_thread
from diffsim.learning.segments import Segments, begin, losses
from diffsim.rollout import parse_memory
from diffsim.runs import atomic_write

SCALE = 1e4  # of the loss, as published
KEPT = 900  # numbers that a differentiated step keeps per particle: states, nodes and the layers of two networks


class Trainer:
    """Epochs of a fit by simulation, its optimizers and its checkpoint.

    Args:
        model: with the laws to be trained. blank: its state where the scene begins.
        motion, stride, frames: the data, steps of the model between two frames, and how many frames are used.
        chosen: the ``Candidate``.
        settings: of the fit.
        folder: the ``RunFolder``, or None.
        log: called with each epoch's record, or None.
    """

    def __init__(self, model, blank, motion, stride, frames, chosen, settings, folder, log=None):
        self.model, self.blank, self.motion, self.log = model, blank, motion, log
        self.stride, self.frames, self.settings, self.folder = stride, frames, settings, folder
        self.groups = chosen.groups
        self.optimizers = {name: torch.optim.Adam(group, lr=rate) for name, (group, rate) in chosen.groups.items()}
        self.history: list[dict] = []
        self.patience = Patience(settings.patience)
        numbers = KEPT * len(blank.x) * context.dtype.itemsize
        self.piece = max(stride, parse_memory(settings.memory) // numbers // stride * stride)  # steps that fit
        self.chained = settings.positions_only or not motion.full  # a segment begins where the one before has ended

    def run(self, shown, callback) -> str:
        """Train from the last checkpoint to the end; returns why it stopped."""
        settings, first = self.settings, self.restore()
        for epoch in range(first, settings.epochs):
            if self.patience.over:
                return "no improvement"
            try:
                record = {"epoch": epoch, "iteration": epoch, **self.epoch(epoch)}
            except (GradientError, SimulationError) as error:
                error.args = (f"epoch {epoch}: {error}; lower the learning rate or shorten the segments",)
                raise
            self.history.append(record)
            self.patience.see(record["error"], record["segments"])
            if self.folder is not None:
                self.folder.log(**record)
                self.save(epoch + 1)
            shown.update(epoch + 1, loss=record["loss"])
            if self.log is not None:
                self.log(record)
            if callback is not None:
                callback(record)
        return "all epochs done"

    @one_torch_thread()
    def epoch(self, epoch: int) -> dict:
        """One pass over the motion, with an update after each share of its segments; the losses before those."""
        settings = self.settings
        plan = Segments(settings.first, settings.last)
        cuts = plan.cuts(self.frames * self.stride, epoch, settings.epochs)
        cuts = sorted({round(cut / self.stride) for cut in cuts})  # segments begin at frames
        factor = SCALE * (len(cuts) - 1) / self.frames
        total, carried, broken, norms = 0.0, None, 0, []
        whole = shares(list(zip(cuts, cuts[1:], strict=False)), settings.updates, self.chained)
        for number, waiting in enumerate(whole):
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            while waiting:
                start, end = waiting.pop(0)
                try:
                    loss, carried = self.segment(start, end, factor, carried)
                    total += loss
                except SimulationError:
                    # a law that is not yet stable for so long is taught on the halves; nothing of the whole is counted
                    if end - start == 1:
                        raise
                    broken += 1
                    middle = (start + end) // 2
                    waiting = [(start, middle), (middle, end), *waiting]
            norms.append(self.update((epoch + number / len(whole)) / settings.epochs))
        error = total / factor / self.frames  # mean squared coordinate error [m^2]
        means = {name: sum(norm[name] for norm in norms) / len(norms) for name in norms[0]}
        return {"loss": total, "error": error, "segments": len(cuts) - 1, "broken": broken, **means}

    def update(self, done: float) -> dict:
        """One step of Adam for each law, ``done`` being the part of the training behind it; the gradients' norms."""
        norms = {}
        for name, (group, rate) in self.groups.items():
            norm = torch.nn.utils.clip_grad_norm_(group, self.settings.clip, foreach=False)
            if not torch.isfinite(norm):
                raise GradientError(f"the gradient of the {name} law is not finite")
            norms[f"gradient_norm_{name}"] = float(norm)
            for entry in self.optimizers[name].param_groups:
                entry["lr"] = rate * (1 + math.cos(math.pi * done)) / 2
            self.optimizers[name].step()
        return norms

    def segment(self, start: int, end: int, factor: float, carried):
        """Loss and gradient of one segment, and the state at its end."""
        state = begin(self.motion, start, self.blank, carried, self.settings.positions_only)
        steps = (end - start) * self.stride
        whole = steps <= self.piece
        loss, done = 0.0, 0
        while done < steps:
            count = min(self.piece, steps - done)
            frames, state = self.model.positions(state, steps=count, store=whole)
            first = start + done // self.stride + 1
            target = self.motion.x[first : first + count // self.stride]
            loss = loss + losses(frames[self.stride - 1 :: self.stride], target)
            done += count
        loss = factor * loss
        loss.backward()
        return float(loss.detach()), state if self.chained else None

    def save(self, epoch: int) -> None:
        """Write the checkpoint from which ``restore`` goes on."""
        content = {
            "epoch": epoch,
            "patience": self.patience.state(),
            "parameters": {name: [p.detach() for p in group] for name, (group, _) in self.groups.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }
        path = self.folder.path / "checkpoints"
        path.mkdir(exist_ok=True)
        atomic_write(path / "last.pt", lambda temporary: torch.save(content, temporary))

    def restore(self) -> int:
        """Take over the checkpoint, if there is one; the next epoch."""
        path = None if self.folder is None else self.folder.path / "checkpoints" / "last.pt"
        if path is None or not path.exists():
            return 0
        content = torch.load(path, weights_only=True)
        for name, (group, _) in self.groups.items():
            for parameter, value in zip(group, content["parameters"][name], strict=True):
                parameter.data.copy_(value)
            self.optimizers[name].load_state_dict(content["optimizers"][name])
        self.patience.restore(content["patience"])
        self.folder.trim_metrics(content["epoch"])
        self.history = self.folder.metrics()
        return content["epoch"]


class Patience:
    """Whether errors have stopped falling for ``limit`` epochs; None never ends.

    Errors grow with the length of segments, so only epochs with the same number of segments are compared: where the
    number changes, counting begins anew.
    """

    def __init__(self, limit: int | None):
        self.limit, self.best, self.since, self.segments = limit, math.inf, 0, 0

    def see(self, error: float, segments: int) -> None:
        """Count an epoch."""
        if segments != self.segments:
            self.best, self.since, self.segments = math.inf, 0, segments
        self.since = 0 if error < self.best else self.since + 1
        self.best = min(self.best, error)

    @property
    def over(self) -> bool:
        return self.limit is not None and self.since >= self.limit

    def state(self) -> list:
        """What a checkpoint keeps."""
        return [self.best, self.since, self.segments]

    def restore(self, state: list) -> None:
        self.best, self.since, self.segments = state


def shares(segments: list, updates: int, chained: bool) -> list[list]:
    """The segments dealt to so many updates, or fewer: every so many-th, or runs of them where each needs the last."""
    count = min(updates, len(segments))
    if chained:
        bounds = [k * len(segments) // count for k in range(count + 1)]
        return [segments[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    return [segments[k::count] for k in range(count)]
