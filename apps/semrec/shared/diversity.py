"""Answers whose items are not all alike: a re-ranking by what items share.

The rule: an answer is gone through from its best item on, and an item is taken unless as many of
its group as may be are taken already, until the answer is full. Items without a group stand alone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from genrec import Answer, Recommendation

Grouping = Literal["codes", "categories"]
"""What makes items alike: their first code, or their categories."""

DEPTH = 10
"""How many times as many items as are asked for the rule chooses from."""


def diverse(
    items: Iterable[Recommendation], groups: Mapping[str, object], *, per_group: int, top_k: int
) -> list[Recommendation]:
    """The first `top_k` items of which no more than `per_group` share a group.

    Args:
        items: Best first.
        groups: The group of each item, by its id; None or absent for an item that stands alone.
        per_group: At least 1.
        top_k: Most items that are returned; fewer, where the rule leaves fewer.
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
    """Answers of `DEPTH` times `top_k` items, cut down by `diverse`."""
    for answer in answers:
        items = diverse(answer.items, groups, per_group=per_group, top_k=top_k)
        yield dataclasses.replace(answer, items=items)
