"""Diverse answers: a re-ranking that limits the items of one group.

The items of a long answer are visited from best to worst. An item is kept unless the limit of its
group is reached, until the short answer is full. An item without a group is always kept.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from genrec import Answer, Recommendation

Grouping = Literal["codes", "categories"]
"""What defines a group: the first code of an item, or its categories."""

DEPTH = 10
"""The length of the long answer, as a multiple of the items that were asked for."""


def diverse(
    items: Iterable[Recommendation], groups: Mapping[str, object], *, per_group: int, top_k: int
) -> list[Recommendation]:
    """The best `top_k` items of which at most `per_group` share a group.

    Args:
        items: Best first.
        groups: The group of each item, by its id; None or absent for an item without a group.
        per_group: At least 1.
        top_k: Most items that are returned; there may be fewer.
    """
    taken: list[Recommendation] = []
    counts: Counter[object] = Counter()
    for item in items:
        group = groups.get(item.item_id)
        if len(taken) == top_k:
            break
        if group is None or counts[group] < per_group:
            taken.append(item)
            counts[group] += 1
    return taken


def diversified(
    answers: Iterable[Answer], groups: Mapping[str, object], *, per_group: int, top_k: int
) -> Iterator[Answer]:
    """Shortens answers of `DEPTH` times `top_k` items with `diverse`."""
    for answer in answers:
        items = diverse(answer.items, groups, per_group=per_group, top_k=top_k)
        yield dataclasses.replace(answer, items=items)
