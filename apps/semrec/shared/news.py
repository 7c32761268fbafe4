"""What is new in the current data compared with a run: items, interactions, training samples."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from evalrec import Split
from jaxtyping import Bool, Int

from semrec.shared.data import Data
from semrec.shared.errors import ExperimentError

if TYPE_CHECKING:
    from semrec.shared.pipeline import Pipeline

_HELD_OUT = 2
"""The number of a user's last interactions that are for validation and test."""


@dataclass(frozen=True, kw_only=True, eq=False)
class News:
    """The current data compared with those of a run; row i is the current item i.

    Attributes:
        old_rows: The run's row of each item; -1 for a new item.
        num_removed: The number of the run's items that no longer exist.
        num_interactions: The number of interactions that the run did not have.
        new: The number of new interactions of each user of the split.
        trained: The number of interactions of each user that the run was trained on.
    """

    old_rows: Int[np.ndarray, " items"]
    num_removed: int
    num_interactions: int
    new: Int[np.ndarray, " users"]
    trained: Int[np.ndarray, " users"]

    @property
    def is_new(self) -> Bool[np.ndarray, " items"]:
        """Whether each item is new."""
        return self.old_rows < 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """The training samples of an update: all new ones, and old ones drawn by the seed.

    A new target is an item of a training history that the run did not train on; its user has new
    interactions. The first item of a history is never a target.

    Attributes:
        lengths: The length of each training history.
        first_targets: The position of the first new target in each history; past its end if there
            is none.
        old_share: Old samples for each new one, at most as many as there are.
        seed: The seed of the draw.
    """

    lengths: Int[np.ndarray, " users"]
    first_targets: Int[np.ndarray, " users"]
    old_share: float
    seed: int

    @classmethod
    def of(cls, split: Split, news: News, *, old_share: float, seed: int) -> Samples:
        """The samples of the current split; arguments are the attributes of the two classes."""
        lengths = np.array([len(history) for history in split.train])
        first = np.maximum(news.trained, 1)
        has_new = (news.new > 0) & (first < lengths)
        return cls(
            lengths=lengths,
            first_targets=np.where(has_new, first, lengths),
            old_share=old_share,
            seed=seed,
        )

    @property
    def any(self) -> bool:
        """Whether there is a new target."""
        return bool((self.first_targets < self.lengths).any())

    @property
    def users(self) -> Int[np.ndarray, " drawn"]:
        """Users with new targets, and drawn users with old targets."""
        return self._drawn(self.first_targets < self.lengths, self.lengths > 1)

    @property
    def pairs(self) -> Int[np.ndarray, " drawn"]:
        """Pairs with a new target, and drawn old ones, as `genrec.PairBatches.only` counts them."""
        counts = np.maximum(self.lengths - 1, 0)  # [users]
        firsts = np.cumsum(counts) - counts
        place = np.arange(counts.sum()) - np.repeat(firsts, counts) + 1  # [pairs], of the target
        is_new = place >= np.repeat(self.first_targets, counts)
        return self._drawn(is_new, np.ones(len(is_new), dtype=bool))

    def _drawn(
        self, is_new: Bool[np.ndarray, " samples"], is_usable: Bool[np.ndarray, " samples"]
    ) -> Int[np.ndarray, " drawn"]:
        """All new samples, and `old_share` times as many of the others."""
        new, old = np.flatnonzero(is_new & is_usable), np.flatnonzero(~is_new & is_usable)
        count = min(round(self.old_share * len(new)), len(old))
        chosen = np.random.default_rng(self.seed).choice(old, size=count, replace=False)
        drawn: Int[np.ndarray, " drawn"] = np.sort(np.concatenate([new, chosen]))
        return drawn


def what_is_new(data: Data, old: Pipeline[Any], place: str) -> News:
    """Compares all current data with the items and users stored in a run.

    Users and items are identified by their ids. The number of a user's new interactions is the
    length of the current history minus that of the run's, without items that no longer exist.

    Args:
        data: The current data.
        old: The run, reopened.
        place: The name of the data in error messages.

    Raises:
        ExperimentError: No item is shared; most users have fewer interactions than before, for
            example because the data hold only the last week; or the run stores no users.
    """
    rows = {item_id: row for row, item_id in enumerate(old.item_ids)}
    old_rows = np.array([rows.get(item_id, -1) for item_id in data.catalog.item_ids])
    if (old_rows < 0).all():
        raise ExperimentError(
            f"{place} shares no item with {old.run.path}: begin a new run with the command run"
        )
    before = _lengths_before(old, old_rows)
    interactions = data.interactions
    now = np.bincount(interactions.users, minlength=interactions.num_users)  # [users]
    known = np.array([before.get(user, 0) for user in interactions.user_ids])
    is_fewer = int((now < known).sum()) + len(before.keys() - set(interactions.user_ids))
    if 2 * is_fewer > len(before):
        raise ExperimentError(
            f"{place} must hold all current interactions, old and new: {is_fewer:,} of "
            f"{len(before):,} users have fewer than in {old.run.path}"
        )
    new = np.maximum(now - known, 0)
    users = data.split.users
    return News(
        old_rows=old_rows,
        num_removed=len(rows) - int((old_rows >= 0).sum()),
        num_interactions=int(new.sum()),
        new=new[users],
        trained=np.maximum(known[users] - _HELD_OUT, 0),
    )


def _lengths_before(old: Pipeline[Any], old_rows: Int[np.ndarray, " items"]) -> dict[str, int]:
    """The number of each user's interactions in a run, by id, without removed items."""
    is_there = np.zeros(len(old.item_ids), dtype=bool)
    is_there[old_rows[old_rows >= 0]] = True
    with old.kept_users().histories.open("rb") as file:
        table = pl.read_parquet(file)
    owners = np.repeat(np.arange(table.height), table["items"].list.len().to_numpy())
    items = table["items"].explode().drop_nulls().to_numpy()  # concatenated over all users
    counts = np.bincount(owners[is_there[items]], minlength=table.height)
    return dict(zip(table["user"].to_list(), counts.tolist(), strict=True))


def tested_on_new(data: Data, news: News, count: int, seed: int) -> Data:
    """The data with a test of users with new interactions: the target is their last item.

    If nobody has new interactions, all users stay in the test.

    Args:
        data: The current data.
        news: What is new in the data.
        count: Most users of the test; they are drawn by the seed.
        seed: The seed of the draw.
    """
    test = data.split.test
    has_new = np.flatnonzero(news.new > 0)
    if len(has_new):
        assert test.users is not None  # leave-one-out knows them
        test = dataclasses.replace(
            test,
            histories=[test.histories[query] for query in has_new.tolist()],
            targets=test.targets[has_new],
            cold=test.cold[has_new],
            users=test.users[has_new],
        )
    split = dataclasses.replace(data.split, test=test.sample(count, seed=seed))
    return dataclasses.replace(data, split=split)
