"""Leave-one-out: the last item of each user is the test, the one before it the validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from evalrec.interactions import DataError, Histories, Interactions, flatten


@dataclass(frozen=True, kw_only=True, eq=False)
class Queries:
    """What a model is asked, and the answers: one history and one target a user.

    Attributes:
        histories: Item rows of each user's history, oldest first.
        targets: The item row that comes next.
        num_items: Size of the catalogue; every item of it is a candidate.
        cold: Whether the target never occurs in any training history. Cold targets are counted in
            the report and stay in the mean.
    """

    histories: Histories
    targets: Int[np.ndarray, " users"]
    num_items: int
    cold: Bool[np.ndarray, " users"]

    def __post_init__(self) -> None:
        if not len(self.histories) == len(self.targets) == len(self.cold):
            raise ValueError(
                "histories, targets and cold must be of one length, got "
                f"{len(self.histories)}, {len(self.targets)} and {len(self.cold)}"
            )
        if len(self.targets) == 0:
            raise ValueError("queries must be at least one, got none")
        for name, rows in (("targets", self.targets), ("histories", flatten(self.histories)[1])):
            if len(rows) and not (rows.min() >= 0 and rows.max() < self.num_items):
                raise ValueError(
                    f"{name} must be item rows in [0, {self.num_items}), "
                    f"got {rows.min()} to {rows.max()}"
                )

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A leave-one-out split. Entry i of every field is the same user, row `users[i]`.

    Attributes:
        users: Rows of the users kept, in the table that was split.
        train: Training histories, oldest first: all but the last two items.
        validation_targets: The second-last item of each user.
        test_targets: The last item of each user.
        num_items: Size of the catalogue.
        num_dropped: How many users were too short to split.
    """

    users: Int[np.ndarray, " users"]
    train: Histories
    validation_targets: Int[np.ndarray, " users"]
    test_targets: Int[np.ndarray, " users"]
    num_items: int
    num_dropped: int

    @property
    def validation(self) -> Queries:
        """The training histories, and the validation item that follows each."""
        return self._queries(self.train, self.validation_targets)

    @property
    def test(self) -> Queries:
        """The training histories with the validation item, and the test item that follows."""
        histories = [
            np.append(history, target)
            for history, target in zip(self.train, self.validation_targets, strict=True)
        ]
        return self._queries(histories, self.test_targets)

    def _queries(self, histories: Histories, targets: Int[np.ndarray, " users"]) -> Queries:
        trained = np.zeros(self.num_items, dtype=bool)
        trained[flatten(self.train)[1]] = True
        return Queries(
            histories=histories,
            targets=targets,
            num_items=self.num_items,
            cold=~trained[targets],
        )


def leave_one_out(interactions: Interactions, *, min_interactions: int = 3) -> Split:
    """Split every user's sequence: last item test, second-last validation, the rest training.

    Users with fewer than `min_interactions` are dropped whole, from training too, and counted in
    `Split.num_dropped`; users without any interaction are not counted.

    Raises:
        ValueError: If `min_interactions` is below 3, which would leave a user nothing to train on.
        DataError: If no user has enough interactions.
    """
    if min_interactions < 3:
        raise ValueError(f"min_interactions must be at least 3, got {min_interactions}")
    histories = interactions.histories()
    lengths = np.array([len(history) for history in histories])
    users = np.flatnonzero(lengths >= min_interactions)
    if len(users) == 0:
        raise DataError(
            f"no user has {min_interactions} interactions; the longest history has {lengths.max()}"
        )
    kept = [histories[user] for user in users]
    return Split(
        users=users,
        train=[history[:-2] for history in kept],
        validation_targets=np.array([history[-2] for history in kept], dtype=np.int64),
        test_targets=np.array([history[-1] for history in kept], dtype=np.int64),
        num_items=interactions.num_items,
        num_dropped=int(((lengths > 0) & (lengths < min_interactions)).sum()),
    )
