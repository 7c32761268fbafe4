from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from evalrec import DataError, Interactions, k_core, leave_one_out
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=80)


def calmly(examples: int) -> settings:
    """No limits on time: a busy machine is no failure."""
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


def table(pairs, num_users=10, num_items=10) -> Interactions:
    return Interactions(
        users=np.array([user for user, _ in pairs]),
        items=np.array([item for _, item in pairs]),
        timestamps=np.arange(len(pairs)),
        user_ids=tuple(f"u{row}" for row in range(num_users)),
        item_ids=tuple(f"i{row}" for row in range(num_items)),
    )


def plain_k_core(pairs, k):
    while True:
        users = Counter(user for user, _ in pairs)
        items = Counter(item for _, item in pairs)
        kept = [pair for pair in pairs if users[pair[0]] >= k and items[pair[1]] >= k]
        if kept == pairs:
            return kept
        pairs = kept


@given(PAIRS, st.integers(1, 4))
@calmly(100)
def test_k_core_is_the_plain_fixed_point(pairs, k):
    expected = plain_k_core(pairs, k)
    if not expected:
        with pytest.raises(DataError, match=f"the {k}-core is empty"):
            k_core(table(pairs), k=k)
        return
    core = k_core(table(pairs), k=k)
    got = [
        (core.user_ids[user], core.item_ids[item], time)
        for user, item, time in zip(core.users, core.items, core.timestamps, strict=True)
    ]
    times = [time for time, pair in enumerate(pairs) if pair in set(expected)]
    named = [(f"u{pairs[time][0]}", f"i{pairs[time][1]}", time) for time in times]
    assert sorted(got) == sorted(named)
    assert set(core.item_ids) == {f"i{item}" for _, item in expected}
    assert np.bincount(core.users).min() >= k
    assert np.bincount(core.items).min() >= k


def test_k_core_goes_on_past_one_pass():
    # Dropping user 2 leaves item 2 with one, which leaves user 1 with one, and so on to nothing.
    chain = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]
    with pytest.raises(DataError, match="2-core is empty"):
        k_core(table(chain), k=2)
    ring = [(0, 0), (0, 1), (1, 1), (1, 0), (2, 1)]
    assert k_core(table(ring), k=2).user_ids == ("u0", "u1")


def test_k_core_refuses_k_below_one():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        k_core(table([(0, 0)]), k=0)


@given(PAIRS)
@calmly(100)
def test_leave_one_out_is_the_plain_one(pairs):
    sequences = {user: [item for who, item in pairs if who == user] for user, _ in pairs}
    kept = {user: items for user, items in sorted(sequences.items()) if len(items) >= 3}
    if not kept:
        with pytest.raises(DataError, match="no user has 3 interactions"):
            leave_one_out(table(pairs))
        return
    split = leave_one_out(table(pairs))
    trained = {item for items in kept.values() for item in items[:-2]}
    assert split.users.tolist() == list(kept)
    assert split.num_dropped == len(sequences) - len(kept)
    assert [history.tolist() for history in split.train] == [s[:-2] for s in kept.values()]
    for queries, histories, targets in (
        (split.validation, [s[:-2] for s in kept.values()], [s[-2] for s in kept.values()]),
        (split.test, [s[:-1] for s in kept.values()], [s[-1] for s in kept.values()]),
    ):
        assert [history.tolist() for history in queries.histories] == histories
        assert queries.targets.tolist() == targets
        assert queries.cold.tolist() == [target not in trained for target in targets]
        assert queries.num_items == 10


def test_longer_minimum_drops_more():
    pairs = [(0, item) for item in range(5)] + [(1, item) for item in range(4)]
    split = leave_one_out(table(pairs), min_interactions=5)
    assert (split.users.tolist(), split.num_dropped) == ([0], 1)
    with pytest.raises(ValueError, match="min_interactions must be at least 3, got 2"):
        leave_one_out(table(pairs), min_interactions=2)
