"""Histories to padded batches: training pairs, whole sequences, and queries for inference.

A history is the item rows of one user, oldest first. Everything is kept as one flat array of items
and one of offsets, so that millions of training pairs cost a few bytes each and a batch is cut out
by indexing, without a Python loop over its rows.

Batches are padded on the right with `num_items`, one past the last item, so that a history always
starts in column 0 and a causal model needs no mask. The order of the batches is a pure function of
`(seed, epoch)`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from genrec.config_checks import check_positive
from genrec.windows import (
    Histories,
    batch_order,
    cut,
    cut_timestamps,
    flatten,
    flatten_timestamps,
    ramp,
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Padded histories and what follows them.

    Args:
        history: Item rows, oldest first from column 0, padded on the right with `num_items`.
        targets: The next item of each history, or the next item of each position (`num_items`
            where a position has none that counts).
        users: Which of the given histories each row was cut from.
        timestamps: When each item of the history was had, 0 at padding; None where nobody said.
        future: The target and the items after it, padded on the right; None where nobody asked.
        twins: Another history with the same target, padded on the right; None where nobody asked.
    """

    history: Int[Tensor, "batch length"]
    targets: Int[Tensor, " batch *length"]
    users: Int[Tensor, " batch"]
    timestamps: Int[Tensor, "batch length"] | None = None
    future: Int[Tensor, "batch ahead"] | None = None
    twins: Int[Tensor, "batch twin_length"] | None = None

    def __len__(self) -> int:
        return len(self.history)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Returns the batch on `device`."""
        return Batch(
            history=self.history.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
            users=self.users.to(device, non_blocking=non_blocking),
            timestamps=None
            if self.timestamps is None
            else self.timestamps.to(device, non_blocking=non_blocking),
            future=None
            if self.future is None
            else self.future.to(device, non_blocking=non_blocking),
            twins=None if self.twins is None else self.twins.to(device, non_blocking=non_blocking),
        )


@runtime_checkable
class SizedBatch(Protocol):
    """What a batch must offer: its number of samples, and a way to a device."""

    def __len__(self) -> int:
        """Returns the number of samples."""

    def to(self, device: torch.device, /) -> Any:
        """Returns the batch on `device`."""


B = TypeVar("B", bound=SizedBatch)
B_co = TypeVar("B_co", bound=SizedBatch, covariant=True)


@runtime_checkable
class Batches(Protocol[B_co]):
    """A source of batches, such as `genrec.sequences.PairBatches`."""

    def __len__(self) -> int:
        """Returns the number of batches in an epoch, the same in all."""

    def __call__(self, epoch: int, /) -> Iterable[B_co]:
        """Returns the batches of an epoch, a pure function of `epoch`, counted from 0."""


class PairBatches:
    """Every prefix of every history with its next item, in shuffled batches.

    `batches(epoch)` yields the batches of an epoch and `len(batches)` counts them; all are of
    nearly equal size, so that no batch is left with a single row.

    Args:
        histories: Item rows of each user, oldest first. A history of n items gives n - 1 pairs.
        num_items: Size of the catalogue, and the padding.
        history_length: How many items before the target are kept, the newest ones.
        batch_size: Most pairs in a batch.
        timestamps: When each item of each history was had, whole numbers in one unit.
        future_length: How many items of a user's future each batch tells, the target first; 0 for
            none.
        seed: With the epoch, decides the order.
        bucket: Number of batches among which pairs are sorted by length, so that a batch holds
            histories of similar length and little padding. 1 shuffles freely.

    Raises:
        ValueError: An argument is out of range, an item is not a row of the catalogue, or no
            history has two items.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        num_items: int,
        history_length: int = 20,
        batch_size: int = 256,
        timestamps: Histories | None = None,
        future_length: int = 0,
        seed: int = 0,
        bucket: int = 1,
    ) -> None:
        check_positive(history_length=history_length, batch_size=batch_size, bucket=bucket)
        if future_length < 0:
            raise ValueError(f"future_length must be at least 0, got {future_length}")
        self._items, offsets = flatten(histories, num_items)
        self._timestamps = flatten_timestamps(timestamps, offsets)
        sizes = np.diff(offsets)
        pairs = np.maximum(sizes - 1, 0)
        self._users = np.repeat(np.arange(len(sizes), dtype=np.int32), pairs)
        self._lengths = np.minimum(ramp(pairs) + 1, history_length).astype(np.int32)
        is_target = np.ones(len(self._items), dtype=bool)
        is_target[offsets[:-1][sizes > 0]] = False
        self._ends = np.flatnonzero(is_target)
        last = np.repeat(offsets[1:], pairs)  # where the history of each pair ends
        self._ahead = np.minimum(last - self._ends, future_length).astype(np.int32)
        self.future_length = future_length
        if len(self._ends) == 0:
            raise ValueError("histories must hold at least one of two items or more, got none")
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.bucket = bucket

    def only(self, pairs: Int[np.ndarray, " pairs"]) -> PairBatches:
        """Returns batches of some of the pairs; what each pair holds stays as it is.

        Args:
            pairs: Their numbers, counted user by user, and of each from the oldest target on.

        Raises:
            ValueError: There is none, or one that is not there.
        """
        if not len(pairs) or int(pairs.min()) < 0 or int(pairs.max()) >= self.num_pairs:
            got = f"{pairs.min()} to {pairs.max()}" if len(pairs) else "none"
            raise ValueError(f"pairs must be at least one in [0, {self.num_pairs}), got {got}")
        chosen = copy.copy(self)
        chosen._users, chosen._lengths = self._users[pairs], self._lengths[pairs]
        chosen._ends, chosen._ahead = self._ends[pairs], self._ahead[pairs]
        return chosen

    @property
    def num_pairs(self) -> int:
        """How many pairs an epoch goes through."""
        return len(self._ends)

    def __len__(self) -> int:
        return -(-len(self._ends) // self.batch_size)

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """Yields the batches of `epoch`."""
        for rows in batch_order(self._lengths, len(self), self.bucket, self.seed, epoch):
            ends, lengths = self._ends[rows], self._lengths[rows]
            history, _ = cut(self._items, ends - lengths, lengths, self.num_items)
            yield Batch(
                history=torch.from_numpy(history),
                targets=torch.from_numpy(self._items[ends].astype(np.int64)),
                users=torch.from_numpy(self._users[rows].astype(np.int64)),
                timestamps=cut_timestamps(self._timestamps, ends - lengths, lengths),
                future=torch.from_numpy(
                    cut(self._items, ends, self._ahead[rows], self.num_items)[0]
                )
                if self.future_length
                else None,
            )


class SequenceBatches:
    """Whole sequences for causal models: the next item at every position in one pass.

    Each history is cut into windows of at most `history_length` inputs, counted from its newest
    item. By default only the last window is used (SASRec's way). With a `stride` the windows end
    that far apart and each item but the first is a target exactly once: in the window that gives it
    at least `history_length - stride` items of context, or all there are. `stride=1` amounts to
    `PairBatches`.

    Args:
        histories: Item rows of each user, oldest first. One of n items has n - 1 targets.
        num_items: Size of the catalogue, and the padding of histories and targets.
        history_length: Most inputs in a window.
        batch_size: Most windows in a batch.
        stride: Distance between the windows of one history; None keeps the last one only.
        timestamps: When each item of each history was had, whole numbers in one unit.
        seed: With the epoch, decides the order.
        bucket: Number of batches among which windows are sorted by length; 1 shuffles freely.

    Raises:
        ValueError: As for `PairBatches`, or `stride` exceeds `history_length`.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        num_items: int,
        history_length: int = 20,
        batch_size: int = 256,
        stride: int | None = None,
        timestamps: Histories | None = None,
        seed: int = 0,
        bucket: int = 1,
    ) -> None:
        check_positive(history_length=history_length, batch_size=batch_size, bucket=bucket)
        if stride is not None and not 1 <= stride <= history_length:
            raise ValueError(
                f"stride must be from 1 to history_length ({history_length}), got {stride}"
            )
        self._items, offsets = flatten(histories, num_items)
        self._timestamps = flatten_timestamps(timestamps, offsets)
        inputs = np.maximum(np.diff(offsets) - 1, 0)
        beyond = np.maximum(inputs - history_length, 0)
        windows = np.where(inputs > 0, 1 if stride is None else 1 + -(-beyond // (stride or 1)), 0)
        if not windows.any():
            raise ValueError("histories must hold at least one of two items or more, got none")
        self._users = np.repeat(np.arange(len(inputs), dtype=np.int32), windows)
        ends = inputs[self._users] - ramp(windows) * (stride or 0)  # inputs up to here, per user
        self._lengths = np.minimum(ends, history_length).astype(np.int32)
        self._starts = offsets[self._users] + ends - self._lengths
        # Only the newest `stride` targets count, save in a history's first or only window.
        whole = (ends <= history_length) | (stride is None)
        self._counted = np.where(whole, self._lengths, stride or 0).astype(np.int32)
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.bucket = bucket

    def __len__(self) -> int:
        return -(-len(self._lengths) // self.batch_size)

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """Yields the batches of `epoch`; their targets have one column a position."""
        for rows in batch_order(self._lengths, len(self), self.bucket, self.seed, epoch):
            starts, lengths = self._starts[rows], self._lengths[rows]
            history, columns = cut(self._items, starts, lengths, self.num_items)
            targets, _ = cut(self._items, starts + 1, lengths, self.num_items)
            targets[columns < (lengths - self._counted[rows])[:, None]] = self.num_items
            yield Batch(
                history=torch.from_numpy(history),
                targets=torch.from_numpy(targets),
                users=torch.from_numpy(self._users[rows].astype(np.int64)),
                timestamps=cut_timestamps(self._timestamps, starts, lengths),
            )


def query_batches(
    histories: Histories,
    *,
    num_items: int,
    history_length: int = 20,
    batch_size: int = 256,
    by_length: bool = False,
) -> Iterator[tuple[Int[Tensor, " batch"], Int[Tensor, "batch length"]]]:
    """Yields padded histories for inference, with the row of `histories` that each came from.

    Args:
        histories: Item rows of each user, oldest first; an empty one gives a row of padding.
        num_items: Size of the catalogue, and the padding.
        history_length: How many items are kept, the newest ones.
        batch_size: Most histories in a batch.
        by_length: Go through the histories from the longest to the shortest, which skips padding,
            in place of the order given.

    Yields:
        The rows of `histories` in the batch, and their items, oldest first from column 0; every
        batch is as long as its longest history, and at least 1.

    Raises:
        ValueError: An argument is out of range or an item is not a row of the catalogue.
    """
    check_positive(history_length=history_length, batch_size=batch_size)
    items, offsets = flatten(histories, num_items)
    lengths = np.minimum(np.diff(offsets), history_length)
    order = np.argsort(-lengths, kind="stable") if by_length else np.arange(len(lengths))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        history, _ = cut(items, offsets[rows + 1] - lengths[rows], lengths[rows], num_items)
        yield torch.from_numpy(rows), torch.from_numpy(history)
