from __future__ import annotations

import math

import pytest
import torch
from genrec.layers import DecoderLayer, Dropout, EncoderLayer, MultiHeadAttention, attend
from torch import nn


def test_attend_equals_a_plain_loop_over_visible_keys():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4, generator=generator) for _ in range(3))
    padding = torch.tensor([[True, False, False, True, False], [False] * 5])
    out = attend(query, key, value, padding=padding, causal=True)
    for b in range(2):
        for h in range(3):
            for i in range(5):
                seen = [j for j in range(i + 1) if not padding[b, j]]
                weights = [
                    math.exp(float(query[b, h, i] @ key[b, h, j]) / math.sqrt(4)) for j in seen
                ]
                expected = torch.zeros(4)
                for j, weight in zip(seen, weights, strict=True):
                    expected += weight / sum(weights) * value[b, h, j]
                torch.testing.assert_close(out[b, h, i], expected)


def test_a_row_of_padding_alone_gives_zeros_and_finite_gradients():
    query, key, value = (torch.randn(1, 1, 2, 4, requires_grad=True) for _ in range(3))
    out = attend(query, key, value, padding=torch.ones(1, 2, dtype=torch.bool))
    assert torch.equal(out, torch.zeros_like(out))
    out.sum().backward()
    assert all(bool(t.grad.isfinite().all()) for t in (query, key, value))


def test_projected_keys_and_values_give_the_same_as_the_sequence():
    attention = MultiHeadAttention(8, 2)
    x = torch.randn(3, 4, 8)
    torch.testing.assert_close(attention(x, keys_values=attention.project(x)), attention(x))
    # Queries know nothing of one another, so fewer of them see the same.
    fewer = attention(x[:, :2], keys_values=attention.project(x))
    torch.testing.assert_close(fewer, attention(x)[:, :2])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_encoder_layer_is_torchs_with_the_same_weights(norm):
    layer = EncoderLayer(8, 2, 16, norm=norm).eval()
    torchs = nn.TransformerEncoderLayer(
        8, 2, 16, activation="gelu", batch_first=True, norm_first=norm == "pre"
    ).eval()
    attention, feedforward = layer.attention, layer.feedforward
    pairs = [
        (torchs.self_attn.out_proj, attention.output),
        (torchs.linear1, feedforward[0]),
        (torchs.linear2, feedforward[3]),
        (torchs.norm1, layer.attention_residual.norm),
        (torchs.norm2, layer.feedforward_residual.norm),
    ]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name in ("weight", "bias"):
            packed = [getattr(part, name) for part in (attention.query, attention.key_value)]
            getattr(torchs.self_attn, f"in_proj_{name}").copy_(torch.cat(packed))
            for theirs, ours in pairs:
                getattr(theirs, name).copy_(getattr(ours, name))
        x, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        expected = torchs(x, src_key_padding_mask=padding)
        states = layer(x, padding=padding)
    torch.testing.assert_close(states[~padding], expected[~padding])


@pytest.mark.usefixtures("unchecked")
def test_a_layer_norm_stands_before_or_after():
    with pytest.raises(ValueError, match=r"norm must be one of \('pre', 'post'\), got 'both'"):
        EncoderLayer(8, 2, 16, norm="both")  # type: ignore[arg-type]


def test_encoder_layer_does_not_see_padding_or_the_future():
    layer = EncoderLayer(8, 2, 16).eval()
    x = torch.randn(1, 5, 8)
    changed = x.clone()
    changed[:, 3:] = torch.randn(1, 2, 8)
    padding = torch.tensor([[False, False, False, True, True]])
    torch.testing.assert_close(
        layer(x, padding=padding)[:, :3], layer(changed, padding=padding)[:, :3]
    )
    torch.testing.assert_close(layer(x, causal=True)[:, :3], layer(changed, causal=True)[:, :3])
    assert not torch.allclose(layer(x)[:, :3], layer(changed)[:, :3])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_one_place_asked_equals_all_asked(norm):
    layer = EncoderLayer(8, 2, 16, norm=norm).eval()
    x, places = torch.randn(3, 5, 8), torch.tensor([4, 0, 2])
    padding = torch.arange(5) > places[:, None]
    everywhere = layer(x, padding=padding)[torch.arange(3), places]
    torch.testing.assert_close(layer.at(x, places, padding=padding), everywhere)


def test_decoder_layer_is_causal_and_reads_the_memory():
    layer = DecoderLayer(8, 2, 16).eval()
    x, memory = torch.randn(2, 4, 8), layer.cross_attention.project(torch.randn(2, 3, 8))
    changed = x.clone()
    changed[:, 2:] += 1.0
    torch.testing.assert_close(layer(x, memory)[:, :2], layer(changed, memory)[:, :2])
    other = layer.cross_attention.project(torch.randn(2, 3, 8))
    assert not torch.allclose(layer(x, memory), layer(x, other))


def test_bf16_autocast_on_cpu_trains_through_attention():
    layer = EncoderLayer(8, 2, 16)
    x = torch.randn(2, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = layer(x, causal=True).float().square().mean()
    loss.backward()
    gradient = layer.attention.query.weight.grad
    assert gradient is not None
    assert gradient.dtype == torch.float32
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().sum()) > 0


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="dim must be a positive multiple of num_heads, got 10 "):
        MultiHeadAttention(10, 4)


@pytest.mark.parametrize("p", [0.1, 0.4, 0.9])
def test_dropout_zeroes_its_share_and_keeps_the_mean(p: float):
    torch.manual_seed(0)
    x = torch.ones(201, 997, requires_grad=True)
    layer = Dropout(p)
    out = layer(x)
    share = round(256 * p) / 256
    assert abs(float((out == 0).float().mean()) - share) < 4 * math.sqrt(0.25 / x.numel())
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / (1 - share)).item()}
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
    assert not torch.equal(layer(x), out)
    torch.manual_seed(0)
    assert torch.equal(layer(x), out)
    assert layer.eval()(x) is x


def test_dropout_of_no_or_all_values():
    x = torch.ones(3)
    assert Dropout(0.0)(x) is x
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        Dropout(1.0)
