"""MovieLens: 100K (`u.data`, `u.item`), 1M and 10M (`ratings.dat`, `movies.dat`), and the CSVs.

The titles of 100K and 1M are Latin-1, those of 10M and of the CSVs UTF-8.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from evalrec.cells import Column
from evalrec.readers.batches import Batch
from evalrec.readers.blocks import Advance, text_encoding
from evalrec.readers.cleaning import item_record
from evalrec.readers.contract import Format, item_key, with_rating
from evalrec.readers.delimited import Layout, read_delimited, read_records

_DAT = (".dat", ".dat.gz")
_FIELDS = ("userId", "movieId", "rating", "timestamp")
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_ITEM_FIELDS = ("movieId", "title", "release date", "video release date", "IMDb URL", *_GENRES)
_COLUMNS = {
    "user_id": Column(source="userId", kind="key"),
    "item_id": Column(source="movieId", kind="key"),
    "timestamp": Column(source="timestamp", kind="whole"),
}


def _read_interactions(
    paths: Sequence[Path], *, rated: bool, advance: Advance | None
) -> Iterator[Batch]:
    for path in paths:
        columns = with_rating(_COLUMNS, "rating", rated)
        yield from read_delimited(path, columns, _ratings_layout(path), advance=advance)


def _ratings_layout(path: Path) -> Layout:
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        return Layout()
    return Layout(separator="::" if name.endswith(_DAT) else "\t", header=_FIELDS, quote=None)


def _read_items(
    path: Path, keep: Container[str], *, advance: Advance | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    name = path.name.lower()
    layout = Layout()
    if name.endswith(_DAT):
        header = ("movieId", "title", "genres")
        layout = Layout(separator="::", header=header, quote=None, encoding=text_encoding(path))
    elif name.endswith((".item", ".item.gz")):
        layout = Layout(
            separator="|", header=_ITEM_FIELDS, quote=None, encoding=text_encoding(path)
        )
    for line, record in read_records(path, layout, advance=advance):
        if "genres" in record:
            genres = [name for name in record["genres"].split("|") if not name.startswith("(no ")]
        else:
            genres = [name for name in _GENRES if record.get(name) == "1"]
        item = item_key(path, line, record, "movieId")
        if item in keep:
            yield line, item_record(item, title=record.get("title"), categories=genres)


MOVIELENS = Format(
    name="movielens",
    title="MovieLens",
    interaction_files=("u.data", "u.data.gz", "ratings.dat", "ratings.csv", "ratings.*.gz"),
    item_files=("u.item", "u.item.gz", "movies.dat", "movies.csv", "movies.*.gz"),
    time_unit="seconds",
    has_ratings=True,
    unique_items=True,
    read_interactions=_read_interactions,
    read_items=_read_items,
)
