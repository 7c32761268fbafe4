from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from semtok import CatalogError, HierarchicalKMeans, random_codes
from semtok.quantizers.balanced import balanced_assignment, balanced_kmeans
from semtok.quantizers.kinds import load_quantizer
from semtok.quantizers.nearest import VectorIndex, nearest


def vectors(num_items: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_items, dim)).astype(np.float32)


def oracle_path(tree: HierarchicalKMeans, x: np.ndarray) -> list[int]:
    """Nearest centroid from the root down, in plain Python."""
    children: list[list[int]] = []
    following = 1
    for count in tree.num_children.tolist():
        children.append(list(range(following, following + count)))
        following += count
    item_of_leaf = {leaf: item for item, leaf in enumerate(tree.leaves.tolist())}
    inner = [node for node, below in enumerate(children) if below]

    def vector(node: int) -> np.ndarray:
        if node in item_of_leaf:
            return tree.vectors[item_of_leaf[node]]
        return tree.centroids[inner.index(node)]

    path, node = [], 0
    while children[node]:
        distances = [
            sum((float(a) - float(b)) ** 2 for a, b in zip(x, vector(child), strict=True))
            for child in children[node]
        ]
        path.append(distances.index(min(distances)))
        node = children[node][path[-1]]
    return path + [0] * (tree.num_levels - len(path))


@pytest.mark.parametrize("balanced", [False, True])
def test_encode_agrees_with_plain_python(balanced: bool) -> None:
    x = vectors(150, 5)
    tree = HierarchicalKMeans.fit(x, codebook_size=6, balanced=balanced)
    new = vectors(60, 5, seed=1)
    assert tree.encode(new).tolist() == [oracle_path(tree, row) for row in new]
    if not balanced:  # fitted items lie where their nearest centroids lead
        paths = [oracle_path(tree, row) for row in x]
        same = [path == codes for path, codes in zip(paths, tree.codes.tolist(), strict=True)]
        assert np.mean(same) > 0.9


@settings(max_examples=40, deadline=None)
@given(
    num_items=st.integers(1, 70),
    num_distinct=st.integers(1, 70),
    codebook_size=st.integers(2, 9),
    dim=st.integers(1, 4),
    balanced=st.booleans(),
    scale=st.sampled_from([0.0, 1e-20, 1.0, 1e14]),
    seed=st.integers(0, 3),
)
def test_every_fitted_item_has_a_path_of_its_own(
    num_items: int,
    num_distinct: int,
    codebook_size: int,
    dim: int,
    balanced: bool,
    scale: float,
    seed: int,
) -> None:
    distinct = vectors(num_distinct, dim, seed) * np.float32(scale)
    x = distinct[np.random.default_rng(seed).integers(num_distinct, size=num_items)]
    tree = HierarchicalKMeans.fit(x, codebook_size=codebook_size, balanced=balanced, seed=seed)
    codes = tree.codes
    assert codes.shape == (num_items, tree.num_levels)
    assert len(np.unique(codes, axis=0)) == num_items
    assert codes.min() >= 0
    assert codes.max() < codebook_size
    np.testing.assert_array_equal(tree.decode(codes), x)
    # The codes of a vector are those of the first item that has it.
    firsts = [next(i for i in range(num_items) if (x[i] == row).all()) for row in x]
    np.testing.assert_array_equal(tree.encode(x), codes[firsts])
    np.testing.assert_array_equal(tree.decode(tree.encode(x)), x)
    if num_items <= codebook_size:
        assert codes.tolist() == [[row] for row in range(num_items)]


def test_a_cluster_of_one_stands_for_its_item() -> None:
    # Stopped early, k-means leaves clusters of one whose centroid is a mean of several items.
    x = vectors(60, 2)
    tree = HierarchicalKMeans.fit(x, codebook_size=40, iterations=1)
    assert (np.bincount(tree.codes[:, 0]) == 1).sum() > 10
    np.testing.assert_array_equal(tree.decode(tree.codes), x)
    np.testing.assert_array_equal(tree.encode(x), tree.codes)


def test_a_cluster_that_fits_gets_one_child_an_item() -> None:
    x = vectors(300, 8)
    tree = HierarchicalKMeans.fit(x, codebook_size=16)
    for code in range(16):
        cluster = tree.codes[tree.codes[:, 0] == code]
        if len(cluster) <= 16:
            assert sorted(cluster[:, 1].tolist()) == list(range(len(cluster)))
            assert (cluster[:, 2:] == 0).all()


