"""The re-ranking by codes or categories, against a plain one."""

from __future__ import annotations

import random

from genrec import Answer, Recommendation

from semrec.shared.diversity import diverse, diversified


def plain(items: list[str], groups: dict[str, object], per_group: int, top_k: int) -> list[str]:
    """Strikes out each item that has `per_group` of its group before it, and cuts."""
    left = list(items)
    for item in items:
        before = left[: left.index(item)]
        alike = [other for other in before if groups.get(other) == groups.get(item)]
        if groups.get(item) is not None and len(alike) >= per_group:
            left.remove(item)
    return left[:top_k]


def test_no_more_than_so_many_share_a_group() -> None:
    draw = random.Random(0)
    for _ in range(300):
        ids = [f"i{n}" for n in range(draw.randrange(30))]
        groups: dict[str, object] = {i: draw.choice(["a", "b", 3, None]) for i in ids[2:]}
        draw.shuffle(ids)
        per_group, top_k = draw.randrange(1, 4), draw.randrange(1, 12)
        items = [Recommendation(item_id=i, score=-float(n)) for n, i in enumerate(ids)]
        answer = Answer(items=items, unknown=2, popular=True)
        (result,) = diversified([answer], groups, per_group=per_group, top_k=top_k)
        assert result.items == diverse(items, groups, per_group=per_group, top_k=top_k)
        assert [item.item_id for item in result.items] == plain(ids, groups, per_group, top_k)
        assert (result.unknown, result.popular) == (2, True)
        assert [items.index(item) for item in result.items] == sorted(
            items.index(item) for item in result.items
        )
