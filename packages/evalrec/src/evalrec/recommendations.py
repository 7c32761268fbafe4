"""Recommendations: ranked lists with ids of users and items, read from and written to frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from evalrec.cells import Column
from evalrec.frames import make_frame, read_frame
from evalrec.interactions import DataError, Interactions
from evalrec.keys import Keys
from evalrec.ranking import best_items
from evalrec.scorers import EmbeddingScorer, Scorer, Scores
from evalrec.splits import Queries

__all__ = ["Recommendations", "recommend"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Recommendations:
    """The lists of a system for the users of some queries; `evaluate` takes it as a model.

    Attributes:
        ranked: Item rows, best first, in the order of the queries; -1 at the end of shorter lists.
        scores: The score of each of them, NaN for an empty place; None if scores are not known.
        user_ids: The id of each query's user.
        item_ids: The id of each item row.

    Raises:
        ValueError: If there is not one user per list, or not one score per place.
    """

    ranked: Int[np.ndarray, "users k"]
    scores: Float[np.ndarray, "users k"] | None = None
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.user_ids) != len(self.ranked):
            raise ValueError(
                f"user_ids must be one per list, {len(self.ranked)}, got {len(self.user_ids)}"
            )
        if self.scores is not None and self.scores.shape != self.ranked.shape:
            raise ValueError(
                f"scores must be one per place, {list(self.ranked.shape)}, "
                f"got {list(self.scores.shape)}"
            )

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        queries: Queries,
        interactions: Interactions,
        *,
        user: str = "user",
        item: str = "item",
        rank: str | None = "rank",
        score: str | None = None,
    ) -> Recommendations:
        """The lists of a system, from a frame with one row for every recommended item.

        Users without a query are ignored. A user with a query but without rows has an empty list,
        which is a miss.

        Args:
            frame: A table of pandas, polars, pyarrow or any other library that narwhals knows.
            queries: The queries of the users, one query per user.
            interactions: The table that was split into the queries; the frame has its ids.
            user: The column of user ids.
            item: The column of item ids.
            rank: The column of ranks, whole numbers, the smallest first; gaps are closed. None
                orders by score, and rows of equal score by their order.
            score: The column of scores, kept as they are; None if there is none.

        Raises:
            DataError: If the frame lacks a column, a cell is missing or invalid, a user or an item
                is unknown, or a user has a rank or an item twice.
            TypeError: If `frame` is not a data frame.
            ValueError: If both rank and score are None, or the queries lack their users or have a
                user twice.
        """
        if rank is None and score is None:
            raise ValueError("rank or score must name a column, got None for both")
        users = _users_of(queries)
        columns = {
            "user": Column(source=user, kind="key"),
            "item": Column(source=item, kind="key"),
        }
        if rank is not None:
            columns["rank"] = Column(source=rank, kind="whole")
        if score is not None:
            columns["score"] = Column(source=score, kind="number")
        try:
            table = read_frame(frame, columns)
        except ValueError as error:
            raise DataError(str(error)) from error
        rows = {
            "user": Keys(interactions.user_ids, "user_ids")(table["user"]),
            "item": Keys(interactions.item_ids, "item_ids")(table["item"]),
        }
        if not len(table):
            raise DataError("frame must hold recommendations, got no rows")
        for name, unknown in rows.items():
            if unknown.min() < 0:
                row = int(np.argmax(unknown < 0))
                raise DataError(
                    f"row {row + 1}: {name} {table[name][row]!r} is not in the interactions"
                )
        query_of = np.full(interactions.num_users, -1, dtype=np.int64)
        query_of[users] = np.arange(len(users))
        queried = query_of[rows["user"]]  # [rows]; -1 for users without a query
        if rank is not None:
            places = table["rank"].to_numpy()
            _refuse_twice(table["user"].to_list(), places.tolist(), f"{rank} ")
        else:
            places = -table["score"].to_numpy()
        _refuse_twice(table["user"].to_list(), table["item"].to_list(), "item ")
        order = np.lexsort((places, queried))  # stable: of equal scores the first row is first
        order = order[queried[order] >= 0]
        owners = queried[order]
        lengths = np.bincount(owners, minlength=len(queries))
        # The position of each row within its list: 0, 1, 2, ... for each query.
        within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        ranked = np.full((len(queries), int(lengths.max())), -1, dtype=np.int64)
        ranked[owners, within] = rows["item"][order]
        scores = None
        if score is not None:
            scores = np.full(ranked.shape, np.nan)
            scores[owners, within] = table["score"].to_numpy()[order]
        return cls(
            ranked=ranked,
            scores=scores,
            user_ids=tuple(interactions.user_ids[row] for row in users),
            item_ids=interactions.item_ids,
        )

    def to_frame(self, *, backend: str = "polars") -> Any:
        """A row for every recommended item: user, item, rank (from 1 on) and, if known, score.

        Args:
            backend: The library of the frame: "polars", "pandas", "pyarrow" or any other whose
                tables narwhals makes.

        Raises:
            ImportError: If the library is not installed.
            ValueError: If narwhals makes no tables of that name.
        """
        queries, places = np.nonzero(self.ranked >= 0)
        columns: dict[str, Any] = {
            "user": [self.user_ids[query] for query in queries],
            "item": [self.item_ids[item] for item in self.ranked[queries, places]],
            "rank": places + 1,
        }
        if self.scores is not None:
            columns["score"] = self.scores[queries, places]
        return make_frame(columns, backend)


def recommend(
    queries: Queries,
    model: Scorer | Scores | EmbeddingScorer,
    interactions: Interactions,
    *,
    top_k: int,
    filter_seen: bool = True,
    batch_size: int | None = None,
) -> Recommendations:
    """The `top_k` best items of every user, as `rank_items` ranks them, with scores and ids.

    Args:
        queries: The users to recommend to; `users` must be known.
        model: The model that scores them.
        interactions: The table that was split into the queries, which has the ids.
        top_k: Items per user.
        filter_seen: Whether to leave out the items of the user's history.
        batch_size: Users scored at once; None chooses by the size of the catalogue.

    Raises:
        ValueError: If `top_k` is not in [1, num_items], the queries do not know their users, or
            the scores are not valid.
    """
    if queries.users is None:
        raise ValueError("queries must know their users, got none: Queries(users=...)")
    ranked, scores = best_items(
        queries, model, top_k=top_k, filter_seen=filter_seen, batch_size=batch_size
    )
    return Recommendations(
        ranked=ranked,
        scores=np.where(ranked >= 0, scores, np.nan),
        user_ids=tuple(interactions.user_ids[row] for row in queries.users),
        item_ids=interactions.item_ids,
    )


def _users_of(queries: Queries) -> Int[np.ndarray, " users"]:
    """The row of each query's user; refuses a user with two queries."""
    if queries.users is None:
        raise ValueError("queries must know their users, got none: Queries(users=...)")
    if len(np.unique(queries.users)) < len(queries.users):
        raise ValueError("queries must ask each user once, for a frame has one list per user")
    return queries.users


def _refuse_twice(users: list[str], values: list[Any], name: str) -> None:
    """Refuses a user who has one of the values in two rows."""
    first: dict[tuple[str, Any], int] = {}
    for row, pair in enumerate(zip(users, values, strict=True), start=1):
        if first.setdefault(pair, row) != row:
            raise DataError(
                f"row {row}: user {pair[0]!r} has {name}{pair[1]!r} in row {first[pair]} already"
            )
