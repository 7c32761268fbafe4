"""Ragged histories in flat arrays, and the windows and batches that are cut out of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Histories = Sequence[Sequence[int] | NDArray[Any]]


def flatten(histories: Histories, num_items: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Returns all items in one array, and where each history starts (and the last one ends)."""
    if not 1 <= num_items < 2**31 - 1:
        raise ValueError(f"num_items must be from 1 to 2**31 - 2, got {num_items}")
    sizes = np.fromiter((len(h) for h in histories), dtype=np.int64, count=len(histories))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    if offsets[-1] == 0:
        return np.empty(0, dtype=np.int32), offsets
    flat = np.concatenate([np.asarray(h) for h in histories if len(h)])
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise TypeError(f"histories must be lists of whole numbers, got {flat.dtype}")
    wrong = np.flatnonzero((flat < 0) | (flat >= num_items))
    if len(wrong):
        user = int(np.searchsorted(offsets, wrong[0], side="right")) - 1
        raise ValueError(
            f"items must be rows from 0 to {num_items - 1}, got {flat[wrong[0]]} in history {user}"
        )
    return flat.astype(np.int32), offsets


def flatten_timestamps(
    timestamps: Histories | None, offsets: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Returns all timestamps in one array, in the places of the items that they belong to."""
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


def ramp(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns 0 .. counts[0]-1, 0 .. counts[1]-1, and so on, in one array."""
    starts = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(starts, counts)


def cut(
    values: NDArray[np.integer],
    starts: NDArray[np.int64],
    lengths: NDArray[np.integer],
    padding: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cuts `values[start : start + length]` for each row; returns the padded rows, the columns."""
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
    """Cuts timestamps as `cut` does items, with 0 for padding; None stays None."""
    return None if timestamps is None else torch.from_numpy(cut(timestamps, starts, lengths, 0)[0])


def batch_order(
    lengths: NDArray[np.int32], num_batches: int, bucket: int, seed: int, epoch: int
) -> Iterator[NDArray[np.int64]]:
    """Yields the rows of each batch of an epoch: shuffled, in `bucket` batches sorted by length."""
    generator = np.random.default_rng([seed, epoch])
    rows = generator.permutation(len(lengths))
    bounds = np.arange(num_batches + 1) * len(rows) // num_batches
    if bucket == 1:
        order = np.arange(num_batches)
    else:
        batch_of = np.repeat(np.arange(num_batches), np.diff(bounds))
        rows = rows[np.lexsort((lengths[rows], batch_of // bucket))]
        order = generator.permutation(num_batches)
    for batch in order:
        yield rows[bounds[batch] : bounds[batch + 1]]
