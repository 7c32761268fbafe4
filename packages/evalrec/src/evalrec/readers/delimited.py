"""Delimited text: CSV, tab-separated, and MovieLens' two colons."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evalrec.cells import Columns, checked_frame
from evalrec.interactions import DataError
from evalrec.readers.batches import Batch, batch_of_rows, require_columns
from evalrec.readers.blocks import Advance, Block, read_blocks


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The signs and the encoding of a delimited file.

    Attributes:
        separator: The sign between fields.
        header: The names of the fields, if the file has no header.
        quote: The sign around a field, doubled inside the field; None if no sign has that meaning,
            as with a separator of several characters.
        encoding: The encoding of the file, as `read_blocks` takes it.
    """

    separator: str = ","
    header: tuple[str, ...] | None = None
    quote: str | None = '"'
    encoding: str = "utf-8"


def read_delimited(
    path: Path,
    columns: Columns,
    layout: Layout,
    *,
    advance: Advance | None = None,
) -> Iterator[Batch]:
    """Some columns of a delimited file, block by block.

    Raises:
        DataError: If the file is missing, empty or malformed, lacks a column, has a row with more
            or fewer fields than the header, or holds an invalid value.
    """
    header = layout.header
    for block in read_blocks(path, encoding=layout.encoding, quote=layout.quote, advance=advance):
        if header is None:
            header, block = _take_header(block, layout)
            if len(header) == 1:
                _refuse_other_separator(path, columns, header[0])
            require_columns(path, columns, header)
        if block.data:
            yield parse_whole(block, columns, layout, header) or batch_of_rows(
                path, _rows(block, columns, layout, header), columns
            )


def read_header(path: Path, layout: Layout) -> tuple[str, ...]:
    """The names of the fields in the first line.

    Raises:
        DataError: If the file is missing or empty, or the line is malformed.
    """
    for block in read_blocks(path, encoding=layout.encoding, quote=layout.quote):
        return _take_header(block, layout)[0]
    return ()


