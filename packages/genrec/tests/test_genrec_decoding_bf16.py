from __future__ import annotations

import pytest
import torch
from genrec.decoding import beam_search, exact_scores
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie


@pytest.mark.parametrize("options", [{}, {"output_vocabulary": "node", "scoring": "renormalized"}])
def test_a_model_in_bf16_is_near_the_one_in_fp32(options: dict[str, str]):
    torch.manual_seed(0)
    codes = torch.cartesian_prod(torch.arange(5), torch.arange(4), torch.arange(3))
    config = Seq2SeqConfig(dim=16, num_heads=2, feedforward_dim=32, **options)  # type: ignore[arg-type]
    model = Seq2Seq(config, Trie.build(codes, (5, 4, 3))).eval()
    history = torch.tensor([[3, 9, 40], [7, 60, 60], [60, 60, 60]])
    expected = exact_scores(model, model.trie, history)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # decoding is in the dtype of the weights
        assert torch.equal(exact_scores(model, model.trie, history), expected)
    half = model.to(torch.bfloat16)
    scores = exact_scores(half, half.trie, history)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, atol=0.2, rtol=0.05)
    ranked = beam_search(half, half.trie, history, num_beams=60, top_k=5)
    torch.testing.assert_close(ranked.scores, scores.topk(5, dim=1).values, atol=0.05, rtol=0)
