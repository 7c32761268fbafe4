"""Interactions: which user had which item, and when, as rows of two key tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int

Histories: TypeAlias = Sequence[Int[np.ndarray, " _"]]
"""One array of item rows per user, oldest first."""

_MOST = np.iinfo(np.int64).max


class DataError(ValueError):
    """Data cannot be used; the message names the file and, if there is one, the line."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Interactions:
    """A table of interactions, ordered by user and then by time.

    The object sorts the arrays by user row and then by timestamp; equal timestamps keep the order
    of the input. The arrays are read-only int64.

    Attributes:
        users: User row of each interaction, in [0, num_users).
        items: Item row of each interaction, in [0, num_items).
        timestamps: Whole numbers that order a user's interactions; any unit.
        user_ids: The key of each user row.
        item_ids: The key of each item row. An item may have no interaction.
        weights: The weight of each interaction, such as a quantity; None if all count alike. They
            are stored and written; no protocol and no floor uses them.

    Raises:
        ValueError: If the arrays are empty, differ in length or are not of whole numbers, a row is
            outside its key table, a key occurs twice, or a weight is not above 0.
    """

    users: Int[np.ndarray, " interactions"]
    items: Int[np.ndarray, " interactions"]
    timestamps: Int[np.ndarray, " interactions"]
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    weights: Float[np.ndarray, " interactions"] | None = None

    def __post_init__(self) -> None:
        if not len(self.users) == len(self.items) == len(self.timestamps):
            raise ValueError(
                "users, items and timestamps must be of one length, got "
                f"{len(self.users)}, {len(self.items)} and {len(self.timestamps)}"
            )
        if len(self.users) == 0:
            raise ValueError("interactions must be at least one, got none")
        for name in ("users", "items", "timestamps"):
            _check_whole(name, getattr(self, name))
        _check_rows("users", self.users, self.user_ids)
        _check_rows("items", self.items, self.item_ids)
        order: slice | Int[np.ndarray, " interactions"] = slice(None)
        if not _is_sorted(self.users, self.timestamps):
            order = np.lexsort((self.timestamps, self.users))  # stable: ties keep their order
        if self.weights is not None:
            if len(self.weights) != len(self.users):
                raise ValueError(
                    f"weights must be as many as users, {len(self.users)}, got {len(self.weights)}"
                )
            if not (np.isfinite(self.weights) & (self.weights > 0)).all():
                raise ValueError("weights must be finite and above 0")
            weights = self.weights[order].astype(np.float64)
            weights.setflags(write=False)
            object.__setattr__(self, "weights", weights)
        for name in ("users", "items", "timestamps"):
            column = getattr(self, name)[order].astype(np.int64)
            column.setflags(write=False)
            object.__setattr__(self, name, column)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        user: str = "user_id",
        item: str = "item_id",
        time: str | None = "timestamp",
        weight: str | None = None,
        user_ids: Sequence[str] | None = None,
        item_ids: Sequence[str] | None = None,
    ) -> Interactions:
        """The interactions of a data frame, as `read_interactions` reads them from a file.

        Ids may be texts, whole numbers or categories of either, which become texts; no cell may be
        missing. User rows are numbered in the order of first appearance; so are item rows without
        `item_ids`.

        Args:
            frame: A table of pandas, polars, pyarrow or any other library that narwhals knows.
            user: The column of user ids.
            item: The column of item ids.
            time: The column that orders a user's interactions: whole numbers, kept as they are;
                dates, kept in seconds since 1970; or times, kept in the unit of their type. Times
                with a zone become UTC, those without one are taken as UTC. None takes the order of
                the frame.
            weight: The column with the weight of each interaction; None if all count alike.
            user_ids: The keys of the users in row order, if they are known.
            item_ids: The keys of the catalogue in row order: item row i is `item_ids[i]`.

        Raises:
            DataError: If the frame has no rows or lacks a column, a cell is missing or invalid, or
                a user or item is not among the known ones. The message names the row, from 1 on.
            TypeError: If `frame` is not a data frame.
            ValueError: If `user_ids` or `item_ids` holds a key twice, or a weight is not above 0.
        """
        from evalrec.cells import Column
        from evalrec.frames import TimeColumn, read_frame
        from evalrec.keys import Keys

        columns = {
            "user": Column(source=user, kind="key"),
            "item": Column(source=item, kind="key"),
        }
        if time is not None:
            columns["time"] = TimeColumn(source=time, kind="whole")
        if weight is not None:
            columns["weight"] = Column(source=weight, kind="number")
        users_of, items_of = Keys(user_ids, "user_ids"), Keys(item_ids, "item_ids")
        try:
            table = read_frame(frame, columns)
        except ValueError as error:
            raise DataError(str(error)) from error
        if table.height == 0:
            raise DataError("frame holds no interactions")
        rows = {"user": users_of(table["user"]), "item": items_of(table["item"])}
        for name, where in (("user", "user_ids"), ("item", "item_ids")):
            if rows[name].min() < 0:
                row = int(np.argmax(rows[name] < 0))
                raise DataError(f"row {row + 1}: {name} {table[name][row]!r} is not in {where}")
        return cls(
            users=rows["user"],
            items=rows["item"],
            timestamps=np.arange(table.height) if time is None else table["time"].to_numpy(),
            user_ids=tuple(users_of.rows),
            item_ids=tuple(items_of.rows),
            weights=None if weight is None else table["weight"].to_numpy(),
        )

    def __len__(self) -> int:
        return len(self.users)

    @property
    def num_users(self) -> int:
        """The number of user rows."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """The number of item rows, those without interactions included."""
        return len(self.item_ids)

    def histories(self) -> list[Int[np.ndarray, " _"]]:
        """The item rows of every user, oldest first: one array per user row, views of one array."""
        counts = np.bincount(self.users, minlength=self.num_users)
        return np.split(self.items, np.cumsum(counts)[:-1])


def _is_sorted(
    users: Int[np.ndarray, " interactions"], timestamps: Int[np.ndarray, " interactions"]
) -> bool:
    later = (users[1:] == users[:-1]) & (timestamps[1:] >= timestamps[:-1])
    return bool((later | (users[1:] > users[:-1])).all())


def _check_whole(name: str, column: np.ndarray) -> None:
    """Refuse types that would lose information as int64: fractions, truth values, times."""
    if column.dtype.kind not in "iu" or (column.dtype.kind == "u" and column.max() > _MOST):
        raise ValueError(f"{name} must be whole numbers of 64 bits, got {column.dtype}")


def _check_rows(name: str, rows: Int[np.ndarray, " interactions"], keys: tuple[str, ...]) -> None:
    if len(set(keys)) != len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise ValueError(f"the keys of {name} must be unique, got {twice!r} twice")
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= len(keys):
        raise ValueError(f"{name} must be rows in [0, {len(keys)}), got {low if low < 0 else high}")


def flatten(
    histories: Histories,
) -> tuple[Int[np.ndarray, " interactions"], Int[np.ndarray, " interactions"]]:
    """A list of histories as two parallel arrays: the index of the history, and the item row."""
    lengths = np.fromiter((len(history) for history in histories), np.int64, len(histories))
    owners = np.repeat(np.arange(len(histories), dtype=np.int64), lengths)
    if len(owners) == 0:
        return owners, owners
    return owners, np.concatenate(histories).astype(np.int64)


def count_items(histories: Histories, num_items: int) -> Int[np.ndarray, " items"]:
    """How often each item occurs in the histories."""
    return np.bincount(flatten(histories)[1], minlength=num_items)
