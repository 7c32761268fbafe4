"""Shares of the batches of an epoch, batches made ahead, arrays in files."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator

import genrec.mapped
import numpy as np
import pytest
import torch
from genrec.cloze import MaskedBatches
from genrec.feed import READY, made_ahead
from genrec.reading import ArtifactError
from genrec.sequences import Batch, PairBatches, SequenceBatches
from genrec.training import TrainingConfig, fit
from genrec.windows import batch_order
from torch import nn

NUM_ITEMS = 30
SOURCES = [PairBatches, SequenceBatches, MaskedBatches]


def histories() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, NUM_ITEMS, size=size) for size in [0, 1, *range(2, 24), 1, 0, 9]]


def values(batch: Batch) -> list[list]:
    return [batch.history.tolist(), batch.targets.tolist(), batch.users.tolist()]


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("bucket", [1, 3])
@pytest.mark.parametrize("shards", [1, 2, 3, 7, 500])
def test_shares_together_are_the_whole_in_its_order(kind, bucket, shards):
    source = kind(histories(), num_items=NUM_ITEMS, batch_size=5, bucket=bucket, seed=2)
    whole = [values(batch) for batch in source(3)]
    shares = [
        [values(batch) for batch in source(3, shard=shard, shards=shards)]
        for shard in range(shards)
    ]
    assert [len(share) for share in shares] == [len(whole[r::shards]) for r in range(shards)]
    assert [shares[n % shards][n // shards] for n in range(len(whole))] == whole


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("start", [0, 1, 2, 4, 1000])
def test_a_start_passes_over_batches_of_the_epoch(kind, start):
    source = kind(histories(), num_items=NUM_ITEMS, batch_size=5, bucket=4)
    whole = [values(batch) for batch in source(1)]
    assert [values(batch) for batch in source(1, start=start)] == whole[start:]
    for shard in range(3):
        share = [values(batch) for batch in source(1, shard=shard, shards=3, start=start)]
        assert share == [whole[n] for n in range(start, len(whole)) if n % 3 == shard]


@pytest.mark.parametrize("bucket", [1, 2, 5, 40])
def test_the_order_is_a_permutation_sorted_by_length_within_buckets(bucket):
    """Beside the plain form: all rows sorted at once, by bucket and then by length."""
    lengths = np.random.default_rng(3).integers(1, 6, 103).astype(np.int32)
    generator = np.random.default_rng([4, 9])
    rows = generator.permutation(103)
    bounds = np.arange(15) * 103 // 14
    expected_order = np.arange(14)
    if bucket > 1:
        batch_of = np.repeat(np.arange(14), np.diff(bounds))
        rows = rows[np.lexsort((lengths[rows], batch_of // bucket))]
        expected_order = generator.permutation(14)
    expected = [rows[bounds[batch] : bounds[batch + 1]].tolist() for batch in expected_order]
    options = {"bucket": bucket, "seed": 4, "epoch": 9, "shard": 0, "shards": 1, "start": 0}
    order = list(batch_order(103, 14, lambda rows: lengths[rows], **options))
    assert [number for number, _ in order] == list(range(14))
    assert [rows.tolist() for _, rows in order] == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shard": 2, "shards": 2}, "shard must be from 0 to shards - 1 = 1, got 2"),
        ({"shard": -1}, "shard must be from 0 to shards - 1 = 0, got -1"),
        ({"start": -1}, "start must be at least 0, got -1"),
    ],
)
def test_shares_that_are_not_there_are_refused(options, words):
    source = PairBatches([[0, 1]], num_items=2)
    with pytest.raises(ValueError, match=words):
        list(source(0, **options))


def test_only_the_batches_of_a_share_are_cut(monkeypatch):
    cut, calls = genrec.sequences.cut, []

    def counted(*arguments):
        calls.append(arguments)
        return cut(*arguments)

    monkeypatch.setattr(genrec.sequences, "cut", counted)
    source = PairBatches(histories(), num_items=NUM_ITEMS, batch_size=5, bucket=4)
    count = sum(1 for _ in source(0, shard=1, shards=8))
    assert count < len(source) / 4
    assert len(calls) == count


@pytest.mark.parametrize("kind", SOURCES)
def test_large_arrays_lie_in_files_that_all_share(tmp_path, monkeypatch, kind):
    times = [np.arange(len(history)) for history in histories()]
    options = {"num_items": NUM_ITEMS, "batch_size": 5, "timestamps": times}
    in_memory = kind(histories(), **options, folder=tmp_path)
    assert not list(tmp_path.iterdir())  # they are small
    monkeypatch.setattr(genrec.mapped, "MAPPED_ABOVE", 8)
    folder = tmp_path / "made"
    first = kind(histories(), **options, folder=folder)
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {path.suffix for path in written} == {".npy"}
    assert len(written) == 3  # items, lengths, timestamps
    second = kind(histories(), **options, folder=folder)
    assert written == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    for source in (first, second):
        assert isinstance(source._items.base, np.memmap)
        for batch, expected in zip(source(1), in_memory(1), strict=True):
            assert values(batch) == values(expected)
            assert torch.equal(batch.timestamps, expected.timestamps)


def test_a_file_that_is_cut_off_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(genrec.mapped, "MAPPED_ABOVE", 8)
    SequenceBatches(histories(), num_items=NUM_ITEMS, folder=tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match=r"histories-uint8-.*\.npy is damaged"):
        SequenceBatches(histories(), num_items=NUM_ITEMS, folder=tmp_path)


def feeds() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "genrec batches"]


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    assert feeds() == []


def test_what_is_made_ahead_comes_whole_and_in_order():
    with made_ahead(lambda: range(1000)) as numbers:
        assert list(numbers) == list(range(1000))
        assert next(numbers, "none") == "none"


def test_no_more_are_made_ahead_than_were_wanted():
    made: list[int] = []

    def count() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with made_ahead(count) as numbers:
        for used in range(5):
            deadline = time.monotonic() + 10
            while len(made) < used + READY and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01)
            assert len(made) == used + READY
            assert next(numbers) == used


def breaking() -> Iterator[int]:
    yield 1
    raise ZeroDivisionError("the source broke")


def test_what_goes_wrong_in_the_thread_is_raised_where_batches_are_used():
    with made_ahead(breaking) as numbers:
        assert next(numbers) == 1
        with pytest.raises(ZeroDivisionError, match="the source broke") as raised:
            next(numbers)
    frames = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert frames[-1] == "breaking"


def test_a_source_that_cannot_be_begun_is_told_as_well():
    with made_ahead(lambda: None) as numbers, pytest.raises(TypeError, match="not iterable"):
        next(numbers)


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, ValueError])
def test_the_thread_ends_with_the_block_whatever_ends_it(error):
    def endless() -> Iterator[int]:
        while True:
            yield 1

    def use() -> None:
        with made_ahead(endless) as numbers:
            next(numbers)
            raise error

    with pytest.raises(error):
        use()
    assert feeds() == []


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(NUM_ITEMS + 1))


def loss(module: Plain, batch: Batch) -> dict[str, torch.Tensor]:
    return {"table": module.table[batch.history].mean()}


class Broken(PairBatches):
    """A source that fails in the middle of an epoch."""

    def __call__(self, epoch: int, **share: int) -> Iterator[Batch]:
        yield from list(super().__call__(epoch, **share))[:3]
        raise ZeroDivisionError("the source broke")


def test_a_training_tells_what_its_source_tells():
    source = Broken(histories(), num_items=NUM_ITEMS, batch_size=5)
    with pytest.raises(ZeroDivisionError, match="the source broke") as raised:
        fit(Plain(), source, loss, TrainingConfig(epochs=1))
    frames = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert frames[-1] == "__call__"
    assert feeds() == []


def test_a_training_that_is_stopped_in_an_epoch_leaves_no_thread():
    source = PairBatches(histories(), num_items=NUM_ITEMS, batch_size=5)

    def stop(event) -> None:
        assert len(feeds()) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(Plain(), source, loss, TrainingConfig(epochs=1), callback=stop)
    assert feeds() == []
