"""What the command line shows while it works: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import re
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from types import TracebackType

    from rich.table import Table

    from semtok.health import CodeHealth

_PLAIN_EVERY = 10.0  # seconds between two plain lines of one stage


# Beside C0 and C1: characters that change the direction of text or end a line.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """A text with control characters escaped as in Python: a terminal would obey them."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


class Console:
    """Progress, log lines and warnings on stderr; the results of a command on stdout.

    Args:
        quiet: Whether only warnings and errors are shown.
        stdout_is_taken: Whether stdout is reserved for the results.
    """

    def __init__(self, *, quiet: bool = False, stdout_is_taken: bool = False) -> None:
        self.quiet = quiet
        self._to_stderr = stdout_is_taken
        self._started: dict[str, float] = {}
        self._shown = 0.0
        self._ended: set[str] = set()
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._log = _ToConsole(self)
        self._warn: Any = None

    def __enter__(self) -> Console:
        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[amount]}", markup=False),
                TimeElapsedColumn(),
            )
            self._bars = Progress(*columns, console=RichConsole(stderr=True))
            self._bars.start()
        logger = logging.getLogger("semtok")
        logger.addHandler(self._log)
        self._level = logger.level
        logger.setLevel(logging.WARNING if self.quiet else logging.INFO)
        self._warn, warnings.showwarning = warnings.showwarning, self._show_warning
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        warnings.showwarning = self._warn
        logger = logging.getLogger("semtok")
        logger.removeHandler(self._log)
        logger.setLevel(self._level)
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows the progress of a stage; a total of 0 means that it is not known yet."""
        now = time.monotonic()
        if self.quiet:
            return
        stage = printable(stage)
        if self._bars is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=None, amount="")
            # Until the first item is done, the bar has no length: a pulse shows instead.
            self._bars.update(
                self._tasks[stage],
                completed=done,
                total=total if done and total else None,
                amount=f"{done:,}" if total != 1 else "",
            )
        elif stage not in self._started:
            typer.echo(f"{stage} ...", err=True)
        elif total and done >= total:
            if stage in self._ended:
                return
            self._ended.add(stage)
            typer.echo(f"{stage}: {now - self._started[stage]:.1f} s", err=True)
        elif now - self._shown >= _PLAIN_EVERY:
            of_total = f" of {total:,}" if total else ""
            typer.echo(f"{stage}: {done:,}{of_total}", err=True)
        else:
            return
        self._started.setdefault(stage, now)
        self._shown = now

    def line(self, text: str) -> None:
        """Shows a line on stderr, above the bars if there are any."""
        text = printable(text)
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            typer.echo(text, err=True)

    def say(self, text: str) -> None:
        """Tells what was done, unless quiet."""
        if not self.quiet:
            typer.echo(printable(text), err=self._to_stderr)

    def warn(self, text: str) -> None:
        """Shows a warning on stderr, also if quiet."""
        self.line(f"warning: {text}")

    def show(self, health: CodeHealth) -> None:
        """Prints a table of health, unless quiet."""
        if not self.quiet:
            self.print(health.table())

    def print(self, table: Table) -> None:
        """Prints a table."""
        from rich.console import Console as RichConsole

        file = sys.stderr if self._to_stderr else sys.stdout
        RichConsole(file=file, width=None if file.isatty() else 100).print(table)

    def _show_warning(self, message: Warning | str, *_: object, **__: object) -> None:
        self.warn(" ".join(str(message).split()))


class _ToConsole(logging.Handler):
    """Shows what the library logs."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        self._console.line(prefix + record.getMessage())
