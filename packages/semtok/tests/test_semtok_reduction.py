from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from semtok import CatalogError, Pca, Standardisation, standardised
from sklearn.decomposition import PCA


def vectors(num_items: int, dim: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(num_items, dim)) @ generator.normal(size=(dim, dim)) + 2
    return mixed.astype(np.float32)


@pytest.mark.parametrize("whiten", [False, True])
def test_pca_agrees_with_scikit_learn(whiten: bool) -> None:
    x = vectors(200, 6)
    ours = Pca.fit(x, dim=3, whiten=whiten).transform(x)
    theirs = PCA(n_components=3, whiten=whiten, svd_solver="full").fit_transform(x)
    signs = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours, theirs * signs, atol=1e-3)


def test_rows_do_not_depend_on_batch_or_chunk() -> None:
    x = vectors(1100, 6)
    reduction = Pca.fit(x, dim=4, whiten=True)
    whole = reduction.transform(x)
    for size in (1, 600):
        parts = [reduction.transform(x[start : start + size]) for start in range(0, 1100, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_fitting_learns_from_a_sample_of_a_memory_map(tmp_path: Path) -> None:
    x = vectors(500, 5)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = np.sort(np.random.default_rng(3).choice(500, 200, replace=False))
    sampled = Pca.fit(mapped, dim=2, max_training_items=200, seed=3)
    np.testing.assert_array_equal(sampled.components, Pca.fit(x[rows], dim=2).components)
    everything = Pca.fit(mapped, dim=2).transform(mapped)
    np.testing.assert_array_equal(everything, Pca.fit(x, dim=2).transform(x))


def test_bad_arguments_are_refused() -> None:
    x = vectors(20, 3)
    with pytest.raises(ValueError, match=r"dim must be within \[1, 3\] for x, got 4"):
        Pca.fit(x, dim=4)
    with pytest.raises(ValueError, match="x must hold at least one vector, got none"):
        Pca.fit(x[:0], dim=1)
    with pytest.raises(ValueError, match="max_training_items must be at least 1, got 0"):
        Pca.fit(x, dim=1, max_training_items=0)
    reduction = Pca.fit(x, dim=2)
    with pytest.raises(ValueError, match="x must have dim 3, as the fitted vectors, got 2"):
        reduction.transform(x[:, :2])
    x[4, 1] = np.nan
    with pytest.raises(ValueError, match="got others in row 4"):
        reduction.transform(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", [2, 6, 99])
def test_standardised_vectors_are_centred_and_of_unit_variance(dim: int, dtype: type) -> None:
    x = vectors(200, 6).astype(dtype)
    scaled = standardised(x, dim)
    assert scaled.dtype == np.float32
    assert scaled.shape == (200, min(dim, 6))
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
    assert scaled.std() == pytest.approx(1, abs=1e-5)
    slow = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    if dim < 6:
        slow = PCA(n_components=dim, svd_solver="full").fit_transform(slow)
        slow *= np.sign((slow * scaled).sum(axis=0))
    np.testing.assert_allclose(scaled, slow / slow.std(), atol=1e-3)


def test_vectors_without_variance_are_standardised_to_zeros() -> None:
    assert standardised(np.ones((3, 2), dtype=np.float32), 2).tolist() == [[0, 0]] * 3
    assert standardised(vectors(1, 4), 4).tolist() == [[0] * 4]  # fewer vectors than dimensions
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        standardised(vectors(3, 2), 0)
    with pytest.raises(ValueError, match="vectors must hold at least one vector, got none"):
        standardised(vectors(0, 2), 1)


@pytest.mark.parametrize("dim", [3, 99])
def test_later_vectors_are_standardised_as_the_first_were(tmp_path: Path, dim: int) -> None:
    """By the map of the first, row by row: it is not fitted anew, and outlives the process."""
    first, later = vectors(50, 6), vectors(7, 6, seed=1) + 9
    fitted = Standardisation.fit(first, dim)
    np.testing.assert_array_equal(fitted.transform(first), standardised(first, dim))
    fitted.save(tmp_path / "map")
    loaded = Standardisation.load(tmp_path / "map")
    both = np.concatenate([later, first])
    np.testing.assert_array_equal(loaded.transform(both)[7:], standardised(first, dim))
    reduced = first if fitted.pca is None else fitted.pca.transform(first)
    reduced_later = later if fitted.pca is None else fitted.pca.transform(later)
    slow = (reduced_later - reduced.mean(axis=0)) / (reduced - reduced.mean(axis=0)).std()
    np.testing.assert_allclose(loaded.transform(later), slow, atol=1e-5)
    assert abs(loaded.transform(later).mean()) > 0.2  # its own mean would be 0


def test_a_standardisation_refuses_other_widths_and_damage(tmp_path: Path) -> None:
    fitted = Standardisation.fit(vectors(5, 3), 9)
    with pytest.raises(ValueError, match=r"vectors must have 3 dimensions, as those .* got 4"):
        fitted.transform(vectors(5, 4))
    fitted.save(tmp_path / "map")
    config = tmp_path / "map" / "config.json"
    config.write_text(config.read_text().replace('"scale": ', '"scale": 1'))
    with pytest.raises(CatalogError, match=r"damaged|digest"):
        Standardisation.load(tmp_path / "map")
    with pytest.raises(ValueError, match="scale must be above 0 and finite, got 0"):
        Standardisation(pca=None, mean=fitted.mean, scale=0.0)
