"""Catalogues: files of items read into ids and fields, with errors that name the line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt64

from semtok.markup import well_formed, without_markup
from semtok.phrases import counted
from semtok.rows import (
    CATALOG_SUFFIXES,
    MOST_COLUMNS,
    CatalogError,
    Format,
    Row,
    catalog_suffix,
    open_rows,
)
from semtok.runs import KeyRuns

__all__ = [
    "CATALOG_SUFFIXES",
    "TEXT_FIELDS",
    "Catalog",
    "CatalogError",
    "Format",
    "catalog_suffix",
    "find_catalog",
    "folder_of",
    "id_hashes",
    "item_id_of",
    "read_catalog",
    "stream_catalog",
]

TEXT_FIELDS = ("title", "brand", "categories", "features", "description")
"""The fields that make the text of an item if no others are named."""

LONGEST_TEXT = 65_536
"""Maximal length of an item's text, in characters: no model reads more, and it costs memory."""

_MOST_CELLS = 1 << 22  # of a chunk
_FRAME_CHUNK = 16_384


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Items in a fixed order: row i of every table made from a catalogue is item i.

    Attributes:
        item_ids: The id of each item, no two equal.
        fields: Field name to one value per item, None where the item lacks the field. The id
            column is not among them.
        folder: The folder from which relative paths in fields start.
    """

    item_ids: list[str]
    fields: Mapping[str, Sequence[object]]
    folder: Path = field(default=Path(), compare=False)

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
                    f"fields must hold one value per item ({len(self.item_ids)}), "
                    f"got {len(values)} in {name!r}"
                )

    @classmethod
    def from_frame(
        cls, frame: Any, *, id_column: str = "item_id", folder: str | Path = Path()
    ) -> Catalog:
        """The items of a data frame, as `read_catalog` would read them from a parquet file of it.

        Args:
            frame: A table of pandas, polars, pyarrow or any other library that narwhals knows; a
                lazy one is collected. Missing cells of any kind are None.
            id_column: The column that holds the item's id: strings, or whole numbers, as their
                digits.
            folder: The folder from which relative paths in fields start.

        Raises:
            CatalogError: If the frame is empty, lacks ids or repeats one, has more than 4,096
                columns, or has cells of other types than texts, numbers, times, and lists or
                objects of these. The message names the row, counted from 1.
            TypeError: If `frame` is not a data frame.
        """
        from semtok.frames import frame_rows

        chunks = catalog_chunks(frame_rows(frame), "row", "frame", id_column, _FRAME_CHUNK)
        return _gathered(chunks, Path(folder))

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        return f"Catalog({counted(len(self), 'item')}, fields {', '.join(self.fields) or 'none'})"

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
            folder=self.folder,
        )

    def texts(self, fields: Sequence[str] = TEXT_FIELDS, *, fix_text: bool = False) -> list[str]:
        """One text per item: the named fields in order, joined by ". ".

        Strings, numbers, lists, nested lists and the values of objects are flattened. HTML
        entities are unescaped; tags, scripts and styles are removed. Absent and empty fields are
        skipped. A text has at most 65,536 characters.

        Args:
            fields: Field names; names that the catalogue lacks are skipped.
            fix_text: Whether to repair text that was decoded by the wrong encoding, such as
                "cafÃ©" for "café" (needs `semtok[ftfy]`).

        Returns:
            As many texts as items; "" for an item that has none of the fields.

        Raises:
            ImportError: If `fix_text` is set and `semtok[ftfy]` is not installed.
            ValueError: If the catalogue has none of the fields.
        """
        columns = [self.fields[name] for name in fields if name in self.fields]
        if not columns:
            raise ValueError(
                f"fields must name at least one field of the catalogue "
                f"({', '.join(self.fields) or 'none'}), got {', '.join(fields) or 'none'}; "
                "the option --fields names others"
            )
        repaired = _encoding_fixer() if fix_text else _as_it_is
        texts = [""] * len(self)
        for column in columns:
            for row, value in enumerate(column):
                if value is None or value == "":
                    continue
                if part := ", ".join(_strings(value, repaired)):
                    texts[row] = f"{texts[row]}. {part}" if texts[row] else part
        return [text[:LONGEST_TEXT] for text in texts]


def read_catalog(
    path: str | Path, *, id_column: str = "item_id", format: Format | None = None
) -> Catalog:
    """Reads a whole catalogue: one item per line or row, in the order of the file.

    Args:
        path: The file, or "-" for standard input; see `stream_catalog`.
        id_column: The column that holds the item's id: strings, or whole numbers, as their digits.
        format: The format of the file, if not the one that its name says.

    Returns:
        The catalogue. In CSV, an empty cell counts as absent.

    Raises:
        CatalogError: For the same reasons as `stream_catalog`.
    """
    return _gathered(stream_catalog(path, id_column=id_column, format=format), folder_of(path))


def stream_catalog(
    path: str | Path,
    *,
    id_column: str = "item_id",
    chunk_size: int = 16_384,
    format: Format | None = None,
) -> Iterator[Catalog]:
    """Reads a catalogue chunk by chunk. In memory: one chunk, and 24 bytes per item read so far.

    Args:
        path: A .jsonl, .jsonl.gz, .csv, .csv.gz (UTF-8; in CSV the first line names the columns)
            or .parquet file, or "-" for standard input.
        id_column: The column that holds the item's id: strings, or whole numbers, as their digits.
        chunk_size: Items per chunk. The last chunk may have fewer; all have fewer if the file has
            so many columns that a chunk would have more than 4,194,304 cells.
        format: The format of the file, if not the one that its name says; for "-" jsonl (the
            default) or csv.

    Yields:
        Catalogues of `chunk_size` items. Each has all fields seen so far in the file.

    Raises:
        CatalogError: If the file is missing, of an unknown format, empty, broken or not UTF-8, if
            it lacks ids or repeats one, or has more than 4,096 columns. The message names the
            file and the line or row.
        ValueError: If `chunk_size` is below 1.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    # A generator would report a missing file only when its first item is taken.
    rows, unit = open_rows(path, format)
    return catalog_chunks(rows, unit, path, id_column, chunk_size)


