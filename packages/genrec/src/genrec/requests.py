"""Requests to a recommender, and its answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Recommendation(NamedTuple):
    """One recommended item.

    Attributes:
        item_id: The item's id.
        score: The model's log-probability of the item, in nats; for popular items the logarithm of
            the item's share of all interactions.
    """

    item_id: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Request:
    """A history with its own lists of allowed and denied items.

    Attributes:
        history: Item ids, oldest first.
        allow: Only items with these ids may be returned; None allows all.
        deny: Items with these ids must not be returned.
    """

    history: Sequence[str]
    allow: Collection[str] | None = None
    deny: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The recommendations for one history.

    Attributes:
        items: Recommendations, best first.
        unknown: How many ids of the history the model does not know; they were skipped.
        popular: True if the history has no known item and `items` are the most popular items, each
            with at least one interaction. False if the model made the recommendations, which it
            can also do from an empty history.
    """

    items: list[Recommendation]
    unknown: int
    popular: bool


class RowRequest(NamedTuple):
    """A request in item rows, without the ids that the model does not know."""

    history: list[int]
    allow: list[int] | None
    deny: list[int]
    unknown: int
