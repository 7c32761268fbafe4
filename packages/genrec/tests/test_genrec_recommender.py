from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from genrec.artifact import save_model
from genrec.decoding import exact_scores
from genrec.recommender import Recommender
from genrec.seq2seq import Seq2Seq, Seq2SeqConfig
from genrec.trie import Trie

IDS = [f"item-{row}" for row in range(12)]
POPULARITY = torch.tensor([0, 4, 1, 0, 5, 1, 1, 1, 1, 1, 1, 4])


@pytest.fixture(scope="module")
def model() -> Seq2Seq:
    torch.manual_seed(0)
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(2)).flip(0)
    config = Seq2SeqConfig(
        dim=8,
        num_heads=2,
        feedforward_dim=8,
        history_length=3,
        output_vocabulary="node",
        scoring="renormalized",
    )
    return Seq2Seq(config, Trie.build(codes, (3, 2, 2))).eval()


@pytest.fixture
def recommender(model: Seq2Seq, tmp_path: Path) -> Recommender:
    save_model(tmp_path / "model", model, IDS, popularity=POPULARITY)
    return Recommender.load(tmp_path / "model")


def test_answers_are_the_models_best_items_by_id(model: Seq2Seq, recommender: Recommender):
    histories = [["item-3", "item-4"], ["item-1"], ["item-0", "item-9", "item-8", "item-7"]]
    answers = recommender.recommend(histories, top_k=5, batch_size=2)
    for history, answer in zip(histories, answers, strict=True):
        rows = torch.tensor([[IDS.index(item) for item in history]])
        scores = exact_scores(model, model.trie, rows)[0]
        best = scores.argsort(descending=True)[:5].tolist()
        assert [item.item_id for item in answer.items] == [IDS[row] for row in best]
        for item, row in zip(answer.items, best, strict=True):
            assert item.score == pytest.approx(float(scores[row]), abs=1e-5)
        assert not answer.popular
        assert answer.unknown == 0


def test_seen_items_are_left_out_also_those_too_old_to_be_read(recommender: Recommender):
    history = IDS[:9]
    (answer,) = recommender.recommend([history], top_k=10, exclude_seen=True)
    assert sorted(item.item_id for item in answer.items) == sorted(IDS[9:])


def test_unknown_ids_are_skipped_and_counted_or_refused(recommender: Recommender):
    histories = [["item-1"], ["item-3", "gone", "item-4", "lost"]]
    plain, skipped = recommender.recommend([["item-3", "item-4"], histories[1]])
    assert (skipped.unknown, skipped.popular) == (2, False)
    assert [item.item_id for item in skipped.items] == [item.item_id for item in plain.items]
    with pytest.raises(ValueError, match="history 1 must hold known ids only, got 'gone'"):
        recommender.recommend(histories, unknown="error", batch_size=1)


def test_an_empty_history_gets_the_popular_items_and_says_so(recommender: Recommender):
    first, second, third = recommender.recommend([[], ["gone"], ["item-2"]], top_k=3)
    assert first.popular
    assert second.popular
    assert not third.popular
    assert second.unknown == 1
    assert [item.item_id for item in first.items] == ["item-4", "item-1", "item-11"]
    assert first.items[0].score == pytest.approx(math.log(5 / 20))
    (all_of_them,) = recommender.recommend([[]], top_k=12)
    assert len(all_of_them.items) == 10  # nobody ever had the other two


def test_without_counts_an_empty_history_is_answered_by_the_model(model: Seq2Seq):
    (answer,) = Recommender(model, IDS).recommend([[]], top_k=4)
    assert len(answer.items) == 4
    assert not answer.popular


def test_streaming_answers_before_it_has_read_everything(recommender: Recommender):
    read = []

    def histories() -> Iterator[list[str]]:
        for number in range(7):
            read.append(number)
            yield [IDS[number]]

    answers = recommender.stream(histories(), top_k=2, batch_size=3)
    first = next(answers)
    assert read == [0, 1, 2]
    rest = list(answers)
    together = recommender.recommend([[item] for item in IDS[:7]], top_k=2)
    streamed = [[item.item_id for item in answer.items] for answer in [first, *rest]]
    assert streamed == [[item.item_id for item in answer.items] for answer in together]


@pytest.mark.usefixtures("unchecked")
def test_refusals(model: Seq2Seq, recommender: Recommender):
    with pytest.raises(ValueError, match="at most num_beams, got 20 and 10"):
        recommender.stream([["item-1"]], top_k=20, num_beams=10)
    with pytest.raises(ValueError, match='unknown must be "skip" or "error", got \'drop\''):
        recommender.stream([["item-1"]], unknown="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        recommender.stream([["item-1"]], batch_size=0)
    with pytest.raises(TypeError, match="got the string 'item-1'"):
        recommender.recommend(["item-1"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="one id for each of 12 items, got 3"):
        Recommender(model, IDS[:3])
