"""MIND, the Microsoft News Dataset: `behaviors.tsv` and `news.tsv`.

A user's interactions are the clicks of the history, which have no times, and then the news clicked
in each impression. Histories grow from one impression to the next, so only the history of a user's
earliest impression is read.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from evalrec.cells import Column
from evalrec.interactions import DataError
from evalrec.readers.batches import Batch
from evalrec.readers.blocks import Advance
from evalrec.readers.cleaning import item_record
from evalrec.readers.contract import Format, item_key
from evalrec.readers.delimited import Layout, read_delimited, read_records

_BEHAVIORS = Layout(
    separator="\t", header=("impression", "user", "time", "history", "impressions"), quote=None
)
_NEWS = Layout(
    separator="\t",
    header=(
        *("news", "category", "subcategory", "title", "abstract", "url"),
        *("title entities", "abstract entities"),
    ),
    quote=None,
)
_COLUMNS = {
    "user_id": Column(source="user", kind="key"),
    "timestamp": Column(source="time", kind="time", time_format="%m/%d/%Y %I:%M:%S %p"),
    "history": Column(source="history", kind="text"),
    "shown": Column(source="impressions", kind="key"),
}
_SCHEMA = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}


def _read_interactions(
    paths: Sequence[Path], *, rated: bool, advance: Advance | None
) -> Iterator[Batch]:
    earliest: dict[str, tuple[int, str]] = {}
    for path in paths:
        for batch in read_delimited(path, _COLUMNS, _BEHAVIORS, advance=advance):
            first = batch.frame.group_by("user_id").agg(
                pl.col("timestamp").min(), pl.col("history").get(pl.col("timestamp").arg_min())
            )
            for user, time, history in first.iter_rows():
                if user not in earliest or time < earliest[user][0]:
                    earliest[user] = time, history
            yield _clicks(batch)
    rows = [
        (user, item, time) for user, (time, history) in earliest.items() for item in history.split()
    ]
    frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    yield Batch(path=paths[-1], frame=frame, places=range(len(rows)), before=True)


def _clicks(batch: Batch) -> Batch:
    """One row for each news item that was clicked."""
    places = pl.Series("place", batch.places, dtype=pl.Int64)
    shown = (
        batch.frame.with_columns(places)
        .with_columns(pl.col("shown").str.split(" "))
        .explode("shown")
        .filter(pl.col("shown") != "")
    )
    clicked = shown["shown"].str.extract(r"^.+-([01])$")
    if clicked.null_count():
        row = int(clicked.is_null().arg_max() or 0)
        raise DataError(
            f"{batch.path}, line {shown['place'][row]}: impressions must be news ids with -0 or -1 "
            f"appended, got {shown['shown'][row]!r}"
        )
    shown = shown.filter(clicked == "1")
    frame = shown.select("user_id", pl.col("shown").str.head(-2).alias("item_id"), "timestamp")
    return Batch(path=batch.path, frame=frame, places=shown["place"].to_list())


def _read_items(
    path: Path, keep: Container[str], *, advance: Advance | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, record in read_records(path, _NEWS, advance=advance):
        item = item_key(path, line, record, "news")
        if item in keep:
            yield (
                line,
                item_record(
                    item,
                    title=record["title"],
                    categories=[record["category"], record["subcategory"]],
                    description=record["abstract"],
                ),
            )


MIND = Format(
    name="mind",
    title="MIND",
    interaction_files=("behaviors*.tsv", "behaviors*.tsv.gz"),
    item_files=("news*.tsv", "news*.tsv.gz"),
    time_unit="seconds",
    has_ratings=False,
    unique_items=False,
    read_interactions=_read_interactions,
    read_items=_read_items,
)
