"""The definition of a raw format: the names of its files, and how they are read."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence
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


@runtime_checkable
class ReadImages(Protocol):
    """From the files that tell of images to one image an item."""

    def __call__(
        self, paths: Sequence[Path], keep: Collection[str], *, advance: Advance | None
    ) -> dict[str, str]:
        """Item to an address of the web, or to a path as the working directory sees it.

        Only items in `keep`, and only those that have an image.
        """


@dataclass(frozen=True, kw_only=True)
class Format:
    """A raw format.

    Attributes:
        name: As on the command line.
        title: As people call it.
        interaction_files: What the names of its files of interactions look like, as globs.
        item_files: The same for its files of items.
        image_files: The same for files that say which image is of which item; empty where the
            files of items say it, or nothing does.
        time_unit: Of its timestamps: "seconds", "milliseconds", or "any" where it has none of
            its own.
        has_ratings: Whether interactions have a rating.
        unique_items: Whether an item that is listed twice is an error; else the first one counts.
        read_interactions: Reads the former.
        read_items: Reads one of the latter.
        read_images: Reads the files of images, or those of items where there are none; None where
            the format has no images of items.
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
    image_files: tuple[str, ...] = ()
    read_images: ReadImages | None = None


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
