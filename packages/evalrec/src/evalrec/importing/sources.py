"""The files of an import, of any kind: their columns, their first rows, and all rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import polars as pl

from evalrec.cells import Columns, checked_frame
from evalrec.importing.dialects import SAMPLE_ROWS, sniff_dialect
from evalrec.importing.times import TimeColumn, typed_ticks
from evalrec.interactions import DataError
from evalrec.readers.batches import Batch, batch_of_rows
from evalrec.readers.blocks import Advance, check_file
from evalrec.readers.delimited import Layout, read_delimited, read_records
from evalrec.readers.json_lines import read_json_columns, read_json_records

Kind: TypeAlias = Literal["delimited", "json", "literal", "parquet", "excel"]

_SUFFIXES: dict[str, Kind] = {
    **dict.fromkeys((".csv", ".tsv", ".txt", ".dat", ".data", ".inter"), "delimited"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    ".xlsx": "excel",
}
_PACKED = (".gz", ".zst")
_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file whose form is known.

    Attributes:
        path: The file.
        kind: Its kind; "literal" is a Python literal per line.
        header: The names of its columns.
        rows: Its first rows.
        text: Its form in words.
        layout: The layout of a delimited file.
        decimal: The decimal sign in its first rows.
        dtypes: The types of the columns, if the file has types.
    """

    path: Path
    kind: Kind
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    text: str
    layout: Layout | None = None
    decimal: str | None = None
    dtypes: Mapping[str, Any]

    def values(self, column: str) -> list[Any]:
        """The first values of a column, missing ones left out."""
        place = self.header.index(column)
        values = (row[place] for row in self.rows)
        return [value for value in values if value is not None and value != ""]


def open_source(
    path: Path,
    *,
    separator: str | None = None,
    quote: str | None = None,
    encoding: str | None = None,
    headers: tuple[tuple[str, ...], ...] = (),
    literal: bool = False,
) -> Source:
    """Detect the kind and the form of a file.

    Args:
        path: Its suffix says the kind; .gz or .zst may follow the suffix of a text file.
        separator: The separator of a delimited file; None detects it, as for the next two.
        quote: The sign around cells; "none" for no sign.
        encoding: The encoding of the file.
        headers: The names of the columns of a delimited file that has no header.
        literal: Whether JSON lines may be Python literals.

    Raises:
        DataError: If the file is missing, empty, of an unknown kind, or cannot be read.
        ImportError: If it needs an extra that is not installed.
        ValueError: If an option is not valid.
    """
    check_file(path)
    kind = _kind(path)
    if kind == "delimited":
        dialect = sniff_dialect(
            path, separator=separator, quote=quote, encoding=encoding, headers=headers
        )
        return Source(
            path=path,
            kind=kind,
            header=dialect.header,
            rows=dialect.rows,
            text=dialect.text,
            layout=dialect.layout,
            decimal=dialect.decimal,
            dtypes={},
        )
    if kind == "json":
        return _json_source(path, literal)
    frame = _head(path, kind)
    if not frame.width or not frame.height:
        raise DataError(f"{path} holds no rows")
    return Source(
        path=path,
        kind=kind,
        header=tuple(frame.columns),
        rows=tuple(frame.iter_rows()),
        text=kind,
        decimal="." if kind == "excel" else None,
        dtypes=dict(zip(frame.columns, frame.dtypes, strict=True)) if kind == "parquet" else {},
    )


def read_columns(
    source: Source, columns: Columns, *, advance: Advance | None = None
) -> Iterator[Batch]:
    """Some columns of a file, checked, in batches.

    Raises:
        DataError: If the file is malformed, or holds an invalid value.
    """
    if source.kind == "delimited":
        return read_delimited(source.path, columns, source.layout or Layout(), advance=advance)
    if source.kind == "json":
        return read_json_columns(source.path, columns, advance=advance)
    if source.kind == "literal":
        return _literal_batches(source.path, columns, advance)
    return _typed_batches(source, columns, advance)


