"""The definition of a raw format: the names of its files, and how they are read."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from evalrec.cells import Column, key
from evalrec.interactions import DataError
from evalrec.readers.batches import Batch
from evalrec.readers.blocks import Advance


@runtime_checkable
class ReadInteractions(Protocol):
    """Reads the files of interactions, in their order, as batches of checked rows."""

    def __call__(
        self, paths: Sequence[Path], *, rated: bool, advance: Advance | None
    ) -> Iterator[Batch]:
        """Batches of `user_id`, `item_id`, `timestamp` and, if `rated`, `rating`."""


@runtime_checkable
class ReadItems(Protocol):
    """Reads a file of items as records like those of `items.jsonl`, with their lines."""

    def __call__(
        self, path: Path, keep: Container[str], *, advance: Advance | None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The records of the items in `keep`; it may yield others too."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A raw format.

    Attributes:
        name: The name on the command line.
        title: The usual name of the data set.
        interaction_files: Patterns (globs) for the names of its files of interactions.
        item_files: Patterns for the names of its files of items.
        time_unit: The unit of its timestamps: "seconds", "milliseconds", or "any" if it has no
            fixed unit.
        has_ratings: Whether interactions have a rating.
        unique_items: Whether an item that is listed twice is an error; else the first one counts.
        read_interactions: Reads the files of interactions.
        read_items: Reads one file of items.
    """

    name: str
    title: str
    interaction_files: tuple[str, ...]
    item_files: tuple[str, ...]
    time_unit: str
    has_ratings: bool
    unique_items: bool
    read_interactions: ReadInteractions
    read_items: ReadItems


def with_rating(columns: dict[str, Column], rating: str | None, rated: bool) -> dict[str, Column]:
    """The columns, with the column of ratings if ratings are wanted and the format has them."""
    if rated and rating is not None:
        return {**columns, "rating": Column(source=rating, kind="number")}
    return columns


def item_key(path: Path, line: int, record: dict[str, Any], field: str) -> str:
    """The id of an item's record.

    Raises:
        DataError: If it has no valid id.
    """
    try:
        return key(record.get(field), field)
    except ValueError as error:
        raise DataError(f"{path}, line {line}: {error}") from error