@settings(max_examples=20, deadline=None)
@given(num_items=st.integers(1, 80), size=st.integers(2, 12), num_distinct=st.integers(1, 80))
def test_balanced_sizes_differ_by_at_most_one(num_items: int, size: int, num_distinct: int) -> None:
    x = vectors(num_distinct, 3)[np.arange(num_items) % num_distinct]
    codes = HierarchicalKMeans.fit(x, codebook_size=size, balanced=True).codes
    groups = [codes]
    for level in range(codes.shape[1]):
        below = []
        for group in groups:
            if len(group) > 1 or level == 0:
                parts = [group[group[:, level] == code] for code in np.unique(group[:, level])]
                assert len(parts) == min(len(group), size)
                sizes = [len(part) for part in parts]
                assert max(sizes) - min(sizes) <= 1
                below += parts
        groups = below


def test_balanced_assignment_costs_little_more_than_the_best() -> None:
    x, centroids = vectors(120, 4), vectors(6, 4, seed=1)
    squares = ((x[:, None].astype(float) - centroids[None]) ** 2).sum(axis=2)
    rows, columns = linear_sum_assignment(np.repeat(squares, 20, axis=1))
    best = squares[rows, columns // 20].sum()
    labels = balanced_assignment(x, np.arange(120), centroids, np.zeros(6, dtype=np.float32))
    assert np.bincount(labels).tolist() == [20] * 6
    assert best <= squares[np.arange(120), labels].sum() + 1e-3
    assert squares[np.arange(120), labels].sum() < 1.06 * best


def test_balanced_clusters_are_nearly_as_tight_as_plain_ones() -> None:
    x = vectors(2000, 8)
    plain = HierarchicalKMeans.fit(x, codebook_size=32).distortion(x)[0]
    balanced = HierarchicalKMeans.fit(x, codebook_size=32, balanced=True).distortion(x)[0]
    shuffled = float(x.var(axis=0).sum()) * (1 - 32 / 2000)
    assert balanced < plain + 0.05 * (shuffled - plain)


def test_balanced_kmeans_on_a_sample_still_balances_all_rows() -> None:
    x = vectors(2001, 4)
    rows = np.arange(0, 2001, 2)
    labels, centroids = balanced_kmeans(x, rows, x[rows[:100]], x[:8])
    assert sorted(np.bincount(labels).tolist()) == [125] * 7 + [126]
    for code in range(8):
        np.testing.assert_allclose(centroids[code], x[rows[labels == code]].mean(axis=0), atol=1e-5)
    with pytest.raises(ValueError, match="centroids must be at most 3"):
        balanced_kmeans(x, rows[:3], x[:3], x[:8])


def test_distortion_is_the_mean_squared_distance_to_each_prefix() -> None:
    x = vectors(200, 4)
    tree = HierarchicalKMeans.fit(x, codebook_size=8)
    new = vectors(50, 4, seed=1)
    codes = tree.encode(new)
    expected = [
        np.mean([((a - b) ** 2).sum() for a, b in zip(new, tree.decode(part), strict=True)])
        for part in (codes[:, : level + 1] for level in range(tree.num_levels))
    ]
    assert tree.distortion(new) == pytest.approx(expected, rel=1e-5)
    assert tree.distortion(x)[-1] == 0


def test_fitting_is_deterministic_and_encoding_independent_of_the_batch() -> None:
    x, new = vectors(600, 8), vectors(60, 8, seed=1)
    for balanced in (False, True):
        trees = [
            HierarchicalKMeans.fit(x, codebook_size=16, balanced=balanced, seed=5) for _ in range(2)
        ]
        np.testing.assert_array_equal(trees[0].codes, trees[1].codes)
        np.testing.assert_array_equal(trees[0].centroids, trees[1].centroids)
        whole = trees[0].encode(new)
        for size in (1, 7, 32):
            parts = [trees[0].encode(new[i : i + size]) for i in range(0, len(new), size)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)
    other = HierarchicalKMeans.fit(x, codebook_size=16, seed=6)
    assert not np.array_equal(
        other.centroids, HierarchicalKMeans.fit(x, codebook_size=16).centroids
    )


def test_nearest_is_exact_where_float32_is_not() -> None:
    # Far from the origin, |c|^2 - 2xc loses all the digits that tell these centroids apart.
    centroids = vectors(20, 6) + np.float32(3000)
    x = vectors(500, 6, seed=1) + np.float32(3000)
    expected = ((x[:, None].astype(float) - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest(x, centroids), expected)
    np.testing.assert_array_equal(nearest(x, np.repeat(centroids, 2, axis=0)), 2 * expected)


def test_vectors_are_found_by_value() -> None:
    x = vectors(50, 3)
    x[7] = x[3]
    x[9] = 0
    index = VectorIndex(x)
    queries = np.concatenate([x, x + np.float32(1e-3), np.full((1, 3), -0.0, dtype=np.float32)])
    expected = [3 if row == 7 else row for row in range(50)] + [-1] * 50 + [9]
    assert index.find(queries).tolist() == expected


def test_progress_reaches_the_number_of_items() -> None:
    calls: list[tuple[int, int]] = []
    HierarchicalKMeans.fit(
        vectors(100, 3), codebook_size=4, progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (100, 100)
    assert calls == sorted(calls)


def test_round_trip(tmp_path: Path) -> None:
    x = vectors(100, 4)
    tree = HierarchicalKMeans.fit(x, codebook_size=5, balanced=True)
    tree.save(tmp_path / "q")
    loaded = load_quantizer(tmp_path / "q")
    assert isinstance(loaded, HierarchicalKMeans)
    assert (loaded.codebook_sizes, loaded.balanced) == (tree.codebook_sizes, True)
    np.testing.assert_array_equal(loaded.codes, tree.codes)
    np.testing.assert_array_equal(loaded.encode(x + 1), tree.encode(x + 1))
    with pytest.raises(FileExistsError, match="exists already"):
        tree.save(tmp_path / "q")


def by_hand(folder: Path, **changes: object) -> None:
    """Changes a folder's config.json as a person would: without the digests of what it was."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), "format": 1, **changes}
    for name in ("digest", "files"):
        config.pop(name, None)
    path.write_text(json.dumps(config))


def test_a_corrupt_folder_is_refused(tmp_path: Path) -> None:
    tree = HierarchicalKMeans.fit(vectors(20, 2), codebook_size=4)
    for name, damage, words in (
        ("newer", {"format": 9}, "has format 9, this semtok reads up to 2"),
        ("other", {"kind": "abacus"}, "unknown kind of quantizer 'abacus'"),
        ("small", {"codebook_size": 2}, "corrupt .num_children must be within"),
        ("typed", {"codebook_size": "many"}, "corrupt"),
    ):
        tree.save(tmp_path / name)
        by_hand(tmp_path / name, **damage)
        with pytest.raises(CatalogError, match=words):
            load_quantizer(tmp_path / name)
    tree.save(tmp_path / "cut")
    weights = tmp_path / "cut" / "tensors.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(CatalogError, match=r"tensors\.safetensors: damaged, its digest differs"):
        load_quantizer(tmp_path / "cut")
    weights.unlink()
    with pytest.raises(CatalogError, match=r"tensors\.safetensors"):
        load_quantizer(tmp_path / "cut")
    with pytest.raises(CatalogError, match=r"no config.json there"):
        load_quantizer(tmp_path)


def test_bad_arguments_are_refused() -> None:
    x = vectors(20, 2)
    for options, words in (
        ({"codebook_size": 1}, "codebook_size must be at least 2, got 1"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=words):
            HierarchicalKMeans.fit(x, **options)
    for value in (np.nan, np.inf, 1e16):
        bad = x.copy()
        bad[3, 1] = value
        with pytest.raises(ValueError, match=r"finite numbers .* got others in row 3"):
            HierarchicalKMeans.fit(bad)
    with pytest.raises(ValueError, match="at least one vector"):
        HierarchicalKMeans.fit(x[:0])
    tree = HierarchicalKMeans.fit(x, codebook_size=4)
    with pytest.raises(ValueError, match="x must have dim 2"):
        tree.encode(vectors(3, 5))
    with pytest.raises(ValueError, match=r"codes must be paths of the tree, got \[9"):
        tree.decode(np.full((1, tree.num_levels), 9))
    with pytest.raises(ValueError, match="codes must have 1 to"):
        tree.decode(np.zeros((1, 9), dtype=np.int64))


@given(num_items=st.integers(1, 300), size=st.integers(2, 20), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_random_codes_are_unique_and_short(num_items: int, size: int, seed: int) -> None:
    codes = random_codes(num_items, codebook_size=size, seed=seed)
    assert len(np.unique(codes, axis=0)) == num_items
    assert codes.max() < size
    assert codes.shape[1] == 1 or size ** (codes.shape[1] - 1) < num_items
    np.testing.assert_array_equal(codes, random_codes(num_items, codebook_size=size, seed=seed))


def test_random_codes_refuse_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_items must be at least 1"):
        random_codes(0)
    with pytest.raises(ValueError, match="codebook_size must be at least 2"):
        random_codes(3, codebook_size=1)
