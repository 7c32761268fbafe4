from __future__ import annotations

import inspect
import math

import pytest
import torch
from genrec.losses import (
    binary_cross_entropy,
    candidate_binary_cross_entropy,
    candidate_cross_entropy,
    distillation_loss,
    full_cross_entropy,
    in_batch_cross_entropy,
    sampled_cross_entropy,
)
from genrec.sampling import sample_candidates, sample_negatives
from genrec.similarity import check_similarity, item_scores
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


def test_cosines_of_zeros_are_finite_in_half_precision():
    states, vectors = torch.randn(2, 4).half(), torch.zeros(3, 4).half()
    vectors[0] = 1e-4  # its square is 0 in fp16
    scores = item_scores(states, vectors, similarity="cosine", temperature=0.1)
    assert scores.dtype == torch.float16
    expected = item_scores(states.float(), vectors.float(), similarity="cosine", temperature=0.1)
    torch.testing.assert_close(scores.float(), expected, atol=0.05, rtol=0.01)


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


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_in_batch_cross_entropy_equals_plain_python(similarity, corrected):
    states, vectors, targets = tensors()
    targets = torch.tensor([3, 8, 3, 13, 0, 12, 8])  # two had twice, one padding
    log_q = torch.linspace(-3, 0, len(vectors), dtype=torch.float64) if corrected else None
    loss = in_batch_cross_entropy(
        states, vectors, targets, log_q=log_q, similarity=similarity, temperature=0.5
    )
    real = [t for t in targets.tolist() if t < len(vectors)]
    total = 0.0
    for state, target in zip(states.tolist(), targets.tolist(), strict=True):
        if target == len(vectors):
            continue
        items = [target, *(other for other in real if other != target)]
        scores = [
            plain_score(state, vectors[i].tolist(), similarity, 0.5)
            - (0.0 if log_q is None or i == target else log_q[i].item() + math.log(5))
            for i in items
        ]
        total += plain_softmax_loss(scores)
    assert loss.item() == pytest.approx(total / 6)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (states, vectors)))


def test_in_batch_negatives_corrected_by_popularity_estimate_the_full_softmax():
    states, vectors, _ = tensors(batch=4)
    popularity = torch.arange(1.0, len(vectors) + 1).double()
    targets = sample_negatives(
        len(vectors), 2000, weights=popularity, generator=torch.Generator().manual_seed(0)
    )
    states = states.detach().repeat(500, 1)
    log_q = (popularity / popularity.sum()).log()
    exact = full_cross_entropy(states, vectors, targets).item()
    corrected = in_batch_cross_entropy(states, vectors, targets, log_q=log_q).item()
    assert corrected == pytest.approx(exact, rel=0.03)
    assert abs(in_batch_cross_entropy(states, vectors, targets).item() - exact) > 1


@pytest.mark.parametrize("num_negatives", [1, 4])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_binary_cross_entropy_equals_plain_python(num_negatives, reduction, similarity):
    states, vectors, targets = tensors(batch=8)
    targets[3] = len(vectors)
    generator = torch.Generator().manual_seed(1)
    negatives = sample_negatives(len(vectors), (8, num_negatives), generator=generator)
    negatives[5, 0] = targets[5]  # a hit
    total = 0.0
    for state, target, row in zip(
        states.tolist(), targets.tolist(), negatives.tolist(), strict=True
    ):
        if target == len(vectors):
            continue
        score = {i: plain_score(state, v, similarity, 0.5) for i, v in enumerate(vectors.tolist())}
        total += math.log(1 + math.exp(-score[target]))
        total += sum(math.log(1 + math.exp(score[i])) for i in row if i != target)
    options = {"similarity": similarity, "temperature": 0.5, "reduction": reduction}
    loss = binary_cross_entropy(states, vectors, targets, negatives, **options)
    assert loss.item() == pytest.approx(total / (7 if reduction == "mean" else 1))
    positions = binary_cross_entropy(
        states.view(2, 4, -1),
        vectors,
        targets.view(2, 4),
        negatives.view(2, 4, -1),
        **options,
    )
    torch.testing.assert_close(positions, loss)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (states, vectors)))


def test_the_logistic_loss_of_candidates_does_not_overflow():
    loss = candidate_binary_cross_entropy(torch.tensor([[-200.0, 300.0]]), torch.tensor([[0, 1]]))
    assert loss.item() == 500


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


def test_logits_are_held_for_some_rows_at_a_time(monkeypatch):
    held: list[int] = []
    empty = torch.empty

    def note(*sizes, **options):
        held.append(math.prod(sizes[0]) if isinstance(sizes[0], tuple) else math.prod(sizes))
        return empty(*sizes, **options)

    states, vectors, targets = torch.randn(4000, 2), torch.randn(2000, 2), torch.zeros(4000).long()
    monkeypatch.setattr(torch, "empty", note)
    full_cross_entropy(states, vectors, targets)
    assert 2**20 < sum(held) <= 2**21 < 4000 * 2000


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


def test_more_negatives_or_weights_than_items_are_refused():
    with pytest.raises(ValueError, match=r"one for each of 10 items, got shape \(20,\)"):
        sample_negatives(10, 5, weights=torch.ones(20))
    with pytest.raises(ValueError, match=r"at most num_items \(5\), got 6"):
        sample_negatives(5, 6)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sample_negatives(5, 0)
