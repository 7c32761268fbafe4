"""The interactions of a plan, read as a stream; lines that are left out are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from evalrec.cells import Column, key
from evalrec.importing.numbers import DecimalColumn
from evalrec.importing.plan import TablePlan
from evalrec.importing.sources import read_columns
from evalrec.importing.times import TimeColumn
from evalrec.interactions import DataError, Interactions
from evalrec.readers.batches import Batch
from evalrec.readers.blocks import Advance
from evalrec.readers.collect import Read, collect

MOST_REPEATS = 1000
"""Maximal number of repetitions of one line: a larger quantity is a weight, or a mistake."""

_SHOWN = 3  # examples of unknown items


@dataclass(frozen=True, kw_only=True)
class _OptionalKey(Column):
    """A key that may be missing; it is then the empty text."""

    kind: Literal["key", "whole", "number", "time", "text"] = "key"

    def value(self, value: Any) -> str:
        return "" if value is None or value == "" else key(value, self.source)

    def checked(self, values: pl.Series) -> pl.Series | None:
        if not (values.dtype.is_integer() or values.dtype == pl.String):
            return None
        return values.cast(pl.String).fill_null("")


@dataclass
class OrderCounts:
    """Counts of the lines of orders.

    Attributes:
        lines: All lines.
        incomplete: Lines without user, item or time.
        returns: Lines with a quantity of zero or less.
        other_events: Lines of events that do not count.
        unknown: Lines of items that the catalogue lacks, by item.
        merged: Lines that were merged with another one of the same user, item and time.
        events: How often each event occurs.
        texts: The texts of each item in the orders, if there is no catalogue.
    """

    lines: int = 0
    incomplete: int = 0
    returns: int = 0
    other_events: int = 0
    merged: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    texts: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def num_unknown(self) -> int:
        """The number of lines of unknown items."""
        return self.unknown.total()

    def unknown_examples(self) -> str:
        """The most frequent unknown items."""
        frequent = sorted(self.unknown, key=lambda item: (-self.unknown[item], item))
        return ", ".join(map(repr, frequent[:_SHOWN]))


def read_orders(
    plan: TablePlan,
    known: Collection[str] | None,
    *,
    min_rating: float | None = None,
    advance: Advance | None = None,
) -> tuple[Read, OrderCounts]:
    """Read the interactions of a plan.

    Args:
        plan: The plan.
        known: The items of the catalogue; None without a catalogue.
        min_rating: Interactions with a lower rating are left out, and counted.
        advance: Called with the bytes read.

    Raises:
        DataError: If the file is malformed or nothing is left; the message names file and line.
        ValueError: If `min_rating` is set and there is no column of ratings.
    """
    if min_rating is not None and "rating" not in plan.order_columns:
        raise ValueError("min_rating must not be given: no column holds ratings, see --rating")
    counts = OrderCounts()
    batches = read_columns(plan.orders, _columns(plan, min_rating is not None), advance=advance)
    kept = _kept(batches, plan, known, counts)
    try:
        read = collect(kept, str(plan.orders.path), min_rating=min_rating)
    except DataError as error:
        if counts.lines and not str(error).startswith(f"{plan.orders.path}, "):
            raise DataError(f"{error}: of {counts.lines:,} lines {_losses(counts)}") from error
        raise
    if plan.options.doubles == "merge":
        table, counts.merged = _merged(read.interactions)
        read = replace(read, interactions=table)
    if plan.options.quantity == "repeat":
        read = replace(read, interactions=_repeated(read.interactions))
    return replace(read, num_rows=counts.lines), counts


def _losses(counts: OrderCounts) -> str:
    parts = [
        f"{counts.num_unknown:,} are of items that the catalogue lacks, such as "
        f"{counts.unknown_examples()}"
        if counts.unknown
        else "",
        f"{counts.returns:,} are returns" if counts.returns else "",
        f"{counts.incomplete:,} are incomplete" if counts.incomplete else "",
        f"{counts.other_events:,} are of other events" if counts.other_events else "",
    ]
    return ", ".join(filter(None, parts)) or "all are rated lower"


def _columns(plan: TablePlan, rated: bool) -> dict[str, Column]:
    names, optional = plan.order_columns, plan.options.incomplete == "drop"
    of_key = _OptionalKey if optional else Column
    columns: dict[str, Column] = {
        "user_id": of_key(source=names["user"], kind="key"),
        "item_id": of_key(source=names["item"], kind="key"),
        "timestamp": TimeColumn(source=names["time"], rule=plan.time, optional=optional),
    }
    if rated:
        columns["rating"] = DecimalColumn(source=names["rating"], decimal=plan.decimal)  # type: ignore[arg-type]
    if "weight" in names:
        columns["weight"] = DecimalColumn(source=names["weight"], decimal=plan.decimal)  # type: ignore[arg-type]
    if "event" in names:
        columns["event"] = Column(source=names["event"], kind="text")
    if plan.catalogue is None:
        for meaning, sources in plan.item_columns.items():
            for place, source in enumerate(sources):
                columns[f"{meaning} {place}"] = Column(source=source, kind="text")
    return columns


def _kept(
    batches: Iterator[Batch], plan: TablePlan, known: Collection[str] | None, counts: OrderCounts
) -> Iterator[Batch]:
    """The rows that count; all others are counted."""
    catalogue = None if known is None else pl.Series(list(known), dtype=pl.String)
    for batch in batches:
        frame = batch.frame.with_columns(pl.Series("place", batch.places, dtype=pl.Int64))
        counts.lines += frame.height
        if plan.options.incomplete == "drop":
            whole = (
                (pl.col("user_id") != "")
                & (pl.col("item_id") != "")
                & pl.col("timestamp").is_not_null()
            )
            frame, counts.incomplete = _filtered(frame, whole, counts.incomplete)
        if "event" in frame.columns:
            counts.events.update(dict(frame["event"].value_counts().iter_rows()))
            if plan.options.only_events is not None:
                wanted = pl.col("event").is_in(list(plan.options.only_events))
                frame, counts.other_events = _filtered(frame, wanted, counts.other_events)
        if "weight" in frame.columns:
            frame, counts.returns = _filtered(frame, pl.col("weight") > 0, counts.returns)
            if plan.options.quantity == "repeat":
                _refuse_fractions(batch, frame, plan.order_columns["weight"])
        if catalogue is not None:
            frame = _known(batch, frame, catalogue, plan, counts)
        if plan.catalogue is None and plan.item_columns:
            _note_texts(frame, plan, counts)
        wanted_columns = ["user_id", "item_id", "timestamp", "rating", "weight"]
        if plan.options.quantity == "ignore":
            wanted_columns.remove("weight")
        yield replace(
            batch,
            frame=frame.select(name for name in wanted_columns if name in frame.columns),
            places=frame["place"].to_list(),
        )


def _filtered(frame: pl.DataFrame, keep: pl.Expr, count: int) -> tuple[pl.DataFrame, int]:
    """The rows to keep, and the count increased by the number of the others."""
    kept = frame.filter(keep)
    return kept, count + frame.height - kept.height


def _refuse_fractions(batch: Batch, frame: pl.DataFrame, column: str) -> None:
    wrong = frame.filter((pl.col("weight") % 1 != 0) | (pl.col("weight") > MOST_REPEATS))
    if wrong.height:
        raise DataError(
            f"{batch.path}, {batch.unit} {wrong['place'][0]}: {column} must be a whole number of "
            f"at most {MOST_REPEATS:,} to be repeated, got {wrong['weight'][0]:g}: "
            "--quantity weight takes it as it is"
        )


def _known(
    batch: Batch, frame: pl.DataFrame, catalogue: pl.Series, plan: TablePlan, counts: OrderCounts
) -> pl.DataFrame:
    """The rows of items that the catalogue has; all rows if unknown items are kept."""
    is_known = frame["item_id"].is_in(catalogue.implode())
    if is_known.all():
        return frame
    unknown = frame.filter(~is_known)
    counts.unknown.update(dict(unknown["item_id"].value_counts().iter_rows()))
    if plan.options.unknown_items == "refuse":
        raise DataError(
            f"{batch.path}, {batch.unit} {unknown['place'][0]}: item {unknown['item_id'][0]!r} is "
            "not in the catalogue: --unknown-items drop leaves such lines out, keep keeps them"
        )
    return frame if plan.options.unknown_items == "keep" else frame.filter(is_known)


def _note_texts(frame: pl.DataFrame, plan: TablePlan, counts: OrderCounts) -> None:
    """Keep the texts of each item in the orders; the first one that is not empty counts."""
    for meaning, sources in plan.item_columns.items():
        names = [f"{meaning} {place}" for place in range(len(sources))]
        said = frame.filter(pl.any_horizontal(pl.col(name) != "" for name in names))
        for item, *texts in (
            said.unique("item_id", keep="first", maintain_order=True)
            .select("item_id", *names)
            .iter_rows()
        ):
            counts.texts.setdefault(item, {}).setdefault(meaning, texts)


def _merged(table: Interactions) -> tuple[Interactions, int]:
    """One interaction per user, item and time (the first), with the sum of the weights."""
    order = np.lexsort((table.items, table.timestamps, table.users))  # stable
    users, items, times = table.users[order], table.items[order], table.timestamps[order]
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1]) | (times[1:] != times[:-1])
    if starts.all():
        return table, 0
    firsts = order[starts]
    kept = np.sort(firsts)
    weights = None
    if table.weights is not None:
        sums = np.empty(len(table))
        sums[firsts] = np.add.reduceat(table.weights[order], np.flatnonzero(starts))
        weights = sums[kept]
    return (
        replace(
            table,
            users=table.users[kept],
            items=table.items[kept],
            timestamps=table.timestamps[kept],
            weights=weights,
        ),
        len(table) - len(kept),
    )


def _repeated(table: Interactions) -> Interactions:
    """Repeats each interaction as often as its weight says; the result has no weights."""
    if table.weights is None:
        raise AssertionError("quantities are read wherever they are to be repeated")
    rows = np.repeat(np.arange(len(table)), table.weights.astype(np.int64))
    return replace(
        table,
        users=table.users[rows],
        items=table.items[rows],
        timestamps=table.timestamps[rows],
        weights=None,
    )
