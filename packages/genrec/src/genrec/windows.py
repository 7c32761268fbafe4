"""Histories of different lengths in flat arrays, and the windows and batches cut from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Histories = Sequence[Sequence[int] | NDArray[Any]]

_AT_A_TIME = 65_536  # histories or rows that are processed together


def flatten(histories: Histories, num_items: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Returns all items in one array, and the start of each history (and the end of the last).

    Raises:
        TypeError: The items are no whole numbers.
        ValueError: `num_items` is out of range, or an item is no row of the catalogue.
    """
    if not 1 <= num_items < 2**31 - 1:
        raise ValueError(f"num_items must be from 1 to 2**31 - 2, got {num_items}")
    sizes = np.fromiter((len(h) for h in histories), dtype=np.int64, count=len(histories))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    flat = np.empty(offsets[-1], dtype=np.int32)
    for first in range(0, len(histories), _AT_A_TIME):
        last = min(first + _AT_A_TIME, len(histories))
        arrays = [np.asarray(histories[user]) for user in range(first, last) if sizes[user]]
        if not arrays:
            continue
        part = np.concatenate(arrays)
        if part.ndim != 1 or part.dtype.kind not in "iu":
            raise TypeError(f"histories must be lists of whole numbers, got {part.dtype}")
        wrong = np.flatnonzero((part < 0) | (part >= num_items))
        if len(wrong):
            user = int(np.searchsorted(offsets, offsets[first] + wrong[0], side="right")) - 1
            raise ValueError(
                f"items must be rows from 0 to {num_items - 1}, got {part[wrong[0]]} in history "
                f"{user}"
            )
        flat[offsets[first] : offsets[last]] = part
    return flat, offsets


def flatten_timestamps(
    timestamps: Histories | None, offsets: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Returns all timestamps in one array, in the same order as the items; None stays None.

    Raises:
        ValueError: There is not one timestamp per item, or one is no whole number.
    """
    if timestamps is None:
        return None
    if len(timestamps) != len(offsets) - 1:
        raise ValueError(
            f"timestamps must be given for each of {len(offsets) - 1} histories, "
            f"got {len(timestamps)}"
        )
    for user, (times, size) in enumerate(zip(timestamps, np.diff(offsets), strict=True)):
        if len(times) != size:
            raise ValueError(
                f"timestamps must be one for each of {size} items, got {len(times)} in "
                f"history {user}"
            )
    if offsets[-1] == 0:
        return np.empty(0, dtype=np.int64)
    arrays = [np.asarray(times) for times in timestamps if len(times)]
    flat = np.concatenate(arrays)
    if flat.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(flat) | (flat != np.trunc(flat)))
        if len(wrong):
            user = int(np.searchsorted(offsets, wrong[0], side="right")) - 1
            raise ValueError(
                f"timestamps must be whole numbers, got {flat[wrong[0]]} in history {user}: "
                "round them, or count in a smaller unit"
            )
    return np.concatenate([times.astype(np.int64) for times in arrays])


def firsts_of(counts: NDArray[np.int64]) -> NDArray[Any]:
    """Returns the first row of each owner, and the end; four bytes each if the numbers fit."""
    firsts = np.concatenate([[0], np.cumsum(counts)])
    return firsts.astype(np.int32) if firsts[-1] < 2**31 else firsts


def owners(firsts: NDArray[Any], rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Returns the owner of each row; owner i has the rows from firsts[i] to firsts[i + 1]."""
    return np.searchsorted(firsts, rows, side="right") - 1


def lengths_of_all(
    num_rows: int, lengths_of: Callable[[NDArray[np.int64]], NDArray[np.int64]], longest: int
) -> NDArray[Any]:
    """Returns the lengths of all rows, in the smallest type that holds `longest`.

    Args:
        num_rows: Number of all rows.
        lengths_of: Returns the lengths of some rows.
        longest: No row is longer.
    """
    lengths = np.empty(num_rows, dtype=np.min_scalar_type(longest))
    for first in range(0, num_rows, _AT_A_TIME):
        rows = np.arange(first, min(first + _AT_A_TIME, num_rows))
        lengths[rows] = lengths_of(rows)
    return lengths


def cut(
    values: NDArray[np.integer],
    starts: NDArray[np.int64],
    lengths: NDArray[np.integer],
    padding: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cuts `values[start : start + length]` for each row; returns padded rows and the columns."""
    columns = np.arange(max(int(lengths.max(initial=0)), 1))
    rows = np.full((len(starts), len(columns)), padding, dtype=np.int64)
    inside = columns < lengths[:, None]
    rows[inside] = values[(starts[:, None] + columns)[inside]]
    return rows, columns


def cut_timestamps(
    timestamps: NDArray[np.int64] | None,
    starts: NDArray[np.int64],
    lengths: NDArray[np.integer],
) -> Tensor | None:
    """Cuts timestamps as `cut` cuts items, with 0 for padding; None stays None."""
    return None if timestamps is None else torch.from_numpy(cut(timestamps, starts, lengths, 0)[0])


def check_shard(shard: int, shards: int) -> None:
    """Checks the number of a share.

    Raises:
        ValueError: There is no such share.
    """
    if not 0 <= shard < shards:
        raise ValueError(f"shard must be from 0 to shards - 1 = {shards - 1}, got {shard}")


def batch_order(
    num_rows: int,
    num_batches: int,
    lengths_of: Callable[[NDArray[Any]], NDArray[np.integer]],
    *,
    bucket: int,
    seed: int,
    epoch: int,
    shard: int,
    shards: int,
    start: int,
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yields a share of an epoch's batches: rows, shuffled, in `bucket` batches sorted by length.

    All shares have the same order, which depends only on `seed` and `epoch`. A row takes four bytes
    of memory, or eight if there are more than 2**31 rows.

    Args:
        num_rows: Number of all rows.
        num_batches: Batches in an epoch, of nearly equal size.
        lengths_of: Returns the lengths of some rows.
        bucket: Number of batches within which rows are sorted; with 1 they are only shuffled.
        seed: Seed of the order.
        epoch: Number of the epoch, from 0.
        shard: Number of the share: batches `shard`, `shard + shards` and so on.
        shards: Number of shares.
        start: Batches before this one are skipped.

    Yields:
        The number of a batch in the epoch, and its rows.

    Raises:
        ValueError: There is no such share, or `start` is below 0.
    """
    check_shard(shard, shards)
    if start < 0:
        raise ValueError(f"start must be at least 0, got {start}")
    generator = np.random.default_rng([seed, epoch])
    rows = np.arange(num_rows, dtype=np.int32 if num_rows <= 2**31 else np.int64)
    generator.shuffle(rows)
    order = np.arange(num_batches) if bucket == 1 else generator.permutation(num_batches)
    is_sorted = np.full(-(-num_batches // bucket), bucket == 1)

    def rows_of(first: int, last: int) -> slice:
        return slice(first * num_rows // num_batches, last * num_rows // num_batches)

    for number in range(start + (shard - start) % shards, num_batches, shards):
        batch = int(order[number])
        group = batch // bucket
        if not is_sorted[group]:
            place = rows_of(group * bucket, min((group + 1) * bucket, num_batches))
            rows[place] = rows[place][np.argsort(lengths_of(rows[place]), kind="stable")]
            is_sorted[group] = True
        yield number, rows[rows_of(batch, batch + 1)]
