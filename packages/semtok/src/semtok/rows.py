"""The rows of catalogue files, numbered, with errors that name the line."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from io import BufferedIOBase
from pathlib import Path
from typing import Literal, Protocol, cast, get_args, runtime_checkable

Format = Literal["jsonl", "csv", "parquet"]
"""The formats of a file of items."""

CATALOG_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")

LONGEST_LINE = 1 << 28
"""Maximal length of a line in bytes: a longer one is not a line, and would fill the memory."""


MOST_COLUMNS = 4096
"""Maximal number of columns of a file: with more, the header holds values instead of names."""


class CatalogError(ValueError):
    """A file cannot be used; the message is one sentence that names it.

    Raised for catalogues, embedding files, code tables and tokenizer folders.
    """


Row = tuple[int, Mapping[str, object]]
"""The number of a row's line, from 1, and the row's values by column."""


class RepeatedKeyError(ValueError):
    """A JSON object has the same key twice."""


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object as a dictionary. A repeated key is refused: readers disagree on its meaning.

    Raises:
        RepeatedKeyError: If a key comes twice.
    """
    values = dict(pairs)
    if len(values) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise RepeatedKeyError(f"key {repeated!r} comes twice in an object")
    return values


def catalog_suffix(path: Path) -> str:
    """The suffix of a catalogue's name, ".jsonl.gz" as one.

    Raises:
        CatalogError: If it is not the suffix of a catalogue.
    """
    for suffix in CATALOG_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise CatalogError(f"{path}: must end in one of {', '.join(CATALOG_SUFFIXES)}")


def open_rows(path: str | Path, format: Format | None) -> tuple[Iterator[Row], str]:
    """Opens the rows of a file, or of standard input if `path` is "-".

    Returns:
        The rows, and the unit that their numbers count: "line" or "row".

    Raises:
        CatalogError: At once if the file is missing or of an unknown format; while it is read if
            it is broken.
    """
    if format is not None and format not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, got {format!r}")
    if str(path) == "-":
        if format == "parquet":
            raise CatalogError("standard input: must be jsonl or csv; parquet is read from a file")
        read = _csv_rows if format == "csv" else _jsonl_rows
        return read("standard input", _stdin_lines()), "line"
    path = Path(path)
    if format is None:
        format = cast(Format, catalog_suffix(path).split(".")[1])
    if not path.exists():
        raise CatalogError(f"{path}: no such file")
    if path.is_dir():
        raise CatalogError(f"{path}: is a folder, not a file")
    if format == "parquet":
        return _parquet_rows(path), "row"
    return _file_rows(path, f".{format}"), "line"


def _too_wide(count: int) -> str:
    return f"has {count:,} columns, more than the {MOST_COLUMNS:,} that are read"


@runtime_checkable
class Lines(Protocol):
    """What is read line by line, as an open file is."""

    def readline(self, limit: int, /) -> bytes:
        """The next line, or `limit` bytes of it; empty at the end."""
        ...


def text_rows(name: str, file: Lines, suffix: str) -> Iterator[Row]:
    """The rows of an open file of JSON Lines or CSV.

    Args:
        name: What errors call it.
        file: Read from where it stands.
        suffix: Of its name, as `catalog_suffix` gives it; with .gz it is unpacked.

    Raises:
        CatalogError: While it is read, if it is broken.
    """
    with ExitStack() as stack:
        if suffix.endswith(".gz"):
            file = stack.enter_context(gzip.GzipFile(fileobj=cast(BufferedIOBase, file)))
        read = _csv_rows if suffix.startswith(".csv") else _jsonl_rows
        yield from read(name, _decoded(name, file))


def _file_rows(path: Path, kind: str) -> Iterator[Row]:
    packing = ".gz" if path.name.lower().endswith(".gz") else ""
    with path.open("rb") as file:
        yield from text_rows(str(path), file, kind + packing)


