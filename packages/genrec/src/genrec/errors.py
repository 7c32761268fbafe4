"""What a caller can act on, and how it is said; importing it imports no torch."""

from __future__ import annotations


class ArtifactError(Exception):
    """A file or folder that cannot be used: damaged, incomplete, newer, or of something else.

    Args:
        message: What is wrong. It may quote what a file holds: what no terminal prints as itself,
            such as escapes and marks of direction, is shown as Python writes it in a string.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    r"""Returns the text with each character that is not printable as its escape: "\x1b"."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
