"""Sequences with masked items, for models that read both sides of a mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from genrec.sequences import Batch, SequenceBatches
from genrec.windows import Histories, cut, cut_timestamps


class MaskedBatches(SequenceBatches):
    """Sequences with some items masked, to predict from both sides (BERT4Rec, section 3.6).

    A masked place holds `num_items + 1` in the history, and its target is the masked item; all
    other targets are `num_items`. Each sequence has at least one mask. A sequence is a window of at
    most `history_length + 1` items: with only the newest item masked, the task is that of
    inference.

    Args:
        histories: Item rows of each user, oldest first. Histories of one item are skipped.
        num_items: Size of the catalogue, and the padding of histories and targets.
        history_length: Largest number of items in a window without its last item.
        batch_size: Largest number of windows in a batch.
        stride: Distance between the windows of one history; None keeps only the last window.
        mask_share: Probability that an item of a window is masked.
        last_share: Share of the windows in which only the newest item is masked.
        timestamps: The time of each item of each history, whole numbers in one unit.
        seed: Seed of the order, together with the epoch, and of the masks, together with the epoch
            and the number of the batch.
        bucket: Number of batches within which windows are sorted by length; 1 does not sort.
        folder: As in `SequenceBatches`.

    Raises:
        ValueError: As in `SequenceBatches`, or a share is out of range.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        num_items: int,
        history_length: int = 20,
        batch_size: int = 256,
        stride: int | None = None,
        mask_share: float = 0.2,
        last_share: float = 0.1,
        timestamps: Histories | None = None,
        seed: int = 0,
        bucket: int = 1,
        folder: Path | str | None = None,
    ) -> None:
        if not 0 < mask_share < 1:
            raise ValueError(f"mask_share must be between 0 and 1, got {mask_share}")
        if not 0 <= last_share <= 1:
            raise ValueError(f"last_share must be in [0, 1], got {last_share}")
        super().__init__(
            histories,
            num_items=num_items,
            history_length=history_length,
            batch_size=batch_size,
            stride=stride,
            timestamps=timestamps,
            seed=seed,
            bucket=bucket,
            folder=folder,
        )
        self.mask_share = mask_share
        self.last_share = last_share

    def __call__(
        self, epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """Yields the batches of `epoch`, or a share; targets have one column per position."""
        for number, rows in self._order(epoch, shard, shards, start):
            generator = np.random.default_rng([self.seed, epoch, 1, number])
            users, starts, inputs, _ = self._windows(rows)
            lengths = inputs + 1
            items, columns = cut(self._items, starts, lengths, self.num_items)
            newest = columns == lengths[:, None] - 1
            masked = (generator.random(items.shape) < self.mask_share) & (
                columns < lengths[:, None]
            )
            last_only = generator.random((len(rows), 1)) < self.last_share
            masked = np.where(last_only | ~masked.any(1, keepdims=True), newest, masked)
            yield Batch(
                history=torch.from_numpy(np.where(masked, self.num_items + 1, items)),
                targets=torch.from_numpy(np.where(masked, items, self.num_items)),
                users=torch.from_numpy(users),
                timestamps=cut_timestamps(self._timestamps, starts, lengths),
            )
