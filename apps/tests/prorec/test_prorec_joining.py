"""What is joined to generation, against plain loops."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from evalrec import Queries, evaluate
from genrec import Request, Seq2Seq, Seq2SeqConfig, Trie, exact_scores

from semrec.prorec.config import Joining
from semrec.prorec.joining import (
    Candidates,
    candidates_of,
    generated,
    merged,
    pick_weights,
    popularity_correction,
    scaled,
    seen_items,
)
from semrec.prorec.recommender import JoinedRecommender

CODES = torch.tensor([[0, 0], [0, 1], [0, 2], [1, 1], [2, 0], [2, 1], [2, 2], [1, 0]])
HISTORIES = [np.array([0, 3, 5]), np.array([2]), np.array([7, 6, 1, 4])]
READ = 3
"""Most items of a history that the generator reads."""


@pytest.fixture(scope="module")
def model() -> Seq2Seq:
    torch.manual_seed(0)
    sizes = {"dim": 8, "num_heads": 2, "num_decoder_layers": 1, "feedforward_dim": 16}
    sizes["history_length"] = READ
    return Seq2Seq(Seq2SeqConfig(**sizes), Trie.build(CODES, (3, 3))).eval()  # type: ignore[arg-type]


def exact(model: Seq2Seq, history: np.ndarray) -> torch.Tensor:
    return exact_scores(model, model.trie, torch.from_numpy(history[-READ:])[None])[0]


def test_candidates_are_ranked_by_the_weighted_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    items = torch.stack([torch.randperm(9, generator=generator)[:5] for _ in range(4)])
    log_probs = -torch.rand(4, 5, generator=generator)
    features = {name: torch.rand(4, 5, generator=generator) for name in ("a", "b", "c")}
    items[1, 2], log_probs[1, 2] = -1, -torch.inf
    found = Candidates(items=items, log_probs=log_probs, features=features).ranked(
        {"a": 0.5, "b": 2.0}
    )
    for user in range(4):
        scores = {
            int(items[user, place]): float(
                log_probs[user, place]
                + 0.5 * features["a"][user, place]
                + 2 * features["b"][user, place]
            )
            for place in range(5)
        }
        assert found[user].tolist() == sorted(scores, key=lambda item: -scores[item])
    assert found[1, -1] == -1


def test_ndcg_is_that_of_the_ranked_lists() -> None:
    generator = torch.Generator().manual_seed(1)
    items = torch.stack([torch.randperm(40, generator=generator)[:25] for _ in range(200)])
    log_probs = torch.randint(-4, 0, (200, 25), generator=generator).float()  # many ties
    items[::3, 20:], log_probs[::3, 20:] = -1, -torch.inf
    feature = torch.randint(0, 3, (200, 25), generator=generator).float()
    found = Candidates(items=items, log_probs=log_probs, features={"a": feature})
    targets = torch.randint(0, 40, (200,), generator=generator)
    queries = Queries(
        histories=[np.array([], dtype=np.int64)] * 200,
        targets=targets.numpy(),
        num_items=40,
        cold=np.zeros(200, dtype=bool),
    )
    for weight in (0.0, 0.7, 1.0):
        report = evaluate(queries, found.ranked({"a": weight}), ks=(10,))
        expected = report.metrics["unfiltered"]["ndcg@10"].mean
        assert found.ndcg(targets, {"a": weight}) == pytest.approx(expected, abs=1e-12)


def test_merged_leaves_each_further_item_once() -> None:
    items = torch.tensor([[3, 1, -1, -1], [0, 2, 5, 4]])
    further = torch.tensor([[1, 7, 7, 2], [6, 0, 6, 4]])
    assert merged(items, further).tolist() == [[-1, 7, -1, 2], [6, -1, -1, -1]]


@pytest.mark.parametrize("whole", [False, True])
def test_generated_lists_hold_exact_log_probabilities(model: Seq2Seq, whole: bool) -> None:
    items, log_probs = generated(model, HISTORIES, num_beams=8 if not whole else 4, exact=whole)
    for history, row, scores in zip(HISTORIES, items, log_probs, strict=True):
        expected = exact(model, history).topk(len(row))
        assert row.tolist() == expected.indices.tolist()
        torch.testing.assert_close(scores, expected.values)


def test_dense_rankings_add_candidates_and_features_follow_their_items(model: Seq2Seq) -> None:
    table = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    lengths = {len(history): row for row, history in enumerate(HISTORIES)}

    def score(histories: list[np.ndarray]) -> torch.Tensor:
        return torch.stack([table[lengths[len(history)]] for history in histories])

    beams = generated(model, HISTORIES, num_beams=2)
    found = candidates_of(model, HISTORIES, beams, {"dense": score}, dense={"dense": 3})
    for user, history in enumerate(HISTORIES):
        own = [item for item in found.items[user].tolist() if item >= 0]
        best = table[user].topk(3).indices.tolist()
        assert own == [*beams[0][user].tolist(), *(i for i in best if i not in beams[0][user])]
        scores = exact(model, history)
        for place, item in enumerate(found.items[user].tolist()):
            expected = (float(scores[item]), float(table[user, item])) if item >= 0 else None
            value = float(found.log_probs[user, place]), float(found.features["dense"][user, place])
            assert value == pytest.approx(expected or (-math.inf, 0.0), abs=1e-5)


def test_weights_that_help_are_picked_and_others_stay_zero() -> None:
    """The targets are what one feature says; the other is the same for all items."""
    generator = torch.Generator().manual_seed(0)
    items = torch.arange(20).repeat(40, 1)
    oracle = torch.rand(40, 20, generator=generator)
    found = Candidates(
        items=items,
        log_probs=torch.randn(40, 20, generator=generator),
        features={"stage_one": 3 * oracle, "popularity": torch.ones(40, 20)},
    )
    queries = Queries(
        histories=[np.array([0])] * 40,
        targets=oracle.argmax(dim=1).numpy(),
        num_items=20,
        cold=np.zeros(40, dtype=bool),
    )
    choice = pick_weights(queries, found, ["stage_one", "popularity"])
    assert choice.weights["stage_one"] >= 1
    assert choice.weights["popularity"] == 0
    assert choice.validation > choice.without + 0.2
    assert pick_weights(queries, found, []).validation == choice.without


def test_a_feature_may_stand_in_for_generation() -> None:
    items = torch.tensor([[4, 2, -1], [1, 0, 3]])
    feature = torch.tensor([[0.1, 0.9, 0.0], [0.3, 0.2, 0.7]])
    log_probs = torch.tensor([[-1.0, -2.0, -torch.inf], [-1.0, -2.0, -3.0]])
    found = Candidates(items=items, log_probs=log_probs, features={"stage_one": feature})
    assert found.on("generation") is found
    assert found.on("stage_one").ranked({}).tolist() == [[2, 4, -1], [3, 1, 0]]


def test_features_of_floors() -> None:
    prior = scaled(lambda _: torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert prior([None, None]).tolist() == [[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]
    seen = seen_items(5, 2)([np.array([0, 3, 1]), np.array([], dtype=np.int64)])
    assert seen.tolist() == [[0, -1, 0, -1, 0], [0] * 5]
    corrected = popularity_correction(np.array([0, 1, 7]))([None])
    torch.testing.assert_close(corrected, -torch.tensor([[1.0, 2.0, 8.0]]).log())


@pytest.mark.parametrize(
    "joining",
    [
        Joining.nothing(),
        dataclasses.replace(Joining.nothing(), exact=True),
        dataclasses.replace(Joining.nothing(), candidates=8),
    ],
)
def test_answers_are_the_best_joined_scores_of_what_was_not_had(
    model: Seq2Seq, joining: Joining
) -> None:
    table = torch.randn(8, 8, generator=torch.Generator().manual_seed(2)) * 2

    def score(histories: Sequence[np.ndarray]) -> torch.Tensor:
        """By the oldest item of a history, which may be one that the generator does not read."""
        return table[[int(history[0]) for history in histories]]

    beams = 2 if joining.candidates or joining.exact else 8
    recommender = JoinedRecommender(
        model,
        [f"item {row}" for row in range(8)],
        scorers={"c_dis": score},
        weights={"c_dis": 1.5},
        joining=joining,
        popularity=None,
        num_beams=beams,
    )
    lists = [(seen, None, []) for seen in (False, True)]
    lists += [(True, None, [1, 3]), (False, [0, 2, 3, 5, 7], [2]), (True, [1, 4, 6], [])]
    for (seen, allow, deny), own in itertools.product(lists, (False, True)):
        barred = torch.tensor([row in deny or row not in (allow or range(8)) for row in range(8)])
        wishes = {"deny": named(deny), **({} if allow is None else {"allow": named(allow)})}
        asked = [named(history) for history in HISTORIES]
        answers = recommender.stream(
            [Request(history=one, **wishes) for one in asked] if own else asked,
            top_k=2,
            exclude_seen=seen,
            batch_size=2,
            **({} if own else wishes),
        )
        for history, answer in zip(HISTORIES, answers, strict=True):
            struck = barred.clone()
            struck[torch.from_numpy(history)] |= seen
            generation = exact(model, history).masked_fill(struck, -torch.inf)
            scores = generation + 1.5 * table[int(history[0])]
            if joining.exact and not joining.candidates:
                kept = generation.topk(beams).indices
                scores = torch.full((8,), -torch.inf).scatter(0, kept, scores[kept])
            best = scores.topk(2)
            kept = [f"item {i}" for i in best.indices[best.values > -torch.inf]]
            assert [item.item_id for item in answer.items] == kept
            found = torch.tensor([item.score for item in answer.items])
            torch.testing.assert_close(found, best.values[: len(kept)])


def named(rows: Sequence[int]) -> list[str]:
    return [f"item {row}" for row in rows]
