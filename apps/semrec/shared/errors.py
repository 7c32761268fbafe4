"""Errors that the user of an app can correct; they end a command with one line, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from semrec.shared import processes
from semrec.shared.text import visible

_STOPPED = "stopped; repeat the command to continue"


class ExperimentError(Exception):
    """An error that the user of a run can correct; the message says how."""


class ConfigError(ExperimentError):
    """The mistakes in a configuration, one sentence each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = tuple(mistakes)


def guarded(command: Callable[[], None], errors: tuple[type[Exception], ...]) -> None:
    """Runs a command line; known errors become one line on stderr and exit status 1.

    Each mistake in a configuration is a line of its own.

    Args:
        command: The command line, which parses `sys.argv`.
        errors: Further known exceptions. `ExperimentError`, `OSError`, `ImportError` and
            `ValueError` are always known; the packages' errors about data are subclasses of the
            last.
    """
    known: tuple[type[Exception], ...] = (ExperimentError, ValueError, ImportError, *errors)
    try:
        command()
    except KeyboardInterrupt:
        _stop(130, _STOPPED)
    except SystemExit as stop:
        if stop.code == 130:  # typer has turned a KeyboardInterrupt into this
            _stop(130, _STOPPED)
        raise
    except OSError as error:
        reason = f"{error.filename}: {error.strerror or error}" if error.filename else f"{error}"
        _stop(1, f"error: {reason}")
    except ConfigError as error:
        _stop(1, *(f"error: {' '.join(mistake.split())}" for mistake in error.mistakes))
    except known as error:
        _stop(1, f"error: {' '.join(str(error).split()) or type(error).__name__}")
    except RuntimeError as error:
        if not processes.ended_elsewhere(error):
            raise
        _stop(1, "error: another process of the run has ended; repeat the command to continue")


def _stop(code: int, *lines: str) -> NoReturn:
    if processes.is_first_to_fail():
        for line in lines:
            print(visible(line), file=sys.stderr)  # noqa: T201
    sys.exit(code)
