"""Training pairs beside others with the same next item, for models that contrast these."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int

from genrec.sequences import Batch, PairBatches
from genrec.windows import batch_order, cut


class TwinBatches(PairBatches):
    """Pairs, each with the history of another pair that has the same target, as DuoRec wants them.

    Batches are those of `PairBatches`, to which `twins` is added: for each history another one, of
    any user, that the same item came after, drawn anew in each epoch; the history itself where no
    other is. Arguments are those of `PairBatches`.
    """

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """Yields the batches of `epoch`."""
        generator = np.random.default_rng([self.seed, epoch, 2])
        order = batch_order(self._lengths, len(self), self.bucket, self.seed, epoch)
        targets = self._items[self._ends]
        by_target = np.argsort(targets, kind="stable")
        for rows, batch in zip(order, super().__call__(epoch), strict=True):
            twins = self._twins(rows, targets, by_target, generator)
            ends, lengths = self._ends[twins], self._lengths[twins]
            history, _ = cut(self._items, ends - lengths, lengths, self.num_items)
            yield dataclasses.replace(batch, twins=torch.from_numpy(history))

    def _twins(
        self,
        rows: Int[np.ndarray, " batch"],
        targets: Int[np.ndarray, " pairs"],
        by_target: Int[np.ndarray, " pairs"],
        generator: np.random.Generator,
    ) -> Int[np.ndarray, " batch"]:
        """Returns a pair with the same target for each of some pairs, another one if there is one.

        Args:
            rows: The pairs.
            targets: Of all pairs.
            by_target: All pairs, sorted by target.
            generator: Draws them.
        """
        ordered = targets[by_target]
        first = np.searchsorted(ordered, targets[rows], side="left")
        others = np.searchsorted(ordered, targets[rows], side="right") - first - 1
        drawn = (generator.random(len(rows)) * others).astype(np.int64)
        chosen = by_target[first + drawn]
        # Where a pair would be its own twin, the last of them stands in its place.
        twins: Int[np.ndarray, " batch"] = np.where(
            chosen == rows, by_target[first + others], chosen
        )
        return twins
