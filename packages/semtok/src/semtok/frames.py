"""Data frames in and out: of pandas, polars, pyarrow and other libraries that narwhals knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from semtok.rows import MOST_COLUMNS, CatalogError, Row

_PLAIN = (str, int, float, Decimal, date, time, timedelta, bytes)
"""What a cell of a parquet file can hold, besides lists and objects of these."""


def frame_rows(frame: Any) -> Iterator[Row]:
    """The rows of a data frame, numbered from 1, with the cells that a parquet file of it has.

    Missing cells (null, NaN of pandas, NA, NaT) become None, categories their values, and arrays
    lists. Times become those of the standard library, to the microsecond, in their time zone.

    Args:
        frame: A table of pandas, polars, pyarrow or any other library that narwhals knows; a lazy
            one is collected.

    Raises:
        CatalogError: If a column name is not a text or repeats, or there are too many columns;
            while rows are read: if a cell holds another kind of object.
        TypeError: If `frame` is not a data frame.
    """
    import narwhals.stable.v2 as nw

    try:
        table = nw.from_native(frame)
    except TypeError:
        raise TypeError(
            "frame must be a data frame, of pandas, polars, pyarrow or any other library that "
            f"narwhals knows, got {type(frame).__name__}"
        ) from None
    except ValueError as error:  # a repeated column name; the message has several lines
        reason = " ".join(str(error).split())
        raise CatalogError(f"frame: must name each column once ({reason})") from None
    data = table.collect() if isinstance(table, nw.LazyFrame) else table
    for name in data.columns:
        if not isinstance(name, str):
            raise CatalogError(f"frame: columns must be named by texts, got {name!r}")
    if len(data.columns) > MOST_COLUMNS:
        raise CatalogError(
            f"frame: has {len(data.columns):,} columns, more than the {MOST_COLUMNS:,} that are "
            "read"
        )
    return _rows(data)


def new_frame(columns: Mapping[str, Any], backend: Any) -> Any:
    """A data frame made of columns.

    Args:
        columns: Column name to a list or an array, all of the same length.
        backend: "polars", "pandas", "pyarrow" or any other library whose tables narwhals makes; or
            a data frame: the result is then of the same library.

    Raises:
        ImportError: If the library is not installed.
        ValueError: If narwhals makes no tables of that kind.
    """
    import narwhals.stable.v2 as nw

    try:
        kind = backend
        if not isinstance(backend, str):
            kind = nw.get_native_namespace(nw.from_native(backend)).__name__
        return nw.from_dict(columns, backend=kind).to_native()
    except (TypeError, ValueError):
        shown = repr(backend) if isinstance(backend, str) else type(backend).__name__
        raise ValueError(
            "backend must be polars, pandas, pyarrow, another library that narwhals knows, or a "
            f"data frame, got {shown}"
        ) from None


def _rows(data: Any) -> Iterator[Row]:
    columns = {
        name: zip(data[name].to_list(), data[name].is_null().to_list(), strict=True)
        for name in data.columns
    }
    for number, cells in enumerate(zip(*columns.values(), strict=True), start=1):
        row = {}
        for name, (value, is_missing) in zip(columns, cells, strict=True):
            try:
                row[name] = None if is_missing else _cell(value)
            except TypeError as error:
                raise CatalogError(f"frame, row {number}: {name!r} {error}") from None
        yield number, row


def _cell(value: Any) -> object:
    """A cell as a Python object.

    Raises:
        TypeError: If it holds a kind of object that files of items cannot hold.
    """
    if hasattr(value, "to_pydatetime"):  # of pandas
        return value.to_pydatetime(warn=False)
    if hasattr(value, "to_pytimedelta"):
        return value.to_pytimedelta()
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [_cell(part) for part in value]
    if isinstance(value, Mapping):
        return {name: _cell(part) for name, part in value.items()}
    raise TypeError(
        f"must hold texts, numbers, times, or lists of them, got {type(value).__name__}"
    )
