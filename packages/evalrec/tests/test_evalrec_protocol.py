from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from evalrec import (
    DataError,
    Interactions,
    Queries,
    k_core,
    leave_last_n,
    leave_one_out,
    split_times,
    temporal_split,
)
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


@given(PAIRS, st.integers(1, 2), st.one_of(st.none(), st.integers(1, 3)))
@calmly(100)
def test_leave_last_n_is_the_plain_one(pairs, n, max_history):
    sequences = {user: [item for who, item in pairs if who == user] for user, _ in pairs}
    kept = {user: items for user, items in sorted(sequences.items()) if len(items) > 2 * n}
    if not kept:
        with pytest.raises(DataError, match=f"no user has {2 * n + 1} interactions"):
            leave_last_n(table(pairs), n=n, max_history=max_history)
        return
    split = leave_last_n(table(pairs), n=n, max_history=max_history)
    assert split.num_dropped == len(sequences) - len(kept)
    assert [history.tolist() for history in split.train] == [s[: -2 * n] for s in kept.values()]
    trained = {item for items in kept.values() for item in items[: -2 * n]}
    for queries, last in ((split.validation, 2 * n), (split.test, n)):
        expected = [
            (user, items[: len(items) - last + step], items[len(items) - last + step])
            for user, items in kept.items()
            for step in range(n)
        ]
        short = -max_history if max_history else None
        assert queries.users.tolist() == [user for user, _, _ in expected]
        assert [h.tolist() for h in queries.histories] == [h[short:] for _, h, _ in expected]
        assert queries.targets.tolist() == [target for _, _, target in expected]
        assert queries.cold.tolist() == [target not in trained for _, _, target in expected]


def timed(rows) -> Interactions:
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    return Interactions(
        users=users,
        items=items,
        timestamps=times,
        user_ids=tuple(f"u{row}" for row in range(6)),
        item_ids=tuple(f"i{row}" for row in range(8)),
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 20)), min_size=1, max_size=60
    ),
    st.integers(1, 10),
    st.integers(11, 19),
)
@calmly(100)
def test_temporal_split_is_the_plain_one(rows, validation_time, test_time):
    ordered = sorted(rows, key=lambda row: (row[0], row[2]))

    def part(user, low, high):
        return [item for who, item, time in ordered if who == user and low <= time < high]

    train = {user: part(user, 0, validation_time) for user in range(6)}
    queried = {}
    for name, low, high in (("v", validation_time, test_time), ("t", test_time, 99)):
        queried[name] = [
            (user, part(user, 0, low), part(user, low, high)[0])
            for user in range(6)
            if part(user, 0, low) and part(user, low, high)
        ]
    times = {"validation_time": validation_time, "test_time": test_time}
    if not (any(train.values()) and queried["v"] and queried["t"]):
        with pytest.raises(DataError, match=r"no user is left in (training|validation|test)"):
            temporal_split(timed(rows), **times)
        return
    split = temporal_split(timed(rows), **times)
    assert split.users.tolist() == [user for user, items in train.items() if items]
    assert [history.tolist() for history in split.train] == [h for h in train.values() if h]
    for queries, expected in ((split.validation, queried["v"]), (split.test, queried["t"])):
        got = zip(queries.users, queries.histories, queries.targets, strict=True)
        assert [(int(u), h.tolist(), int(t)) for u, h, t in got] == expected
    seen = {user for user, items in train.items() if items}
    seen |= {user for part in queried.values() for user, _, _ in part}
    assert split.num_dropped == len({user for user, _, _ in rows} - seen)


def test_nothing_that_is_given_lies_after_the_cut():
    rng = np.random.default_rng(0)
    rows = [(t % 6, int(item), t) for t, item in enumerate(rng.integers(0, 8, 300))]
    full = timed(rows)
    validation_time, test_time = split_times(full, validation=0.2, test=0.1)
    assert (validation_time, test_time) == (210, 270)
    split = temporal_split(full, validation_time=validation_time, test_time=test_time)
    assert sum(len(history) for history in split.train) == 210
    assert sum(len(history) for history in split.test.histories) == 270
    assert split.counts["test queries"] == 6


def test_protocols_refuse_what_makes_no_sense():
    full = timed([(0, item, item) for item in range(8)])
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        leave_last_n(full, n=0)
    with pytest.raises(ValueError, match="min_interactions must be at least 5, got 3"):
        leave_last_n(full, n=2, min_interactions=3)
    with pytest.raises(ValueError, match="max_history must be at least 1, got 0"):
        leave_one_out(full, max_history=0)
    with pytest.raises(ValueError, match="validation_time must be before test_time, got 5 and 5"):
        temporal_split(full, validation_time=5, test_time=5)
    with pytest.raises(ValueError, match=r"shares must be above 0 and below 1 together, got 0\.6"):
        split_times(full, validation=0.6, test=0.5)
    with pytest.raises(DataError, match="timestamps 0 to 0 cannot be cut"):
        split_times(timed([(0, 0, 0), (0, 1, 0)]))
    with pytest.raises((ValueError, TypeError), match="users"):  # TypeError: shapes are checked
        Queries(
            histories=[np.array([0])],
            targets=np.array([1]),
            num_items=2,
            cold=np.array([False]),
            users=np.array([0, 1]),
        )


def test_users_too_short_are_said(caplog):
    pairs = [(0, item) for item in range(5)] + [(1, 0)]
    with caplog.at_level("INFO", logger="evalrec.splits"):
        split = leave_one_out(table(pairs))
    assert "1 users are too short to split and were dropped" in caplog.text
    assert split.counts == {
        "training users": 1,
        "training interactions": 3,
        "validation queries": 1,
        "test queries": 1,
        "users dropped": 1,
        "cold validation targets": 1,
        "cold test targets": 1,
    }


def test_a_sample_is_drawn_without_repetition_and_keeps_the_order():
    rng = np.random.default_rng(0)
    full = table([(user, int(item)) for user in range(5) for item in rng.integers(10, size=6)])
    test = leave_last_n(full, n=2).test
    sample = test.sample(4, seed=3)
    drawn = np.sort(np.random.default_rng(3).choice(10, size=4, replace=False)).tolist()
    for query, source in enumerate(drawn):
        assert sample.histories[query].tolist() == test.histories[source].tolist()
        assert sample.targets[query] == test.targets[source]
        assert sample.cold[query] == test.cold[source]
        assert sample.users[query] == test.users[source]
    assert len(sample) == 4
    assert sample.num_items == test.num_items
    assert test.sample(4, seed=4).targets.tolist() != sample.targets.tolist()
    assert replace(test, users=None).sample(4, seed=3).users is None
    assert test.sample(10, seed=3) is test
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        test.sample(0, seed=3)


@given(PAIRS)
@calmly(50)
def test_item_counts_are_those_of_training(pairs):
    try:
        split = leave_one_out(table(pairs))
    except DataError:
        return
    counts = Counter(item for history in split.train for item in history.tolist())
    assert split.item_counts.tolist() == [counts[item] for item in range(10)]
