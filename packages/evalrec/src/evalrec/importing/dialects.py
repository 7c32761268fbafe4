"""The form of a delimited file (encoding, separator, quote, decimal sign), from its beginning."""

from __future__ import annotations

import codecs
import csv
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from evalrec.importing.numbers import sniff_decimal
from evalrec.interactions import DataError
from evalrec.readers.blocks import check_file, read_chunks, text_encoding
from evalrec.readers.delimited import Layout, csv_reader, read_records

SAMPLE_BYTES = 2**18
SAMPLE_ROWS = 1000
_SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_NAMES = {"\t": "tab", " ": "space"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8 with BOM"),
    (codecs.BOM_UTF32_LE, "", ""),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16 with BOM"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16 with BOM"),
)
_CONTENTS = (
    (b"PK\x03\x04", "an Excel file or a ZIP archive: call it .xlsx, or unpack it"),
    (b"PAR1", "a parquet file: call it .parquet"),
    (b"\x1f\x8b", "packed by gzip: call it .gz"),
    (b"\x28\xb5\x2f\xfd", "packed by Zstandard: call it .zst"),
)
_OF_UTF8 = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The form of a delimited file, and its first rows.

    Attributes:
        layout: For `read_delimited`; it holds the header if the file has none.
        header: The names of the columns.
        rows: The first rows, as texts.
        decimal: The decimal sign; None if the sample does not show it.
        text: The form in words: "; separated, UTF-8 with BOM, decimal comma".
    """

    layout: Layout
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    decimal: str | None
    text: str


def sniff_dialect(
    path: Path,
    *,
    separator: str | None = None,
    quote: str | None = None,
    encoding: str | None = None,
    headers: Sequence[tuple[str, ...]] = (),
) -> Dialect:
    """Detect the form of a file from its beginning; for the encoding, all of it is read.

    Args:
        path: The file, packed or not.
        separator: The sign between cells; None detects it.
        quote: The sign around cells, "none" for no sign; None detects it.
        encoding: The encoding, as Python names it; None detects it.
        headers: If the file has no header: the names of its columns, for each number of columns
            that it may have.

    Raises:
        DataError: If the file is missing, empty or not text, or could be read in several ways.
        ValueError: If an option is not valid.
    """
    check_file(path)
    check_signs(separator, quote)
    sample = _beginning(path)
    encoding, encoding_text = _encoding(path, sample, encoding)
    text = sample.decode(encoding, errors="ignore").removeprefix("\ufeff")
    if "\n" not in text and "\r" in text.rstrip("\r"):
        raise DataError(f"{path}: its lines end in carriage returns alone: save it with line feeds")
    layout = Layout(encoding=encoding)
    layout = _signs(path, text, len(sample) < SAMPLE_BYTES, layout, separator, quote)
    rows = _rows(text, layout, whole=len(sample) < SAMPLE_BYTES)
    if not rows:
        raise DataError(f"{path} holds no line")
    header = _header(path, rows, headers)
    if headers and header != tuple(rows[0]):
        layout = replace(layout, header=header)
    body = [row for row in (rows if layout.header else rows[1:]) if len(row) == len(header)]
    if not body:
        for _ in read_records(path, layout):
            break  # the reader refuses the first row, and names its line
        raise DataError(f"{path} holds a header and no line")
    decimal = sniff_decimal(cell for row in body for cell in row)
    sign = layout.separator
    words = [f"{_SEPARATOR_NAMES.get(sign, sign)} separated", encoding_text]
    if decimal is not None:
        words.append("decimal comma" if decimal == "," else "decimal point")
    if layout.quote != '"':
        words.append("quotes are text" if layout.quote is None else f"quoted by {layout.quote}")
    if layout.header is not None:
        words.append("no header")
    return Dialect(
        layout=layout,
        header=header,
        rows=tuple(tuple(row) for row in body),
        decimal=decimal,
        text=", ".join(words),
    )


def check_signs(separator: str | None, quote: str | None) -> None:
    """Refuse signs that cannot occur in a delimited file.

    Raises:
        ValueError: If a sign is empty or contains a line end, both are the same, or the quote is
            not one ASCII character.
    """
    if separator is not None and (not separator or set(separator) & set("\r\n\"'\0")):
        raise ValueError(f"separator must be a sign such as ';' or '\\t', got {separator!r}")
    if quote is None or quote == "none":
        return
    if len(quote) != 1 or not quote.isascii() or not quote.isprintable() or quote == separator:
        raise ValueError(f"quote must be one sign such as '\"', or none, got {quote!r}")
    if separator is not None and len(separator) > 1:
        raise ValueError("quote must be none with a separator of several characters")


def _beginning(path: Path) -> bytes:
    """The first bytes of a file, unpacked."""
    sample = b""
    try:
        for chunk in read_chunks(path):
            sample += chunk
            if not chunk or len(sample) >= SAMPLE_BYTES:
                break
    except (EOFError, zlib.error) as error:
        if not sample:
            raise DataError(f"{path}, line 1: the gzip stream is broken: {error}") from error
    for mark, text in _CONTENTS:
        if sample.startswith(mark):
            raise DataError(f"{path} is {text}")
    return sample[:SAMPLE_BYTES]


def _encoding(path: Path, sample: bytes, encoding: str | None) -> tuple[str, str]:
    """The encoding of a file as Python names it, and in words."""
    mark = next((known for known in _MARKS if sample.startswith(known[0])), None)
    if encoding is not None:
        try:
            name = codecs.lookup(encoding).name
            "a".encode(name)
        except (LookupError, TypeError, ValueError):
            raise ValueError(
                f"encoding must be one such as utf-8 or windows-1252, got {encoding!r}"
            ) from None
        name = "utf-8" if name == "utf-8-sig" else name
        if name == "utf-16":
            name = mark[1] if mark and mark[1].startswith("utf-16") else "utf-16-le"
        return name, encoding
    if mark is not None:
        if not mark[1]:
            raise DataError(f"{path} is UTF-32, which is not read: save it as UTF-8")
        return mark[1], mark[2]
    if b"\0" in sample:
        zeros = [sample[start::2].count(b"\0") for start in (0, 1)]
        name = "utf-16-le" if zeros[1] >= zeros[0] else "utf-16-be"
        raise DataError(
            f"{path} holds zero bytes, as UTF-16 without a mark does: --encoding {name} reads that"
        )
    return _unmarked(path)


def _unmarked(path: Path) -> tuple[str, str]:
    """UTF-8 if the whole file is UTF-8; else Windows-1252, unless it is UTF-8 with an error."""
    if text_encoding(path) == "utf-8":
        return "utf-8", "UTF-8"
    num_high = num_of_utf8 = 0
    is_undefined = False
    for chunk in read_chunks(path):
        num_high += len(chunk.translate(None, bytes(range(128))))
        num_of_utf8 += sum(map(len, _OF_UTF8.findall(chunk)))
        is_undefined |= any(byte in chunk for byte in b"\x81\x8d\x8f\x90\x9d")
    if 2 * num_of_utf8 > num_high:
        return "utf-8", "UTF-8"  # the reader of the lines reports which one is not
    if is_undefined:
        raise DataError(f"{path} is neither UTF-8 nor Windows-1252: --encoding names what it is")
    return "cp1252", "Latin-1 (Windows-1252)"


def _signs(
    path: Path, text: str, whole: bool, layout: Layout, separator: str | None, quote: str | None
) -> Layout:
    """The layout with its separator and quote."""
    if separator is not None and len(separator) > 1:
        return replace(layout, separator=separator, quote=None)
    sign = _quote(text) if quote is None else None if quote == "none" else quote
    tried = [
        replace(layout, separator=each, quote=sign)
        for each in (_SEPARATORS if separator is None else (separator,))
    ]
    best = _widest(path, text, whole, tried)
    if quote is None and not _is_sound(text, best, whole):
        # Quotes inside cells, as in 5" pipe, are text: there are then no quoted cells.
        plain = _widest(path, text, whole, [replace(each, quote=None) for each in tried])
        cells = [cell for row in _rows(text, plain, whole=whole) for cell in row if len(cell) > 1]
        if not any(cell[0] == cell[-1] == sign for cell in cells):
            best = plain
    if separator is None and len(_rows(text, best, whole=whole)[0]) == 1:
        raise DataError(
            f"{path}: no comma, semicolon, tab or bar splits its first lines into equally many "
            "cells: name the sign by --separator, and the quote around cells by --quote"
        )
    return best


def _quote(text: str) -> str:
    """The quote sign: single quotes if all cells of the first line have them."""
    first = text.lstrip().split("\n", 1)[0].strip()
    is_single = len(first) > 1 and first[0] == first[-1] == "'" and '"' not in first
    return "'" if is_single else '"'


def _widest(path: Path, text: str, whole: bool, layouts: Sequence[Layout]) -> Layout:
    """The layout with the most cells per row, for which most rows are as long as the first."""
    scores = []
    for layout in layouts:
        widths = [len(row) for row in _rows(text, layout, whole=whole)]
        share = widths.count(widths[0]) / len(widths) if widths else 0.0
        scores.append((widths[0], share) if share >= 0.5 else (0, 0.0))
    best = max(scores)
    equal = [layout for layout, score in zip(layouts, scores, strict=True) if score == best]
    if len(equal) > 1 and best[0] > 1:
        signs = " or ".join(repr(layout.separator) for layout in equal)
        raise DataError(f"{path} could be separated by {signs}: --separator says by which")
    return equal[0]


def _is_sound(text: str, layout: Layout, whole: bool) -> bool:
    """Whether the sample is well-formed in a layout."""
    try:
        for _ in islice(_cells(io.StringIO(text, newline=""), layout), SAMPLE_ROWS):
            pass
    except csv.Error as error:
        return not whole and "unexpected end" in str(error)
    return True


def _rows(text: str, layout: Layout, *, whole: bool) -> list[list[str]]:
    """The first rows of a sample, up to one that is malformed or that the sample truncates."""
    rows: list[list[str]] = []
    try:
        for row in _cells(io.StringIO(text, newline=""), layout):
            if len(row) > 1 or "".join(row).strip():
                rows.append(row)
            if len(rows) > SAMPLE_ROWS:
                return rows
    except csv.Error:
        return rows or [[]]
    return rows if whole or len(rows) < 2 else rows[:-1]


def _cells(lines: io.StringIO, layout: Layout) -> Iterator[list[str]]:
    if len(layout.separator) > 1:
        return (line.rstrip("\r\n").split(layout.separator) for line in lines)
    rows: Iterator[list[str]] = csv_reader(lines, layout)
    return rows


def _header(
    path: Path, rows: Sequence[Sequence[str]], headers: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    """The names of the columns: from the first row, or from `headers` for files without one."""
    header = tuple(rows[0])
    if headers:
        fitting = [names for names in headers if len(names) == len(header)]
        if not fitting:
            widths = " or ".join(str(len(names)) for names in headers)
            raise DataError(f"{path}, line 1: has {len(header)} columns, must have {widths}")
        known = {name.casefold() for name in fitting[0]}
        has_header = len({cell.strip().casefold() for cell in header} & known) > len(known) // 2
        return header if has_header else fitting[0]
    for name, count in Counter(header).items():
        if count > 1:
            raise DataError(f"{path}, line 1: column {name!r} is named twice")
    return header
