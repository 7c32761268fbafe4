"""Catalogues: files of items read into ids and fields, with errors that name the line."""

from __future__ import annotations

import csv
import gzip
import html
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

TEXT_FIELDS = ("title", "brand", "categories", "features", "description")
"""The fields that make the text of an item unless others are named."""

CATALOG_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")

_TAG = re.compile(r"<(?:/?[a-zA-Z]|!)[^<>]*>")


class CatalogError(ValueError):
    """A file that semtok was given cannot be used; the message is one sentence that names it.

    Raised for catalogues, embedding files, code tables and tokenizer folders.
    """


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Items in a fixed order: row i of every table made from a catalogue is item i.

    Attributes:
        item_ids: The id of each item, no two equal.
        fields: Field name to one value an item, None where the item lacks the field. The id
            column is not among them.
    """

    item_ids: list[str]
    fields: Mapping[str, Sequence[object]]

    def __post_init__(self) -> None:
        if not self.item_ids:
            raise ValueError("item_ids must hold at least one id, got none")
        seen: set[str] = set()
        for item_id in self.item_ids:
            if item_id in seen:
                raise ValueError(f"item_ids must be unique, got {item_id!r} twice")
            seen.add(item_id)
        for name, values in self.fields.items():
            if len(values) != len(self.item_ids):
                raise ValueError(
                    f"fields must hold one value an item ({len(self.item_ids)}), "
                    f"got {len(values)} in {name!r}"
                )

    def __len__(self) -> int:
        return len(self.item_ids)

    def require_fields(self, fields: Sequence[str]) -> None:
        """Raises ValueError unless every one of `fields` is a field of this catalogue."""
        for name in fields:
            if name not in self.fields:
                known = ", ".join(self.fields) or "none"
                raise ValueError(
                    f"fields must be among those of the catalogue ({known}), got {name!r}"
                )

    def take(self, rows: Sequence[int]) -> Catalog:
        """The items of some rows, in the order of `rows`."""
        return Catalog(
            item_ids=[self.item_ids[row] for row in rows],
            fields={name: [values[row] for row in rows] for name, values in self.fields.items()},
        )

    def texts(self, fields: Sequence[str] = TEXT_FIELDS) -> list[str]:
        """One text an item: the named fields in order, joined by ". ".

        Strings, numbers, lists, nested lists and the values of objects are flattened; HTML
        entities are unescaped and tags removed; absent and empty fields are skipped.

        Args:
            fields: Field names; those that the catalogue lacks are skipped.

        Returns:
            As many texts as items; "" for an item with none of the fields.

        Raises:
            ValueError: If the catalogue has none of the fields.
        """
        columns = [self.fields[name] for name in fields if name in self.fields]
        if not columns:
            raise ValueError(
                f"fields must name at least one field of the catalogue "
                f"({', '.join(self.fields) or 'none'}), got {', '.join(fields) or 'none'}"
            )
        texts = []
        for row in range(len(self)):
            parts = (", ".join(_strings(column[row])) for column in columns)
            texts.append(". ".join(part for part in parts if part))
        return texts


def read_catalog(path: str | Path, *, id_column: str = "item_id") -> Catalog:
    """Reads a catalogue: one item a line or row, its order kept.

    Args:
        path: A .jsonl, .jsonl.gz, .csv (UTF-8, first line names the columns) or .parquet file.
        id_column: The column that holds the item's id. Numbers become strings.

    Returns:
        The catalogue. In CSV, an empty cell counts as absent.

    Raises:
        CatalogError: If the file is missing, of an unknown kind, empty, broken, not UTF-8, or
            lacks ids or repeats one; the sentence names the file and the line or row.
    """
    path = Path(path)
    suffix = catalog_suffix(path)
    if not path.exists():
        raise CatalogError(f"{path}: no such file")
    if path.is_dir():
        raise CatalogError(f"{path}: is a folder, not a file")
    place = "row" if suffix == ".parquet" else "line"
    rows = {".csv": _csv_rows, ".parquet": _parquet_rows}.get(suffix, _jsonl_rows)(path)
    item_ids: list[str] = []
    numbers: dict[str, int] = {}
    names: dict[str, None] = {}
    values: list[Mapping[str, object]] = []
    for number, row in rows:
        item_id = _item_id(row, id_column, f"{path}, {place} {number}")
        if item_id in numbers:
            raise CatalogError(
                f"{path}, {place} {number}: item id {item_id!r} is already "
                f"that of {place} {numbers[item_id]}"
            )
        numbers[item_id] = number
        item_ids.append(item_id)
        values.append(row)
        names.update(dict.fromkeys(row))
    if not item_ids:
        raise CatalogError(f"{path}: holds no items")
    names.pop(id_column, None)
    return Catalog(
        item_ids=item_ids, fields={name: [row.get(name) for row in values] for name in names}
    )


def find_catalog(folder: str | Path) -> Path:
    """Finds the one catalogue of a folder: items.jsonl, .jsonl.gz, .csv or .parquet.

    Raises:
        CatalogError: If the folder holds none of them, or more than one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CatalogError(f"{folder}: no such folder")
    found = [path for suffix in CATALOG_SUFFIXES if (path := folder / f"items{suffix}").exists()]
    if len(found) != 1:
        wanted = ", ".join(f"items{suffix}" for suffix in CATALOG_SUFFIXES)
        got = " and ".join(path.name for path in found) or "none of them"
        raise CatalogError(f"{folder}: must hold exactly one of {wanted}, got {got}")
    return found[0]


