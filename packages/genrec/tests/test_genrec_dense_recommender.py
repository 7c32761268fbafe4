"""A recommender over a model that scores all items, against plain sorting."""

from __future__ import annotations

import math

import pytest
import torch
from genrec import (
    DIN,
    HGN,
    HSTU,
    Backbone,
    BERT4Rec,
    Caser,
    DenseRecommender,
    FMLPRec,
    GRU4Rec,
    Request,
    SASRec,
)

NUM_ITEMS = 12
IDS = [f"i{row}" for row in range(NUM_ITEMS)]


@pytest.fixture(scope="module")
def model() -> SASRec:
    torch.manual_seed(0)
    model = SASRec(NUM_ITEMS, dim=8, num_layers=1, history_length=3, dropout=0.0)
    torch.nn.init.normal_(model.item_encoder.ids)
    return model.eval()


@pytest.fixture(scope="module")
def recommender(model: SASRec) -> DenseRecommender:
    counts = torch.tensor([0, 5, 1, 9, 0, 0, 2, 0, 0, 0, 0, 0])
    return DenseRecommender(model, IDS, history_length=3, popularity=counts)


def expected(model: SASRec, history: list[int], allowed: set[int]) -> list[tuple[str, float]]:
    scores = model.score(torch.tensor([history[-3:]]))[0].tolist()
    total = math.log(sum(math.exp(score) for score in scores))
    order = sorted(allowed, key=lambda row: -scores[row])
    return [(IDS[row], scores[row] - total) for row in order]


def test_answers_are_the_items_sorted_by_probability(
    model: SASRec, recommender: DenseRecommender
) -> None:
    histories = [[1, 2], [3], [5, 4, 3, 2, 1], [7, 7, 0]]
    with torch.no_grad():
        for seen in (False, True):
            answers = recommender.recommend(
                [[IDS[row] for row in history] for history in histories],
                top_k=5,
                exclude_seen=seen,
                batch_size=3,
            )
            for history, answer in zip(histories, answers, strict=True):
                allowed = set(range(NUM_ITEMS)) - (set(history) if seen else set())
                wanted = expected(model, history, allowed)[:5]
                assert [item.item_id for item in answer.items] == [name for name, _ in wanted]
                assert [item.score for item in answer.items] == pytest.approx(
                    [score for _, score in wanted], abs=1e-5
                )


def test_lists_of_what_may_be_returned_hold(model: SASRec, recommender: DenseRecommender) -> None:
    requests = [
        Request(history=["i1"], allow=["i2", "i3", "i4"], deny=["i3"]),
        Request(history=["i1"], deny=["i0"]),
        Request(history=["i1"], allow=[]),
    ]
    with torch.no_grad():
        answers = recommender.recommend(requests, top_k=12, deny=["i4"], exclude_seen=True)
        wanted = [{2}, set(range(NUM_ITEMS)) - {0, 1, 4}, set()]
        for allowed, answer in zip(wanted, answers, strict=True):
            names = [name for name, _ in expected(model, [1], allowed)]
            assert [item.item_id for item in answer.items] == names
        stock = recommender.recommend([["i1"]], top_k=12, allow=["i5", "i6", "stranger"])
    assert {item.item_id for item in stock[0].items} == {"i5", "i6"}


def test_an_empty_history_gets_the_popular_items(recommender: DenseRecommender) -> None:
    empty, strange = recommender.recommend([[], ["stranger"]], top_k=3)
    assert empty.popular
    assert [item.item_id for item in empty.items] == ["i3", "i1", "i6"]
    assert empty.items[0].score == pytest.approx(math.log(9 / 17))
    assert strange.popular
    assert strange.unknown == 1


@pytest.mark.parametrize("kind", [SASRec, GRU4Rec, BERT4Rec, HSTU, DIN, Caser, HGN, FMLPRec])
def test_without_counts_an_empty_history_is_answered_by_the_model(kind: type[Backbone]) -> None:
    recommender = DenseRecommender(kind(NUM_ITEMS, dim=8), IDS, history_length=3)
    alone = recommender.recommend([["stranger"], []], top_k=4)
    beside = recommender.recommend([["stranger"], ["i1"], []], top_k=4)
    for answer in (*alone, *beside):
        assert len(answer.items) == 4
        assert not answer.popular
    assert [item.item_id for item in alone[1].items] == [item.item_id for item in beside[2].items]


def test_where_nothing_permitted_was_ever_had_the_model_answers(
    recommender: DenseRecommender,
) -> None:
    new = ["i0", "i4", "i5"]
    requests = [Request(history=[], allow=new), Request(history=[], allow=[*new, "i3"])]
    modelled, popular = recommender.recommend(requests)
    assert not modelled.popular
    assert sorted(item.item_id for item in modelled.items) == new
    assert [item.item_id for item in popular.items] == ["i3"]
    assert recommender.recommend([[]], allow=new) == [modelled]


@pytest.mark.usefixtures("unchecked")
def test_refusals(model: SASRec, recommender: DenseRecommender) -> None:
    with pytest.raises(ValueError, match="item_ids must be one id for each of 12 items, got 3"):
        DenseRecommender(model, IDS[:3], history_length=3)
    with pytest.raises(ValueError, match="got 'i0' twice, again in row 11"):
        DenseRecommender(model, [*IDS[:11], "i0"], history_length=3)
    for lists in ({"allow": "i4"}, {"deny": "i4"}):
        with pytest.raises(TypeError, match="must be lists of ids, got the string 'i4'"):
            recommender.recommend([["i1"]], **lists)
        with pytest.raises(TypeError, match="must be lists of ids, got the string 'i4'"):
            recommender.recommend([Request(history=["i1"], **lists)])
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        recommender.recommend([["i1"]], top_k=0)
    with pytest.raises(ValueError, match="known ids only, got 'stranger'"):
        recommender.recommend([["stranger"]], unknown="error")
