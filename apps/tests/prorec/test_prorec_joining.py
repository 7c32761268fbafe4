"""What is joined to generation, against plain loops."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from evalrec import Candidates
from genrec import Request, Seq2Seq, Seq2SeqConfig, Trie, exact_scores, rank_histories

from semrec.prorec.config import FEATURES, Joining
from semrec.prorec.joining import (
    GRIDS,
    Scorer,
    candidates_of,
    on_base,
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


def test_dense_rankings_add_candidates_and_features_follow_their_items(model: Seq2Seq) -> None:
    tables = dict(
        zip("ab", torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1)), strict=True)
    )
    lengths = {len(history): row for row, history in enumerate(HISTORIES)}

    def scorer(name: str) -> Scorer:
        return lambda histories: tables[name][[lengths[len(history)] for history in histories]]

    beams = rank_histories(model, HISTORIES, num_beams=2)
    candidates = candidates_of(
        model,
        HISTORIES,
        beams,
        {name: scorer(name) for name in tables},
        dense={"a": 3, "b": 2},
    )
    for user, history in enumerate(HISTORIES):
        rankings = [tables["a"][user].topk(3).indices, tables["b"][user].topk(2).indices]
        mentioned = torch.cat([beams.items[user], *rankings]).tolist()
        items = candidates.items[user].tolist()
        assert [item for item in items if item >= 0] == list(dict.fromkeys(mentioned))
        scores = exact(model, history)
        for place, item in enumerate(items):
            values = [float(candidates.base[user, place])]
            values += [float(candidates.features[name][user, place]) for name in tables]
            expected = [-math.inf, 0.0, 0.0]
            if item >= 0:
                expected = [
                    float(row[item]) for row in (scores, *(t[user] for t in tables.values()))
                ]
            assert values == pytest.approx(expected, abs=1e-5)


def test_a_feature_may_stand_in_for_generation() -> None:
    items = torch.tensor([[4, 2, -1], [1, 0, 3]])
    feature = torch.tensor([[0.1, 0.9, 0.0], [0.3, 0.2, 0.7]])
    log_probs = torch.tensor([[-1.0, -2.0, -torch.inf], [-1.0, -2.0, -3.0]])
    candidates = Candidates(items=items, base=log_probs, features={"stage_one": feature})
    assert on_base(candidates, "generation") is candidates
    assert on_base(candidates, "stage_one").ranked({}).tolist() == [[2, 4, -1], [3, 1, 0]]


def test_what_scores_may_be_added_to() -> None:
    assert Joining().bases == ("generation", "stage_one", "graph_text")
    assert Joining(graph_text=False).bases == ("generation", "stage_one")
    assert Joining(base="graph_text", graph_text=False).bases == ("graph_text",)
    assert Joining.nothing().bases == ("generation",)
    for base in ("stage_one", "graph_text"):
        with pytest.raises(ValueError, match=f"{base} must be false where base is '{base}'"):
            Joining(base=base)


def test_every_feature_can_be_weighed_and_left_out() -> None:
    assert set(GRIDS) == set(FEATURES)
    for grid in GRIDS.values():
        assert grid[0] == 0
        assert list(grid) == sorted(set(grid))


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
        base="generation",
        joining=joining,
        popularity=None,
        num_beams=beams,
    )
    lists = [(seen, None, []) for seen in (False, True)]
    lists += [(True, None, [1, 3]), (False, [0, 2, 3, 5, 7], [2]), (True, [1, 4, 6], [])]
    for (seen, allow, deny), by_request in itertools.product(lists, (False, True)):
        barred = torch.tensor([row in deny or row not in (allow or range(8)) for row in range(8)])
        wishes = {"deny": named(deny), **({} if allow is None else {"allow": named(allow)})}
        histories = [named(history) for history in HISTORIES]
        answers = recommender.stream(
            [Request(history=h, **wishes) for h in histories] if by_request else histories,
            top_k=2,
            exclude_seen=seen,
            batch_size=2,
            **({} if by_request else wishes),
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
            answered = torch.tensor([item.score for item in answer.items])
            torch.testing.assert_close(answered, best.values[: len(kept)])


def named(rows: Sequence[int]) -> list[str]:
    return [f"item {row}" for row in rows]
