"""Interactions from files: parquet, CSV and JSONL, the latter two gzipped or not.

Every reader is a stream of rows, each with its place in the file, and one collector cleans the
values and turns keys into rows; so every refusal names the file and the line.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from array import array
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from evalrec.interactions import DataError, Interactions

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")

Columns: TypeAlias = tuple[str, ...]
Rows: TypeAlias = Iterator[tuple[str, tuple[Any, ...]]]
"""The place of a row ("line 7"), and its values in the order of the columns asked for."""

_INT64 = np.iinfo(np.int64)


def read_interactions(
    path: str | Path,
    *,
    user_column: str = "user_id",
    item_column: str = "item_id",
    timestamp_column: str | None = "timestamp",
    item_ids: Sequence[str] | None = None,
) -> Interactions:
    """Read a file of interactions; its suffix names the format.

    Ids may be strings or whole numbers, which become strings. User rows are given in the order of
    first appearance, and so are item rows where `item_ids` is not given.

    Args:
        path: A file that ends in .parquet, .csv, .csv.gz, .jsonl or .jsonl.gz.
        user_column: The column of user ids.
        item_column: The column of item ids.
        timestamp_column: The column of whole numbers that order a user's interactions; None takes
            the order of the file.
        item_ids: The keys of the catalogue in row order: item row i is `item_ids[i]`, and an
            interaction with any other item is refused.

    Raises:
        DataError: If the file is missing, empty or malformed, lacks a column, holds a null id or a
            timestamp that is not a whole number, or names an item that the catalogue lacks.
        ValueError: If `item_ids` holds a key twice.
    """
    path = Path(path)
    columns: Columns = (user_column, item_column)
    if timestamp_column is not None:
        columns += (timestamp_column,)
    if not path.is_file():
        raise DataError(f"{path} is {'a folder, not a file' if path.is_dir() else 'missing'}")
    suffix = next((known for known in SUFFIXES if path.name.lower().endswith(known)), None)
    if suffix is None:
        raise DataError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    if suffix == ".parquet":
        rows = _parquet_rows(path, columns)
    elif suffix.startswith(".csv"):
        rows = _csv_rows(path, columns)
    else:
        rows = _jsonl_rows(path, columns)
    return _collect(path, rows, columns, item_ids)


def find_interactions(folder: str | Path) -> Path:
    """The one `interactions.*` file of a native folder.

    Raises:
        DataError: If the folder is missing, or holds none or several of them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is {'a file, not a folder' if folder.exists() else 'missing'}")
    found = [folder / f"interactions{suffix}" for suffix in SUFFIXES]
    found = [path for path in found if path.is_file()]
    if not found:
        raise DataError(f"{folder} holds no interactions file: one of {', '.join(SUFFIXES)}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder} must hold one interactions file, got {names}")
    return found[0]


def _collect(
    path: Path, rows: Rows, columns: Columns, item_ids: Sequence[str] | None
) -> Interactions:
    """Clean the values of the rows and number the keys."""
    user_rows: dict[str, int] = {}
    item_rows = {key: row for row, key in enumerate(item_ids or ())}
    if item_ids is not None and len(item_rows) != len(item_ids):
        twice = next(key for row, key in enumerate(item_ids) if item_rows[key] != row)
        raise ValueError(f"item_ids must be unique, got {twice!r} twice")
    users, items, timestamps = array("q"), array("q"), array("q")
    for place, values in rows:
        try:
            user = _key(values[0], columns[0])
            item = _key(values[1], columns[1])
            timestamp = len(users) if len(columns) == 2 else _whole_number(values[2], columns[2])
        except ValueError as error:
            raise DataError(f"{path}, {place}: {error}") from error
        if item_ids is not None and item not in item_rows:
            raise DataError(f"{path}, {place}: item {item!r} is not in the catalogue")
        users.append(user_rows.setdefault(user, len(user_rows)))
        items.append(item_rows.setdefault(item, len(item_rows)))
        timestamps.append(timestamp)
    if not users:
        raise DataError(f"{path} holds no interactions")
    return Interactions(
        users=np.array(users, dtype=np.int64),
        items=np.array(items, dtype=np.int64),
        timestamps=np.array(timestamps, dtype=np.int64),
        user_ids=tuple(user_rows),
        item_ids=tuple(item_rows),
    )


def _key(value: Any, column: str) -> str:
    if value is None or value == "":
        raise ValueError(f"{column} must be given, got nothing")
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{column} must be a string or a whole number, got {value!r}")


def _whole_number(value: Any, column: str) -> int:
    """An int64 of an int, of a float without a fraction, or of a string that spells either."""
    number = value
    if isinstance(value, str) and "_" not in value:
        try:
            number = int(value)
        except ValueError:
            try:
                number = float(value)
            except ValueError:
                number = None
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{column} must be a whole number, got {value!r}")
    if not _INT64.min <= number <= _INT64.max:
        raise ValueError(f"{column} must fit 64 bits, got {value!r}")
    return number


def _require(path: Path, columns: Columns, existing: Sequence[str]) -> None:
    for column in columns:
        if column not in existing:
            names = ", ".join(repr(name) for name in existing)
            raise DataError(f"{path} has no column {column!r}; it has {names or 'none'}")


def _parquet_rows(path: Path, columns: Columns) -> Rows:
    try:
        existing = pl.read_parquet_schema(path)
        _require(path, columns, list(existing))
        frame = pl.read_parquet(path, columns=list(columns)).select(columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as parquet: {reason}") from error
    for row, values in enumerate(frame.iter_rows(), start=1):
        yield f"row {row}", values


def _open_text(path: Path) -> TextIOWrapper:
    stream = gzip.GzipFile(path) if path.name.lower().endswith(".gz") else path.open("rb")
    return TextIOWrapper(stream, encoding="utf-8-sig", newline="")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file; a broken gzip or encoding is said with the line it breaks at."""
    line = 0
    try:
        with _open_text(path) as stream:
            for line, text in enumerate(stream, start=1):  # noqa: B007  (named in the refusals)
                yield text
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}, line {line + 1}: the gzip stream is broken: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {line}: the text is not UTF-8: {error}") from error


def _csv_rows(path: Path, columns: Columns) -> Rows:
    reader = csv.reader(_lines(path), strict=True)
    try:
        header = next(reader, [])
        _require(path, columns, header)
        places = [header.index(column) for column in columns]
        for fields in reader:
            if not fields:  # a blank line
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, "
                    f"but the header names {len(header)}"
                )
            yield f"line {reader.line_num}", tuple(fields[place] for place in places)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: malformed CSV: {error}") from error


def _jsonl_rows(path: Path, columns: Columns) -> Rows:
    first = True
    for line, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path}, line {line}: malformed JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {line}: must be a JSON object, got {text.strip()[:60]}")
        if first:
            _require(path, columns, list(record))
            first = False
        missing = [column for column in columns if column not in record]
        if missing:
            raise DataError(f"{path}, line {line}: no {missing[0]!r}")
        yield f"line {line}", tuple(record[column] for column in columns)