def find_catalog(folder: str | Path) -> Path:
    """Finds the one catalogue of a folder: items.jsonl, .jsonl.gz, .csv or .parquet.

    Raises:
        CatalogError: If the folder holds none of them, or more than one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CatalogError(f"{folder}: no such folder")
    catalogs = [path for suffix in CATALOG_SUFFIXES if (path := folder / f"items{suffix}").exists()]
    if len(catalogs) != 1:
        wanted = ", ".join(f"items{suffix}" for suffix in CATALOG_SUFFIXES)
        got = " and ".join(path.name for path in catalogs) or "none of them"
        raise CatalogError(f"{folder}: must hold exactly one of {wanted}, got {got}")
    return catalogs[0]


def folder_of(path: str | Path) -> Path:
    """The folder from which relative paths in a catalogue start."""
    return Path() if str(path) == "-" else Path(path).parent


def _gathered(chunks: Iterator[Catalog], folder: Path) -> Catalog:
    """The items of all chunks."""
    item_ids: list[str] = []
    fields: dict[str, list[object]] = {}
    for chunk in chunks:
        for name, values in chunk.fields.items():
            # A chunk has every field of the chunks before it.
            fields.setdefault(name, [None] * len(item_ids)).extend(values)
        item_ids += chunk.item_ids
    return Catalog(item_ids=item_ids, fields=fields, folder=folder)


def catalog_chunks(
    rows: Iterator[Row], unit: str, path: str | Path, id_column: str, chunk_size: int
) -> Iterator[Catalog]:
    """The catalogues of numbered rows; see `stream_catalog`.

    Args:
        rows: Of a file, in order.
        unit: What their numbers count.
        path: What errors call the file.
        id_column: The column that holds the item's id.
        chunk_size: Items a chunk.

    Raises:
        CatalogError: If there are no rows, or one has no id or a repeated one.
    """
    name = "standard input" if str(path) == "-" else str(path)
    seen = KeyRuns()
    columns: dict[str, None] = {}
    numbers: dict[str, int] = {}
    values: list[Mapping[str, object]] = []

    def finished() -> Catalog:
        item_ids = list(numbers)
        keys = id_hashes(item_ids)
        before = seen.find(keys)
        if before.max() >= 0:
            row = int((before >= 0).argmax())
            raise _repeated(name, unit, item_ids[row], numbers[item_ids[row]], int(before[row]))
        seen.add(keys, np.array(list(numbers.values()), dtype=np.int64))
        return Catalog(
            item_ids=item_ids,
            fields={
                column: [row.get(column) for row in values]
                for column in columns
                if column != id_column
            },
            folder=folder_of(path),
        )

    for number, row in rows:
        item_id = item_id_of(row, id_column, f"{name}, {unit} {number}")
        if item_id in numbers:
            raise _repeated(name, unit, item_id, number, numbers[item_id])
        numbers[item_id] = number
        values.append(row)
        if row.keys() != columns.keys():
            columns.update(dict.fromkeys(row))
            if len(columns) > MOST_COLUMNS:
                raise CatalogError(
                    f"{name}, {unit} {number}: with its columns the file has more than "
                    f"{MOST_COLUMNS:,}, which is as many as are read"
                )
        if len(values) == chunk_size or len(values) * len(columns) >= _MOST_CELLS:
            yield finished()
            numbers, values = {}, []
    if values:
        yield finished()
    elif not columns:
        raise CatalogError(f"{name}: holds no items")


def _repeated(name: str, unit: str, item_id: str, number: int, first: int) -> CatalogError:
    return CatalogError(
        f"{name}, {unit} {number}: item id {item_id!r} is already that of {unit} {first}"
    )


def id_hashes(item_ids: list[str]) -> UInt64[np.ndarray, "items 2"]:
    """Two hashes per id, for `KeyRuns`. They are valid within one process only."""
    import polars as pl

    series = pl.Series(item_ids, dtype=pl.String)
    return np.column_stack([series.hash(1).to_numpy(), series.hash(2).to_numpy()])


def item_id_of(row: Mapping[str, object], id_column: str, place: str) -> str:
    """The id in a row as text: strings as they are, whole numbers as their digits.

    Other types are refused: two different floats may be written alike, or be read as one.

    Raises:
        CatalogError: If the id is missing or not valid; the message begins with `place`.
    """
    if id_column not in row:
        names = ", ".join(map(str, row)) or "none"
        raise CatalogError(
            f"{place}: no column {id_column!r} (columns: {names}); --id-column names another"
        )
    value = row[id_column]
    if value is None:
        raise CatalogError(f"{place}: {id_column!r} is null")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise CatalogError(
            f"{place}: {id_column!r} must be a string or a whole number, got {type(value).__name__}"
        )
    text = str(value)
    if not text.strip():
        raise CatalogError(f"{place}: {id_column!r} is empty")
    if not text.isascii() and text != well_formed(text):
        raise CatalogError(f"{place}: {id_column!r} must be valid Unicode, got {value!r}")
    return text


def _strings(value: object, repaired: Callable[[str], str]) -> Iterator[str]:
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
        elif text := _clean(str(value), repaired):
            yield text


def _clean(text: str, repaired: Callable[[str], str]) -> str:
    # The repair comes before the spaces: a no-break space may be half of a broken letter.
    return " ".join(repaired(well_formed(without_markup(text))).split())


def _as_it_is(text: str) -> str:
    return text


def _encoding_fixer() -> Callable[[str], str]:
    """A function that repairs text decoded by the wrong encoding, and changes nothing else."""
    try:
        from ftfy import fix_encoding
    except ModuleNotFoundError as error:
        raise ImportError(
            f"fixed texts need an extra (no module {error.name}): pip install 'semtok[ftfy]'"
        ) from None
    return fix_encoding