def catalog_suffix(path: Path) -> str:
    """The suffix of a catalogue's name, ".jsonl.gz" as one.

    Raises:
        CatalogError: If it is not that of a catalogue.
    """
    for suffix in CATALOG_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise CatalogError(f"{path}: must end in one of {', '.join(CATALOG_SUFFIXES)}")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, decoded one by one, without a byte order mark."""
    number = 0
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        if path.name.lower().endswith(".gz"):
            file = cast(IO[bytes], stack.enter_context(gzip.open(file)))
        while True:
            number += 1
            try:
                line = file.readline()
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise CatalogError(f"{path}, line {number}: broken gzip file ({error})") from None
            if not line:
                return
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise CatalogError(
                    f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} "
                    f"in column {error.start + 1})"
                ) from None
            yield text.removeprefix("\ufeff") if number == 1 else text


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CatalogError(
                f"{path}, line {number}: malformed JSON ({error.msg}, column {error.colno})"
            ) from None
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else "number too long"
            raise CatalogError(f"{path}, line {number}: malformed JSON ({reason})") from None
        if not isinstance(row, dict):
            raise CatalogError(
                f"{path}, line {number}: must be a JSON object, got {type(row).__name__}"
            )
        yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    # The standard library's reader: it counts lines, and ids such as 007 stay as written.
    reader = csv.reader(_lines(path), strict=True)
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise CatalogError(f"{path}, line {number}: malformed CSV ({error})") from None
        if cells is None:
            return
        if not cells:
            continue
        if not header:
            header = cells
            repeated = next((name for name in header if header.count(name) > 1), None)
            if repeated is not None:
                raise CatalogError(f"{path}, line {number}: column {repeated!r} is named twice")
            continue
        if len(cells) != len(header):
            raise CatalogError(
                f"{path}, line {number}: has {len(cells)} cells, the header has {len(header)}"
            )
        yield number, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    import polars as pl

    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise CatalogError(f"{path}: not a readable parquet file ({reason})") from None
    return enumerate(frame.iter_rows(named=True), start=1)


def _item_id(row: Mapping[str, object], id_column: str, place: str) -> str:
    if id_column not in row:
        names = ", ".join(map(str, row)) or "none"
        raise CatalogError(f"{place}: no column {id_column!r} (columns: {names})")
    value = row[id_column]
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise CatalogError(f"{place}: {id_column!r} is null")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise CatalogError(
            f"{place}: {id_column!r} must be a string or a number, got {type(value).__name__}"
        )
    if not str(value).strip():
        raise CatalogError(f"{place}: {id_column!r} is empty")
    if str(value) != _well_formed(str(value)):
        raise CatalogError(f"{place}: {id_column!r} must be valid Unicode, got {value!r}")
    return str(value)


def _strings(value: object) -> Iterator[str]:
    """The cleaned, non-empty strings of a field, depth first."""
    stack = [value]
    while stack:
        value = stack.pop()
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if isinstance(value, Mapping):
            stack.extend(reversed(list(value.values())))
        elif isinstance(value, list | tuple):
            stack.extend(reversed(value))
        elif isinstance(value, bytes):
            raise ValueError("fields must hold text, numbers or lists of them, got bytes")
        elif text := _clean(str(value)):
            yield text


def _clean(text: str) -> str:
    if "&" in text:  # feeds escape twice: &amp;amp;
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _TAG.sub(" ", text)
    return " ".join(_well_formed(text).split())


def _well_formed(text: str) -> str:
    """The text with lone surrogates, which no encoder accepts, replaced by "?"."""
    return text.encode(errors="replace").decode()
