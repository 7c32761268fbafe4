"""Batches of checked rows, which every reader of interactions yields.

Each format has two ways to the same rows. The fast way parses a whole block in compiled code and
is only used if nothing is unusual. Otherwise the block is read again row by row: all correct rows
are accepted, and the error names the line of a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from evalrec.cells import Columns, shown
from evalrec.interactions import DataError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of a file, checked.

    Attributes:
        path: The file.
        frame: `user_id`, `item_id`, `timestamp` and, if the format has one, `rating`; or the
            requested columns.
        places: The line (or row) of the file that each row came from.
        unit: "line" or "row".
        before: Whether these rows come before all others of their users, although they are read
            later: for example clicks in a history without times.
        only_missing: Whether only those of these pairs count that no other row holds.
    """

    path: Path
    frame: pl.DataFrame
    places: Sequence[int]
    unit: str = "line"
    before: bool = False
    only_missing: bool = False

    def place(self, row: int) -> str:
        """The file and line of a row, for messages."""
        return f"{self.path}, {self.unit} {self.places[row]}"


def batch_of_rows(
    path: Path,
    rows: Iterable[tuple[int, Sequence[Any]]],
    columns: Columns,
    unit: str = "line",
) -> Batch:
    """Check rows one by one.

    Args:
        path: The file, for error messages.
        rows: The place of each row, and its values in the order of `columns`.
        columns: The rules for the values.
        unit: The unit of places.

    Raises:
        DataError: At the first value that breaks its rule.
    """
    places: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in columns}
    for place, row in rows:
        for (name, column), value in zip(columns.items(), row, strict=True):
            try:
                values[name].append(column.value(value))
            except ValueError as error:
                raise DataError(f"{path}, {unit} {place}: {error}") from error
        places.append(place)
    schema = {name: column.dtype for name, column in columns.items()}
    return Batch(path=path, frame=pl.DataFrame(values, schema=schema), places=places, unit=unit)


def require_columns(path: Path, columns: Columns, existing: Sequence[str]) -> None:
    """Refuse a file that lacks a column.

    Raises:
        DataError: It names the missing column, and the existing ones.
    """
    for column in columns.values():
        if column.source not in existing:
            names = ", ".join(shown(name) for name in existing[:30])
            raise DataError(f"{path} has no column {column.source!r}; it has {names or 'none'}")
