"""Any number of histories scored and ranked, against each history by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from genrec import (
    SASRec,
    Seq2Seq,
    Seq2SeqConfig,
    Streams,
    Trie,
    beam_search,
    dense_scorer,
    exact_scores,
    rank_histories,
)

NUM_ITEMS = 20
LENGTHS = [*np.random.default_rng(1).integers(0, 9, 299).tolist(), 0]
HISTORIES = [np.random.default_rng(n).integers(0, NUM_ITEMS, n).tolist() for n in LENGTHS]


def config() -> Seq2SeqConfig:
    return Seq2SeqConfig(
        dim=8,
        num_heads=2,
        num_decoder_layers=1,
        feedforward_dim=8,
        history_length=4,
        history_input="vectors",
        scoring="renormalized",
    )


def tries() -> list[Trie]:
    codes = torch.cartesian_prod(torch.arange(5), torch.arange(4))
    return [Trie.build(codes, (5, 4)), Trie.build(codes.flip(0), (5, 4))]


@pytest.fixture(scope="module")
def model() -> Seq2Seq:
    torch.manual_seed(0)
    return Seq2Seq(config(), tries()[0]).eval()


@pytest.fixture(scope="module")
def streams() -> Streams:
    torch.manual_seed(0)
    return Streams(config(), tries()).eval()


def alone(history: list[int]) -> torch.Tensor:
    """A history's newest items as a batch of its own; padding where it is empty."""
    return torch.tensor([history[-4:] or [NUM_ITEMS]])


def test_dense_scores_are_those_of_each_history():
    torch.manual_seed(0)
    sasrec = SASRec(NUM_ITEMS, dim=8, history_length=4).eval()
    scores = dense_scorer(sasrec, 4)(HISTORIES[:20])
    assert not scores.requires_grad
    for history, row in zip(HISTORIES[:20], scores, strict=True):
        torch.testing.assert_close(row[None], sasrec.score(alone(history)))
    assert dense_scorer(sasrec, 4)([]).shape == (0, NUM_ITEMS)


def test_dense_scores_of_a_model_in_training_mode_are_refused():
    score = dense_scorer(SASRec(NUM_ITEMS, dim=8), 4)
    with pytest.raises(ValueError, match="model must be in eval mode, got training mode"):
        score([[1]])


@pytest.mark.parametrize("exact", [False, True])
def test_ranked_histories_are_each_as_if_alone(model: Seq2Seq, exact: bool):
    done: list[tuple[int, int]] = []
    ranked = rank_histories(
        model, HISTORIES, num_beams=6, exact=exact, progress=lambda *count: done.append(count)
    )
    assert done == [(128, 300), (256, 300), (300, 300)]
    assert ranked.items.shape == ranked.scores.shape == (300, 6)
    for row in (0, 1, 150, 299):
        history = alone(HISTORIES[row])
        if exact:
            scores, items = exact_scores(model, model.trie, history)[0].topk(6)
        else:
            beam = beam_search(model, model.trie, history, num_beams=6, top_k=6)
            items, scores = beam.items[0], beam.scores[0]
        torch.testing.assert_close(ranked.scores[row], scores, atol=1e-5, rtol=0)
        assert ranked.items[row].tolist() == items.tolist()


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_shares_of_ranked_histories_are_together_those_of_all(model: Seq2Seq, shards: int):
    whole = rank_histories(model, HISTORIES, num_beams=6)
    shares = [
        rank_histories(model, HISTORIES, num_beams=6, shard=shard, shards=shards)
        for shard in range(shards)
    ]
    ranked = torch.stack([share.items[:, 0] >= 0 for share in shares])  # [shards, histories]
    assert ranked.sum(0).tolist() == [1] * len(HISTORIES)
    for row, shard in enumerate(ranked.int().argmax(0).tolist()):
        assert torch.equal(shares[shard].items[row], whole.items[row])
        assert torch.equal(shares[shard].scores[row], whole.scores[row])
    with pytest.raises(ValueError, match="shard must be from 0 to shards - 1 = 1, got 2"):
        rank_histories(model, HISTORIES, num_beams=6, shard=2, shards=2)


def test_as_many_beams_as_items_are_exact(model: Seq2Seq):
    beams = rank_histories(model, HISTORIES[:30], num_beams=99)
    exact = rank_histories(model, HISTORIES[:30], num_beams=99, exact=True)
    assert beams.items.shape == exact.items.shape == (30, NUM_ITEMS)
    torch.testing.assert_close(beams.scores, exact.scores, atol=1e-5, rtol=0)
    assert [sorted(row) for row in beams.items.tolist()] == [list(range(NUM_ITEMS))] * 30


def test_streams_are_ranked_by_all_of_them(streams: Streams):
    ranked = rank_histories(streams, HISTORIES[:40], num_beams=5)
    for row in (0, 7, 39):
        expected = streams.beam_search(alone(HISTORIES[row]), num_beams=5, top_k=5)
        assert ranked.items[row].tolist() == expected.items[0].tolist()
        torch.testing.assert_close(ranked.scores[row], expected.scores[0], atol=1e-5, rtol=0)


def test_no_history_is_ranked_to_no_row(model: Seq2Seq):
    assert rank_histories(model, [], num_beams=3).items.shape == (0, 3)


def test_refusals(model: Seq2Seq, streams: Streams):
    with pytest.raises(ValueError, match="num_beams must be at least 1, got 0"):
        rank_histories(model, HISTORIES, num_beams=0)
    with pytest.raises(ValueError, match="exact must be False for an Ensemble, got True"):
        rank_histories(streams, HISTORIES, num_beams=3, exact=True)
    with pytest.raises(ValueError, match="got 20 in history 1"):
        rank_histories(model, [[1], [20]], num_beams=3)
    training = Seq2Seq(config(), tries()[0])
    for exact in (False, True):
        with pytest.raises(ValueError, match="model must be in eval mode"):
            rank_histories(training, HISTORIES, num_beams=3, exact=exact)
