"""The progress of a run on the screen."""

from __future__ import annotations

import time
from types import TracebackType

from genrec import TrainingEvent
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from semrec.shared import processes
from semrec.shared.text import visible


class Screen:
    """Shows the progress of a run on stderr: bars on a terminal, plain lines elsewhere.

    Of several processes only the first shows anything.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=not processes.is_first())
        self.live = self.console.is_terminal and processes.is_first()

    def say(self, message: str) -> None:
        """Prints one line."""
        self.console.print(visible(message), markup=False, soft_wrap=True)

    def bar(self, title: str) -> Bar:
        """Returns a progress bar, to be used in a `with` block."""
        return Bar(self, title)


class Bar:
    """A bar on a terminal; elsewhere a line every `PERIOD` seconds and one at the end."""

    PERIOD = 10.0

    def __init__(self, screen: Screen, title: str) -> None:
        self.screen = screen
        self.title = title
        self.last = time.perf_counter()
        self.has_spoken = False
        self.unsaid: str | None = None  # the newest line, if it was not printed
        self.progress: Progress | None = None
        if screen.live:
            self.progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.completed:,.0f} of {task.fields[of]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=screen.console,
                transient=True,
            )
            self.task = self.progress.add_task(visible(title), total=None, note="", of="?")

    def __enter__(self) -> Bar:
        if self.progress is not None:
            self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.progress is not None:
            self.progress.stop()
        elif kind is None and self.has_spoken and self.unsaid is not None:
            self.screen.say(self.unsaid)

    def update(self, done: int, total: int | None, note: str = "") -> None:
        """Shows that `done` of `total` are done, and a note; None for an unknown total."""
        if self.progress is not None:
            of = "?" if total is None else f"{total:,}"
            self.progress.update(self.task, completed=done, total=total, note=visible(note), of=of)
            return
        of_total = "" if total is None else f" of {total:,}"
        self.unsaid = f"{self.title}: {done:,}{of_total} {note}".rstrip()
        if time.perf_counter() - self.last >= self.PERIOD:
            self.last = time.perf_counter()
            self.screen.say(self.unsaid)
            self.has_spoken, self.unsaid = True, None

    def training(self, event: TrainingEvent) -> None:
        """Shows the progress of a training, with one line per epoch; a callback of `genrec.fit`."""
        figures = {**event.losses, **event.metrics}
        note = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        if event.kind == "epoch":
            self.screen.say(f"{self.title}: epoch {event.epoch} of at most {event.epochs}, {note}")
        else:
            self.update(event.step, event.total_steps, note)


def duration(seconds: float) -> str:
    """A readable form of seconds: ``3.2 s``, ``4 min 7 s``, ``1 h 12 min``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
