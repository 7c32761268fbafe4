"""What a user of an app can put right, and how it ends a command: one line, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from semrec.shared import processes
from semrec.shared.text import visible


class ExperimentError(Exception):
    """Something about a run that its user can put right; the message says how."""


def guarded(command: Callable[[], None], errors: tuple[type[Exception], ...]) -> None:
    """Runs a command line; known errors become one line on stderr and exit status 1.

    Args:
        command: The command line, which parses `sys.argv`.
        errors: Further exceptions; `ExperimentError`, `ValueError`, of which are the packages' own
            for data, `OSError` and `ImportError` are added.
    """
    known: tuple[type[Exception], ...] = (ExperimentError, ValueError, ImportError, *errors)
    try:
        command()
    except KeyboardInterrupt:
        _stop("stopped; the same command goes on from here", 130)
    except SystemExit as stop:
        if stop.code == 130:  # typer has turned a KeyboardInterrupt into this
            _stop("stopped; the same command goes on from here", 130)
        raise
    except OSError as error:
        reason = f"{error.filename}: {error.strerror or error}" if error.filename else f"{error}"
        _stop(f"error: {reason}", 1)
    except known as error:
        _stop(f"error: {' '.join(str(error).split()) or type(error).__name__}", 1)
    except RuntimeError as error:
        if not processes.ended_elsewhere(error):
            raise
        _stop("error: another process of the run has ended; the same command goes on from here", 1)


def _stop(message: str, code: int) -> NoReturn:
    if processes.is_first_to_fail():
        print(visible(message), file=sys.stderr)  # noqa: T201
    sys.exit(code)
