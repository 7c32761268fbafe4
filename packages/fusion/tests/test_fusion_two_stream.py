"""TSSR's contrasts against plain loops, its cross-modal encoder and its gate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fusion import (
    CrossModalEncoder,
    CrossModalLayer,
    Gate,
    item_contrast,
    masked_sequence_alignment,
    user_contrast,
)
from torch import Tensor

TEMPERATURE = 0.3


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y / x.norm() / y.norm())


def nce(positive: float, others: list[float]) -> float:
    values = [positive, *others]
    return math.log(sum(math.exp(value / TEMPERATURE) for value in values)) - positive / TEMPERATURE


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Four users with 3, 2, 0 and 1 valid steps; users 0 and 1 share their next item at step 0."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, 3, 5)
    tensors = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name in ("ids", "content", "next_ids", "next_content")
    }
    tensors["valid"] = torch.arange(3) < torch.tensor([3, 2, 0, 1])[:, None]
    tensors["next_items"] = torch.tensor([[7, 1, 2], [7, 3, 9], [9, 9, 9], [5, 9, 9]])
    for name in ("ids", "content", "next_ids", "next_content"):
        tensors[name][~tensors["valid"]] = torch.nan  # padding must not reach anything
    return tensors


def test_user_contrast_is_equation_1(batch: dict[str, Tensor]) -> None:
    means = {}
    for name in ("ids", "content"):
        for user, steps in enumerate((3, 2, 0, 1)):
            if steps:
                means[name, user] = batch[name][user, :steps].mean(0)
    users, total = (0, 1, 3), 0.0
    for first, second in (("ids", "content"), ("content", "ids")):
        for user in users:
            positive = cosine(means[first, user], means[second, user])
            others = [cosine(means[first, user], means[second, j]) for j in users if j != user]
            total += nce(positive, others)
    loss = user_contrast(batch["ids"], batch["content"], batch["valid"], temperature=TEMPERATURE)
    assert float(loss) == pytest.approx(total / len(users), abs=1e-12)


def dot(x: Tensor, y: Tensor) -> float:
    return float(x @ y)


@pytest.mark.parametrize(("similarity", "compare"), [("dot", dot), ("cosine", cosine)])
def test_item_contrast_is_equation_2(
    batch: dict[str, Tensor], similarity: Any, compare: Callable[[Tensor, Tensor], float]
) -> None:
    total = 0.0
    for states, following in (("ids", "next_content"), ("content", "next_ids")):
        terms = []
        for user in range(4):
            for step in range(3):
                if not batch["valid"][user, step]:
                    continue
                others = [
                    compare(batch[states][user, step], batch[following][j, step])
                    for j in range(4)
                    if batch["valid"][j, step]
                    and batch["next_items"][j, step] != batch["next_items"][user, step]
                ]
                if others:
                    positive = compare(batch[states][user, step], batch[following][user, step])
                    terms.append(nce(positive, others))
        assert len(terms) == 5  # three at step 0, two at step 1, none at step 2
        total += sum(terms) / len(terms)
    loss = item_contrast(**batch, temperature=TEMPERATURE, similarity=similarity)
    assert float(loss) == pytest.approx(total, abs=1e-12)
    if similarity == "dot":
        assert item_contrast(**batch, temperature=TEMPERATURE) == loss


def test_a_last_batch_of_one_user_gives_no_loss_and_no_gradient(batch: dict[str, Tensor]) -> None:
    alone = {name: tensor[:1] for name, tensor in batch.items()}
    ids = alone["ids"].clone().requires_grad_()
    loss = item_contrast(**{**alone, "ids": ids}, temperature=TEMPERATURE)
    loss = loss + user_contrast(ids, alone["content"], alone["valid"], temperature=TEMPERATURE)
    loss.backward()
    assert loss.item() == 0.0
    assert ids.grad is not None
    assert not ids.grad.any()


def test_masked_sequence_alignment_is_equations_7_and_8() -> None:
    generator = torch.Generator().manual_seed(1)
    masked, original = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    total = 0.0
    for x, y in ((masked, original), (original, masked)):
        for i in range(5):
            others = [cosine(x[i], y[j]) for j in range(5) if j != i]
            total += nce(cosine(x[i], y[i]), others) / 5 / 2
    loss = masked_sequence_alignment(masked, original, temperature=TEMPERATURE)
    assert float(loss) == pytest.approx(total, abs=1e-12)


def test_prefixes_of_one_user_are_no_negatives_where_users_are_told() -> None:
    generator = torch.Generator().manual_seed(2)
    masked, original = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    users, total = (0, 0, 1), 0.0
    for x, y in ((masked, original), (original, masked)):
        for i in range(3):
            others = [cosine(x[i], y[j]) for j in range(3) if users[j] != users[i]]
            total += nce(cosine(x[i], y[i]), others) / 3 / 2
    loss = masked_sequence_alignment(
        masked, original, temperature=TEMPERATURE, user_rows=torch.tensor(users)
    )
    assert float(loss) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("num_streams", [2, 3])
def test_the_cross_modal_encoder_is_causal_and_sees_the_other_stream(num_streams: int) -> None:
    torch.manual_seed(0)
    encoder = CrossModalEncoder(
        num_streams, 8, num_layers=num_streams - 1, num_heads=2, feedforward_dim=16, dropout=0.0
    ).double()
    for layer in encoder.layers:
        for cross in layer:  # type: ignore[attr-defined]
            torch.nn.init.ones_(cross.scales)
    streams = list(torch.randn(num_streams, 2, 4, 8, dtype=torch.float64))
    before = encoder(streams)
    for changed in range(num_streams):
        others = [stream.clone() for stream in streams]
        others[changed][:, 2] += torch.randn(8)  # a constant would vanish in the layer norm
        after = encoder(others)
        for stream in range(num_streams):
            torch.testing.assert_close(after[stream][:, :2], before[stream][:, :2])
            assert not torch.allclose(after[stream][:, 2], before[stream][:, 2])


def test_the_cross_modal_encoder_starts_from_the_normalised_streams() -> None:
    torch.manual_seed(0)
    encoder = CrossModalEncoder(2, 8, num_heads=2, feedforward_dim=16).eval()
    streams = list(torch.randn(2, 3, 4, 8))
    for stream, out in zip(streams, encoder(streams), strict=True):
        expected = torch.nn.functional.layer_norm(stream, (8,))
        torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-4)


def test_the_gate_is_equation_3() -> None:
    torch.manual_seed(0)
    gate = Gate(2, 4).double()
    first, second = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    logits = torch.cat([first, second], dim=-1) @ gate.projection.weight.T + gate.projection.bias
    share = 1 / (1 + (-logits).exp())
    torch.testing.assert_close(gate([first, second]), share * first + (1 - share) * second)


def test_the_gate_of_three_streams_stays_between_them() -> None:
    torch.manual_seed(0)
    streams = list(torch.randn(3, 6, 4))
    gate = Gate(3, 4)
    weights = gate.weights(streams)
    torch.testing.assert_close(weights.sum(dim=-2), torch.ones(6, 4))
    stacked, joined = torch.stack(streams), gate(streams)
    assert (joined <= stacked.amax(0) + 1e-6).all()
    assert (joined >= stacked.amin(0) - 1e-6).all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="num_streams must be at least 2, got 1"):
        CrossModalEncoder(1, 8)
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        CrossModalEncoder(2, 8, num_layers=0)
    with pytest.raises(ValueError, match="dim must be a positive multiple of num_heads, got 9 a"):
        CrossModalEncoder(2, 9, num_heads=2)
    with pytest.raises(ValueError, match="num_streams must be at least 2, got 1"):
        Gate(1, 8)
    with pytest.raises(ValueError, match="streams must be 2, got 1"):
        Gate(2, 8)([torch.zeros(1, 8)])
    with pytest.raises(ValueError, match="streams must be 2, got 3"):
        CrossModalEncoder(2, 8)([torch.zeros(1, 2, 8)] * 3)


def test_sub_layers_count_from_the_first_step_where_that_is_asked() -> None:
    generator = torch.Generator().manual_seed(4)
    x, other = torch.randn(2, 2, 3, 8, generator=generator)
    closed = CrossModalLayer(8, 2, 16, dropout=0.0)
    plain = F.layer_norm(F.layer_norm(x, (8,)), (8,))
    torch.testing.assert_close(closed(x, other), plain)
    opened = CrossModalEncoder(2, 8, num_layers=1, num_heads=2, residual_start=1.0, dropout=0.0)
    assert all((cross.scales == 1.0).all() for cross in opened.layers[0])
    assert (opened([x, other])[0] - plain).abs().max() > 0.1
    with pytest.raises(ValueError, match="residual_start must be finite, got nan"):
        CrossModalLayer(8, 2, 16, dropout=0.0, residual_start=math.nan)
