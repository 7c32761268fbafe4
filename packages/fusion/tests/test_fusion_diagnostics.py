"""Modality share, alignment and uniformity against plain Python and in cases one can foresee."""

from __future__ import annotations

import math

import fusion.diagnostics
import pytest
import torch
from fusion import alignment_distance, modality_share, uniformity
from torch import Tensor


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(row: list[float]) -> list[float]:
    norm = math.sqrt(sum(v * v for v in row))
    return [v / norm for v in row]


def neighbours(space: Tensor, temperature: float) -> list[dict[int, float]]:
    rows = [unit(row) for row in space.tolist()]
    result = []
    for i, x in enumerate(rows):
        weights = {
            j: math.exp(sum(a * b for a, b in zip(x, y, strict=True)) / temperature)
            for j, y in enumerate(rows)
            if j != i
        }
        total = sum(weights.values())
        result.append({j: w / total for j, w in weights.items()})
    return result


def plain_kl(space: Tensor, final: Tensor, temperature: float) -> float:
    p, q = neighbours(space, temperature), neighbours(final, temperature)
    return sum(
        sum(p[i][j] * math.log(p[i][j] / q[i][j]) for j in p[i]) for i in range(len(p))
    ) / len(p)


@pytest.mark.parametrize("chunk", [3, 1024])
def test_modality_share_equals_plain_python(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion.diagnostics, "CHUNK_ROWS", chunk)
    s, c, e = draw(0, 10, 7), draw(1, 10, 3), draw(2, 10, 5)
    share = modality_share(s, c, e, temperature=0.3)
    kl_s, kl_c = plain_kl(s, e, 0.3), plain_kl(c, e, 0.3)
    assert share.kl_semantic == pytest.approx(kl_s, rel=1e-4)
    assert share.kl_collaborative == pytest.approx(kl_c, rel=1e-4)
    assert share.semantic == pytest.approx(1 - kl_s / (kl_s + kl_c), rel=1e-4)
    assert share.semantic + share.collaborative == 1


def test_the_final_space_equal_to_a_modality_is_all_that_modality() -> None:
    s, c = draw(3, 30, 16), draw(4, 30, 8)
    rotation = torch.linalg.qr(draw(5, 16, 16))[0]
    assert modality_share(s, c, 3 * s @ rotation).semantic == pytest.approx(1, abs=1e-4)
    assert modality_share(s, c, c).collaborative == pytest.approx(1, abs=1e-6)
    assert modality_share(s, s, s).semantic == 0.5


def test_a_loud_modality_dominates_a_concatenation() -> None:
    s, c = draw(6, 60, 8), draw(7, 60, 8)
    even = modality_share(s, c, torch.cat([s, c], dim=1)).semantic
    loud = modality_share(s, c, torch.cat([5 * s, c], dim=1)).semantic
    assert 0.4 < even < 0.6
    assert loud > 0.95


def test_a_sample_depends_on_the_seed_alone() -> None:
    s, c, e = draw(8, 50, 6), draw(9, 50, 6), draw(10, 50, 6)
    first = modality_share(s, c, e, max_items=20, seed=1)
    torch.rand(3)
    assert modality_share(s, c, e, max_items=20, seed=1) == first
    assert modality_share(s, c, e, max_items=20, seed=2) != first


def test_alignment_distance_and_uniformity_equal_plain_python() -> None:
    x, y = draw(11, 9, 4), draw(12, 9, 4)
    a, b = [unit(r) for r in x.tolist()], [unit(r) for r in y.tolist()]

    def squared(p: list[float], q: list[float]) -> float:
        return sum((u - v) ** 2 for u, v in zip(p, q, strict=True))

    distances = [squared(p, q) for p, q in zip(a, b, strict=True)]
    assert alignment_distance(x, y) == pytest.approx(sum(distances) / 9, rel=1e-5)
    potentials = [math.exp(-2 * squared(a[i], a[j])) for i in range(9) for j in range(i)]
    expected = math.log(sum(potentials) / len(potentials))
    assert uniformity(x) == pytest.approx(expected, rel=1e-5)


def test_uniformity_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(13, 25, 6)
    whole = uniformity(x)
    monkeypatch.setattr(fusion.diagnostics, "CHUNK_ROWS", 4)
    assert uniformity(x) == pytest.approx(whole, rel=1e-6)


def test_extremes_of_alignment_and_uniformity() -> None:
    x = draw(14, 20, 64)
    assert alignment_distance(x, 7 * x) == pytest.approx(0, abs=1e-9)
    assert alignment_distance(x, -x) == pytest.approx(4)
    assert uniformity(x[:1].expand(5, 64)) == pytest.approx(0, abs=1e-5)
    assert uniformity(x) < -3


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    x = draw(15, 6, 3)
    with pytest.raises(ValueError, match="semantic must have as many rows as final, 6, got 5"):
        modality_share(x[:5], x, x)
    with pytest.raises(ValueError, match="final must have at least 3 rows, got 2"):
        modality_share(x[:2], x[:2], x[:2])
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        modality_share(x, x, x, temperature=0)
    with pytest.raises(ValueError, match="max_items must be at least 3, got 1"):
        modality_share(x, x, x, max_items=1)
    with pytest.raises(ValueError, match="collaborative must be finite"):
        modality_share(x, x * torch.nan, x)
    with pytest.raises(ValueError, match="x must have at least 2 rows, got 1"):
        uniformity(x[:1])
    with pytest.raises(ValueError, match="x must have at least 1 row, got 0"):
        alignment_distance(x[:0], x[:0])
    for y in (x[:1], x[:, :2]):
        with pytest.raises(ValueError, match=r"y must have the shape of x, \(6, 3\), got"):
            alignment_distance(x, y)
