"""Makes padded batches from histories: training pairs, whole sequences, queries for inference.

A history is the item rows of one user, oldest first. All histories are stored in one flat array of
items and one of offsets. A pair or a window is only a number, from which its user and its place in
the flat array are computed, so it takes only one or two bytes more than its item. A batch is cut
out by indexing, without a Python loop over its rows.

Batches are padded on the right with `num_items`, one past the last item, so a history always starts
in column 0 and a causal model needs no mask. The order of the batches is a pure function of
`(seed, epoch)`. Process r of n makes only the batches with the numbers r, r + n and so on: together
the processes make the same batches for any n.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from genrec.config_checks import check_positive
from genrec.mapped import shared_in
from genrec.windows import (
    Histories,
    batch_order,
    check_shard,
    cut,
    cut_timestamps,
    firsts_of,
    flatten,
    flatten_timestamps,
    lengths_of_all,
    owners,
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Padded histories and their targets.

    Args:
        history: Item rows, oldest first from column 0, padded on the right with `num_items`.
        targets: The next item of each history, or the next item of each position (`num_items`
            at a position without a target).
        users: The number of the history that each row was cut from.
        timestamps: The time of each item of the history, 0 at padding; None if not available.
        future: The target and the items after it, padded on the right; None if not requested.
        twins: Another history with the same target, padded on the right; None if not requested.
    """

    history: Int[Tensor, "batch length"]
    targets: Int[Tensor, " batch *length"]
    users: Int[Tensor, " batch"]
    timestamps: Int[Tensor, "batch length"] | None = None
    future: Int[Tensor, "batch ahead"] | None = None
    twins: Int[Tensor, "batch twin_length"] | None = None

    def __len__(self) -> int:
        return len(self.history)

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch on `device`; from pinned memory the copy is asynchronous."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> Batch:
        """Returns the batch in pinned memory, which a GPU can read directly."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            history=change(self.history),
            targets=change(self.targets),
            users=change(self.users),
            timestamps=None if self.timestamps is None else change(self.timestamps),
            future=None if self.future is None else change(self.future),
            twins=None if self.twins is None else change(self.twins),
        )


@runtime_checkable
class SizedBatch(Protocol):
    """The interface of a batch: its number of samples, and a move to a device."""

    def __len__(self) -> int:
        """Returns the number of samples."""

    def to(self, device: torch.device, /) -> Any:
        """Returns the batch on `device`."""


@runtime_checkable
class PinnedBatch(Protocol):
    """The interface of a batch that a GPU can copy while it computes."""

    def pin_memory(self) -> Any:
        """Returns the batch in pinned memory; its `to` does not wait for the copy."""


B = TypeVar("B", bound=SizedBatch)
B_co = TypeVar("B_co", bound=SizedBatch, covariant=True)


@runtime_checkable
class Batches(Protocol[B_co]):
    """A source of batches, such as `genrec.sequences.PairBatches`.

    `genrec.training.fit` iterates over it in a background thread.
    """

    def __len__(self) -> int:
        """Returns the number of batches in an epoch, the same for all epochs."""

    def __call__(
        self, epoch: int, /, *, shard: int = 0, shards: int = 1, start: int = 0
    ) -> Iterable[B_co]:
        """Returns a share of the batches of an epoch.

        Args:
            epoch: Number of the epoch, from 0. The order and the contents of its batches are a pure
                function of this number.
            shard: Number of the share: the batches `shard`, `shard + shards` and so on.
            shards: Number of shares.
            start: Batches before this number are skipped.
        """


class PairBatches:
    """Every prefix of every history with its next item, in shuffled batches.

    `batches(epoch)` yields the batches of an epoch, and `len(batches)` is their number. All have
    nearly the same size, so there is no small last batch. `shard`, `shards` and `start` select a
    share of them, as in `Batches`.

    Args:
        histories: Item rows of each user, oldest first. A history of n items gives n - 1 pairs.
        num_items: Size of the catalogue, and the padding.
        history_length: How many of the newest items before the target are kept.
        batch_size: Largest number of pairs in a batch.
        timestamps: The time of each item of each history, whole numbers in one unit.
        future_length: How many items of a user's future are in each batch, the target first; 0 for
            none.
        seed: Seed of the order, together with the epoch.
        bucket: Number of batches within which pairs are sorted by length, so that a batch has
            histories of similar length and little padding. 1 does not sort.
        folder: Folder for files of histories and timestamps of more than 32 MiB, which all
            processes of a machine share; None keeps them in the memory of each process.

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
        folder: Path | str | None = None,
    ) -> None:
        check_positive(history_length=history_length, batch_size=batch_size, bucket=bucket)
        if future_length < 0:
            raise ValueError(f"future_length must be at least 0, got {future_length}")
        items, self._offsets = flatten(histories, num_items)
        self._timestamps = flatten_timestamps(timestamps, self._offsets)
        pairs = np.maximum(np.diff(self._offsets) - 1, 0)
        self._firsts = firsts_of(pairs)  # [users + 1], of each one's pairs
        self._chosen: NDArray[Any] | None = None
        if self.num_pairs == 0:
            raise ValueError("histories must hold at least one history of two items, got none")
        lengths = lengths_of_all(
            self.num_pairs,
            lambda pairs: np.minimum(self._users_and_places(pairs)[1], history_length),
            history_length,
        )
        self._lengths = shared_in(folder, lengths)
        self._items = shared_in(folder, items)
        if self._timestamps is not None:
            self._timestamps = shared_in(folder, self._timestamps)
        self.num_items = num_items
        self.future_length = future_length
        self.batch_size = batch_size
        self.seed = seed
        self.bucket = bucket

    def only(self, pairs: Int[np.ndarray, " pairs"]) -> PairBatches:
        """Returns batches of some of the pairs; the pairs themselves do not change.

        Args:
            pairs: Numbers of the pairs, counted user by user, each user from the oldest target.

        Raises:
            ValueError: The list is empty, or a number is out of range.
        """
        if not len(pairs) or int(pairs.min()) < 0 or int(pairs.max()) >= self.num_pairs:
            got = f"{pairs.min()} to {pairs.max()}" if len(pairs) else "none"
            raise ValueError(
                f"pairs must be at least one number in [0, {self.num_pairs}), got {got}"
            )
        chosen = copy.copy(self)
        chosen._chosen = pairs if self._chosen is None else self._chosen[pairs]
        return chosen

    @property
    def num_pairs(self) -> int:
        """Number of pairs in an epoch."""
        return int(self._firsts[-1]) if self._chosen is None else len(self._chosen)

    def __len__(self) -> int:
        return -(-self.num_pairs // self.batch_size)

    def __call__(
        self, epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """Yields the batches of `epoch`, or a share of them."""
        for _, pairs in self._order(epoch, shard, shards, start):
            yield self._batch(pairs)

    def _order(
        self, epoch: int, shard: int, shards: int, start: int
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yields the number of each batch of a share, and its pairs."""
        for number, rows in batch_order(
            self.num_pairs,
            len(self),
            lambda rows: self._lengths[self._pairs(rows)],
            bucket=self.bucket,
            seed=self.seed,
            epoch=epoch,
            shard=shard,
            shards=shards,
            start=start,
        ):
            yield number, self._pairs(rows)

    def _batch(self, pairs: NDArray[Any]) -> Batch:
        users, places = self._users_and_places(pairs)
        ends, lengths = self._offsets[users] + places, self._lengths[pairs]
        history, _ = cut(self._items, ends - lengths, lengths, self.num_items)
        return Batch(
            history=torch.from_numpy(history),
            targets=torch.from_numpy(self._items[ends].astype(np.int64)),
            users=torch.from_numpy(users),
            timestamps=cut_timestamps(self._timestamps, ends - lengths, lengths),
            future=torch.from_numpy(self._future(users, ends)) if self.future_length else None,
        )

    def _pairs(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows if self._chosen is None else self._chosen[rows]

    def _users_and_places(self, pairs: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Returns the user of each pair, and the place of its target in the history, from 0."""
        users = owners(self._firsts, pairs)
        return users, pairs - self._firsts[users] + 1

    def _future(self, users: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        ahead = np.minimum(self._offsets[users + 1] - ends, self.future_length)
        return cut(self._items, ends, ahead, self.num_items)[0]


class SequenceBatches:
    """Whole sequences for causal models: the next item at every position in one pass.

    Each history is cut into windows of at most `history_length` inputs, counted from its newest
    item. By default only the last window is used, as in SASRec. With a `stride`, the ends of two
    windows are `stride` items apart. Then each item but the first is a target exactly once, with at
    least `history_length - stride` items before it, or all there are. `stride=1` has the same
    targets and contexts as `PairBatches`.

    Args:
        histories: Item rows of each user, oldest first. A history of n items has n - 1 targets.
        num_items: Size of the catalogue, and the padding of histories and targets.
        history_length: Largest number of inputs in a window.
        batch_size: Largest number of windows in a batch.
        stride: Distance between the windows of one history; None keeps only the last window.
        timestamps: The time of each item of each history, whole numbers in one unit.
        seed: Seed of the order, together with the epoch.
        bucket: Number of batches within which windows are sorted by length; 1 does not sort.
        folder: Folder for files of histories and timestamps of more than 32 MiB, which all
            processes of a machine share; None keeps them in the memory of each process.

    Raises:
        ValueError: As in `PairBatches`, or `stride` exceeds `history_length`.
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
        folder: Path | str | None = None,
    ) -> None:
        check_positive(history_length=history_length, batch_size=batch_size, bucket=bucket)
        if stride is not None and not 1 <= stride <= history_length:
            raise ValueError(
                f"stride must be from 1 to history_length ({history_length}), got {stride}"
            )
        items, self._offsets = flatten(histories, num_items)
        self._timestamps = flatten_timestamps(timestamps, self._offsets)
        inputs = np.maximum(np.diff(self._offsets) - 1, 0)
        beyond = np.maximum(inputs - history_length, 0)
        windows = np.where(inputs > 0, 1 if stride is None else 1 + -(-beyond // (stride or 1)), 0)
        if not windows.any():
            raise ValueError("histories must hold at least one history of two items, got none")
        self._firsts = firsts_of(windows)  # [users + 1], of one's windows
        self.history_length = history_length
        self.stride = stride
        lengths = lengths_of_all(
            int(self._firsts[-1]), lambda rows: self._windows(rows)[2], history_length
        )
        self._lengths = shared_in(folder, lengths)
        self._items = shared_in(folder, items)
        if self._timestamps is not None:
            self._timestamps = shared_in(folder, self._timestamps)
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.bucket = bucket

    def __len__(self) -> int:
        return -(-int(self._firsts[-1]) // self.batch_size)

    def __call__(
        self, epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """Yields the batches of `epoch`, or a share; targets have one column per position."""
        for _, rows in self._order(epoch, shard, shards, start):
            users, starts, lengths, counted = self._windows(rows)
            history, columns = cut(self._items, starts, lengths, self.num_items)
            targets, _ = cut(self._items, starts + 1, lengths, self.num_items)
            targets[columns < (lengths - counted)[:, None]] = self.num_items
            yield Batch(
                history=torch.from_numpy(history),
                targets=torch.from_numpy(targets),
                users=torch.from_numpy(users),
                timestamps=cut_timestamps(self._timestamps, starts, lengths),
            )

    def _order(
        self, epoch: int, shard: int, shards: int, start: int
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yields the number of each batch of a share, and its windows."""
        return batch_order(
            int(self._firsts[-1]),
            len(self),
            lambda rows: self._lengths[rows],
            bucket=self.bucket,
            seed=self.seed,
            epoch=epoch,
            shard=shard,
            shards=shards,
            start=start,
        )

    def _windows(
        self, rows: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Returns for each window: user, first item in the flat array, inputs, counted targets."""
        users = owners(self._firsts, rows)
        inputs = self._offsets[users + 1] - self._offsets[users] - 1
        later = rows - self._firsts[users]  # windows of the user that end later
        ends = inputs - later * (self.stride or 0)  # inputs up to here
        lengths = np.minimum(ends, self.history_length)
        # Only the newest `stride` targets count, but all of them in a history's first window.
        is_whole = (ends <= self.history_length) | (self.stride is None)
        counted = np.where(is_whole, lengths, self.stride or 0)
        return users, self._offsets[users] + ends - lengths, lengths, counted


def query_batches(
    histories: Histories,
    *,
    num_items: int,
    history_length: int = 20,
    batch_size: int = 256,
    by_length: bool = False,
    shard: int = 0,
    shards: int = 1,
) -> Iterator[tuple[Int[Tensor, " batch"], Int[Tensor, "batch length"]]]:
    """Yields padded histories for inference, with their rows in `histories`.

    Args:
        histories: Item rows of each user, oldest first; an empty history becomes a row of padding.
        num_items: Size of the catalogue, and the padding.
        history_length: How many of the newest items are kept.
        batch_size: Largest number of histories in a batch.
        by_length: Order the histories from the longest to the shortest, which saves padding;
            otherwise the order of `histories`.
        shard: Number of the share: the batches `shard`, `shard + shards` and so on.
        shards: Number of shares.

    Yields:
        The rows of `histories` in the batch, and their items, oldest first from column 0; every
        batch is as long as its longest history, and at least 1.

    Raises:
        ValueError: An argument is out of range or an item is not a row of the catalogue.
    """
    check_positive(history_length=history_length, batch_size=batch_size)
    check_shard(shard, shards)
    items, offsets = flatten(histories, num_items)
    lengths = np.minimum(np.diff(offsets), history_length)
    order = np.argsort(-lengths, kind="stable") if by_length else np.arange(len(lengths))
    for start in range(shard * batch_size, len(order), shards * batch_size):
        rows = order[start : start + batch_size]
        history, _ = cut(items, offsets[rows + 1] - lengths[rows], lengths[rows], num_items)
        yield torch.from_numpy(rows), torch.from_numpy(history)
