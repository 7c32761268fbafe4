from __future__ import annotations

import numpy as np
import pytest
import torch
from genrec.cloze import MaskedBatches
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
    windows = pairs_in(list(source(0)))
    expected = pairs_of(histories, 100)
    assert [(user, item) for user, _, item in windows] != []
    assert sorted((user, item) for user, _, item in windows) == sorted(
        (user, item) for user, _, item in expected
    )
    for user, context, item in windows:
        whole = [
            history
            for other, history, target in expected
            if other == user and target == item and history[-len(context) :] == context
        ]
        assert whole, "a context must be the end of a prefix"
        shortest = min(len(history) for history in whole)
        assert len(context) >= min(shortest, history_length - stride + 1)
    if stride == 1:
        assert windows == pairs_of(histories, history_length)


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
        ([[0], []], {}, "histories must hold at least one history of two items"),
        ([[0, 1]], {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ([[0, 1]], {"history_length": 0}, "history_length must be at least 1"),
        ([[0, 1]], {"bucket": 0}, "bucket must be at least 1"),
        ([[0, 1]], {"num_items": 0}, "num_items must be from 1"),
        ([[0], [1, 2]], {"timestamps": [[5.0], [6.0, 6.7]]}, "whole .*, got 6.7 in history 1"),
        ([[0, 1]], {"timestamps": [[1.0, float("inf")]]}, "whole .*, got inf in history 0"),
        ([[], []], {"timestamps": [[], []]}, "histories must hold at least one"),
    ],
)
@pytest.mark.usefixtures("unchecked")
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


@settings(deadline=None, max_examples=50)
@given(histories_strategy, st.integers(1, 5), st.data())
def test_masks_hide_what_the_targets_name(histories, history_length, data):
    stride = data.draw(st.none() | st.integers(1, history_length))
    source = MaskedBatches(
        histories,
        num_items=NUM_ITEMS,
        history_length=history_length,
        stride=stride,
        batch_size=3,
        mask_share=data.draw(st.sampled_from([0.01, 0.5])),
        last_share=data.draw(st.sampled_from([0.0, 0.5])),
    )
    batches = list(source(0))
    assert sum(map(len, batches)) >= sum(len(h) > 1 for h in histories)
    for batch in batches:
        masked = batch.history == NUM_ITEMS + 1
        assert torch.equal(masked, batch.targets < NUM_ITEMS)
        assert masked.any(1).all()
        items = torch.where(masked, batch.targets, batch.history)
        for user, row in zip(batch.users.tolist(), items.tolist(), strict=True):
            window = [item for item in row if item < NUM_ITEMS]
            assert row == window + [NUM_ITEMS] * (len(row) - len(window))
            starts = range(len(histories[user]) - len(window) + 1)
            assert any(histories[user][i : i + len(window)] == window for i in starts)
            assert len(window) == min(len(histories[user]), history_length + 1) or stride


def test_shares_of_masks():
    histories = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]] * 2000
    options = {"num_items": NUM_ITEMS, "history_length": 9, "batch_size": 2000}
    (batch,) = MaskedBatches(histories, **options, mask_share=0.3, last_share=0.0)(0)
    assert abs((batch.targets < NUM_ITEMS).float().mean().item() - 0.3) < 0.01
    (batch,) = MaskedBatches(histories, **options, mask_share=0.3, last_share=1.0)(0)
    assert (batch.history[:, -1] == NUM_ITEMS + 1).all()
    assert (batch.history[:, :-1] < NUM_ITEMS).all()
    source = MaskedBatches(histories, **options, seed=4)
    (first,), (again,), (other,) = source(0), source(0), source(1)
    assert torch.equal(first.history, again.history)
    assert not torch.equal(first.targets < NUM_ITEMS, other.targets < NUM_ITEMS)
    with pytest.raises(ValueError, match="mask_share must be between 0 and 1, got 1"):
        MaskedBatches(histories, **options, mask_share=1.0)
    with pytest.raises(ValueError, match=r"last_share must be in \[0, 1\], got 2"):
        MaskedBatches(histories, **options, last_share=2.0)


@pytest.mark.parametrize("source", [PairBatches, SequenceBatches, MaskedBatches])
def test_timestamps_stand_beside_their_items(source):
    histories = [[3, 1, 4, 1, 5, 9], [], [2, 6], [5, 3, 5]]
    times = [[10 * place + user for place in range(len(h))] for user, h in enumerate(histories)]
    batches = source(histories, num_items=NUM_ITEMS, history_length=4, timestamps=times)
    for batch in batches(0):
        moved = batch.to("cpu")
        for user, items, stamps in zip(
            batch.users.tolist(), batch.history.tolist(), moved.timestamps.tolist(), strict=True
        ):
            for item, stamp in zip(items, stamps, strict=True):
                if item == NUM_ITEMS:
                    assert stamp == 0
                elif item < NUM_ITEMS:
                    assert stamp % 10 == user
                    assert histories[user][stamp // 10] == item
    floats = [np.array(row, dtype=np.float64) for row in times]
    same = source(histories, num_items=NUM_ITEMS, history_length=4, timestamps=floats)
    for batch, expected in zip(batches(0), same(0), strict=True):
        assert torch.equal(batch.timestamps, expected.timestamps)
    assert next(iter(source(histories, num_items=NUM_ITEMS)(0))).timestamps is None
    with pytest.raises(ValueError, match="each of 4 histories, got 1"):
        source(histories, num_items=NUM_ITEMS, timestamps=[[1]])
    with pytest.raises(ValueError, match="one for each of 2 items, got 1 in history 2"):
        source(histories, num_items=NUM_ITEMS, timestamps=[times[0], [], [1], times[3]])


def test_some_pairs_are_those_of_all_with_the_same_history_and_future():
    histories = [[0, 1, 2, 3], [4], [5, 6], [7, 8, 9]]
    everything = PairBatches(histories, num_items=10, batch_size=9, future_length=2)
    (batch,) = everything(0)
    rows = {
        (user, target): (history, future)
        for user, target, history, future in zip(
            batch.users.tolist(),
            batch.targets.tolist(),
            batch.history.tolist(),
            batch.future.tolist(),
            strict=True,
        )
    }
    some = everything.only(np.array([1, 3, 5]))  # of user 0 the second, the one of user 2, the last
    assert (some.num_pairs, len(some), everything.num_pairs) == (3, 1, 6)
    (batch,) = some(0)
    drawn = set(zip(batch.users.tolist(), batch.targets.tolist(), strict=True))
    assert drawn == {(0, 2), (2, 6), (3, 9)}
    for row, key in enumerate(zip(batch.users.tolist(), batch.targets.tolist(), strict=True)):
        history, future = rows[key]
        width = batch.history.shape[1]
        assert batch.history[row].tolist() == history[:width]
        assert batch.future[row].tolist() == future
    for pairs, words in (([], "got none"), ([6], "got 6 to 6"), ([-1, 2], "got -1 to 2")):
        with pytest.raises(
            ValueError, match=rf"pairs must be at least one number in \[0, 6\), {words}"
        ):
            everything.only(np.array(pairs, dtype=np.int64))
