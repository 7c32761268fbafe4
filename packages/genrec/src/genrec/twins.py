"""Training pairs together with other pairs of the same next item, for contrastive models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from genrec.sequences import Batch, PairBatches


class TwinBatches(PairBatches):
    """Pairs, each with the history of another pair that has the same target (DuoRec).

    Batches are those of `PairBatches` with `twins`: for each history another history, of any user,
    with the same next item. It is drawn again in each epoch. If there is no other history, it is
    the history itself. Arguments are those of `PairBatches`.
    """

    def __call__(
        self, epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """Yields the batches of `epoch`, or a share of them."""
        pairs = self._pairs(np.arange(self.num_pairs))
        users, places = self._users_and_places(pairs)
        targets = self._items[self._offsets[users] + places]  # [pairs]
        order = np.argsort(targets, kind="stable")
        by_target, ordered = pairs[order], targets[order]
        for number, rows in self._order(epoch, shard, shards, start):
            generator = np.random.default_rng([self.seed, epoch, 2, number])
            batch = self._batch(rows)
            twins = self._twins(rows, batch.targets.numpy(), ordered, by_target, generator)
            yield dataclasses.replace(batch, twins=self._batch(twins).history)

    def _twins(
        self,
        rows: Int[np.ndarray, " batch"],
        targets: Int[np.ndarray, " batch"],
        ordered: Int[np.ndarray, " pairs"],
        by_target: Int[np.ndarray, " pairs"],
        generator: np.random.Generator,
    ) -> Int[np.ndarray, " batch"]:
        """Returns for each pair another pair with the same target, or itself if there is none.

        Args:
            rows: The pairs.
            targets: Their targets.
            ordered: The targets of all pairs, sorted.
            by_target: All pairs, in the order of their targets.
            generator: Random generator.
        """
        first = np.searchsorted(ordered, targets, side="left")
        others = np.searchsorted(ordered, targets, side="right") - first - 1
        drawn = (generator.random(len(rows)) * others).astype(np.int64)
        chosen = by_target[first + drawn]
        # If a pair is drawn for itself, it gets the last pair of its target instead.
        twins: Int[np.ndarray, " batch"] = np.where(
            chosen == rows, by_target[first + others], chosen
        )
        return twins
