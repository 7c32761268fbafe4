"""Phrases that several modules use."""

from __future__ import annotations

from collections.abc import Sequence


def levels_of_codes(codebook_sizes: Sequence[int]) -> str:
    """The number of levels and of their codes in words: "3 levels of 256 codes"."""
    number = len(codebook_sizes)
    least, most = min(codebook_sizes), max(codebook_sizes)
    levels = "1 level" if number == 1 else f"{number} levels"
    codes = f"{most:,} codes" if least == most else f"{least:,} to {most:,} codes"
    return f"{levels} of {codes}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 item", "3,000 items"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
