"""The search beside Hugging Face's, with one model's weights in both."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from genrec.decoding import beam_search, exact_scores
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie

PEERS = Path(__file__).resolve().parents[3] / "benchmarks" / "decoding_peers.py"


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    if importlib.util.find_spec("transformers") is None or not PEERS.is_file():
        pytest.skip("needs transformers and benchmarks/decoding_peers.py")
    spec = importlib.util.spec_from_file_location("decoding_peers", PEERS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["decoding_peers"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def codes() -> torch.Tensor:
    torch.manual_seed(0)
    codes = torch.unique(torch.randint(0, 12, (160, 3)), dim=0)
    return codes[torch.randperm(len(codes))]


def test_items_and_order_are_those_of_generate_with_the_same_weights(
    peers: ModuleType, codes: torch.Tensor
):
    trie = Trie.build(codes, (12, 12, 12))
    config = Seq2SeqConfig(
        dim=32, num_heads=2, num_decoder_layers=3, feedforward_dim=64, scoring="renormalized"
    )
    t5 = peers.make_t5(config, trie.codebook_sizes)
    model = peers.load_t5(t5, Seq2Seq(config, trie))
    history = torch.randint(0, trie.num_items, (4, 6))
    history[1, 3:] = trie.num_items
    peer = peers.Peer(t5, trie, num_beams=8, top_k=8, renormalize=True)
    ours = beam_search(model, trie, history, num_beams=8, top_k=8)
    assert torch.equal(peer.with_callback(history), ours.items)
    assert torch.equal(peer.with_processor(history), ours.items)
    exact = exact_scores(model, trie, history).topk(8, dim=1).indices
    assert not torch.equal(ours.items, exact)  # the beam is narrow enough to matter


def test_the_models_are_the_same_function(peers: ModuleType, codes: torch.Tensor):
    """Masked scores: T5's logits over the codes of a level are ours."""
    trie = Trie.build(codes, (12, 12, 12))
    config = Seq2SeqConfig(dim=32, num_heads=2, num_decoder_layers=3, feedforward_dim=64)
    t5 = peers.make_t5(config, trie.codebook_sizes)
    model = peers.load_t5(t5, Seq2Seq(config, trie))
    history, target = torch.tensor([[3, 7, 5, 1]]), torch.tensor([9])
    peer = peers.Peer(t5, trie, num_beams=2, top_k=2, renormalize=False)
    tokens = peer.tokens[history].flatten(1)
    inputs = torch.cat([torch.zeros(1, 1, dtype=torch.long), peer.tokens[target][:, :2]], dim=1)
    with torch.no_grad():
        logits = t5(input_ids=tokens, decoder_input_ids=inputs).logits[0, :, peers.FIRST_CODE :]
        expected = [
            float(logits[k, 12 * k : 12 * k + 12].log_softmax(dim=0)[codes[9, k]]) for k in range(3)
        ]
        log_prob = model(history, target).log_prob[0]
    torch.testing.assert_close(log_prob, torch.tensor(expected), atol=1e-5, rtol=1e-5)
