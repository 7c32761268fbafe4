"""One record a line: JSON, or the Python literals of Amazon's 2014 metadata."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from evalrec.interactions import DataError
from evalrec.readers.batches import Batch, Columns, batch_of_rows, checked_frame, require_columns
from evalrec.readers.blocks import Advance, Block, read_blocks, read_lines

# What polars writes where a string was asked for and the record holds something else.
_NOT_PLAIN_TEXT = r'[\[{".]|^(?:true|false)$'


def read_json_columns(
    path: Path, columns: Columns, *, advance: Advance | None = None
) -> Iterator[Batch]:
    """Some fields of a file of JSON objects, one a line, block by block.

    Raises:
        DataError: If the file is missing, empty or malformed, a line lacks a field or holds a
            value that is not what it must be.
    """
    first = True
    for block in read_blocks(path, advance=advance):
        if first:
            _require_first(block, columns)
        batch = parse_whole(block, columns) or batch_of_rows(path, _rows(block, columns), columns)
        first = False
        yield batch


def read_json_records(
    path: Path,
    *,
    id_field: str,
    keep: Container[str] | None = None,
    literal: bool = False,
    advance: Advance | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a file, one a line, with their lines.

    Args:
        path: The file.
        id_field: The field of the id, for `keep`.
        keep: The ids that are wanted; a line whose id can be seen to be another is not parsed.
        literal: Whether a line is a Python literal rather than JSON. It is read by
            `ast.literal_eval`, which runs nothing.
        advance: Called with the bytes read.

    Raises:
        DataError: If the file is missing, empty or malformed.
    """
    glance = re.compile(rf"""["']{re.escape(id_field)}["']\s*:\s*["']([^"'\\]+)["']""")
    parse = parse_literal if literal else parse_json
    for line, text in read_lines(path, advance=advance):
        if keep is not None and text.rstrip().endswith("}"):
            seen = glance.findall(text)
            if len(seen) == 1 and seen[0] not in keep:
                continue
        yield line, parse(path, line, text)


def parse_json(path: Path, line: int, text: str) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        DataError: If it is none.
    """
    return _parse(path, line, text, json.loads, "JSON")


def parse_literal(path: Path, line: int, text: str) -> dict[str, Any]:
    """The dictionary that a line spells as a Python literal.

    Raises:
        DataError: If it is none.
    """
    return _parse(path, line, text.strip(), ast.literal_eval, "Python literal")


def _parse(
    path: Path, line: int, text: str, parse: Callable[[str], Any], kind: str
) -> dict[str, Any]:
    try:
        record = parse(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        reason = str(error).split("\n")[0][:120] or type(error).__name__
        raise DataError(f"{path}, line {line}: malformed {kind}: {reason}") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}, line {line}: must be a {kind} object, got {text.strip()[:60]}")
    return record


def _require_first(block: Block, columns: Columns) -> None:
    """A first record without a field means another kind of file, which is said as that."""
    for line, text in block.lines():
        if text.strip():
            require_columns(block.path, columns, list(parse_json(block.path, line, text)))
            return


def parse_whole(block: Block, columns: Columns) -> Batch | None:
    """The block parsed by polars, or None where anything is unusual."""
    schema: dict[str, Any] = {}
    for column in columns.values():
        schema[column.source] = pl.String if column.kind == "time" else column.dtype
    try:
        frame = pl.read_ndjson(io.BytesIO(block.data), schema=schema)
    except pl.exceptions.PolarsError:
        return None
    if frame.height != block.num_lines or any(frame.null_count().row(0)):
        return None
    for column in columns.values():
        if column.kind == "key" and frame[column.source].str.contains(_NOT_PLAIN_TEXT).any():
            return None
    checked = checked_frame(frame, columns)
    if checked is None:
        return None
    places = range(block.first_line, block.first_line + frame.height)
    return Batch(path=block.path, frame=checked, places=places)


def _rows(block: Block, columns: Columns) -> Iterator[tuple[int, Sequence[Any]]]:
    for line, text in block.lines():
        if not text.strip():
            continue
        record = parse_json(block.path, line, text)
        for column in columns.values():
            if column.source not in record:
                raise DataError(f"{block.path}, line {line}: no {column.source!r}")
        yield line, [record[column.source] for column in columns.values()]
