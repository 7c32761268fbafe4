"""One record per line: JSON, or the Python literals of Amazon's 2014 metadata."""

from __future__ import annotations

import ast
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from evalrec.cells import Columns, checked_frame
from evalrec.interactions import DataError
from evalrec.readers.batches import Batch, batch_of_rows, require_columns
from evalrec.readers.blocks import Advance, Block, read_blocks, read_lines

# Texts that polars returns if the record holds another type, or half of a surrogate pair. Digits
# are not among them: whether these were numbers is checked separately.
_NOT_PLAIN_TEXT = r'[\[{"\x00]|^(?:true|false)$'
_NUMBER = r"^-?[0-9]+(?:\.[0-9]+)?$"
LITERAL_BYTES = 2**20  # maximal length of a Python literal, whose parsing takes much memory


def read_json_columns(
    path: Path, columns: Columns, *, advance: Advance | None = None
) -> Iterator[Batch]:
    """Some fields of a file of JSON objects, one per line, block by block.

    Raises:
        DataError: If the file is missing, empty or malformed, or a line lacks a field or holds an
            invalid value.
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
    """The records of a file, one per line, with their lines.

    Args:
        path: The file.
        id_field: The field of the id, for `keep`.
        keep: The ids of the wanted records; a line that visibly has another id is not parsed.
        literal: Whether a line may be a Python literal as well as JSON. It is read by
            `ast.literal_eval`, which runs no code.
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


class _Record(dict[str, Any]):
    """A JSON object that knows which of its keys occurred twice."""

    repeated: frozenset[str] = frozenset()

    @classmethod
    def of_pairs(cls, pairs: list[tuple[str, Any]]) -> _Record:
        """Made by the parser from an object's keys and values; the last value of a key counts."""
        record = cls(pairs)
        if len(record) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            record.repeated = frozenset(name for name, count in counts.items() if count > 1)
        return record


class _RepeatedKey(ValueError):
    """An object, or a dictionary, has a key twice."""


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = _Record.of_pairs(pairs)
    for name in record.repeated:
        raise _RepeatedKey(f"the key {name[:60]!r} occurs twice")
    return record


_WHOLE = json.JSONDecoder(object_pairs_hook=_refuse_repeats)
_COLUMNS = json.JSONDecoder(object_pairs_hook=_Record.of_pairs, parse_float=Decimal)


def parse_json(path: Path, line: int, text: str) -> dict[str, Any]:
    """The JSON object of a line, in which no key occurs twice.

    Raises:
        DataError: If the line is not such an object.
    """
    return _parse(path, line, text, _WHOLE.decode, "JSON")


def parse_literal(path: Path, line: int, text: str) -> dict[str, Any]:
    """The dictionary in a line, written as a Python literal or as strict JSON.

    Raises:
        DataError: If it is neither, or a literal longer than 1 MiB.
    """
    if text.lstrip().startswith('{"'):  # not a literal, whose keys are in single quotes
        return parse_json(path, line, text)
    if len(text) > LITERAL_BYTES:
        raise DataError(f"{path}, line {line}: is longer than {LITERAL_BYTES:,} characters")
    return _parse(path, line, text.strip(), _literal, "Python literal")


def _literal(text: str) -> Any:
    """Reads a literal with `ast.literal_eval`, which runs no code; keys must not repeat."""
    node = ast.parse(text, mode="eval").body
    if isinstance(node, ast.Dict):
        names = [key.value for key in node.keys if isinstance(key, ast.Constant)]
        for name, count in Counter(names).items():
            if count > 1:
                raise _RepeatedKey(f"the key {str(name)[:60]!r} occurs twice")
    return ast.literal_eval(node)


def _parse(
    path: Path, line: int, text: str, parse: Callable[[str], Any], kind: str
) -> dict[str, Any]:
    try:
        record = parse(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        reason = str(error).split("\n")[0][:120] or type(error).__name__
        if reason.startswith("malformed node"):  # the message continues with a memory address
            reason = "it holds a name, a call or an operation where a value must stand"
        if kind == "JSON" and text.lstrip().startswith("{'"):
            reason += "; a Python literal, as it seems, which the format amazon2014 reads"
        raise DataError(f"{path}, line {line}: malformed {kind}: {reason}") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}, line {line}: must be a {kind} object, got {text.strip()[:60]}")
    return record


def _require_first(block: Block, columns: Columns) -> None:
    """Refuses a first record that lacks a field: the file is then of another kind."""
    for line, text in block.lines():
        if text.strip():
            record = _parse(block.path, line, text, _COLUMNS.decode, "JSON")
            require_columns(block.path, columns, list(record))
            return


def parse_whole(block: Block, columns: Columns) -> Batch | None:
    """The block parsed by polars, or None if anything is unusual."""
    if not _names_each_once(block, columns):
        return None
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
        if column.kind == "key" and not _are_plain(frame[column.source], block):
            return None
    checked = checked_frame(frame, columns)
    if checked is None:
        return None
    places = range(block.first_line, block.first_line + frame.height)
    return Batch(path=block.path, frame=checked, places=places)


def _names_each_once(block: Block, columns: Columns) -> bool:
    """Whether each requested field is named as often as there are lines, and never escaped.

    If in addition every line has each field, no line has one twice. Quotes inside a text are
    escaped, so each match is a name, or a text that equals a name; then lines are checked one by
    one.
    """
    names = {column.source for column in columns.values()}
    if not all(re.fullmatch(r"[\w ]+", name, re.ASCII) for name in names):
        return False
    if any(block.data.count(f'"{name}"'.encode()) != block.num_lines for name in names):
        return False
    sixteens = "".join({f"{ord(sign) >> 4:x}" for name in names for sign in name})
    return re.search(rf"\\u00[{sixteens}]".encode(), block.data) is None


def _are_plain(values: pl.Series, block: Block) -> bool:
    """Whether the keys that polars read are texts, or whole numbers that it left unchanged."""
    if values.str.contains(_NOT_PLAIN_TEXT).any():
        return False
    if not values.str.contains(_NUMBER).any():
        return True
    name = re.escape(values.name)
    rounded = rf'"{name}"\s*:\s*-?(?:[0-9]+[.eE]|[0-9]{{19}})'
    return re.search(rounded.encode(), block.data) is None


def _rows(block: Block, columns: Columns) -> Iterator[tuple[int, Sequence[Any]]]:
    for line, text in block.lines():
        if not text.strip():
            continue
        record = _parse(block.path, line, text, _COLUMNS.decode, "JSON")
        for column in columns.values():
            if column.source not in record:
                raise DataError(f"{block.path}, line {line}: no {column.source!r}")
            if isinstance(record, _Record) and column.source in record.repeated:
                raise DataError(f"{block.path}, line {line}: {column.source!r} occurs twice")
        yield line, [record[column.source] for column in columns.values()]
