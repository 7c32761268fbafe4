"""The loss of next items against its two halves, the full softmax and the sampled one."""

from __future__ import annotations

import math

import pytest
import torch
from genrec import NextItemLoss, full_cross_entropy, sampled_cross_entropy

NUM_ITEMS, DIM = 30, 6
HOW = {"similarity": "cosine", "temperature": 0.3}


def sample() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 5, DIM), torch.randn(NUM_ITEMS, DIM), torch.randint(0, 31, (4, 5))


def test_without_negatives_it_is_the_full_softmax():
    states, vectors, targets = sample()
    loss = NextItemLoss(**HOW)
    negatives = loss.draw(NUM_ITEMS)
    assert negatives.tolist() == list(range(NUM_ITEMS))
    expected = full_cross_entropy(states, vectors, targets, **HOW)
    assert torch.equal(loss(states, vectors, targets, negatives), expected)


def test_drawn_negatives_stand_for_all_items():
    states, vectors, targets = sample()
    loss = NextItemLoss(num_negatives=7, **HOW)
    negatives = loss.draw(NUM_ITEMS, generator=torch.Generator().manual_seed(1))
    again = loss.draw(NUM_ITEMS, generator=torch.Generator().manual_seed(1))
    assert negatives.equal(again)
    assert len(set(negatives.tolist())) == 7
    log_q = torch.full((NUM_ITEMS,), -math.log(NUM_ITEMS))
    expected = sampled_cross_entropy(states, vectors, targets, negatives, log_q=log_q, **HOW)
    assert torch.equal(loss(states, vectors, targets, negatives), expected)


def test_no_more_negatives_are_drawn_than_there_are_items():
    assert sorted(NextItemLoss(num_negatives=99).draw(5).tolist()) == [0, 1, 2, 3, 4]


def test_vectors_of_the_batch_alone_give_the_same_loss():
    states, vectors, _ = sample()
    targets = torch.randint(0, NUM_ITEMS, (4, 5))
    targets[0, 0] = NUM_ITEMS
    loss = NextItemLoss(num_negatives=7, **HOW)
    negatives = loss.draw(NUM_ITEMS)
    rows = loss.rows(NUM_ITEMS, targets, negatives)
    assert rows.tolist() == sorted({*targets.flatten().tolist(), *negatives.tolist()} - {NUM_ITEMS})
    place = torch.full((NUM_ITEMS + 1,), len(rows))
    place[rows] = torch.arange(len(rows))
    local = loss(states, vectors[rows], place[targets], place[negatives], NUM_ITEMS)
    torch.testing.assert_close(local, loss(states, vectors, targets, negatives))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_negatives": -1}, "num_negatives must be at least 0, got -1"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"similarity": "l2"}, "similarity must be 'dot' or 'cosine', got 'l2'"),
    ],
)
def test_refusals(options: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        NextItemLoss(**options)
