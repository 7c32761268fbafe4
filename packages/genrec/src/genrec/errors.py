"""The error of files that cannot be used, and printable text; importing it imports no torch."""

from __future__ import annotations


class ArtifactError(Exception):
    """A file or folder cannot be used: it is damaged, incomplete, newer, or of another kind.

    Args:
        message: What is wrong. It may quote the contents of a file: characters that a terminal does
            not print, such as escapes and marks of direction, are shown as in a Python string.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    r"""Returns the text with an escape, such as "\x1b", for each unprintable character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
