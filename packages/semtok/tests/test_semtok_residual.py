from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semtok.quantizers.beams import nearest_beams
from semtok.quantizers.greedy import GreedySearch, greedy_codes
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


def spread_codebooks(
    num_levels: int, num_codes: int, dim: int, *, far: float, twins: bool, seed: int
) -> np.ndarray:
    """Codebooks whose means may lie far apart, and whose centroids may come twice."""
    rng = np.random.default_rng(seed)
    codebooks = rng.normal(size=(num_levels, num_codes, dim)) + far * rng.normal(
        size=(num_levels, 1, dim)
    )
    if twins:
        codebooks[:, num_codes // 2 :] = codebooks[:, : num_codes - num_codes // 2]
    return codebooks.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    num_levels=st.integers(1, 5),
    num_codes=st.integers(1, 40),
    dim=st.integers(1, 20),
    far=st.sampled_from([0.0, 1.0, 1e3, 1e6]),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    twins=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_block_through_all_levels_gives_the_codes_of_level_by_level(
    num_levels: int, num_codes: int, dim: int, far: float, scale: float, twins: bool, seed: int
) -> None:
    codebooks = spread_codebooks(num_levels, num_codes, dim, far=far, twins=twins, seed=seed)
    codebooks *= np.float32(scale)
    # Sums of centroids: half of them lie halfway between two, where float32 cannot decide.
    rng = np.random.default_rng(seed + 1)
    sums = codebooks[np.arange(num_levels), rng.integers(num_codes, size=(80, num_levels))].sum(1)
    x = np.concatenate([sums[:40], (sums[:40] + sums[40:]) / 2]).astype(np.float32)
    np.testing.assert_array_equal(GreedySearch(codebooks).codes(x), greedy_codes(x, codebooks))


def test_blocks_and_threads_give_the_codes_of_level_by_level() -> None:
    codebooks = spread_codebooks(3, 256, 32, far=0.5, twins=False, seed=0)
    x = vectors(9000, 32) * np.float32(2)
    codes = GreedySearch(codebooks).codes(x)
    np.testing.assert_array_equal(codes, greedy_codes(x, codebooks))
    assert min(len(np.unique(codes[:, level])) for level in range(3)) > 200


def test_only_near_ties_are_searched_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []

    def counted(x: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
        searched.append(len(x))
        return greedy_codes(x, codebooks)

    monkeypatch.setattr("semtok.quantizers.greedy.greedy_codes", counted)
    codebooks = spread_codebooks(3, 64, 16, far=0.0, twins=False, seed=0)
    for scale in (1e-6, 1.0, 1e6):  # what is near goes by the vectors' own size
        factor = np.float32(scale)
        GreedySearch(codebooks * factor).codes(vectors(2000, 16) * factor)
    twins = spread_codebooks(3, 64, 16, far=0.0, twins=True, seed=0)
    GreedySearch(twins).codes(vectors(2000, 16))
    assert max(searched[:3]) < 20
    assert searched[3] == 2000


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