def read_rows(
    source: Source, id_column: str, *, advance: Advance | None = None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """All rows of a file with the numbers of their lines.

    Raises:
        DataError: If the file is malformed.
    """
    if source.kind == "delimited":
        yield from read_records(source.path, source.layout or Layout(), advance=advance)
    elif source.kind in ("json", "literal"):
        literal = source.kind == "literal"
        yield from read_json_records(
            source.path, id_field=id_column, literal=literal, advance=advance
        )
    else:
        for start, frame in _frames(source.path, source.kind, list(source.header), advance):
            yield from enumerate(frame.iter_rows(named=True), start=start)


def unit_of(source: Source) -> str:
    """The unit of places in the file: "line" or "row"."""
    return "row" if source.kind in ("parquet", "excel") else "line"


def _kind(path: Path) -> Kind:
    name = path.name.lower()
    packed = next((suffix for suffix in _PACKED if name.endswith(suffix)), "")
    suffix = Path(name.removesuffix(packed)).suffix
    kind = _SUFFIXES.get(suffix)
    if kind is None:
        raise DataError(
            f"{path} must end in one of {', '.join(_SUFFIXES)}, and text perhaps in .gz or .zst"
        )
    if packed and kind in ("parquet", "excel"):
        raise DataError(f"{path} is packed twice: unpack it, since {suffix} is packed in itself")
    return kind


def _json_source(path: Path, literal: bool) -> Source:
    """A file of JSON lines, from its first thousand lines."""
    records = read_json_records(path, id_field="", literal=literal)
    try:
        sample = [record for _, record in islice(records, SAMPLE_ROWS)]
    except DataError as error:
        if "must be a JSON object, got [" in str(error) or "line 1: malformed JSON" in str(error):
            raise DataError(
                f"{error}; a line must hold one object: `jq -c '.[]'` makes that of a list"
            ) from error
        raise
    header = tuple(dict.fromkeys(name for record in sample for name in record))
    if not header:
        raise DataError(f"{path} holds no record")
    return Source(
        path=path,
        kind="literal" if literal else "json",
        header=header,
        rows=tuple(tuple(record.get(name) for name in header) for record in sample),
        text="a Python literal per line" if literal else "JSON lines",
        dtypes={},
    )


def _head(path: Path, kind: Kind) -> pl.DataFrame:
    for _, frame in _frames(path, kind, None, None):
        return frame.head(SAMPLE_ROWS)
    raise DataError(f"{path} holds no rows")


def _frames(
    path: Path, kind: Kind, names: list[str] | None, advance: Advance | None
) -> Iterator[tuple[int, pl.DataFrame]]:
    """The rows of a table with types, in parts, each with the number of its first row.

    An Excel sheet is read as text, as its cells are shown; the header counts as a row.
    """
    start = 2 if kind == "excel" else 1
    try:
        if kind == "excel":
            frames: Iterable[pl.DataFrame] = _excel(path).iter_slices(_ROWS_AT_ONCE)
        else:
            with path.open("rb"):  # a missing permission is then reported as such
                pass
            table = pl.scan_parquet(path, glob=False)
            frames = table.collect_batches(chunk_size=_ROWS_AT_ONCE)
            if names is not None:
                frames = table.select(names).collect_batches(chunk_size=_ROWS_AT_ONCE)
        for frame in frames:
            yield start, frame if names is None else frame.select(names)
            start += frame.height
    except PermissionError:
        raise
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise DataError(f"{path} cannot be read as {kind}: {reason}") from error
    if advance is not None:
        advance(path.stat().st_size)


def _excel(path: Path) -> pl.DataFrame:
    """The first sheet of an Excel file, every cell as text."""
    try:
        import fastexcel  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError(
            f"{path}: Excel files need the extra evalrec[xlsx]: pip install 'evalrec[xlsx]'"
        ) from error
    try:
        return pl.read_excel(path, engine="calamine", read_options={"dtypes": "string"})
    except fastexcel.FastExcelError as error:
        raise DataError(f"{path} cannot be read as excel: {error}") from error


def _typed_batches(source: Source, columns: Columns, advance: Advance | None) -> Iterator[Batch]:
    names = list(dict.fromkeys(column.source for column in columns.values()))
    unit = unit_of(source)
    for start, frame in _frames(source.path, source.kind, names, advance):
        frame = frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
        for column in columns.values():
            values = frame[column.source]
            if isinstance(column, TimeColumn) and values.dtype.is_temporal():
                try:
                    ticks = typed_ticks(values, column.rule.timezone)
                except ValueError as error:
                    raise DataError(f"{source.path}: {column.source} {error}") from error
                frame = frame.with_columns(ticks.alias(column.source))
        places = range(start, start + frame.height)
        checked = checked_frame(frame, columns)
        if checked is not None:
            yield Batch(path=source.path, frame=checked, places=places, unit=unit)
        else:
            rows = frame.select([column.source for column in columns.values()]).iter_rows()
            numbered = zip(places, rows, strict=True)
            yield batch_of_rows(source.path, numbered, columns, unit)


def _literal_batches(path: Path, columns: Columns, advance: Advance | None) -> Iterator[Batch]:
    records = read_json_records(path, id_field="", literal=True, advance=advance)
    rows = (
        (line, tuple(record.get(column.source) for column in columns.values()))
        for line, record in records
    )
    while part := list(islice(rows, _ROWS_AT_ONCE)):
        yield batch_of_rows(path, part, columns)


def shown(value: Any) -> str:
    """A value in one line, as an example."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
