"""Batches of checked rows: what every reader of interactions yields.

Each format has two ways to the same rows. The fast one parses a whole block in compiled code and
is believed only where nothing is unusual; else the block is read again row by row, which accepts
whatever is right and names the line of what is not.
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
        frame: `user_id`, `item_id`, `timestamp` and, where the format has one, `rating`; or
            whatever columns were asked for.
        places: The line (or row) of the file that each row came from.
        unit: "line" or "row".
        before: Whether these rows come before all others of their users, although they are read
            later: clicks that a file keeps in a history without times.
        only_missing: Whether, of these, only pairs count that no other row holds.
    """

    path: Path
    frame: pl.DataFrame
    places: Sequence[int]
    unit: str = "line"
    before: bool = False
    only_missing: bool = False

    def place(self, row: int) -> str:
        """File and line of a row."""
        return f"{self.path}, {self.unit} {self.places[row]}"


def batch_of_rows(
    path: Path,
    rows: Iterable[tuple[int, Sequence[Any]]],
    columns: Columns,
    unit: str = "line",
) -> Batch:
    """Check rows one by one.

    Args:
        path: The file, for refusals.
        rows: The place of each row, and its values in the order of `columns`.
        columns: What the values must be.
        unit: What a place is.

    Raises:
        DataError: At the first value that is not what it must be.
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
        DataError: It names the column, and those that there are.
    """
    for column in columns.values():
        if column.source not in existing:
            names = ", ".join(shown(name) for name in existing[:30])
            raise DataError(f"{path} has no column {column.source!r}; it has {names or 'none'}")
