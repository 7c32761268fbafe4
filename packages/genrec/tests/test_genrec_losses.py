from __future__ import annotations

import inspect
import math

import pytest
import torch
from genrec.losses import (
    candidate_cross_entropy,
    check_similarity,
    distillation_loss,
    full_cross_entropy,
    item_scores,
    sample_candidates,
    sample_negatives,
    sampled_cross_entropy,
)
from torch import Tensor
from torch.nn import functional as F


def tensors(batch: int = 7, items: int = 13, dim: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    states = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    vectors = torch.randn(items, dim, generator=generator, dtype=torch.float64)
    targets = torch.randint(items, (batch,), generator=generator)
    return states.requires_grad_(), vectors.requires_grad_(), targets


def plain_score(state: list[float], vector: list[float], similarity: str, temperature: float):
    score = sum(a * b for a, b in zip(state, vector, strict=True))
    if similarity == "cosine":
        score /= math.hypot(*state) * math.hypot(*vector)
    return score / temperature


def plain_softmax_loss(scores: list[float], label_smoothing: float = 0.0) -> float:
    """Cross-entropy of scores[0] against all of them."""
    normaliser = math.log(sum(math.exp(s) for s in scores))
    return (1 - label_smoothing) * (normaliser - scores[0]) + label_smoothing * (
        normaliser - sum(scores) / len(scores)
    )


@pytest.mark.parametrize("chunk_size", [1, 3, 7, None])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_full_cross_entropy_equals_torch_gradients_included(chunk_size, label_smoothing, reduction):
    states, vectors, targets = tensors()
    expected = F.cross_entropy(
        states @ vectors.T, targets, label_smoothing=label_smoothing, reduction=reduction
    )
    expected_grads = torch.autograd.grad(3 * expected, (states, vectors))
    loss = full_cross_entropy(
        states,
        vectors,
        targets,
        chunk_size=chunk_size,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    torch.testing.assert_close(loss, expected)
    grads = torch.autograd.grad(3 * loss, (states, vectors))
    torch.testing.assert_close(grads, expected_grads)


def test_full_cross_entropy_gives_gradients_to_whom_wants_them():
    states, vectors, targets = tensors()
    frozen = vectors.detach()
    loss = full_cross_entropy(states, frozen, targets)
    expected = F.cross_entropy(states @ frozen.T, targets)
    torch.testing.assert_close(
        torch.autograd.grad(loss, states), torch.autograd.grad(expected, states)
    )
    with torch.no_grad():
        torch.testing.assert_close(full_cross_entropy(states, vectors, targets), expected.detach())


def test_full_cosine_cross_entropy_equals_plain_python():
    states, vectors, targets = tensors()
    loss = full_cross_entropy(states, vectors, targets, similarity="cosine", temperature=0.1)
    total = 0.0
    for state, target in zip(states.tolist(), targets.tolist(), strict=True):
        scores = [plain_score(state, v, "cosine", 0.1) for v in vectors.tolist()]
        total += plain_softmax_loss([scores.pop(target), *scores])
    assert loss.item() == pytest.approx(total / len(targets))


def test_padding_leaves_the_loss_and_its_gradients():
    states, vectors, targets = tensors()
    padded = targets.clone()
    padded[2:4] = len(vectors)
    kept = [0, 1, 4, 5, 6]
    expected = F.cross_entropy(states[kept] @ vectors.T, targets[kept])
    for shape in [(7,), (7, 1)]:
        loss = full_cross_entropy(states.view(*shape, -1), vectors, padded.view(shape))
        torch.testing.assert_close(loss, expected)
    gradient = torch.autograd.grad(loss, states)[0]
    assert gradient[2:4].abs().sum() == 0
    assert gradient[:2].abs().sum() > 0
    nothing = full_cross_entropy(states, vectors, torch.full_like(targets, len(vectors)))
    assert nothing.item() == 0


def test_full_cross_entropy_under_autocast_stays_near_fp32():
    states, vectors, targets = (t.detach() for t in tensors(batch=32, items=300, dim=16))
    states, vectors = states.float().requires_grad_(), vectors.float().requires_grad_()
    expected = F.cross_entropy(states @ vectors.T, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = full_cross_entropy(states, vectors, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    got = torch.autograd.grad(loss, (states, vectors))
    for gradient, exact in zip(got, torch.autograd.grad(expected, (states, vectors)), strict=True):
        assert gradient.dtype == torch.float32
        assert F.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("corrected", [False, True])
def test_sampled_cross_entropy_equals_plain_python(similarity, label_smoothing, corrected):
    states, vectors, targets = tensors()
    negatives = torch.cat([targets[:2], torch.tensor([3, 8, 8])])  # hits, and one drawn twice
    log_q = torch.linspace(-3, 0, len(vectors), dtype=torch.float64) if corrected else None
    loss = sampled_cross_entropy(
        states,
        vectors,
        targets,
        negatives,
        log_q=log_q,
        similarity=similarity,
        temperature=0.5,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    total = 0.0
    for state, target in zip(states.tolist(), targets.tolist(), strict=True):
        items = [target, *(n for n in negatives.tolist() if n != target)]
        scores = [
            plain_score(state, vectors[i].tolist(), similarity, 0.5)
            - (0.0 if log_q is None or i == target else log_q[i].item() + math.log(5))
            for i in items
        ]
        total += plain_softmax_loss(scores, label_smoothing)
    assert loss.item() == pytest.approx(total)
    assert all(
        g.isfinite().all() and g.abs().sum() > 0
        for g in torch.autograd.grad(loss, (states, vectors))
    )


def test_all_items_as_negatives_give_the_full_softmax():
    states, vectors, targets = tensors()
    everything = torch.arange(len(vectors))
    torch.testing.assert_close(
        sampled_cross_entropy(states, vectors, targets, everything),
        full_cross_entropy(states, vectors, targets),
    )


def test_log_q_lets_skewed_negatives_estimate_the_full_softmax():
    states, vectors, targets = tensors(batch=4)
    weights = torch.arange(1.0, len(vectors) + 1).double() ** 3
    generator = torch.Generator().manual_seed(0)
    negatives = sample_negatives(len(vectors), 100_000, weights=weights, generator=generator)
    exact = full_cross_entropy(states, vectors, targets).item()
    log_q = (weights / weights.sum()).log()
    corrected = sampled_cross_entropy(states, vectors, targets, negatives, log_q=log_q)
    assert corrected.item() == pytest.approx(exact, rel=0.02)
    plain = sampled_cross_entropy(states, vectors, targets, negatives)
    assert abs(plain.item() - exact) > 1


@pytest.mark.parametrize(("similarity", "temperature"), [("dot", 1.0), ("cosine", 0.3)])
@pytest.mark.parametrize("num_negatives", [None, 6])
def test_distillation_equals_plain_python(similarity, temperature, num_negatives):
    states, vectors, targets = tensors()
    loss = distillation_loss(
        states,
        vectors,
        targets,
        num_negatives=num_negatives,
        similarity=similarity,
        temperature=temperature,
        generator=torch.Generator().manual_seed(5),
    )
    negatives = range(len(vectors))
    if num_negatives is not None:
        negatives = torch.randperm(
            len(vectors), generator=torch.Generator().manual_seed(5)
        ).tolist()[:num_negatives]
    total = 0.0
    for state, target in zip(states.tolist(), targets.tolist(), strict=True):
        items = [target, *(n for n in negatives if n != target)]
        total += plain_softmax_loss(
            [plain_score(state, vectors[i].tolist(), similarity, temperature) for i in items]
        )
    assert loss.item() == pytest.approx(total / len(targets))


def test_candidates_of_each_row():
    generator = torch.Generator().manual_seed(0)
    targets = torch.tensor([1, 4])
    candidates = sample_candidates(targets, 5, 30, generator=generator)
    assert candidates.shape == (2, 31)
    assert torch.equal(candidates[:, 0], targets)
    assert set(candidates.flatten().tolist()) <= set(range(5))
    assert not torch.equal(candidates[0, 1:], candidates[1, 1:])
    scores = torch.randn(2, 31, generator=generator)
    total = 0.0
    for row, items in zip(scores.tolist(), candidates.tolist(), strict=True):
        others = [s for s, item in zip(row[1:], items[1:], strict=True) if item != items[0]]
        assert len(others) < 30
        total += plain_softmax_loss([row[0], *others])
    assert candidate_cross_entropy(scores, candidates).item() == pytest.approx(total / 2)


def test_uniform_negatives_do_not_repeat_and_follow_the_generator():
    drawn = sample_negatives(20, 15, generator=torch.Generator().manual_seed(1))
    again = sample_negatives(20, 15, generator=torch.Generator().manual_seed(1))
    assert len(set(drawn.tolist())) == 15
    assert torch.equal(drawn, again)


def test_scores_are_what_the_loss_compares():
    states, vectors, targets = tensors()
    scores = item_scores(states, vectors, similarity="cosine", temperature=0.2)
    torch.testing.assert_close(
        F.cross_entropy(scores, targets),
        full_cross_entropy(states, vectors, targets, similarity="cosine", temperature=0.2),
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
    ],
)
def test_refusals(options, words):
    states, vectors, targets = tensors()
    with pytest.raises(ValueError, match=words):
        full_cross_entropy(states, vectors, targets, **options)


def test_an_unknown_similarity_is_refused():
    with pytest.raises(ValueError, match="similarity must be 'dot' or 'cosine', got 'euclid'"):
        inspect.unwrap(check_similarity)("euclid", 1.0)  # past the type checker


def test_more_negatives_than_items_are_refused():
    with pytest.raises(ValueError, match=r"at most num_items \(5\), got 6"):
        sample_negatives(5, 6)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sample_negatives(5, 0)
