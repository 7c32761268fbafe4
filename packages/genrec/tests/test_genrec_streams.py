from __future__ import annotations

import pytest
import torch
from genrec.decoding import beam_search, exact_scores
from genrec.scoring import rank_histories
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.streams import Ensemble, Streams
from genrec.trie import Trie

CODES = torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(2))
NUM_ITEMS = len(CODES)


@pytest.fixture(scope="module")
def streams() -> Streams:
    torch.manual_seed(0)
    config = Seq2SeqConfig(dim=8, num_heads=2, num_decoder_layers=2, feedforward_dim=8)
    other = CODES[torch.randperm(NUM_ITEMS)]
    return Streams(config, [Trie.build(CODES, (4, 3, 2)), Trie.build(other, (4, 3, 2))]).eval()


def test_the_union_of_the_lists_is_ranked_by_the_mean_of_all_streams(streams: Streams):
    history = torch.randint(0, NUM_ITEMS, (5, 4))
    # By themselves the streams must agree with models that hold the encoder as their own.
    scores = []
    for stream in streams.streams:
        alone = Seq2Seq(stream.config, stream.trie)
        names = ("history", "encoder", "encoder_norm")
        shared = {k: v for k, v in streams.streams[0].state_dict().items() if k.startswith(names)}
        of_stream = {k: v for k, v in stream.state_dict().items() if not k.startswith(names)}
        alone.load_state_dict(shared | of_stream)
        alone.history = streams.streams[0].history  # its codes are those of the first table
        scores.append(exact_scores(alone.eval(), alone.trie, history))
    mean = (scores[0] + scores[1]) / 2
    wide = streams.beam_search(history, num_beams=NUM_ITEMS, top_k=NUM_ITEMS)
    torch.testing.assert_close(wide.scores, mean.sort(descending=True).values)
    torch.testing.assert_close(mean.gather(1, wide.items), wide.scores)

    narrow = streams.beam_search(history, num_beams=NUM_ITEMS, top_k=4, candidates=4)
    for user in range(5):
        union = {item for of_stream in scores for item in of_stream[user].topk(4).indices.tolist()}
        best = sorted(union, key=lambda item: -float(mean[user, item]))[:4]
        assert narrow.items[user].tolist() == best


def test_masks_hold_in_every_stream(streams: Streams):
    history = torch.randint(0, NUM_ITEMS, (2, 4))
    allow = torch.tensor([[3, 9, 5], [1, NUM_ITEMS, NUM_ITEMS]])
    ranked = streams.beam_search(history, num_beams=4, top_k=4, allow=allow)
    assert sorted(ranked.items[0].tolist()) == [-1, 3, 5, 9]
    assert ranked.items[1].tolist() == [1, -1, -1, -1]
    assert ranked.scores[1, 1:].tolist() == [-torch.inf] * 3
    assert streams.beam_search(history[:0], num_beams=9, top_k=4).items.shape == (0, 4)


def test_each_weight_is_held_once_and_both_streams_train(streams: Streams):
    names = list(streams.state_dict())
    assert "models.0.encoder_norm.weight" in names
    assert "models.1.encoder_norm.weight" not in names
    model = Streams(streams.streams[0].config, [stream.trie for stream in streams.streams])
    outputs = model(torch.tensor([[1, 2]]), torch.tensor([3]))
    sum(output.loss for output in outputs).backward()
    untrained = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not untrained


def test_refusals(streams: Streams):
    trie = streams.streams[0].trie
    with pytest.raises(ValueError, match=r"at least two, of equally many items, got .* \[24\]"):
        Streams(streams.streams[0].config, [trie])
    with pytest.raises(ValueError, match="got 5, 4 and 10"):
        streams.beam_search(torch.tensor([[1]]), num_beams=10, top_k=5, candidates=4)


def test_an_ensemble_ranks_the_union_by_the_mean_of_what_each_model_says():
    torch.manual_seed(0)
    config = Seq2SeqConfig(dim=8, num_heads=2, num_decoder_layers=1, feedforward_dim=8)
    tables = [
        torch.cartesian_prod(torch.arange(4), torch.arange(3))[order]
        for order in (
            torch.arange(12),
            torch.randperm(12),
        )
    ]
    models = [Seq2Seq(config, Trie.build(codes, (4, 3))) for codes in tables]
    ensemble = Ensemble(models).eval()
    history = torch.tensor([[1, 5, 2], [7, 12, 12], [12, 12, 12]])
    scores = torch.stack([exact_scores(model, model.trie, history) for model in models]).mean(dim=0)
    ranked = ensemble.beam_search(history, num_beams=12, top_k=12)
    best = scores.sort(dim=1, descending=True)
    assert ranked.items.tolist() == best.indices.tolist()
    torch.testing.assert_close(ranked.scores, best.values)
    lists = rank_histories(ensemble, [[1, 5, 2], [7], []], num_beams=12)
    assert lists.items.tolist() == best.indices.tolist()
    # Few beams: what either found, and nothing else.
    few = ensemble.beam_search(history, num_beams=3, top_k=3)
    for user in range(3):
        union = {
            item
            for model in models
            for item in beam_search(model, model.trie, history, num_beams=3, top_k=3)
            .items[user]
            .tolist()
        }
        expected = sorted(union, key=lambda item: -float(scores[user, item]))[:3]
        assert few.items[user].tolist() == expected
    with pytest.raises(ValueError, match="tries must be at least two"):
        Ensemble(models[:1])
