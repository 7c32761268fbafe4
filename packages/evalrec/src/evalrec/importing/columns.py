"""The meaning of a file's columns: as the caller names them, or guessed from the header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evalrec.importing.vocabulary import REQUIRED, are_levels, candidates
from evalrec.interactions import DataError

Choice = Mapping[str, tuple[str, ...]]
"""The columns of each meaning; only `categories` may have several."""

_IN_WORDS = {
    "user": "the user",
    "item": "the item",
    "time": "the time",
    "item_id": "the item's id",
}


def option_of(meaning: str) -> str:
    """The option of the command line that names the column of a meaning."""
    return "--" + meaning.replace("_", "-")


def choose_columns(
    path: Path,
    header: Sequence[str],
    meanings: Sequence[str],
    named: Choice,
    *,
    item_column: str | None = None,
) -> dict[str, tuple[str, ...]]:
    """The columns of a file by their meanings.

    Args:
        path: The file, for error messages.
        header: The names of its columns.
        meanings: The meanings that may occur in the file.
        named: Columns that the caller named, so that they are not guessed.
        item_column: The item's column in the orders; a catalogue's column of that name is its id.

    Raises:
        DataError: If a named column is missing, a guess is ambiguous, or no column can be guessed
            for a meaning that is required.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    for meaning in meanings:
        for name in named.get(meaning, ()):
            if name not in header:
                raise DataError(
                    f"{path} has no column {name!r}, which {option_of(meaning)} names; it has "
                    f"{_listed(header)}"
                )
        if meaning in named:
            chosen[meaning] = named[meaning]
    for meaning in meanings:
        if meaning in chosen:
            continue
        taken = {name for names in chosen.values() for name in names}
        free = tuple(name for name in header if name not in taken)
        if meaning == "item_id" and item_column in free:
            chosen[meaning] = (str(item_column),)
            continue
        names = candidates(meaning, free)
        if len(names) > 1 and not are_levels(names):
            raise DataError(
                f"{path}: {' or '.join(map(repr, names))} could be "
                f"{_IN_WORDS.get(meaning, f'the {meaning}')}: {option_of(meaning)} names the column"
            )
        if names:
            chosen[meaning] = tuple(names)
        elif meaning in REQUIRED:
            raise DataError(
                f"{path}: no column is known to be {_IN_WORDS[meaning]}, so "
                f"{option_of(meaning)} must name it; the columns are {_listed(header)}"
            )
    return chosen


def _listed(header: Sequence[str]) -> str:
    shown = ", ".join(repr(name if len(name) < 60 else name[:57] + "...") for name in header[:30])
    return shown + (f" and {len(header) - 30:,} more" if len(header) > 30 else "") or "none"
