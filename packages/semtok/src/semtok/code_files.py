"""Files of codes: JSONL, CSV and parquet, read and written by suffix."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

import numpy as np
from jaxtyping import Int64

from semtok.catalog import Catalog, CatalogError, stream_catalog
from semtok.limits import MOST_CODES
from semtok.storage import replacing_file

CODE_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
_CHUNK = 65_536


def code_suffix(path: str | Path) -> str:
    """The suffix of a file of codes; ".jsonl.gz" counts as one suffix.

    Raises:
        ValueError: If files of codes have no such suffix.
    """
    for suffix in CODE_SUFFIXES:
        if Path(path).name.lower().endswith(suffix):
            return suffix
    raise ValueError(f"path must end in one of {', '.join(CODE_SUFFIXES)}, got {path}")


def write_codes(
    path: str | Path, item_ids: Sequence[str], codes: Int64[np.ndarray, "items levels"]
) -> None:
    """Writes a file of codes under another name, then renames it; see `SemanticIds.write`.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the name has no suffix of a file of codes.
    """
    path = Path(path)
    suffix = code_suffix(path)
    with replacing_file(path) as beside:
        if suffix == ".parquet":
            import polars as pl

            lists = pl.Series("codes", codes).cast(pl.List(pl.Int64))
            ids = pl.Series("item_id", item_ids, dtype=pl.String)
            try:
                pl.DataFrame([ids, lists]).write_parquet(beside)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
                reason = (str(error).strip().splitlines() or ["unreadable"])[0]
                raise OSError(errno.EIO, f"cannot be written ({reason})", str(beside)) from None
            return
        with ExitStack() as stack:
            file: IO[bytes] = stack.enter_context(beside.open("wb"))
            if suffix.endswith(".gz"):  # no name or time inside: same codes, same file
                packed = gzip.GzipFile("", "wb", fileobj=file, mtime=0)
                file = cast(IO[bytes], stack.enter_context(packed))
            text = stack.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline=""))
            text.writelines(code_lines(item_ids, codes, is_csv=suffix.startswith(".csv")))


def code_lines(
    item_ids: Sequence[str], codes: Int64[np.ndarray, "items levels"], *, is_csv: bool = False
) -> Iterator[str]:
    """The lines of a file of codes: JSONL, or CSV if `is_csv`."""
    if is_csv:
        yield _csv_line(["item_id", *(f"code_{n}" for n in range(1, codes.shape[1] + 1))])
    for start in range(0, len(codes), _CHUNK):
        rows = codes[start : start + _CHUNK].tolist()
        for item_id, path in zip(item_ids[start : start + _CHUNK], rows, strict=True):
            if is_csv:
                yield _csv_line([item_id, *path])
            else:
                line = {"item_id": item_id, "codes": path}
                yield json.dumps(line, ensure_ascii=False) + "\n"


def read_codes(path: str | Path) -> tuple[list[str], Int64[np.ndarray, "items levels"]]:
    """Reads a file of codes, or JSONL from standard input for "-".

    Raises:
        CatalogError: If the file is broken, or the codes of an item are not non-negative integers
            or not as many as those of the first item.
    """
    return codes_of(stream_catalog(path), str(path))


def codes_of(
    chunks: Iterable[Catalog], place: str
) -> tuple[list[str], Int64[np.ndarray, "items levels"]]:
    """The codes of items, from a field `codes`, or from the fields `code_1`, `code_2` and so on.

    Raises:
        CatalogError: As for `read_codes`; the message begins with `place`.
    """
    item_ids: list[str] = []
    parts: list[np.ndarray] = []
    num_levels = 0
    for chunk in chunks:
        rows = chunk.fields.get("codes")
        if rows is None and "code_1" in chunk.fields:
            names = [name for name in chunk.fields if name.startswith("code_")]
            columns = [map(_integer, chunk.fields[name]) for name in names]
            rows = [list(row) for row in zip(*columns, strict=True)]
        if rows is None:
            raise CatalogError(f"{place}: no column 'codes', nor code_1 and so on")
        if not parts:
            num_levels = len(rows[0]) if isinstance(rows[0], list) else 0
        for item_id, codes in zip(chunk.item_ids, rows, strict=True):
            if not _is_path(codes, num_levels):
                raise CatalogError(
                    f"{place}: codes must be {num_levels or 'some'} integers within "
                    f"[0, {MOST_CODES - 1}], "
                    f"got {codes!r} for item {item_id!r}"
                )
        parts.append(np.array(rows, dtype=np.int64))
        item_ids += chunk.item_ids
    return item_ids, np.concatenate(parts)


def _is_path(codes: object, num_levels: int) -> bool:
    return (
        isinstance(codes, list)
        and len(codes) == num_levels > 0
        and all(type(code) is int and 0 <= code < MOST_CODES for code in codes)
    )


def _integer(cell: object) -> object:
    """The number in a CSV cell; a cell that holds no number is returned as it is."""
    if isinstance(cell, str) and cell.isascii() and cell.isdigit() and len(cell) < 11:
        return int(cell)
    return cell


def _csv_line(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # with this terminator, \r is quoted
    return line.getvalue().removesuffix("\r\n") + "\n"
