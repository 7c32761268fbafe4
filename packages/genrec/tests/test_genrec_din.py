from __future__ import annotations

import pytest
import torch
from genrec.backbones import DIN, din
from genrec.losses import candidate_cross_entropy
from genrec.sampling import sample_candidates
from torch import Tensor

NUM_ITEMS = 12
ROWS = [[3, 1, 4, 1, 5], [9, 2], [6], [], [8, 8]]


def model(**options) -> DIN:
    torch.manual_seed(0)
    network = DIN(NUM_ITEMS, dim=6, attention_sizes=(5, 4), output_sizes=(7, 3), **options).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network


def padded(rows: list[list[int]], length: int) -> Tensor:
    return torch.tensor([row + [NUM_ITEMS] * (length - len(row)) for row in rows])


def plain_score(network: DIN, row: list[int], candidate: int) -> Tensor:
    """DIN one pair at a time, its first layer on the four parts side by side."""
    vectors = network.item_vectors()
    a = vectors[candidate]
    # W on [candidate, item, candidate - item, candidate * item], a split that gives the same sums.
    difference = torch.full_like(network.from_item.weight, 0.25)
    weight = torch.cat(
        [
            network.from_candidate.weight - difference,
            network.from_item.weight + difference,
            difference,
            network.from_product.weight,
        ],
        dim=1,
    )
    interest = torch.zeros_like(a)
    for place, item in enumerate(row):
        h = vectors[item]
        hidden = weight @ torch.cat([a, h, a - h, a * h]) + network.from_candidate.bias
        if network.from_distance is not None:
            hidden = hidden + network.from_distance[len(row) - 1 - place]
        interest = interest + network.attention(hidden) * h
    return network.output(torch.cat([interest, a, interest * a]))[0]


@pytest.mark.parametrize("recency", [None, 8])
def test_scores_equal_din_one_pair_at_a_time(recency):
    network = model(recency=recency)
    candidates = torch.tensor([[0, 3], [5, 5], [11, 6], [2, 7], [0, 1]])
    with torch.no_grad():
        scores = network(padded(ROWS, 7), candidates)
        for row, items, got in zip(ROWS, candidates.tolist(), scores, strict=True):
            expected = torch.stack([plain_score(network, row, item) for item in items])
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("activations", [1, 4 * 7 * 5 * 5, 2**24])
def test_the_catalogue_in_chunks_scores_as_candidates_do(monkeypatch, activations):
    monkeypatch.setattr(din, "ACTIVATIONS_AT_A_TIME", activations)
    network = model(recency=8)
    everything = torch.arange(NUM_ITEMS).expand(len(ROWS), -1)
    with torch.no_grad():
        torch.testing.assert_close(
            network.score(padded(ROWS, 7)), network(padded(ROWS, 7), everything)
        )
        torch.testing.assert_close(network.score(padded(ROWS, 5)), network.score(padded(ROWS, 7)))


def test_recency_sees_the_order_and_din_does_not():
    rows = torch.tensor([[1, 2, 3], [3, 2, 1]])
    with torch.no_grad():
        plain, aware = model().score(rows), model(recency=3).score(rows)
    torch.testing.assert_close(plain[0], plain[1])
    assert not torch.allclose(aware[0], aware[1])


def test_one_batch_overfits():
    torch.manual_seed(0)
    network = DIN(NUM_ITEMS, dim=8, attention_sizes=(8, 4), output_sizes=(16, 8))
    history, targets = padded(ROWS, 5), torch.tensor([1, 7, 3, 11, 0])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        candidates = sample_candidates(targets, NUM_ITEMS, 20, generator=generator)
        loss = candidate_cross_entropy(network(history, candidates), candidates)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    with torch.no_grad():
        assert torch.equal(network.score(history).argmax(1), targets)


def test_defaults_are_those_of_the_first_stage():
    network = DIN(NUM_ITEMS)
    assert network.item_vectors().shape == (NUM_ITEMS, 96)
    shapes = [tuple(p.shape) for p in network.output.parameters() if p.dim() == 2]
    assert shapes == [(200, 288), (80, 200), (1, 80)]
    shapes = [tuple(p.shape) for p in network.attention.parameters() if p.dim() == 2]
    assert shapes == [(16, 64), (1, 16)]


def test_refusals():
    with pytest.raises(ValueError, match=r"must be positive, got \(64, 0\) and \(200, 80\)"):
        DIN(NUM_ITEMS, attention_sizes=(64, 0))
    with pytest.raises(ValueError, match="recency must be at least 1, got 0"):
        DIN(NUM_ITEMS, recency=0)
    with pytest.raises(ValueError, match="history must have at most 2 columns, got 3"):
        model(recency=2).score(torch.tensor([[1, 2, 3]]))
