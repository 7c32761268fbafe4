"""From batches of rows to one table of interactions: keys become rows, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Int

from evalrec.interactions import DataError, Interactions
from evalrec.keys import Keys
from evalrec.readers.batches import Batch


@dataclass(frozen=True, kw_only=True)
class Read:
    """The interactions that were read, and counts.

    Attributes:
        interactions: The table.
        num_rows: Interactions in the files.
        num_below_rating: How many of them had a rating below the minimum.
    """

    interactions: Interactions
    num_rows: int
    num_below_rating: int


def collect(
    batches: Iterable[Batch],
    source: str,
    *,
    user_ids: Sequence[str] | None = None,
    item_ids: Sequence[str] | None = None,
    min_rating: float | None = None,
) -> Read:
    """Collect batches of `user_id`, `item_id`, `timestamp` and perhaps `rating` or `weight`.

    Args:
        batches: In the order of the files.
        source: A description of the input, for the error on an empty file.
        user_ids: The keys of the users in row order; any other user is refused.
        item_ids: The keys of the catalogue in row order; any other item is refused.
        min_rating: Rows with a lower rating are left out and counted, and so are items that only a
            history names, which have no rating.

    Raises:
        DataError: If there is no row at all, none with that rating, or a user or item is
            unknown.
        ValueError: If `user_ids` or `item_ids` holds a key twice.
    """
    users_of, items_of = Keys(user_ids, "user_ids"), Keys(item_ids, "item_ids")
    parts: list[tuple[Int[np.ndarray, " rows"], ...]] = []
    earlier: list[tuple[bool, tuple[Int[np.ndarray, " rows"], ...]]] = []
    weights: list[np.ndarray] = []
    num_rows = num_below = 0
    for batch in batches:
        frame = batch.frame
        if batch.before:
            if min_rating is None and frame.height:
                earlier.append((batch.only_missing, _columns(frame, users_of, items_of)))
            continue
        num_rows += frame.height
        if min_rating is not None:
            kept = frame["rating"] >= min_rating
            num_below += frame.height - int(kept.sum())
            frame = frame.filter(kept)
        if frame.height == 0:
            continue
        rows = _columns(frame, users_of, items_of)
        _refuse_unknown(batch, frame, rows)
        parts.append(rows)
        if "weight" in frame.columns:
            weights.append(frame["weight"].to_numpy())
    if not parts and not earlier:
        left = f" of at least {min_rating:g}" if num_rows and min_rating is not None else ""
        raise DataError(f"{source} holds no interactions{left}")
    timed = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else []
    parts.clear()  # they take as much memory as the table itself
    front = [
        _missing(rows, timed, len(items_of.rows)) if only_missing and timed else rows
        for only_missing, rows in earlier
    ]
    num_rows += sum(len(rows[0]) for rows in front)
    users, items, timestamps = (
        np.concatenate([*(rows[place] for rows in front), *(timed[place : place + 1])])
        for place in range(3)
    )
    table = Interactions(
        users=users,
        items=items,
        timestamps=timestamps,
        user_ids=tuple(users_of.rows),
        item_ids=tuple(items_of.rows),
        weights=np.concatenate(weights) if weights else None,
    )
    return Read(interactions=table, num_rows=num_rows, num_below_rating=num_below)


def _columns(
    frame: pl.DataFrame, users_of: Keys, items_of: Keys
) -> tuple[Int[np.ndarray, " rows"], ...]:
    users, items = users_of(frame["user_id"]), items_of(frame["item_id"])
    return users, items, frame["timestamp"].to_numpy()


def _missing(
    rows: tuple[Int[np.ndarray, " rows"], ...],
    timed: Sequence[Int[np.ndarray, " timed"]],
    num_items: int,
) -> tuple[Int[np.ndarray, " missing"], ...]:
    """The rows whose pair of user and item is not among the timed rows."""
    known = np.isin(rows[0] * num_items + rows[1], timed[0] * num_items + timed[1])
    return tuple(column[~known] for column in rows)


def _refuse_unknown(
    batch: Batch, frame: pl.DataFrame, rows: tuple[Int[np.ndarray, " rows"], ...]
) -> None:
    for name, column, where in (("user", rows[0], "data"), ("item", rows[1], "catalogue")):
        if column.min() < 0:
            key = frame[f"{name}_id"][int(np.argmax(column < 0))]
            row = int((batch.frame[f"{name}_id"] == key).arg_max() or 0)
            raise DataError(f"{batch.place(row)}: {name} {key!r} is not in the {where}")
