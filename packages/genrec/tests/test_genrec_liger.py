"""LIGER: what is generated is ranked by another model, exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from genrec import (
    LIGER,
    SASRec,
    Seq2Seq,
    Seq2SeqConfig,
    Trie,
    beam_search,
    load_backbone,
    load_model,
    rank_histories,
    save_backbone,
    save_model,
)

NUM_ITEMS = 12
CODES = torch.tensor([[row // 4, row % 4] for row in range(NUM_ITEMS)])
HISTORY = torch.tensor([[3, 1, 4], [9, 2, NUM_ITEMS], [NUM_ITEMS] * 3])
IDS = [f"i{row}" for row in range(NUM_ITEMS)]


@pytest.fixture
def liger() -> LIGER:
    torch.manual_seed(0)
    config = Seq2SeqConfig(dim=8, num_heads=2, num_decoder_layers=1, feedforward_dim=16)
    generator = Seq2Seq(config, Trie.build(CODES, (3, 4)))
    return LIGER(generator, SASRec(NUM_ITEMS, dim=8)).eval()


def test_candidates_are_the_generators_and_their_order_the_rankers(liger: LIGER):
    new_items = torch.tensor([5, 7])
    exclude = torch.tensor([[5, 3], [NUM_ITEMS] * 2, [0, NUM_ITEMS]])
    generated = beam_search(
        liger.generator, liger.generator.trie, HISTORY, num_beams=4, top_k=4, exclude=exclude
    )
    ranked = liger.rank(HISTORY, num_beams=4, top_k=4, new_items=new_items, exclude=exclude)
    with torch.no_grad():
        scores = liger.ranker.score(HISTORY)
    for row in range(3):
        banned = set(exclude[row].tolist())
        candidates = ({*generated.items[row].tolist()} | {5, 7}) - banned
        best = sorted(candidates, key=lambda item: -float(scores[row, item]))[:4]
        assert ranked.items[row].tolist() == best
        torch.testing.assert_close(ranked.scores[row], scores[row, best])
    plain = liger.rank(HISTORY, num_beams=4, top_k=4)
    alone = beam_search(liger.generator, liger.generator.trie, HISTORY, num_beams=4, top_k=4)
    assert [set(row) for row in plain.items.tolist()] == [set(row) for row in alone.items.tolist()]


def test_histories_of_any_number_are_ranked(liger: LIGER):
    histories = [[3, 1, 4], [9, 2], [7]]
    ranked = rank_histories(liger, histories, num_beams=4)
    for row, history in enumerate(histories):
        single = liger.rank(torch.tensor([history]), num_beams=4, top_k=4)
        assert ranked.items[row].tolist() == single.items[0].tolist()
        torch.testing.assert_close(ranked.scores[row], single.scores[0])
    with pytest.raises(ValueError, match="exact must be False for a LIGER, got True"):
        rank_histories(liger, histories, num_beams=4, exact=True)


def test_with_as_many_beams_as_items_it_is_the_ranker(liger: LIGER):
    ranked = liger.rank(HISTORY, num_beams=NUM_ITEMS, top_k=NUM_ITEMS)
    with torch.no_grad():
        expected = liger.ranker.score(HISTORY).sort(dim=1, descending=True)
    assert torch.equal(ranked.items, expected.indices)
    torch.testing.assert_close(ranked.scores, expected.values)


def test_where_too_few_items_are_left_the_rest_is_missing(liger: LIGER):
    exclude = torch.arange(1, NUM_ITEMS).expand(3, -1)
    ranked = liger.rank(HISTORY, num_beams=4, top_k=3, new_items=torch.tensor([2]), exclude=exclude)
    assert ranked.items.tolist() == [[0, -1, -1]] * 3


def test_both_models_come_back_from_their_folders(liger: LIGER, tmp_path: Path):
    save_model(tmp_path / "generator", liger.generator, IDS)
    save_backbone(tmp_path / "ranker", liger.ranker, IDS, history_length=3)
    again = LIGER(
        load_model(tmp_path / "generator").model, load_backbone(tmp_path / "ranker").model
    )
    for before, after in zip(
        vars(liger.rank(HISTORY, num_beams=5, top_k=5)).values(),
        vars(again.rank(HISTORY, num_beams=5, top_k=5)).values(),
        strict=True,
    ):
        assert torch.equal(before, after)


def test_refusals(liger: LIGER):
    with pytest.raises(ValueError, match="must have the same number of items, got 12 and 11"):
        LIGER(liger.generator, SASRec(11, dim=8))
    with pytest.raises(ValueError, match="top_k must be at least 1 and at most num_beams, got 5"):
        liger.rank(HISTORY, num_beams=4, top_k=5)
    with pytest.raises(ValueError, match="new_items must hold item rows"):
        liger.rank(HISTORY, new_items=torch.tensor([13]))
    liger.ranker.train()
    with pytest.raises(ValueError, match="ranker must be in eval mode"):
        liger.rank(HISTORY)
