"""What a recommender is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Recommendation(NamedTuple):
    """One recommended item.

    Attributes:
        item_id: The item's id.
        score: Log-probability of the item as the model has it; for popular items the logarithm of
            the item's share in all interactions.
    """

    item_id: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Request:
    """A history with wishes of its own.

    Attributes:
        history: Item ids, oldest first.
        allow: Ids of the items that alone may be returned; None for all.
        deny: Ids of items that must not be returned.
    """

    history: Sequence[str]
    allow: Collection[str] | None = None
    deny: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one history is answered with.

    Attributes:
        items: Recommendations, best first.
        unknown: How many ids of the history the model does not know; they were skipped.
        popular: True where the history held no known item, so that `items` are merely those had
            most, all of them had at least once. False where the model answered, from nothing if
            need be.
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
