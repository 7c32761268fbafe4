from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from genrec.decoding import exact_scores
from genrec.reading import ArtifactError
from genrec.recommender import Recommender, Request
from genrec.saved_seq2seq import save_model
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
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


def ids_of(recommender: Recommender, histories: list[object], **options: object) -> list[list[str]]:
    answers = recommender.recommend(histories, top_k=12, **options)  # type: ignore[arg-type]
    return [[item.item_id for item in answer.items] for answer in answers]


def test_lists_for_all_and_of_single_requests(recommender: Recommender):
    in_stock = [*IDS[:6], "unheard-of"]
    requests = [
        ["item-1"],
        Request(history=["item-1"], allow=["item-4", "item-9", "gone"]),
        Request(history=["item-1"], deny=["item-0", "item-1"]),
        Request(history=["item-1"], allow=IDS[2:8], deny=["item-2"]),
        Request(history=["item-1"], allow=["gone"]),
    ]
    answers = ids_of(recommender, requests, allow=in_stock, deny=["item-5"], exclude_seen=True)
    expected = [
        {"item-0", "item-2", "item-3", "item-4"},
        {"item-4"},
        {"item-2", "item-3", "item-4"},
        {"item-3", "item-4"},
        set(),
    ]
    assert [set(items) for items in answers] == expected
    assert [len(items) for items in answers] == [len(items) for items in expected]
    (order,) = ids_of(recommender, [["item-1"]])
    assert answers[0] == [item for item in order if item in expected[0]]
    assert ids_of(recommender, requests[:2], batch_size=1) == ids_of(recommender, requests[:2])


def test_popular_items_are_chosen_among_those_allowed(recommender: Recommender):
    requests = [Request(history=[]), Request(history=[], allow=["item-4", "item-2", "item-0"])]
    answers = ids_of(
        recommender, [*requests, Request(history=[], deny=["item-11"])], deny=["item-4"]
    )
    assert answers[0][:2] == ["item-1", "item-11"]
    assert answers[1] == ["item-2"]
    assert "item-11" not in answers[2]
    assert len(answers[2]) == 8


def test_a_model_of_other_codes_is_refused(model: Seq2Seq, tmp_path: Path):
    save_model(tmp_path / "model", model, IDS)
    assert Recommender.load(tmp_path / "model", codes=model.trie.codes).item_ids == IDS
    other = model.trie.codes.clone()
    other[[3, 4]] = other[[4, 3]]
    with pytest.raises(
        ArtifactError, match=r"another catalogue: the codes of item 3 are \[2, 0, 0\]"
    ):
        Recommender.load(tmp_path / "model", codes=other)
    with pytest.raises(
        ArtifactError, match="it has 12 items with codes of 3 levels, but codes has 9 "
    ):
        Recommender.load(tmp_path / "model", codes=other[:9])


def test_other_beams_are_those_of_a_recommender_made_with_them(
    model: Seq2Seq, recommender: Recommender
):
    histories = [["item-3", "item-4"], ["item-1"], ["item-0", "item-9"]]
    narrow = recommender.with_beams(1)
    assert narrow.recommend(histories, top_k=1) == Recommender(
        model, IDS, popularity=POPULARITY, num_beams=1
    ).recommend(histories, top_k=1)
    assert (narrow.num_beams, recommender.num_beams) == (1, 100)
    assert narrow.with_beams(100).recommend(histories) == recommender.recommend(histories)


@pytest.mark.usefixtures("unchecked")
def test_refusals(model: Seq2Seq, recommender: Recommender):
    with pytest.raises(ValueError, match="num_beams must be at least 1, got 0"):
        recommender.with_beams(0)
    with pytest.raises(ValueError, match="num_beams must be at least 1, got 0"):
        Recommender(model, IDS, num_beams=0)
    with pytest.raises(ValueError, match='unknown must be "skip" or "error", got \'drop\''):
        recommender.stream([["item-1"]], unknown="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        recommender.stream([["item-1"]], batch_size=0)
    with pytest.raises(TypeError, match="got the string 'item-1'"):
        recommender.recommend(["item-1"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="got the string 'item-2'"):
        recommender.recommend([Request(history=[], deny="item-2")])
    with pytest.raises(ValueError, match="one id for each of 12 items, got 3"):
        Recommender(model, IDS[:3])
