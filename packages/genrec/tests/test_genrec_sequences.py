from __future__ import annotations

import numpy as np
import pytest
import torch
from genrec.sequences import Batch, PairBatches, SequenceBatches, query_batches
from hypothesis import given, settings
from hypothesis import strategies as st

NUM_ITEMS = 11
histories_strategy = st.lists(
    st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), min_size=1, max_size=8
).filter(lambda histories: any(len(h) > 1 for h in histories))


def pairs_of(histories: list[list[int]], history_length: int) -> list[tuple[int, list[int], int]]:
    return sorted(
        (user, history[max(end - history_length, 0) : end], history[end])
        for user, history in enumerate(histories)
        for end in range(1, len(history))
    )


def pairs_in(batches: list[Batch]) -> list[tuple[int, list[int], int]]:
    pairs = []
    for batch in batches:
        for user, row, target in zip(
            batch.users.tolist(), batch.history.tolist(), batch.targets.tolist(), strict=True
        ):
            if isinstance(target, int):
                row = [item for item in row if item < NUM_ITEMS]
                pairs.append((user, row, target))
                continue
            pairs += [
                (user, row[: column + 1], item)
                for column, item in enumerate(target)
                if item < NUM_ITEMS
            ]
    return sorted(pairs)


@settings(deadline=None)
@given(histories_strategy, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_every_prefix_is_a_pair_once(histories, history_length, batch_size, bucket):
    source = PairBatches(
        histories,
        num_items=NUM_ITEMS,
        history_length=history_length,
        batch_size=batch_size,
        bucket=bucket,
    )
    batches = list(source(0))
    assert len(batches) == len(source)
    assert pairs_in(batches) == pairs_of(histories, history_length)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    for batch in batches:
        lengths = (batch.history < NUM_ITEMS).sum(1)
        assert batch.history.shape[1] == lengths.max()
        columns = torch.arange(batch.history.shape[1])
        assert torch.equal(batch.history < NUM_ITEMS, columns < lengths[:, None])


@settings(deadline=None)
@given(histories_strategy, st.integers(1, 5), st.data())
def test_strided_windows_hold_each_target_once_with_enough_context(histories, history_length, data):
    stride = data.draw(st.integers(1, history_length))
    source = SequenceBatches(
        histories, num_items=NUM_ITEMS, history_length=history_length, stride=stride, batch_size=3
    )
    found = pairs_in(list(source(0)))
    expected = pairs_of(histories, 100)
    assert [(user, item) for user, _, item in found] != []
    assert sorted((user, item) for user, _, item in found) == sorted(
        (user, item) for user, _, item in expected
    )
    for user, context, item in found:
        whole = [
            history
            for other, history, target in expected
            if other == user and target == item and history[-len(context) :] == context
        ]
        assert whole, "a context must be the end of a prefix"
        shortest = min(len(history) for history in whole)
        assert len(context) >= min(shortest, history_length - stride + 1)
    if stride == 1:
        assert found == pairs_of(histories, history_length)


def test_without_stride_only_the_last_window_is_used():
    source = SequenceBatches([[0, 1, 2, 3, 4], [5, 6], [7]], num_items=10, history_length=2)
    (batch,) = source(0)
    rows = dict(zip(batch.users.tolist(), batch.history.tolist(), strict=True))
    targets = dict(zip(batch.users.tolist(), batch.targets.tolist(), strict=True))
    assert rows == {0: [2, 3], 1: [5, 10]}
    assert targets == {0: [3, 4], 1: [6, 10]}


@pytest.mark.parametrize("source", [PairBatches, SequenceBatches])
@pytest.mark.parametrize("bucket", [1, 2])
def test_order_is_a_function_of_seed_and_epoch(source, bucket):
    generator = np.random.default_rng(0)
    histories = [generator.integers(0, 30, size=size) for size in range(2, 20)]

    def order(seed: int, epoch: int) -> list[int]:
        batches = source(histories, num_items=30, batch_size=4, seed=seed, bucket=bucket)
        return [row for batch in batches(epoch) for row in batch.targets.flatten().tolist()]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_buckets_skip_padding():
    generator = np.random.default_rng(0)
    histories = [generator.integers(0, 30, size=size) for size in generator.integers(2, 30, 200)]

    def padding(bucket: int) -> float:
        source = PairBatches(histories, num_items=30, batch_size=16, bucket=bucket)
        parts = [batch.history == 30 for batch in source(0)]
        return sum(int(p.sum()) for p in parts) / sum(p.numel() for p in parts)

    assert padding(20) < padding(1) / 5


@given(histories_strategy, st.integers(1, 5), st.booleans())
def test_queries_keep_the_newest_items_and_tell_their_row(histories, history_length, by_length):
    rows: list[int] = []
    lengths: list[int] = []
    for users, history in query_batches(
        histories,
        num_items=NUM_ITEMS,
        history_length=history_length,
        batch_size=3,
        by_length=by_length,
    ):
        for user, row in zip(users.tolist(), history.tolist(), strict=True):
            kept = histories[user][-history_length:]
            assert row == kept + [NUM_ITEMS] * (len(row) - len(kept))
            rows.append(user)
            lengths.append(len(kept))
    assert sorted(rows) == list(range(len(histories)))
    if by_length:
        assert lengths == sorted(lengths, reverse=True)
    else:
        assert rows == sorted(rows)


def test_batches_move_between_devices():
    (batch,) = PairBatches([[0, 1]], num_items=2)(0)
    assert batch.to("meta").history.device.type == "meta"
    assert batch.to("meta").targets.device.type == "meta"


@pytest.mark.parametrize(
    ("histories", "options", "words"),
    [
        ([[0, 3]], {}, "items must be rows from 0 to 2, got 3 in history 0"),
        ([[0], [], [1, -1]], {}, "got -1 in history 2"),
        ([[0], []], {}, "histories must hold at least one of two items or more"),
        ([[0, 1]], {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ([[0, 1]], {"history_length": 0}, "history_length must be at least 1"),
        ([[0, 1]], {"bucket": 0}, "bucket must be at least 1"),
        ([[0, 1]], {"num_items": 0}, "num_items must be from 1"),
    ],
)
@pytest.mark.parametrize("source", [PairBatches, SequenceBatches])
def test_refusals(source, histories, options, words):
    with pytest.raises(ValueError, match=words):
        source(histories, **{"num_items": 3, **options})


def test_stride_beyond_the_window_is_refused():
    with pytest.raises(ValueError, match=r"stride must be from 1 to history_length \(2\), got 3"):
        SequenceBatches([[0, 1]], num_items=3, history_length=2, stride=3)


def test_items_that_are_no_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="whole numbers, got float64"):
        PairBatches([np.array([0.0, 1.0])], num_items=3)