def read_records(
    path: Path, layout: Layout, *, advance: Advance | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Every row of a delimited file as a mapping of all its fields, with its line.

    Raises:
        DataError: If the file is missing, empty or malformed, or a row has more or fewer fields
            than the header.
    """
    header = layout.header
    for block in read_blocks(path, encoding=layout.encoding, quote=layout.quote, advance=advance):
        if header is None:
            header, block = _take_header(block, layout)
        if block.data:
            for line, fields in _fields(block, layout, header):
                yield line, dict(zip(header, fields, strict=True))


def _take_header(block: Block, layout: Layout) -> tuple[tuple[str, ...], Block]:
    """The names in the first line that is not blank, and the rest of the block."""
    number, text = next(((n, line) for n, line in block.lines() if line.strip()), (0, ""))
    number = number or block.first_line + block.num_lines - 1
    try:
        fields: list[str] = next(csv_reader([text], layout), [])
    except csv.Error as error:
        raise DataError(f"{block.path}, line {number}: malformed CSV: {error}") from error
    for name, count in Counter(fields).items():
        if count > 1:
            raise DataError(f"{block.path}, line {number}: column {name!r} is named twice")
    taken = number + 1 - block.first_line
    rest = block.data.split(b"\n", taken)[taken:]
    return tuple(fields), replace(
        block,
        first_line=number + 1,
        data=rest[0] if rest else b"",
        num_lines=block.num_lines - taken,
    )


def parse_whole(
    block: Block, columns: Columns, layout: Layout, header: Sequence[str]
) -> Batch | None:
    """The block parsed by polars, or None if anything is unusual."""
    data, separator = block.data, layout.separator
    quotes = layout.quote is not None and layout.quote.encode() in data
    if not quotes:
        if data.count(separator.encode()) != block.num_lines * (len(header) - 1):
            return None
        if len(separator.encode()) > 1:
            if b"\t" in data:
                return None
            data, separator = data.replace(separator.encode(), b"\t"), "\t"
    elif len(separator.encode()) > 1:
        return None
    try:
        frame = pl.read_csv(
            io.BytesIO(data),
            has_header=False,
            separator=separator,
            quote_char=layout.quote,
            schema={name: pl.String for name in header},
        )
    except pl.exceptions.PolarsError:
        return None
    if frame.height != block.num_lines:
        return None
    if quotes and frame[header[-1]].null_count() and not _are_whole(block, layout, len(header)):
        return None
    checked = checked_frame(frame, columns)
    if checked is None:
        return None
    places = range(block.first_line, block.first_line + frame.height)
    return Batch(path=block.path, frame=checked, places=places)


def _refuse_other_separator(path: Path, columns: Columns, header: str) -> None:
    """Refuse a file whose first line holds another separator than the layout's.

    Raises:
        DataError: It names that separator, and the command that reads the file.
    """
    signs = {";": "';'", "\t": "tabs", "|": "'|'", ",": "','"}
    sign = max(signs, key=header.count)
    if header.count(sign) and all(column.source != header for column in columns.values()):
        raise DataError(
            f"{path} is separated by {signs[sign]}: `evalrec prepare table {path.name} --out DIR` "
            "reads it"
        )


def _are_whole(block: Block, layout: Layout, num_fields: int) -> bool:
    """Whether there are as many separators outside quotes as complete rows would have.

    Then no row lacks its last fields, as polars refuses a row that has too many.
    """
    signs = np.frombuffer(block.data, dtype=np.uint8)
    is_inside = np.cumsum(signs == ord(layout.quote or ""), dtype=np.int64) % 2 == 1
    num_separators = np.count_nonzero((signs == ord(layout.separator)) & ~is_inside)
    return bool(num_separators == block.num_lines * (num_fields - 1))


def _rows(
    block: Block, columns: Columns, layout: Layout, header: Sequence[str]
) -> Iterator[tuple[int, Sequence[str]]]:
    indices = [header.index(column.source) for column in columns.values()]
    for line, fields in _fields(block, layout, header):
        yield line, [fields[index] for index in indices]


def _fields(
    block: Block, layout: Layout, header: Sequence[str]
) -> Iterator[tuple[int, Sequence[str]]]:
    """The fields of every row that is not blank, as many as the header names."""
    rows = _quoted_fields(block, layout) if layout.quote else _plain_fields(block, layout)
    for line, fields in rows:
        if len(fields) != len(header):
            raise DataError(
                f"{block.path}, line {line}: {len(fields)} fields, "
                + (
                    f"but the header names {len(header)}"
                    if layout.header is None
                    else f"must be {len(header)}: {', '.join(header)}"
                )
            )
        yield line, fields


def _plain_fields(block: Block, layout: Layout) -> Iterator[tuple[int, Sequence[str]]]:
    for line, text in block.lines():
        if text.strip():
            yield line, text.split(layout.separator)


def _quoted_fields(block: Block, layout: Layout) -> Iterator[tuple[int, Sequence[str]]]:
    text = io.StringIO(block.data.decode(), newline="")
    reader = csv_reader(text, layout)
    try:
        for fields in reader:
            if len(fields) > 1 or "".join(fields).strip():  # otherwise the line is blank
                yield block.first_line + reader.line_num - 1, fields
    except csv.Error as error:
        line = block.first_line + max(reader.line_num, 1) - 1
        raise DataError(f"{block.path}, line {line}: malformed CSV: {error}") from error


def csv_reader(lines: Iterable[str], layout: Layout) -> Any:
    """Python's CSV reader for a layout; it counts lines."""
    return csv.reader(
        lines,
        delimiter=layout.separator,
        quotechar=layout.quote,
        quoting=csv.QUOTE_MINIMAL if layout.quote else csv.QUOTE_NONE,
        strict=True,
    )
