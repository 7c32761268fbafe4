from __future__ import annotations

import pytest
import torch
from genrec.calibration import calibrate, calibrated
from genrec.decoding import exact_scores
from genrec.item_graph import ItemGraph, ItemMatrix
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie

NUM_ITEMS = 24


def ring(strength: float) -> ItemMatrix:
    """Each item leads to the next one."""
    return ItemMatrix(
        offsets=torch.arange(NUM_ITEMS + 1),
        neighbours=torch.arange(1, NUM_ITEMS + 1) % NUM_ITEMS,
        weights=torch.full((NUM_ITEMS,), strength),
        decay=0.1,
    )


def make(**options: object) -> Seq2Seq:
    torch.manual_seed(0)
    config = Seq2SeqConfig(
        dim=8,
        num_heads=2,
        num_decoder_layers=1,
        feedforward_dim=8,
        scoring="renormalized",
        **options,
    )  # type: ignore[arg-type]
    codes = torch.cartesian_prod(torch.arange(4), torch.arange(6))[torch.randperm(NUM_ITEMS)]
    graph = ItemGraph.build(NUM_ITEMS, [ring(3.0)])
    return Seq2Seq(
        config, Trie.build(codes, (4, 6)), item_graph=graph, item_counts=torch.arange(NUM_ITEMS)
    )


def queries() -> tuple[list[list[int]], list[int]]:
    """Four of five users go on along the ring."""
    generator = torch.Generator().manual_seed(1)
    histories = torch.randint(0, NUM_ITEMS, (200, 3), generator=generator).tolist()
    strays = torch.randint(0, NUM_ITEMS, (200,), generator=generator).tolist()
    return histories, [
        stray if user % 5 == 0 else (history[-1] + 1) % NUM_ITEMS
        for user, (history, stray) in enumerate(zip(histories, strays, strict=True))
    ]


def loss_of(model: Seq2Seq, histories: list[list[int]], targets: list[int]) -> float:
    scores = exact_scores(model, model.trie, torch.tensor(histories))
    return -float(scores.gather(1, torch.tensor(targets)[:, None]).mean())


@pytest.mark.parametrize("options", [{}, {"history_bias": True, "output_vocabulary": "node"}])
def test_held_out_pairs_say_how_much_the_graph_counts(options: dict[str, object]):
    model = make(**options).eval()
    histories, targets = queries()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = loss_of(model, histories, targets)
    gain = calibrate(model, histories, targets)
    assert gain.before == pytest.approx(expected, rel=1e-4)
    assert gain.after == pytest.approx(loss_of(model, histories, targets), rel=1e-4)
    # No better than what the best mixture of ring and chance reaches, and not much worse.
    assert 0.9 < gain.after < 1.4 < gain.before
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    numbers = {f"score_logits.{name}" for name in ("weight", "log_floor", "scale")}
    assert changed == numbers | ({"history_bias"} if options else set())
    assert not model.training
    assert model.score_logits is not None
    assert not model.score_logits.scale.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    again = make(**options)
    calibrate(again, histories, targets)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_calibration_may_be_asked_for_and_put_back():
    model = make().eval()
    histories, targets = queries()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with calibrated(model, histories, targets) as gain:
        assert loss_of(model, histories, targets) == pytest.approx(gain.after, rel=1e-4)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_numbers_that_hardly_matter_stay_finite():
    """One pair, of which the best numbers are infinite."""
    for seed in range(5):
        model = make(history_bias=True).eval()
        torch.manual_seed(seed)
        history = torch.randint(0, NUM_ITEMS, (3,)).tolist()
        gain = calibrate(model, [history], [(history[-1] + 1) % NUM_ITEMS])
        assert gain.after <= gain.before
        assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def test_popularity_counts_by_its_weight():
    """One level: its scores are the network's, the ring's, and the weighed logarithm of counts."""
    torch.manual_seed(0)
    config = Seq2SeqConfig(dim=8, num_heads=2, feedforward_dim=8, scoring="renormalized")
    trie = Trie.build(torch.randperm(NUM_ITEMS)[:, None], (NUM_ITEMS,))
    counts, graph = torch.arange(NUM_ITEMS), ItemGraph.build(NUM_ITEMS, [ring(3.0)])
    model = Seq2Seq(config, trie, item_graph=graph, item_counts=counts).eval()
    history = torch.tensor([[3, 4]])
    before = exact_scores(model, trie, history)
    assert model.score_logits is not None
    model.score_logits.popularity.data.fill_(-0.5)
    expected = (before - 0.5 * counts.float().log1p()).log_softmax(dim=1)
    torch.testing.assert_close(exact_scores(model, trie, history), expected)


def test_refusals():
    with pytest.raises(ValueError, match="targets must be one for each of 2 histories, got 1"):
        calibrate(make(), [[1], [2]], [3])
    config = Seq2SeqConfig(dim=8, num_heads=2, feedforward_dim=8)
    model = Seq2Seq(config, Trie.build(torch.tensor([[0], [1]]), (2,)))
    with pytest.raises(ValueError, match="must have an item graph to be calibrated"):
        calibrate(model, [[1]], [0])
