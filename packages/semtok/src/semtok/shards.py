"""Shards: parts of files, so that several tasks can read one large file.

A parquet file is divided between row groups, a JSON Lines file at line ends. Every other file is
one shard: CSV and gzip files can only be read from the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from semtok.catalog import Catalog, CatalogError, catalog_chunks
from semtok.places import file_system, open_place
from semtok.rows import Row, catalog_suffix, text_rows

SHARD_BYTES = 1 << 26
"""The approximate size of a shard in bytes: 64 MiB."""

_PARQUET_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A part of a file.

    Attributes:
        place: The file's path or URL.
        start: Where the shard begins: the number of a row group of a parquet file, or of a byte of
            another file. A line belongs to the shard in which it begins.
        stop: Where the next shard begins.
        first_row: Number of rows of a parquet file before the shard.
        is_whole: Whether the shard is the whole file.
    """

    place: str
    start: int = 0
    stop: int = 0
    first_row: int = 0
    is_whole: bool = True


def shards_of(places: Sequence[str], shard_bytes: int) -> list[Shard]:
    """The shards of some files, in order.

    Raises:
        CatalogError: If the format of a file is unknown, or a file named .parquet is not parquet.
    """
    shards: list[Shard] = []
    for place in places:
        suffix = catalog_suffix(Path(place))
        if suffix == ".parquet":
            shards += _parquet_shards(place, shard_bytes)
        elif suffix == ".jsonl":
            shards += _line_shards(place, shard_bytes)
        else:
            shards.append(Shard(place=place))
    return shards


def shard_chunks(shard: Shard, id_column: str, chunk_size: int) -> Iterator[Catalog]:
    """The items of a shard, in the form in which `stream_catalog` returns the items of a file.

    Raises:
        CatalogError: As for `stream_catalog`, but a part of a file may contain no items. For a part
            of a JSON Lines file, the message counts lines from the byte that it names.
    """
    suffix = catalog_suffix(Path(shard.place))
    name, unit = shard.place, "line"
    with open_place(shard.place) as file:
        if suffix == ".parquet":
            rows, unit = _parquet_rows(shard, file), "row"
        elif shard.is_whole:
            rows = text_rows(name, file, suffix)
        else:
            if shard.start:
                name = f"{name} from byte {shard.start} on"
            rows = text_rows(name, _Lines(file, shard.start, shard.stop), suffix)
        first = next(rows, None)
        if first is None and not shard.is_whole:
            return
        yield from catalog_chunks(_with_first(first, rows), unit, name, id_column, chunk_size)


def _with_first(first: Row | None, rows: Iterator[Row]) -> Iterator[Row]:
    if first is not None:
        yield first
    yield from rows


def _line_shards(place: str, shard_bytes: int) -> list[Shard]:
    system, path = file_system(place)
    size = int(system.info(path)["size"])
    starts = range(0, max(size, 1), shard_bytes)
    return [
        Shard(
            place=place,
            start=start,
            stop=min(start + shard_bytes, size),
            is_whole=len(starts) == 1,
        )
        for start in starts
    ]


class _Lines:
    """The lines that begin in a part of a file, as a file object that is read line by line."""

    def __init__(self, file: BufferedIOBase, start: int, stop: int) -> None:
        self._file, self._stop = file, stop
        if start:  # the previous line ends here, or in this part
            file.seek(start - 1)
            file.readline()

    def readline(self, limit: int) -> bytes:
        """The next line; empty at the end."""
        return self._file.readline(limit) if self._file.tell() < self._stop else b""


def _parquet_shards(place: str, shard_bytes: int) -> list[Shard]:
    with open_place(place) as file:
        metadata = _parquet_file(place, file).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    starts, held = [0], 0
    for number, group in enumerate(groups):
        if held and held + group.total_byte_size > shard_bytes:
            starts.append(number)
            held = 0
        held += group.total_byte_size
    stops = [*starts[1:], len(groups)]
    return [
        Shard(
            place=place,
            start=start,
            stop=stop,
            first_row=sum(group.num_rows for group in groups[:start]),
            is_whole=len(starts) == 1,
        )
        for start, stop in zip(starts, stops, strict=True)
    ]


def _parquet_rows(shard: Shard, file: BufferedIOBase) -> Iterator[Row]:
    import polars as pl
    import pyarrow as pa

    number = shard.first_row
    batches = _parquet_file(shard.place, file).iter_batches(
        batch_size=_PARQUET_ROWS, row_groups=list(range(shard.start, shard.stop))
    )
    try:
        for batch in batches:
            for row in pl.DataFrame(pl.from_arrow(pa.table(batch))).iter_rows(named=True):
                number += 1
                yield number, row
    except (pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise _unreadable(shard.place, error) from None


def _parquet_file(place: str, file: BufferedIOBase) -> Any:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(file)
    except pa.ArrowException as error:
        raise _unreadable(place, error) from None


def _unreadable(place: str, error: Exception) -> CatalogError:
    reason = (str(error).strip().splitlines() or ["unreadable"])[0]
    return CatalogError(f"{place}: not a readable parquet file ({reason})")
