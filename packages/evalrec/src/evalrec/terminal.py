"""What reaches a terminal: one way out, through which no text of a file can steer it."""

from __future__ import annotations

import re
import sys
from typing import Any

import typer
from rich.markup import escape

# Control characters but tabs and line feeds, halves of surrogate pairs, ends of lines that only
# some know, and what turns the direction of writing round.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """A text in which what would steer a terminal is written out, as Python would write it."""
    return _STEERING.sub(lambda sign: ascii(sign[0])[1:-1], text)


def cell(text: str) -> str:
    """A text for a cell or a title of a table of rich: printable, of one line, and no markup."""
    return escape(printable(text).replace("\n", "\\n"))


def say(text: str, *, err: bool = False) -> None:
    """Print a text as it is, save what would steer the terminal."""
    typer.echo(printable(text), err=err)


def print_table(table: Any, *, width: int = 100) -> None:
    """Print a table of rich, as wide as the terminal or else `width`."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else width).print(table)


def print_usage_error(error: Any) -> int:
    """Print what the parser of the command line says of a wrong call; the exit code."""
    error.message = printable(error.message)
    try:
        from typer.rich_utils import rich_format_error
    except ImportError:  # typer without rich
        error.show()
    else:
        rich_format_error(error)
    return int(error.exit_code)