def _stdin_lines() -> Iterator[str]:
    yield from _decoded("standard input", cast(BufferedIOBase, sys.stdin.buffer))


def _decoded(name: str, file: Lines) -> Iterator[str]:
    """The lines of a file, decoded one by one, without a byte order mark."""
    number = 0
    while True:
        number += 1
        try:
            line = file.readline(LONGEST_LINE + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CatalogError(f"{name}, line {number}: broken gzip file ({error})") from None
        if not line:
            return
        if len(line) > LONGEST_LINE:
            raise CatalogError(
                f"{name}, line {number}: longer than {LONGEST_LINE >> 20} MiB, so it is not a line"
            )
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            byte = line[error.start]
            raise CatalogError(
                f"{name}, line {number}: not UTF-8 (byte 0x{byte:02x} in column "
                f"{error.start + 1}; in Latin-1 that is {chr(byte)!r}): save it as UTF-8"
            ) from None
        yield text.removeprefix("\ufeff") if number == 1 else text


def _jsonl_rows(name: str, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=unique_keys)
        except json.JSONDecodeError as error:
            raise CatalogError(
                f"{name}, line {number}: malformed JSON ({error.msg}, column {error.colno})"
            ) from None
        except RepeatedKeyError as error:
            raise CatalogError(f"{name}, line {number}: {error}") from None
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else "number too long"
            raise CatalogError(f"{name}, line {number}: malformed JSON ({reason})") from None
        if not isinstance(row, dict):
            raise CatalogError(
                f"{name}, line {number}: must be a JSON object, got {type(row).__name__}"
            )
        if len(row) > MOST_COLUMNS:
            raise CatalogError(f"{name}, line {number}: {_too_wide(len(row))}")
        yield number, row


def _csv_rows(name: str, lines: Iterator[str]) -> Iterator[Row]:
    # The standard library's reader: it counts lines, and keeps ids such as 007 as written.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise CatalogError(f"{name}, line {number}: malformed CSV ({error})") from None
        if cells is None:
            return
        if not cells or (len(cells) == 1 and cells[0].isspace()):
            continue
        if not header:
            header = cells
            repeated, count = Counter(header).most_common(1)[0]
            if count > 1:
                raise CatalogError(f"{name}, line {number}: column {repeated!r} is named twice")
            if len(header) > MOST_COLUMNS:
                raise CatalogError(f"{name}, line {number}: {_too_wide(len(header))}")
            if len(header) == 1:
                _refuse_other_separator(name, number, header[0])
            continue
        if len(cells) != len(header):
            raise CatalogError(
                f"{name}, line {number}: has {len(cells)} cells, the header has {len(header)}"
            )
        yield number, {column: cell or None for column, cell in zip(header, cells, strict=True)}


def _refuse_other_separator(name: str, number: int, header: str) -> None:
    """Raises CatalogError if the header is one cell that contains another separator."""
    signs = {";": "';'", "\t": "tabs", "|": "'|'"}
    sign = max(signs, key=header.count)
    if sign in header:
        raise CatalogError(
            f"{name}, line {number}: this file is separated by {signs[sign]}, not by commas: "
            "`evalrec prepare table ORDERS CATALOGUE --out DIR` makes items.jsonl.gz of it, or "
            "save it with commas"
        )


def _parquet_rows(path: Path) -> Iterator[Row]:
    import polars as pl

    number = 0
    try:
        with path.open("rb"):  # a missing permission is reported as such
            pass
        frames = pl.scan_parquet(path, glob=False)
        width = len(frames.collect_schema())
        if width > MOST_COLUMNS:
            raise CatalogError(f"{path}: {_too_wide(width)}")
        for frame in frames.collect_batches(chunk_size=4096):
            for row in frame.iter_rows(named=True):
                number += 1
                yield number, row
    except PermissionError:
        raise
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise CatalogError(f"{path}: not a readable parquet file ({reason})") from None
