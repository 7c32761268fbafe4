"""What a user of an app can put right, and how it ends a command: one line, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from semrec.shared.text import visible


class ExperimentError(Exception):
    """Something about a run that its user can put right; the message says how."""


class ConfigError(ExperimentError):
    """Mistakes in a configuration, a sentence each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = tuple(mistakes)


def guarded(command: Callable[[], None], errors: tuple[type[Exception], ...]) -> None:
    """Runs a command line; known errors become one line on stderr and exit status 1.

    Of a configuration, each mistake is a line.

    Args:
        command: The command line, which parses `sys.argv`.
        errors: Further exceptions; `ExperimentError`, `ValueError`, of which are the packages' own
            for data, `OSError` and `ImportError` are added.
    """
    known: tuple[type[Exception], ...] = (ExperimentError, ValueError, ImportError, *errors)
    processes = os.environ.get("WORLD_SIZE", "").strip()
    if processes not in ("", "1"):
        # Each would wait for the lock of a stage that the others need it for.
        _stop(
            1,
            f"error: WORLD_SIZE must be 1 or unset, got {processes}: an app is one process, so "
            "start it without torchrun",
        )
    try:
        command()
    except KeyboardInterrupt:
        _stop(130, "stopped; the same command goes on from here")
    except SystemExit as stop:
        if stop.code == 130:  # typer has turned a KeyboardInterrupt into this
            _stop(130, "stopped; the same command goes on from here")
        raise
    except OSError as error:
        reason = f"{error.filename}: {error.strerror or error}" if error.filename else f"{error}"
        _stop(1, f"error: {reason}")
    except ConfigError as error:
        _stop(1, *(f"error: {' '.join(mistake.split())}" for mistake in error.mistakes))
    except known as error:
        _stop(1, f"error: {' '.join(str(error).split()) or type(error).__name__}")


def _stop(code: int, *lines: str) -> NoReturn:
    for line in lines:
        print(visible(line), file=sys.stderr)  # noqa: T201
    sys.exit(code)
