"""InfoNCE against plain Python, with padding, repeated items and groups."""

from __future__ import annotations

import math

import pytest
import torch
from fusion import info_nce
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def similarity_of(x: list[float], y: list[float], similarity: str) -> float:
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    if similarity == "dot":
        return dot
    return dot / math.sqrt(sum(a * a for a in x)) / math.sqrt(sum(b * b for b in y))


def oracle(
    anchors: Tensor,
    positives: Tensor,
    temperature: float,
    similarity: str,
    include_positive: bool,
    ids: list[int],
    valid: list[bool],
) -> float:
    x, y = anchors.tolist(), positives.tolist()
    terms = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i and valid[i] and valid[j] and ids[i] != ids[j]]
        if not others:
            continue
        shown = [i, *others] if include_positive else others
        weights = [math.exp(similarity_of(x[i], y[j], similarity) / temperature) for j in shown]
        positive = similarity_of(x[i], y[i], similarity) / temperature
        terms.append(math.log(sum(weights)) - positive)
    return sum(terms) / len(terms) if terms else 0.0


def pairs(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    y = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return x, y


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=7),
    similarity=st.sampled_from(["cosine", "dot"]),
    include_positive=st.booleans(),
    symmetric=st.booleans(),
    temperature=st.sampled_from([0.2, 1.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_info_nce_equals_plain_python(
    rows: list[tuple[int, bool]],
    similarity: str,
    include_positive: bool,
    symmetric: bool,
    temperature: float,
    seed: int,
) -> None:
    ids, valid = [row[0] for row in rows], [row[1] for row in rows]
    x, y = pairs(seed, len(rows), 5)
    expected = oracle(x, y, temperature, similarity, include_positive, ids, valid)
    if symmetric:
        other = oracle(y, x, temperature, similarity, include_positive, ids, valid)
        expected = (expected + other) / 2
    got = info_nce(
        x,
        y,
        temperature=temperature,
        similarity=similarity,
        symmetric=symmetric,
        include_positive=include_positive,
        ids=torch.tensor(ids),
        valid=torch.tensor(valid),
    )
    assert float(got) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_info_nce_without_masks_equals_plain_python() -> None:
    x, y = pairs(0, 6, 4)
    expected = oracle(x, y, 0.1, "cosine", True, list(range(6)), [True] * 6)
    assert float(info_nce(x, y, temperature=0.1)) == pytest.approx(expected)


def test_groups_never_see_one_another() -> None:
    x, y = pairs(1, 3, 5, 4)
    ids = torch.tensor([[0, 1, 2, 3, 4], [0, 0, 1, 2, 3], [7, 7, 7, 7, 7]])
    valid = torch.tensor([[True] * 5, [True, True, True, False, True], [True] * 5])
    got = info_nce(x, y, temperature=0.5, ids=ids, valid=valid)
    # Group 2 holds one item five times, so none of its rows counts: 5 + 4 anchors do.
    parts = [info_nce(x[g], y[g], temperature=0.5, ids=ids[g], valid=valid[g]) for g in range(2)]
    assert float(got) == pytest.approx(float(5 * parts[0] + 4 * parts[1]) / 9)


def test_padding_reaches_neither_loss_nor_gradient() -> None:
    x, y = pairs(2, 5, 4)
    valid = torch.tensor([True, True, True, False, False])
    clean = info_nce(x[:3], y[:3], temperature=0.2)
    x, y = x.clone(), y.clone()
    x[3:], y[3:] = torch.nan, torch.inf
    x.requires_grad_()
    loss = info_nce(x, y, temperature=0.2, valid=valid)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(clean))
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad[:3].abs().sum() > 0
    assert not x.grad[3:].any()


@pytest.mark.parametrize("include_positive", [True, False])
def test_a_batch_of_one_gives_a_zero_loss_with_zero_gradients(include_positive: bool) -> None:
    x, y = pairs(3, 1, 4)
    x.requires_grad_()
    loss = info_nce(x, y, temperature=0.2, include_positive=include_positive)
    loss.backward()
    assert float(loss.detach()) == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_pairs_that_agree_lose_less_than_pairs_that_do_not() -> None:
    x, _ = pairs(4, 8, 16)
    assert info_nce(x, x, temperature=0.1) < info_nce(x, x.roll(1, 0), temperature=0.1)


def test_autocast_does_not_round_the_similarities() -> None:
    x, y = (part.float() for part in pairs(5, 16, 32))
    plain = info_nce(x, y, temperature=0.05)
    with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(x, y, temperature=0.05), plain)


def test_refusals() -> None:
    x, y = pairs(6, 3, 2)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        info_nce(x, y, temperature=0)
    with pytest.raises(ValueError, match="temperature must be positive, got nan"):
        info_nce(x, y, temperature=float("nan"))
