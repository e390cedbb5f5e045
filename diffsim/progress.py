"""``Progress``: a bar on a terminal, plain lines elsewhere; on standard error, which leaves the output to results."""

from __future__ import annotations

import sys
import time

_LINES = 20  # plain lines of a whole run


class Progress:
    """How far a run has come, with its latest figures and the time left; a context manager.

    Args:
        label: what is running.
        total: steps or iterations in all.
        enabled: False shows nothing.
        stream: where to; standard error by default.
    """

    def __init__(self, label: str, total: int, *, enabled: bool = True, stream=None):
        self.label, self.total, self.enabled = label, total, enabled
        self.stream = sys.stderr if stream is None else stream
        self._bar = self._task = None
        self._shown = -1

    def __enter__(self) -> Progress:
        self._began, self._first = time.monotonic(), None
        if self.enabled and self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
            figures = TextColumn("{task.fields[figures]}"), TimeRemainingColumn()
            self._bar = Bar(*columns, *figures, console=Console(file=self.stream))
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, figures="")
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, **figures: float | None) -> None:
        """Show that ``done`` of the total are done, with figures by name; one that is None is left out."""
        if not self.enabled:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=text)
            return
        if self._first is None:  # a resumed run starts with part of the work done: it says nothing about the speed
            self._first = done
        part = done * _LINES // self.total
        if part > self._shown:
            self._shown = part
            words = [f"{self.label}: {done}/{self.total}", text, self._left(done)]
            print("  ".join(word for word in words if word), file=self.stream, flush=True)

    def _left(self, done: int) -> str:
        if done >= self.total or done <= self._first:
            return ""
        left = (time.monotonic() - self._began) / (done - self._first) * (self.total - done)
        return f"{left // 60:.0f} min {left % 60:.0f} s left" if left >= 60 else f"{left:.0f} s left"
