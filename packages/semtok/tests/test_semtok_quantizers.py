"""What every quantizer must do, whatever its kind."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from semtok import CatalogError, random_codes
from semtok.quantizers.contract import Quantizer
from semtok.quantizers.kinds import QUANTIZERS, load_quantizer
from semtok.quantizers.nearest import nearest
from semtok.vectors import as_vectors, stable_product, training_sample

OPTIONS: dict[str, dict[str, object]] = {
    "hierarchical": {},
    "pq": {"num_levels": 3},
    "opq": {"num_levels": 3},
    "rq": {},
    "rqvae": {"latent_dim": 4, "hidden_dims": (16,), "epochs": 3, "batch_size": 64},
    "random": {},
    "views": {},
}


def vectors(num_items: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_items, dim)).astype(np.float32)


def fit(name: str, x: np.ndarray, **options: object) -> Quantizer:
    return QUANTIZERS[name].fit(x, codebook_size=16, **{**OPTIONS[name], **options})


@pytest.fixture(scope="module")
def fitted() -> dict[str, Quantizer]:
    return {name: fit(name, vectors(400)) for name in QUANTIZERS}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_contract_holds(name: str, fitted: dict[str, Quantizer]) -> None:
    quantizer, x = fitted[name], vectors(50, seed=1)
    assert isinstance(quantizer, Quantizer)
    codes = quantizer.encode(x)
    assert codes.dtype == np.int64
    assert codes.shape == (50, quantizer.num_levels)
    assert quantizer.codebook_sizes == (16,) * quantizer.num_levels
    assert quantizer.dim == 6
    assert codes.min() >= 0
    assert codes.max() < 16
    decoded = quantizer.decode(codes)
    assert decoded.dtype == np.float32
    assert decoded.shape == x.shape
    expected = []
    for level in range(1, quantizer.num_levels + 1):
        gaps = x.astype(np.float64) - quantizer.decode(codes[:, :level])
        expected.append(np.mean([sum(gap**2) for gap in gaps]))
    assert quantizer.distortion(x) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codes_are_those_of_the_fitted_vectors(
    name: str, fitted: dict[str, Quantizer], tmp_path: Path
) -> None:
    quantizer = fitted[name]
    np.testing.assert_array_equal(quantizer.codes, quantizer.encode(vectors(400)))
    quantizer.save(tmp_path / "q")
    loaded = load_quantizer(tmp_path / "q")
    if name == "hierarchical":
        np.testing.assert_array_equal(loaded.codes, quantizer.codes)
    else:
        with pytest.raises(ValueError, match="a loaded quantizer does not keep: call encode"):
            _ = loaded.codes


def test_codes_of_equal_vectors_are_told_apart_by_the_tree_alone() -> None:
    x = np.repeat(vectors(6), 2, axis=0)
    assert len(np.unique(fit("hierarchical", x).codes, axis=0)) == 12
    assert len(np.unique(fit("rq", x).codes, axis=0)) == 6


REPRS = {
    "hierarchical": r"HierarchicalKMeans\(\d levels of 16 codes, dim 6, 400 items\)",
    "pq": r"ProductQuantizer\(3 levels of 16 codes, dim 6\)",
    "opq": r"OptimizedProductQuantizer\(3 levels of 16 codes, dim 6\)",
    "rq": r"ResidualQuantizer\(3 levels of 16 codes, dim 6\)",
    "rqvae": r"RqVae\(3 levels of 16 codes, dim 6\)",
    "random": r"RandomCodes\(3 levels of 16 codes, dim 6\)",
    "views": r"ViewQuantizer\(\d levels of 16 codes, dim 6, views HierarchicalKMeans\)",
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_quantizer_says_in_a_line_what_it_is(name: str, fitted: dict[str, Quantizer]) -> None:
    assert re.fullmatch(REPRS[name], repr(fitted[name]))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codes_do_not_depend_on_batch_or_place(name: str, fitted: dict[str, Quantizer]) -> None:
    quantizer, x = fitted[name], vectors(203, seed=2)
    whole = quantizer.encode(x)
    for size in (1, 7, 100):
        parts = [quantizer.encode(x[start : start + size]) for start in range(0, len(x), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_array_equal(quantizer.encode(x[order]), whole[order])
    np.testing.assert_array_equal(quantizer.encode(x.astype(np.float64)), whole)
    decoded = quantizer.decode(whole)
    alone = np.concatenate([quantizer.decode(row[None]) for row in whole])
    np.testing.assert_array_equal(alone, decoded)
    assert quantizer.encode(x[:0]).shape == (0, quantizer.num_levels)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codes_do_not_depend_on_the_chunk(
    name: str, fitted: dict[str, Quantizer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quantizer, x = fitted[name], vectors(203, seed=2)
    whole = quantizer.encode(x)
    for module in ("vectors", "quantizers.nearest"):
        monkeypatch.setattr(f"semtok.{module}.CHUNK", 13)
    monkeypatch.setattr("semtok.quantizers.hierarchical.ENCODED_NUMBERS", 60)
    monkeypatch.setattr("semtok.vectors.vector_chunks.__kwdefaults__", {"dim": None, "size": 13})
    np.save(tmp_path / "x.npy", x)
    np.testing.assert_array_equal(
        quantizer.encode(np.load(tmp_path / "x.npy", mmap_mode="r")), whole
    )


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_same_seed_gives_the_same_quantizer(name: str, tmp_path: Path) -> None:
    x, new = vectors(120), vectors(40, seed=1)
    first, second, other = (fit(name, x, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.encode(new), second.encode(new))
    assert not np.array_equal(first.encode(new), other.encode(new))
    for quantizer, folder in ((first, "a"), (second, "b")):
        quantizer.save(tmp_path / folder)
    for path in (tmp_path / "a").rglob("*.*"):
        twin = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == twin.read_bytes()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_what_is_saved_is_what_is_loaded(
    name: str, fitted: dict[str, Quantizer], tmp_path: Path
) -> None:
    quantizer, x = fitted[name], vectors(60, seed=3)
    quantizer.save(tmp_path / "q")
    loaded = load_quantizer(tmp_path / "q")
    assert type(loaded) is type(quantizer)
    assert loaded.codebook_sizes == quantizer.codebook_sizes
    codes = quantizer.encode(x)
    np.testing.assert_array_equal(loaded.encode(x), codes)
    np.testing.assert_array_equal(loaded.decode(codes), quantizer.decode(codes))
    with pytest.raises(FileExistsError, match="exists already"):
        quantizer.save(tmp_path / "q")


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_damaged_folder_is_refused(
    name: str, fitted: dict[str, Quantizer], tmp_path: Path
) -> None:
    fitted[name].save(tmp_path / "q")
    weights = tmp_path / "q" / "tensors.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(CatalogError, match=r"tensors\.safetensors: damaged, its digest differs"):
        load_quantizer(tmp_path / "q")
    weights.unlink()
    with pytest.raises(CatalogError, match=r"tensors\.safetensors"):
        load_quantizer(tmp_path / "q")


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize(("num_items", "num_distinct"), [(1, 1), (5, 5), (40, 1), (40, 3)])
def test_few_or_identical_vectors(name: str, num_items: int, num_distinct: int) -> None:
    x = vectors(num_distinct)[np.arange(num_items) % num_distinct]
    quantizer = fit(name, x)
    codes = quantizer.encode(x)
    np.testing.assert_array_equal(codes, codes[np.arange(num_items) % num_distinct])
    if name != "random":  # enough codes for all: each vector has its own
        assert len(np.unique(codes, axis=0)) == num_distinct
    if name in ("hierarchical", "pq", "opq", "rq"):
        assert quantizer.distortion(x)[-1] < 1e-9
    assert np.isfinite(quantizer.decode(codes)).all()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_bad_vectors_and_codes_are_refused(name: str, fitted: dict[str, Quantizer]) -> None:
    quantizer = fitted[name]
    for value in (np.nan, np.inf, -np.inf, 1e16):
        bad = vectors(20)
        bad[7, 2] = value
        for call in (quantizer.encode, quantizer.distortion, lambda x: fit(name, x)):
            with pytest.raises(ValueError, match=r"finite numbers .* got others in row 7"):
                call(bad)
    with pytest.raises(ValueError, match="x must have dim 6, as the fitted vectors, got 5"):
        quantizer.encode(vectors(3, 5))
    with pytest.raises(ValueError, match="x must hold at least one vector, got none"):
        fit(name, vectors(0))
    with pytest.raises(ValueError, match="x must hold at least one vector, got none"):
        quantizer.distortion(vectors(0))
    with pytest.raises(ValueError, match=r"codes must .* got \[16"):
        quantizer.decode(np.full((1, quantizer.num_levels), 16))
    with pytest.raises(ValueError, match=r"codes must .* got \[-1"):
        quantizer.decode(np.full((1, quantizer.num_levels), -1))
    with pytest.raises(ValueError, match=f"codes must have 1 to {quantizer.num_levels} levels"):
        quantizer.decode(np.zeros((1, quantizer.num_levels + 1), dtype=np.int64))
    with pytest.raises(ValueError, match="codebook_size must be at least 2, got 1"):
        QUANTIZERS[name].fit(vectors(9), codebook_size=1)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        fit(name, vectors(9), seed=-1)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_progress_reaches_the_end(name: str) -> None:
    calls: list[tuple[int, int]] = []
    fit(name, vectors(60), progress=lambda done, of: calls.append((done, of)))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize("name", ["pq", "opq", "rq", "rqvae"])
def test_fitting_learns_from_a_sample(name: str) -> None:
    x = vectors(500)
    quantizer = fit(name, x, max_training_items=100, seed=5)
    rows = np.sort(np.random.default_rng(5).choice(500, 100, replace=False))
    alone = fit(name, x[rows], seed=5)
    np.testing.assert_array_equal(quantizer.encode(x), alone.encode(x))
    with pytest.raises(ValueError, match="max_training_items must be at least 1, got 0"):
        fit(name, x, max_training_items=0)


def test_float32_vectors_are_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", vectors(30))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.shares_memory(as_vectors(x), x)
    assert np.shares_memory(training_sample(x, max_training_items=30, seed=0), x)
    assert training_sample(x, max_training_items=7, seed=0).shape == (7, 6)


def test_nearest_agrees_with_plain_python() -> None:
    centroids = np.repeat(vectors(40, 32), 2, axis=0)  # each twice: the first one wins
    x = np.concatenate([vectors(300, 32, seed=1), (centroids[:-2:2] + centroids[2::2]) / 2])
    expected = []
    for row in x.astype(np.float64):
        costs = [sum((row - centroid.astype(np.float64)) ** 2) for centroid in centroids]
        expected.append(costs.index(min(costs)))
    labels = nearest(x, centroids)
    distances = ((x.astype(np.float64) - centroids[labels]) ** 2).sum(axis=1)
    best = ((x.astype(np.float64) - centroids[expected]) ** 2).sum(axis=1)
    np.testing.assert_allclose(distances, best, rtol=1e-12)
    assert (labels[:300] == expected[:300]).all()
    assert (labels % 2 == 0).all()


def test_a_stable_product_is_a_product() -> None:
    x, matrix = vectors(1100, 5), vectors(5, 3, seed=1)
    np.testing.assert_allclose(stable_product(x, matrix), x.astype(float) @ matrix, rtol=1e-9)
    alone = np.concatenate([stable_product(row[None], matrix) for row in x[:50]])
    np.testing.assert_array_equal(alone, stable_product(x, matrix)[:50])


def test_random_codes_are_spread_evenly_and_by_value_alone() -> None:
    x = vectors(4096)
    quantizer = QUANTIZERS["random"].fit(x, num_levels=2, codebook_size=8)
    codes = quantizer.encode(x)
    counts = np.bincount(codes[:, 0] * 8 + codes[:, 1], minlength=64)
    assert 25 < counts.min() <= counts.max() < 115  # 64 expected, 8 the standard deviation
    assert quantizer.distortion(x)[1] == pytest.approx(x.var(axis=0).sum(), rel=1e-4)
    zero = np.zeros((2, 6), dtype=np.float32)
    zero[1] = -0.0
    assert (quantizer.encode(zero)[0] == quantizer.encode(zero)[1]).all()


def test_random_codes_of_a_number_of_items_stay_available() -> None:
    assert random_codes(300, codebook_size=16).shape == (300, 3)
