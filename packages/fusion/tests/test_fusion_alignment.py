"""AdaLN, the adaption layer and the alignment loss against plain Python, and that they learn."""

from __future__ import annotations

import math

import pytest
import torch
from fusion import AdaLN, ModalityAdaptionLayer, alignment_loss, info_nce
from torch import Tensor


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_adaln(layer: AdaLN, x: list[float]) -> list[float]:
    dim = len(x)
    weight, bias = layer.modulation.weight.tolist(), layer.modulation.bias.tolist()
    silu = [v / (1 + math.exp(-v)) for v in x]
    predicted = [
        sum(w * s for w, s in zip(weight[i], silu, strict=True)) + bias[i] for i in range(2 * dim)
    ]
    mean = sum(x) / dim
    variance = sum((v - mean) ** 2 for v in x) / dim
    normalised = [(v - mean) / math.sqrt(variance + 1e-5) for v in x]
    return [normalised[i] * (1 + predicted[i]) + predicted[dim + i] for i in range(dim)]


def test_adaln_starts_as_plain_normalisation() -> None:
    x = draw(0, 4, 3, 8)
    torch.testing.assert_close(AdaLN(8)(x), torch.nn.functional.layer_norm(x, (8,)))


def test_adaln_equals_plain_python() -> None:
    layer = AdaLN(6)
    with torch.no_grad():
        layer.modulation.weight.copy_(draw(1, 12, 6))
        layer.modulation.bias.copy_(draw(2, 12))
    x = draw(3, 5, 6)
    expected = torch.tensor([plain_adaln(layer, row) for row in x.tolist()])
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_adaln_learns_its_scale_and_shift_from_the_zero_start() -> None:
    layer, x = AdaLN(6), draw(4, 5, 6)
    (layer(x) * draw(5, 5, 6)).sum().backward()
    assert layer.modulation.weight.grad is not None
    assert (layer.modulation.weight.grad.abs().sum(dim=1) > 0).all()


def test_adaption_layer_is_adaln_of_a_linear_map() -> None:
    layer, x = ModalityAdaptionLayer(10, 4), draw(6, 7, 10)
    mapped = x @ layer.projection.weight.T + layer.projection.bias
    torch.testing.assert_close(layer(x), layer.adaln(mapped))
    assert layer(x).shape == (7, 4)


def printed_formula(collaborative: Tensor, adapted: Tensor, items: list[int], tau: float) -> float:
    """Equation 3 as it stands: sum inside the log, positive not in the denominator."""
    similarity = (collaborative @ adapted.T).tolist()
    total = 0.0
    for i, item in enumerate(items):
        below = sum(math.exp(similarity[i][j] / tau) for j in range(len(items)) if items[j] != item)
        total += math.exp(similarity[i][i] / tau) / below
    return -math.log(total)


def test_alignment_loss_as_printed_equals_plain_python() -> None:
    collaborative, adapted = draw(7, 6, 4), draw(8, 6, 4)
    items = [3, 1, 3, 0, 2, 1]
    got = alignment_loss(
        collaborative,
        adapted,
        torch.tensor(items),
        temperature=2.0,
        similarity="dot",
        include_positive=False,
        sum_inside_log=True,
    )
    assert float(got) == pytest.approx(
        printed_formula(collaborative, adapted, items, 2.0), rel=1e-5
    )


def test_alignment_loss_is_info_nce_by_default() -> None:
    collaborative, adapted = draw(9, 6, 4), draw(10, 6, 4)
    rows = torch.tensor([0, 0, 1, 2, 3, 4])
    torch.testing.assert_close(
        alignment_loss(collaborative, adapted, rows, temperature=0.2),
        info_nce(collaborative, adapted, temperature=0.2, ids=rows),
    )


@pytest.mark.parametrize("sum_inside_log", [True, False])
def test_an_item_alone_in_its_batch_gives_zero(sum_inside_log: bool) -> None:
    x = draw(11, 3, 4).requires_grad_()
    rows = torch.tensor([5, 5, 5])
    loss = alignment_loss(x, x, rows, temperature=0.1, sum_inside_log=sum_inside_log)
    loss.backward()
    assert float(loss.detach()) == 0
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize("include_positive", [True, False])
def test_alignment_brings_text_and_collaborative_neighbours_together(
    include_positive: bool,
) -> None:
    semantic = draw(12, 16, 24)
    table = torch.nn.Parameter(draw(13, 16, 8))
    torch.manual_seed(0)
    layer = ModalityAdaptionLayer(24, 8)
    optimizer = torch.optim.Adam([table, *layer.parameters()], lr=0.02)
    for _ in range(150):
        loss = alignment_loss(
            table, layer(semantic), temperature=0.2, include_positive=include_positive
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        similarity = torch.nn.functional.normalize(table, dim=-1) @ layer(semantic).T
    assert similarity.argmax(dim=1).tolist() == list(range(16))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        AdaLN(0)
    with pytest.raises(ValueError, match="in_dim must be at least 1, got 0"):
        ModalityAdaptionLayer(0, 8)
    with pytest.raises(ValueError, match=r"temperature must be positive, got -1"):
        alignment_loss(draw(0, 2, 2), draw(1, 2, 2), temperature=-1)
