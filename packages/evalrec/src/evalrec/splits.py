"""Protocols: which interactions are for training, and which are targets.

Leave-one-out (the last item of each user is the test, the one before it the validation) is the
field's usual choice. `leave_last_n` has several targets per user. `temporal_split` cuts all users
at the same two moments, as a deployed system meets the future.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from evalrec.interactions import DataError, Histories, Interactions, count_items, flatten

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Queries:
    """The queries to a model with their answers: one history and one target per query.

    Attributes:
        histories: Item rows of each history, oldest first.
        targets: The item row that comes next in each query.
        num_items: Size of the catalogue; every item of it is a candidate.
        cold: Whether the target never occurs in any training history. Cold targets are counted in
            the report and stay in the mean.
        users: The user row of each query, in the table that was split, if known.
    """

    histories: Histories
    targets: Int[np.ndarray, " users"]
    num_items: int
    cold: Bool[np.ndarray, " users"]
    users: Int[np.ndarray, " users"] | None = None

    def __post_init__(self) -> None:
        if not len(self.histories) == len(self.targets) == len(self.cold):
            raise ValueError(
                "histories, targets and cold must be of one length, got "
                f"{len(self.histories)}, {len(self.targets)} and {len(self.cold)}"
            )
        if len(self.targets) == 0:
            raise ValueError("queries must be at least one, got none")
        if self.users is not None and len(self.users) != len(self.targets):
            raise ValueError(
                f"users must be one per query, {len(self.targets)}, got {len(self.users)}"
            )
        for name, rows in (("targets", self.targets), ("histories", flatten(self.histories)[1])):
            if len(rows) and not (rows.min() >= 0 and rows.max() < self.num_items):
                raise ValueError(
                    f"{name} must be item rows in [0, {self.num_items}), "
                    f"got {rows.min()} to {rows.max()}"
                )

    def __len__(self) -> int:
        return len(self.targets)

    def sample(self, count: int, *, seed: int) -> Queries:
        """Some of the queries, drawn without repetition, in their order here.

        Args:
            count: How many. If there are no more than this, all queries are returned.
            seed: The seed of the draw.

        Raises:
            ValueError: If `count` is not at least 1.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if count >= len(self):
            return self
        drawn = np.sort(np.random.default_rng(seed).choice(len(self), size=count, replace=False))
        return Queries(
            histories=[self.histories[query] for query in drawn],
            targets=self.targets[drawn],
            num_items=self.num_items,
            cold=self.cold[drawn],
            users=None if self.users is None else self.users[drawn],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Training histories and queries. User rows are those of the table that was split.

    After `leave_one_out`, entry i of `train`, `validation` and `test` is the same user,
    row `users[i]`.

    Attributes:
        users: The user of each training history.
        train: Complete training histories, oldest first.
        validation: The queries for choosing parameters.
        test: The queries for the final figures.
        num_items: Size of the catalogue.
        num_dropped: How many users were too short to be in any part.
    """

    users: Int[np.ndarray, " users"]
    train: Histories
    validation: Queries
    test: Queries
    num_items: int
    num_dropped: int

    @property
    def item_counts(self) -> Int[np.ndarray, " items"]:
        """How often each item occurs in the training histories."""
        return count_items(self.train, self.num_items)

    @property
    def counts(self) -> dict[str, int]:
        """The sizes of the parts, with the numbers of dropped users and of cold targets."""
        return {
            "training users": len(self.users),
            "training interactions": sum(len(history) for history in self.train),
            "validation queries": len(self.validation),
            "test queries": len(self.test),
            "users dropped": self.num_dropped,
            "cold validation targets": int(self.validation.cold.sum()),
            "cold test targets": int(self.test.cold.sum()),
        }


def leave_one_out(
    interactions: Interactions, *, min_interactions: int = 3, max_history: int | None = None
) -> Split:
    """Split every user's sequence: last item test, second-last validation, the rest training.

    Users with fewer than `min_interactions` are dropped from all parts, and counted in
    `Split.num_dropped`; users without any interaction are not counted.

    Args:
        interactions: The table to split.
        min_interactions: Length of the shortest sequence that is kept.
        max_history: How many of the last items a query's history keeps; None keeps all. Training
            histories stay complete.

    Raises:
        ValueError: If `min_interactions` is below 3, which would leave a user nothing to train on,
            or `max_history` is below 1.
        DataError: If no user has enough interactions.
    """
    return leave_last_n(
        interactions, n=1, min_interactions=min_interactions, max_history=max_history
    )


def leave_last_n(
    interactions: Interactions,
    *,
    n: int,
    min_interactions: int | None = None,
    max_history: int | None = None,
) -> Split:
    """Split every user's sequence: last n items test, the n before validation, the rest training.

    Each target is a query of its own, whose history is all that the user had before it, earlier
    targets included. The queries of a user are adjacent, in order of time.

    Args:
        interactions: The table to split.
        n: Targets per user in validation, and in test.
        min_interactions: Length of the shortest sequence that is kept, at least 2 n + 1, which
            None takes. Users with shorter sequences are dropped from all parts, and counted.
        max_history: As in `leave_one_out`.

    Raises:
        ValueError: If n or `max_history` is below 1, or `min_interactions` below 2 n + 1.
        DataError: If no user has enough interactions.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    least = 2 * n + 1
    if min_interactions is None:
        min_interactions = least
    if min_interactions < least:
        raise ValueError(f"min_interactions must be at least {least}, got {min_interactions}")
    histories = interactions.histories()
    lengths = np.array([len(history) for history in histories])
    users = np.flatnonzero(lengths >= min_interactions)
    if len(users) == 0:
        raise DataError(
            f"no user has {min_interactions} interactions; the longest history has {lengths.max()}"
        )
    kept = [histories[user] for user in users]
    ends = lengths[users]
    train = [history[: len(history) - 2 * n] for history in kept]
    owners = np.repeat(np.arange(len(users)), n)
    validation_at = (ends[:, None] - 2 * n + np.arange(n)).ravel()
    return _split(
        users=users,
        train=train,
        parts=(
            (kept, owners, validation_at, users[owners]),
            (kept, owners, validation_at + n, users[owners]),
        ),
        num_items=interactions.num_items,
        num_dropped=int(((lengths > 0) & (lengths < min_interactions)).sum()),
        max_history=max_history,
    )


def temporal_split(
    interactions: Interactions,
    *,
    validation_time: int,
    test_time: int,
    max_history: int | None = None,
) -> Split:
    """Split all users at the same two moments; `split_times` computes them.

    Interactions before `validation_time` are for training. A user's validation query is the first
    item from `validation_time` on and before `test_time`; its history is all that the user had
    before `validation_time`. The test query is the first item from `test_time` on; its history is
    all before that. So no training item and no history is later than the target. Users without
    any history before a cut have no query there; users in no part are dropped, and counted.

    Args:
        interactions: The table to split.
        validation_time: The first moment of validation, in the unit of the timestamps.
        test_time: The first moment of the test.
        max_history: As in `leave_one_out`.

    Raises:
        ValueError: If `validation_time` is not before `test_time`, or `max_history` is below 1.
        DataError: If a part is empty.
    """
    if validation_time >= test_time:
        raise ValueError(
            f"validation_time must be before test_time, got {validation_time} and {test_time}"
        )
    histories = interactions.histories()
    lengths = np.array([len(history) for history in histories])
    times = interactions.timestamps
    before = [
        np.bincount(interactions.users[times < time], minlength=interactions.num_users)
        for time in (validation_time, test_time)
    ]
    users = np.flatnonzero(before[0])
    queried = [
        np.flatnonzero((before[0] > 0) & (before[1] > before[0])),
        np.flatnonzero((before[1] > 0) & (lengths > before[1])),
    ]
    for part, rows in (("training", users), ("validation", queried[0]), ("test", queried[1])):
        if len(rows) == 0:
            raise DataError(
                f"no user is left in {part}: timestamps are {times.min()} to {times.max()}, "
                f"cut at {validation_time} and {test_time}"
            )
    used = np.unique(np.concatenate([users, *queried]))
    return _split(
        users=users,
        train=[histories[user][: before[0][user]] for user in users],
        parts=tuple(
            ([histories[user] for user in rows], np.arange(len(rows)), at[rows], rows)
            for rows, at in zip(queried, before, strict=True)
        ),
        num_items=interactions.num_items,
        num_dropped=int((lengths > 0).sum()) - len(used),
        max_history=max_history,
    )


def split_times(
    interactions: Interactions, *, validation: float = 0.1, test: float = 0.1
) -> tuple[int, int]:
    """The two moments that leave about these shares of all interactions in the later parts.

    Args:
        interactions: The table to split.
        validation: The share of interactions between the two moments.
        test: The share of interactions from the second moment on.

    Returns:
        `validation_time` and `test_time`, for `temporal_split`.

    Raises:
        ValueError: If the shares, or their sum, are not above 0 and below 1.
        DataError: If there are too few different timestamps to cut there.
    """
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise ValueError(
            f"shares must be above 0 and below 1 together, got {validation:g} and {test:g}"
        )
    times = np.sort(interactions.timestamps)
    cuts = [int(times[int(len(times) * (1 - share))]) for share in (validation + test, test)]
    if not times[0] < cuts[0] < cuts[1]:
        raise DataError(
            f"timestamps {times[0]} to {times[-1]} cannot be cut into shares of "
            f"{1 - validation - test:g}, {validation:g} and {test:g}"
        )
    return cuts[0], cuts[1]


_Rows: TypeAlias = Int[np.ndarray, " _"]
_Part: TypeAlias = tuple[Histories, _Rows, _Rows, _Rows]
"""Sequences; for each query its sequence, the position of its target in it, and its user."""


def _split(
    *,
    users: Int[np.ndarray, " users"],
    train: Histories,
    parts: Sequence[_Part],
    num_items: int,
    num_dropped: int,
    max_history: int | None,
) -> Split:
    if max_history is not None and max_history < 1:
        raise ValueError(f"max_history must be at least 1, got {max_history}")
    trained = np.zeros(num_items, dtype=bool)
    trained[flatten(train)[1]] = True
    queries = []
    for sequences, owners, places, query_users in parts:
        histories = []
        targets = np.empty(len(owners), dtype=np.int64)
        for query, (owner, place) in enumerate(zip(owners.tolist(), places.tolist(), strict=True)):
            start = 0 if max_history is None else max(0, place - max_history)
            histories.append(sequences[owner][start:place])
            targets[query] = sequences[owner][place]
        queries.append(
            Queries(
                histories=histories,
                targets=targets,
                num_items=num_items,
                cold=~trained[targets],
                users=query_users,
            )
        )
    if num_dropped:
        _LOG.info("%d users are too short to split and were dropped", num_dropped)
    return Split(
        users=users,
        train=train,
        validation=queries[0],
        test=queries[1],
        num_items=num_items,
        num_dropped=num_dropped,
    )
