"""k-means by torch, here on the CPU, beside that of faiss and numpy."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from semtok import QUANTIZERS
from semtok.quantizers import kmeans_torch
from semtok.quantizers.kmeans import check_kmeans_device, kmeans
from semtok.quantizers.nearest import nearest


def mixture(items: int, dim: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(40, dim)) * np.linspace(3, 0.3, dim)
    x = centres[generator.integers(40, size=items)] + generator.normal(size=(items, dim)) * 0.4
    return (x + 5).astype(np.float32)


def objective(x: np.ndarray, centroids: np.ndarray) -> float:
    gaps = x.astype(np.float64) - centroids[nearest(x, centroids)]
    return float((gaps * gaps).sum(axis=1).mean())


def exactly_nearest(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    gaps = x[:, None].astype(np.float64) - centroids
    return (gaps * gaps).sum(axis=2).argmin(axis=1)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("num_codes", [2, 16, 64])
def test_centroids_are_as_good_as_those_of_faiss(num_codes, progressive):
    # One cloud: where clusters are clear, k-means ends in optima that differ much by seed.
    x = np.random.default_rng(0).normal(size=(3000, 24)).astype(np.float32)
    options = {"iterations": 20, "progressive": progressive}
    expected = np.mean([objective(x, kmeans(x, num_codes, seed=s, **options)) for s in range(3)])
    reached = np.mean(
        [
            objective(x, kmeans_torch.centroids_of(x, num_codes, seed=s, device="cpu", **options))
            for s in range(3)
        ]
    )
    assert reached == pytest.approx(expected, rel=0.01)
    assert reached < float(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean())


def test_each_round_lowers_the_objective_and_ends_at_means():
    x = mixture(500, 6)
    reached = [
        objective(
            x,
            kmeans_torch.centroids_of(
                x, 8, iterations=rounds, progressive=False, seed=1, device="cpu"
            ),
        )
        for rounds in (1, 3, 60)
    ]
    assert reached[0] > reached[1] > reached[2]
    centroids = kmeans_torch.centroids_of(
        x, 8, iterations=100, progressive=False, seed=1, device="cpu"
    )
    labels = nearest(x, centroids)
    means = np.stack([x[labels == code].mean(axis=0) for code in range(8)])
    np.testing.assert_allclose(centroids, means, rtol=1e-4)


def test_a_centroid_without_vectors_gets_half_of_the_largest_cluster():
    centroids = torch.tensor([[1.0, 1.0], [7.0, 7.0], [4.0, -2.0]])
    counts = torch.tensor([3.0, 0.0, 9.0])
    kmeans_torch._split(centroids, counts)
    assert counts.tolist() == [3.0, 4.5, 4.5]
    torch.testing.assert_close((centroids[1] + centroids[2]) / 2, torch.tensor([4.0, -2.0]))
    assert not torch.equal(centroids[1], centroids[2])
    assert centroids[0].tolist() == [1.0, 1.0]


def test_the_same_seed_gives_the_same_centroids_and_another_one_others():
    x = mixture(400, 5)
    first, again, other = (
        kmeans_torch.centroids_of(x, 9, iterations=3, progressive=True, seed=seed, device="cpu")
        for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@given(
    items=st.integers(0, 60),
    num_codes=st.integers(2, 40),
    dim=st.integers(1, 9),
    seed=st.integers(0, 99),
    shift=st.sampled_from([0.0, 1e4]),
)
@settings(max_examples=60, deadline=None)
def test_assignments_are_exactly_those_of_the_cpu(items, num_codes, dim, seed, shift):
    generator = np.random.default_rng(seed)
    # Coarse numbers: many vectors lie as near to one centroid as to another.
    x = (generator.integers(-3, 4, size=(items, dim)) / 2 + shift).astype(np.float32)
    centroids = (generator.integers(-3, 4, size=(num_codes, dim)) / 2 + shift).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:  # small ones would be compared exactly at once
        patch.setattr("semtok.quantizers.nearest._FEW", 0)
        on_device = nearest(x, centroids, device="cpu:0")
        on_cpu = nearest(x, centroids)
    assert np.array_equal(on_device, on_cpu)
    assert np.array_equal(on_device, exactly_nearest(x, centroids))


def test_blocks_do_not_change_the_best_two(monkeypatch):
    x, centroids = mixture(300, 7), mixture(20, 7, seed=1)
    expected = kmeans_torch.best_two(x, centroids, "cpu")
    monkeypatch.setattr(kmeans_torch, "_COSTS", 700)  # 35 vectors a block
    for part, expected_part in zip(
        kmeans_torch.best_two(x, centroids, "cpu"), expected, strict=True
    ):
        np.testing.assert_allclose(part, expected_part, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["hierarchical", "pq", "opq", "rq"])
def test_quantizers_on_a_device_are_as_good_and_encode_alike(name):
    x = np.random.default_rng(0).normal(size=(1500, 12)).astype(np.float32)
    options = {"codebook_size": 16, "seed": 0}
    on_cpu = QUANTIZERS[name].fit(x, **options)
    on_device = QUANTIZERS[name].fit(x, device="cpu:0", **options)
    assert on_device.distortion(x)[0] == pytest.approx(on_cpu.distortion(x)[0], rel=0.1)
    assert np.array_equal(on_device.encode(x), on_device.codes)


def test_what_is_loaded_encodes_on_the_cpu_to_the_same_codes(tmp_path):
    x = mixture(800, 10)
    for name in ("rq", "pq"):
        fitted = QUANTIZERS[name].fit(x, codebook_size=16, device="cpu:0")
        fitted.save(tmp_path / name)
        loaded = type(fitted).load(tmp_path / name)
        assert (fitted.device, loaded.device) == ("cpu:0", "cpu")
        assert np.array_equal(loaded.encode(x), fitted.encode(x))


@pytest.mark.parametrize("name", ["hierarchical", "pq", "rq"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match="device must be one that torch can use here, got 'no'"):
        QUANTIZERS[name].fit(mixture(50, 4), device="no")


def test_a_device_without_torch_is_refused(monkeypatch):
    load = builtins.__import__

    def without_torch(name, *arguments, **options):
        if name == "torch":
            raise ModuleNotFoundError(name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    check_kmeans_device("cpu")
    with pytest.raises(ValueError, match="device must be 'cpu' where torch is missing, got 'cuda'"):
        check_kmeans_device("cuda")
