from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semtok.quantizers.beams import nearest_beams
from semtok.quantizers.residual import ResidualQuantizer


def vectors(num_items: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_items, dim)).astype(np.float32)


def oracle_codes(codebooks: np.ndarray, x: np.ndarray, num_beams: int) -> list[list[int]]:
    """Beam search over sums of centroids, in plain Python; one beam takes the nearest each time."""
    codes = []
    for row in x.astype(np.float64):
        beams: list[tuple[float, list[int], np.ndarray]] = [(0.0, [], row)]
        for codebook in codebooks.astype(np.float64):
            wider = []
            for _, path, left in beams:
                for code, centroid in enumerate(codebook):
                    gap = left - centroid
                    wider.append((float(sum(gap**2)), [*path, code], gap))
            wider.sort(key=lambda beam: beam[0])
            beams = wider[:num_beams]
        codes.append(beams[0][1])
    return codes


def test_encode_agrees_with_plain_python() -> None:
    x, new = vectors(300, 5), vectors(60, 5, seed=1)
    quantizer = ResidualQuantizer.fit(x, num_levels=3, codebook_size=12)
    for num_beams in (1, 2, 5):
        codes = quantizer.encode(new, num_beams=num_beams)
        assert codes.tolist() == oracle_codes(quantizer.codebooks, new, num_beams)
    sums = sum(quantizer.codebooks[level][codes[:, level]] for level in range(3))
    np.testing.assert_allclose(quantizer.decode(codes), sums, atol=1e-6)


def test_beams_wide_enough_find_the_best_sum() -> None:
    x, codebooks = vectors(30, 3), vectors(15, 3, seed=1).reshape(3, 5, 3)
    sums = [
        sum(codebooks[level][code] for level, code in enumerate(p))
        for p in product(range(5), repeat=3)
    ]
    best = ((x[:, None] - np.array(sums)[None]) ** 2).sum(axis=2).argmin(axis=1)
    paths = nearest_beams(x, codebooks, 125)
    assert (paths @ [25, 5, 1]).tolist() == best.tolist()


def test_more_beams_come_closer() -> None:
    x = vectors(2000, 8)
    quantizer = ResidualQuantizer.fit(x, num_levels=4, codebook_size=8)
    errors = [
        np.square(x - quantizer.decode(quantizer.encode(x, num_beams=beams))).sum(axis=1).mean()
        for beams in (1, 4, 16)
    ]
    assert errors[0] > 1.03 * errors[1]
    assert errors[1] > errors[2]
    wide = ResidualQuantizer(codebooks=quantizer.codebooks, num_beams=4)
    np.testing.assert_array_equal(wide.encode(x[:50]), quantizer.encode(x[:50], num_beams=4))
    with pytest.raises(ValueError, match="num_beams must be at least 1, got 0"):
        quantizer.encode(x, num_beams=0)


def test_beams_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, codebooks = vectors(200, 6), vectors(30, 6, seed=1).reshape(3, 10, 6)
    codebooks[:, 5:] = codebooks[:, :5]  # ties everywhere
    whole = nearest_beams(x, codebooks, 4)
    alone = np.concatenate([nearest_beams(row[None], codebooks, 4) for row in x])
    np.testing.assert_array_equal(alone, whole)
    monkeypatch.setattr("semtok.quantizers.beams.NUM_COSTS", 500)
    np.testing.assert_array_equal(nearest_beams(x, codebooks, 4), whole)
    assert whole.max() < 5


@settings(max_examples=25, deadline=None)
@given(
    num_items=st.integers(2, 120),
    dim=st.integers(1, 8),
    codebook_size=st.integers(2, 12),
    num_levels=st.integers(1, 5),
    seed=st.integers(0, 5),
)
def test_every_level_improves_on_the_one_before(
    num_items: int, dim: int, codebook_size: int, num_levels: int, seed: int
) -> None:
    x = vectors(num_items, dim, seed)
    quantizer = ResidualQuantizer.fit(
        x, num_levels=num_levels, codebook_size=codebook_size, seed=seed
    )
    distortion = quantizer.distortion(x)
    assert all(b <= a + 1e-9 for a, b in pairwise(distortion))
    if num_items > 2 * codebook_size:
        assert all(b < a for a, b in pairwise(distortion))


@pytest.mark.parametrize(("num_items", "dim"), [(3, 4), (40, 64), (64, 64)])
def test_a_small_catalogue_of_long_vectors_is_quantized(num_items: int, dim: int) -> None:
    x = vectors(num_items, dim)
    quantizer = ResidualQuantizer.fit(x, num_levels=3, codebook_size=2)
    distortion = quantizer.distortion(x)
    assert all(b < a for a, b in pairwise(distortion))


def test_distortion_falls_by_as_much_as_that_of_faiss() -> None:
    import faiss

    x = vectors(3000, 16)
    peer = faiss.ResidualQuantizer(16, 3, 5)
    peer.max_beam_size = 1
    peer.train(x)
    theirs = np.square(x - peer.decode(peer.compute_codes(x))).sum(axis=1).mean()
    ours = ResidualQuantizer.fit(x, num_levels=3, codebook_size=32).distortion(x)[-1]
    assert ours < 1.02 * theirs
