"""The native folder: `interactions.parquet`, .csv or .jsonl, and `items.jsonl`, gzipped or not."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from evalrec.cells import Column, Columns, checked_frame, key
from evalrec.interactions import DataError, Interactions
from evalrec.readers.batches import Batch, batch_of_rows, require_columns
from evalrec.readers.blocks import Advance, check_file
from evalrec.readers.collect import collect
from evalrec.readers.delimited import Layout, read_delimited
from evalrec.readers.json_lines import read_json_columns, read_json_records
from evalrec.storage import recover_folder

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")
ITEM_SUFFIXES = (".jsonl", ".jsonl.gz")
_ROWS_AT_ONCE = 2**20


def read_interactions(
    path: str | Path,
    *,
    user_column: str = "user_id",
    item_column: str = "item_id",
    timestamp_column: str | None = "timestamp",
    user_ids: Sequence[str] | None = None,
    item_ids: Sequence[str] | None = None,
    advance: Advance | None = None,
) -> Interactions:
    """Read a file of interactions; its suffix names the format.

    Ids may be strings or whole numbers, which become strings. User rows are numbered in the order
    of first appearance; so are item rows without `item_ids`.

    Args:
        path: A file that ends in .parquet, .csv, .csv.gz, .jsonl or .jsonl.gz.
        user_column: The column of user ids.
        item_column: The column of item ids.
        timestamp_column: The column of whole numbers that order a user's interactions; None takes
            the order of the file.
        user_ids: The keys of the users in row order, if they are known; an interaction with any
            other user is refused.
        item_ids: The keys of the catalogue in row order: item row i is `item_ids[i]`, and an
            interaction with any other item is refused.
        advance: Called from time to time with the bytes of the file read since the last call.

    Raises:
        DataError: If the file is missing, empty or malformed, lacks a column, holds a null id or a
            timestamp that is not a whole number, or names a user or an item that is unknown.
        ValueError: If `user_ids` or `item_ids` holds a key twice.
    """
    path = Path(path)
    columns = {
        "user_id": Column(source=user_column, kind="key"),
        "item_id": Column(source=item_column, kind="key"),
    }
    if timestamp_column is not None:
        columns["timestamp"] = Column(source=timestamp_column, kind="whole")
    batches = read_native(path, columns, advance=advance)
    if timestamp_column is None:
        batches = _numbered(batches)
    return collect(batches, str(path), user_ids=user_ids, item_ids=item_ids).interactions


def find_interactions(folder: str | Path) -> Path:
    """The one `interactions.*` file of a native folder.

    Raises:
        DataError: If the folder is missing, or holds none or several of them.
    """
    return _find(Path(folder), "interactions", SUFFIXES)


def find_items(folder: str | Path) -> Path:
    """The one `items.jsonl` or `items.jsonl.gz` of a native folder.

    Raises:
        DataError: If the folder is missing, or holds none or both of them.
    """
    return _find(Path(folder), "items", ITEM_SUFFIXES)


def read_item_ids(path: str | Path) -> list[str]:
    """The ids of `items.jsonl` in order: item row i is line i.

    Raises:
        DataError: If the file cannot be read, a line has no id, or an id occurs twice.
    """
    return [record["item_id"] for _, record in read_items(Path(path))]


def read_items(
    path: Path, keep: Container[str] | None = None, *, advance: Advance | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of `items.jsonl` with their lines, each with its `item_id` as a string.

    Raises:
        DataError: If the file cannot be read, a line has no id, or an id occurs twice.
    """
    lines: dict[str, int] = {}
    for line, record in read_json_records(path, id_field="item_id", advance=advance):
        try:
            item = key(record.get("item_id"), "item_id")
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}") from error
        if item in lines:
            raise DataError(f"{path}, line {line}: item {item!r} is that of line {lines[item]}")
        lines[item] = line
        if keep is None or item in keep:
            yield line, {**record, "item_id": item}


def read_native(path: Path, columns: Columns, *, advance: Advance | None = None) -> Iterator[Batch]:
    """Some columns of a parquet, CSV or JSONL file; its suffix names the format.

    Raises:
        DataError: If the file is missing, empty or malformed, lacks a column, or holds an invalid
            value.
    """
    check_file(path)
    suffix = next((known for known in SUFFIXES if path.name.lower().endswith(known)), None)
    if suffix is None:
        raise DataError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        return _read_parquet(path, columns, advance)
    if suffix.startswith(".csv"):
        return read_delimited(path, columns, Layout(), advance=advance)
    return read_json_columns(path, columns, advance=advance)


def _find(folder: Path, name: str, suffixes: Sequence[str]) -> Path:
    recover_folder(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is {'a file, not a folder' if folder.exists() else 'missing'}")
    candidates = [folder / f"{name}{suffix}" for suffix in suffixes]
    names_inside = set(os.listdir(folder))
    files = [path for path in candidates if path.name in names_inside and path.is_file()]
    if not files:
        raise DataError(f"{folder} holds no {name} file: one of {', '.join(suffixes)}")
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise DataError(f"{folder} must hold one {name} file, got {names}")
    return files[0]


def _numbered(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches with the order of the file as timestamps."""
    start = 0
    for batch in batches:
        frame = batch.frame.with_row_index("timestamp", offset=start).cast({"timestamp": pl.Int64})
        start += frame.height
        yield Batch(path=batch.path, frame=frame, places=batch.places, unit=batch.unit)


def _read_parquet(path: Path, columns: Columns, advance: Advance | None) -> Iterator[Batch]:
    sources = list(dict.fromkeys(column.source for column in columns.values()))
    try:
        with path.open("rb") as file:  # opened here: polars would take brackets for a pattern
            require_columns(path, columns, list(pl.read_parquet_schema(file)))
            file.seek(0)
            table = pl.read_parquet(file, columns=sources)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise DataError(f"{path} cannot be read as parquet: {reason}") from error
    if advance is not None:
        advance(path.stat().st_size)
    for start in range(0, table.height, _ROWS_AT_ONCE):
        part = table.slice(start, _ROWS_AT_ONCE)
        places = range(start + 1, start + part.height + 1)
        checked = checked_frame(part, columns)
        if checked is not None:
            yield Batch(path=path, frame=checked, places=places, unit="row")
        else:
            rows = part.select([column.source for column in columns.values()]).iter_rows()
            yield batch_of_rows(path, zip(places, rows, strict=True), columns, "row")
