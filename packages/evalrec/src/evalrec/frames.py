"""Data frames in and out: of pandas, polars, pyarrow and other libraries that narwhals knows.

Frames are checked like the cells of a file, so that a frame and a file of the same table give the
same result. Columns of dates and times become whole numbers. Those with a time zone are converted
to UTC; those without one are taken as UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl

from evalrec.cells import Column, Columns, shown, whole_number

__all__ = ["TimeColumn", "make_frame", "read_frame"]


@dataclass(frozen=True, kw_only=True)
class TimeColumn(Column):
    """A column of a frame that holds whole numbers, dates or times."""

    def value(self, value: Any) -> int:
        """The whole number of a cell."""
        try:
            return whole_number(value, self.source)
        except ValueError:
            if isinstance(value, str | date):
                raise ValueError(
                    f"{self.source} must be whole numbers, or a column whose type is a date or a "
                    f"time, got {shown(value)}"
                ) from None
            raise


def read_frame(frame: Any, columns: Columns) -> pl.DataFrame:
    """Some columns of a data frame, checked; a lazy one is collected.

    Args:
        frame: The table.
        columns: Pairs of a new column name and the rule for its cells.

    Raises:
        TypeError: If `frame` is not a data frame.
        ValueError: If it lacks a column, or a cell is not valid; the message names the row, from
            1 on.
    """
    try:
        table = nw.from_native(frame)
    except TypeError:
        raise TypeError(
            "frame must be a data frame, of pandas, polars, pyarrow or any other library that "
            f"narwhals knows, got {type(frame).__name__}"
        ) from None
    except ValueError as error:  # a repeated column name; the message has several lines
        raise ValueError(f"frame must have each column once: {' '.join(str(error).split())}") from (
            error
        )
    existing = table.collect_schema().names()
    for column in columns.values():
        if column.source not in existing:
            names = ", ".join(shown(name) for name in existing[:30])
            raise ValueError(f"frame has no column {column.source!r}; it has {names or 'none'}")
    table = table.select(list(dict.fromkeys(column.source for column in columns.values())))
    data = table.collect() if isinstance(table, nw.LazyFrame) else table
    checked = {name: _checked(data[column.source], column) for name, column in columns.items()}
    return pl.DataFrame(checked)


def make_frame(columns: Mapping[str, Any], backend: str) -> Any:
    """A data frame made of columns.

    Args:
        columns: Column name to a list or an array, all of the same length.
        backend: The library of the frame: "polars", "pandas", "pyarrow" or any other whose tables
            narwhals makes.

    Raises:
        ImportError: If the library is not installed.
        ValueError: If narwhals makes no tables of that name.
    """
    try:
        return nw.from_dict(columns, backend=backend).to_native()  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(
            "backend must be polars, pandas, pyarrow or another that narwhals knows, "
            f"got {backend!r}"
        ) from error


def _checked(values: nw.Series[Any], column: Column) -> pl.Series:
    """The checked cells of a column: all at once if nothing is unusual, else one by one."""
    missing = values.is_null().to_numpy()
    if isinstance(column, TimeColumn) and isinstance(values.dtype, nw.Datetime | nw.Date):
        if missing.any():
            row = int(np.argmax(missing)) + 1
            raise ValueError(f"row {row}: {column.source} must be given, got nothing")
        return pl.Series(_ticks(values), dtype=pl.Int64)
    plain = None if missing.any() else _plain(values)
    checked = None if plain is None else column.checked(plain)
    if checked is not None:
        return checked
    cells = []
    for row, (cell, is_missing) in enumerate(zip(values.to_list(), missing, strict=True), start=1):
        # Columns of Python objects may hold numbers of numpy, which are not Python numbers.
        python = cell.item() if isinstance(cell, np.number | np.bool_) else cell
        try:
            cells.append(column.value(None if is_missing else python))
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from error
    return pl.Series(cells, dtype=column.dtype)


def _plain(values: nw.Series[Any]) -> pl.Series | None:
    """A column without missing cells as polars numbers or texts; None for any other type."""
    dtype = values.dtype
    if dtype.is_float() or (dtype.is_integer() and dtype not in (nw.Int128, nw.UInt128)):
        return pl.Series(values.to_numpy())
    if dtype not in (nw.String, nw.Categorical, nw.Enum):
        return None
    texts = values.to_list()
    if not all(isinstance(text, str) for text in texts):  # categories may be of any type
        return None
    try:
        return pl.Series(texts, dtype=pl.String)
    except UnicodeEncodeError:  # half a surrogate pair; the check of single cells names it
        return None


def _ticks(values: nw.Series[Any]) -> np.ndarray:
    """Dates as seconds, and times in the unit of their type, since 1970 in UTC."""
    if isinstance(values.dtype, nw.Date):
        return values.cast(nw.Datetime("ms")).dt.timestamp("ms").to_numpy() // 1000
    assert isinstance(values.dtype, nw.Datetime)
    unit = values.dtype.time_unit
    if unit == "s":
        return values.dt.timestamp("ms").to_numpy() // 1000
    return values.dt.timestamp(unit).to_numpy()
