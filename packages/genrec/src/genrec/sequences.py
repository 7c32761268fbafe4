"""Histories to padded batches: training pairs, whole sequences, and queries for inference.

A history is the item rows of one user, oldest first. Everything is kept as one flat array of items
and one of offsets. A pair or a window is a number, from which its user and its place in the flat
array follow, so that it takes a byte or two beside its item; a batch is cut out by indexing,
without a Python loop over its rows.

Batches are padded on the right with `num_items`, one past the last item, so that a history always
starts in column 0 and a causal model needs no mask. The order of the batches is a pure function of
`(seed, epoch)`. Of the batches of an epoch, process r of n takes those with the numbers r, r + n
and so on in this order, and cuts no others: together they are the same batches for any n.
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

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch on `device`; from pinned memory it comes while the program goes on."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> Batch:
        """Returns the batch in memory that a GPU reads by itself."""
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
    """What a batch must offer: its number of samples, and a way to a device."""

    def __len__(self) -> int:
        """Returns the number of samples."""

    def to(self, device: torch.device, /) -> Any:
        """Returns the batch on `device`."""


@runtime_checkable
class PinnedBatch(Protocol):
    """What a batch offers that a GPU can fetch while it computes."""

    def pin_memory(self) -> Any:
        """Returns the batch in pinned memory, from which `to` does not wait."""


B = TypeVar("B", bound=SizedBatch)
B_co = TypeVar("B_co", bound=SizedBatch, covariant=True)


@runtime_checkable
class Batches(Protocol[B_co]):
    """A source of batches, such as `genrec.sequences.PairBatches`.

    `genrec.training.fit` goes through it in a thread of its own.
    """

    def __len__(self) -> int:
        """Returns the number of batches in an epoch, the same in all."""

    def __call__(
        self, epoch: int, /, *, shard: int = 0, shards: int = 1, start: int = 0
    ) -> Iterable[B_co]:
        """Returns a share of the batches of an epoch.

        Args:
            epoch: Counted from 0. The order of its batches, and what each holds, is a pure function
                of this.
            shard: Which share: the batches with the numbers `shard`, `shard + shards` and so on.
            shards: How many shares there are.
            start: The number of a batch before which all are passed over.
        """


class PairBatches:
    """Every prefix of every history with its next item, in shuffled batches.

    `batches(epoch)` yields the batches of an epoch and `len(batches)` counts them; all are of
    nearly equal size, so that no batch is left with a single row. `shard`, `shards` and `start`
    yield a share of them, as `Batches` says.

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
        folder: Where histories and timestamps of more than 32 MiB lie in files, which all processes
            of a machine share; None keeps them in the memory of each.

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
            raise ValueError("histories must hold at least one of two items or more, got none")
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
        chosen._chosen = pairs if self._chosen is None else self._chosen[pairs]
        return chosen

    @property
    def num_pairs(self) -> int:
        """How many pairs an epoch goes through."""
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
        folder: Where histories and timestamps of more than 32 MiB lie in files, which all processes
            of a machine share; None keeps them in the memory of each.

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
            raise ValueError("histories must hold at least one of two items or more, got none")
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
        """Yields the batches of `epoch`, or a share; their targets have one column a position."""
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
        """Returns user, first item in the flat array, inputs and targets that count, a window."""
        users = owners(self._firsts, rows)
        inputs = self._offsets[users + 1] - self._offsets[users] - 1
        later = rows - self._firsts[users]  # windows of the user that end later
        ends = inputs - later * (self.stride or 0)  # inputs up to here
        lengths = np.minimum(ends, self.history_length)
        # Only the newest `stride` targets count, save in a history's first or only window.
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
    """Yields padded histories for inference, with the row of `histories` that each came from.

    Args:
        histories: Item rows of each user, oldest first; an empty one gives a row of padding.
        num_items: Size of the catalogue, and the padding.
        history_length: How many items are kept, the newest ones.
        batch_size: Most histories in a batch.
        by_length: Go through the histories from the longest to the shortest, which skips padding,
            in place of the order given.
        shard: Which share of the batches: those numbered `shard`, `shard + shards` and so on.
        shards: How many shares there are.

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
