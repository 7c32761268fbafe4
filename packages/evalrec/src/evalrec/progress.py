"""The progress of a command: bars on a terminal, plain lines elsewhere; both on stderr."""

from __future__ import annotations

import sys
import time
from typing import Any


class ProgressScreen:
    """Shows stages as they are reported: `screen(stage, done, total)`.

    A context manager; a stage is done when `done` reaches `total`. Stages that take less than a
    tenth of a second leave no plain line.
    """

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._shown = 0.0
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> ProgressScreen:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeElapsedColumn(),
            )
            self._bars = Progress(*columns, console=Console(stderr=True))
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how much of a stage is done, in any unit."""
        now = time.monotonic()
        started = self._started.setdefault(stage, now)
        if self._bars is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=None)
            # Until something is done, the bar has no length: a pulse shows instead.
            self._bars.update(self._tasks[stage], completed=done, total=total if done else None)
        elif done >= total:
            if now - started >= 0.1:
                print(f"{stage}: {now - started:.1f} s", file=sys.stderr)  # noqa: T201
        elif now - max(self._shown, started) >= 5:
            print(f"{stage}: {done / total:.0%}", file=sys.stderr, flush=True)  # noqa: T201
            self._shown = now
