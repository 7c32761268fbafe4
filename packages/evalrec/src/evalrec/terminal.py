"""All output to a terminal: text from files is escaped, so that it cannot control the terminal."""

from __future__ import annotations

import re
import sys
from typing import Any

import typer
from rich.markup import escape

# Control characters except tabs and line feeds, halves of surrogate pairs, rare kinds of line ends,
# and characters that change the direction of writing.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """A text with characters that would control a terminal escaped, as Python writes them."""
    return _STEERING.sub(lambda sign: ascii(sign[0])[1:-1], text)


def cell(text: str) -> str:
    """A text for a cell or a title of a rich table: printable, in one line, and without markup."""
    return escape(printable(text).replace("\n", "\\n"))


def say(text: str, *, err: bool = False) -> None:
    """Print a text, with characters that would control the terminal escaped."""
    typer.echo(printable(text), err=err)


def print_table(table: Any, *, width: int = 100) -> None:
    """Print a rich table, as wide as the terminal or else `width`."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else width).print(table)


def print_usage_error(error: Any) -> int:
    """Print the message of the command line's parser on a wrong call; returns the exit code."""
    error.message = printable(error.message)
    try:
        from typer.rich_utils import rich_format_error
    except ImportError:  # typer without rich
        error.show()
    else:
        rich_format_error(error)
    return int(error.exit_code)
