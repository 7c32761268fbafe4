"""Exact nearest centroids, and exact look-up of known vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from semtok.quantizers.threads import in_threads
from semtok.vectors import CHUNK

_EXACT = 2**21  # numbers in memory at a time in an exact comparison
_FEW = 2**15  # with at most this many numbers, all are compared exactly, without a product first
_BLOCK = 2**18  # costs that are searched at a time, in the cache
_LEAST = 64  # minimal number of vectors of a product, however many centroids there are


def nearest(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
    *,
    device: str = "cpu",
) -> Int64[np.ndarray, " items"]:
    """The nearest centroid of each vector by squared distance, the first of equally near ones.

    The best two are found in float32, after subtracting the mean of the centroids from both sides.
    Only where they are within rounding error of each other are rivals compared in float64. So the
    result of a row never depends on its batch.
    """
    if len(centroids) == 1:
        return np.zeros(len(x), dtype=np.int64)
    if x.shape[1] * len(centroids) * len(x) <= _FEW:
        return _exactly_nearest(x, centroids)
    middle = centroids.mean(axis=0)  # [dim]
    moved = centroids - middle  # [codes, dim]
    sizes = np.einsum("kd,kd->k", moved, moved)  # [codes], squared lengths
    if device == "cpu":
        labels, costs, seconds, squares = best_two(x, centroids)  # [items] each
    else:
        from semtok.quantizers import kmeans_torch

        labels, costs, seconds, squares = kmeans_torch.best_two(x, centroids, device)
    longest = float(np.sqrt(sizes.max()))
    slack = rounding_slack(np.sqrt(squares), longest, x.shape[1])  # [items]
    # Where float32 cannot tell the best two apart, every centroid that may be the nearest is
    # compared in float64.
    for rows in _blocks(np.flatnonzero(seconds - costs <= slack), moved):
        costs = sizes - 2 * ((x[rows] - middle) @ moved.T)  # [rows, codes], less the squares of x
        rivals = costs <= (costs.min(axis=1) + slack[rows])[:, None]  # [rows, codes]
        labels[rows] = _nearest_rivals(x[rows], centroids, rivals)
    return labels


def best_two(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
    prices: Float32[np.ndarray, " codes"] | None = None,
) -> tuple[
    Int64[np.ndarray, " items"],
    Float32[np.ndarray, " items"],
    Float32[np.ndarray, " items"],
    Float32[np.ndarray, " items"],
]:
    """The centroid with the least cost for each vector, in float32, and the second least cost.

    The mean of the centroids is subtracted from vectors x and centroids c. A cost is the squared
    distance |x - c|^2 plus the centroid's price, minus |x|^2, which is the same for all centroids:
    |c|^2 + price - 2 x.c. One product computes all costs: an additional coordinate, which is 1 in
    every vector, holds |c|^2 + price. Blocks are so small that their costs stay in the cache, where
    two searches for the least take a tenth of the product's time. Each thread has its own blocks.

    Returns:
        The centroids, their costs, the second costs (infinite if there is only one centroid),
        and the squares of the vectors.
    """
    num_codes, dim = centroids.shape
    middle = centroids.mean(axis=0)  # [dim]
    factors = np.empty((dim + 1, num_codes), dtype=np.float32)  # [wide, codes], wide = dim + 1
    factors[:-1] = -2 * (centroids - middle).T
    factors[-1] = np.einsum("dk,dk->k", factors[:-1], factors[:-1]) / 4  # |c|^2 of -2 c
    if prices is not None:
        factors[-1] += prices
    labels = np.empty(len(x), dtype=np.int64)
    costs, seconds, squares = (np.empty(len(x), dtype=np.float32) for _ in range(3))

    def search(rows: slice) -> None:
        # Slices of the results are views: what is written into them is in the results.
        results = labels[rows], costs[rows], seconds[rows], squares[rows]
        _search_blocks(x[rows], middle, factors, *results)

    in_threads(search, len(x))
    return labels, costs, seconds, squares


def _search_blocks(
    x: Float32[np.ndarray, "items dim"],
    middle: Float32[np.ndarray, " dim"],
    factors: Float32[np.ndarray, "wide codes"],
    labels: Int64[np.ndarray, " items"],
    costs: Float32[np.ndarray, " items"],
    seconds: Float32[np.ndarray, " items"],
    squares: Float32[np.ndarray, " items"],
) -> None:
    """Fills what `best_two` returns, block by block."""
    wide, num_codes = factors.shape
    size = block_size(len(x), num_codes)
    # Memory for a block, used again for the next: the last coordinate of each vector stays 1.
    block_memory = np.ones((size, wide), dtype=np.float32)
    cost_memory = np.empty((size, num_codes), dtype=np.float32)
    for start in range(0, len(x), size):
        part = x[start : start + size]  # [block, dim]
        block, block_costs = block_memory[: len(part)], cost_memory[: len(part)]
        moved = block[:, :-1]  # [block, dim], a view
        np.subtract(part, middle, out=moved)
        np.einsum("nd,nd->n", moved, moved, out=squares[start : start + size])
        np.matmul(block, factors, out=block_costs)  # [block, codes]
        ends = slice(start, start + size)
        labels[ends], costs[ends], seconds[ends] = two_least(block_costs)


def block_size(num_items: int, num_codes: int) -> int:
    """How many vectors are searched at a time, so that their costs stay in the cache."""
    return max(1, min(num_items, max(_LEAST, _BLOCK // num_codes)))


def two_least(
    costs: Float32[np.ndarray, "items codes"],
) -> tuple[
    Int64[np.ndarray, " items"],
    Float32[np.ndarray, " items"],
    Float32[np.ndarray, " items"],
]:
    """Where each row's least cost is, the cost, and the second; the least becomes infinite."""
    rows = np.arange(len(costs))
    labels = costs.argmin(axis=1)  # [items]
    least = costs[rows, labels]
    costs[rows, labels] = np.inf  # so that the next search gives the second
    return labels, least, costs[rows, costs.argmin(axis=1)]


def rounding_slack(
    lengths: Float32[np.ndarray, " items"], longest: float, dim: int
) -> Float32[np.ndarray, " items"]:
    """An upper bound on the rounding error of squared distances in float32.

    Args:
        lengths: Lengths of the vectors.
        longest: The length of the longest centroid.
        dim: The number of dimensions.
    """
    eps = 8 * np.finfo(np.float32).eps * np.float32(np.sqrt(dim))
    slack: Float32[np.ndarray, " items"] = eps * (lengths + np.float32(longest)) ** 2
    return slack


def _blocks(
    rows: Int64[np.ndarray, " rows"], centroids: Float32[np.ndarray, "codes dim"]
) -> list[Int64[np.ndarray, " _"]]:
    """Rows in blocks, so small that a block's comparison with all centroids fits in memory."""
    size = max(1, _EXACT // centroids.size)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _exactly_nearest(
    x: Float32[np.ndarray, "items dim"], centroids: Float32[np.ndarray, "codes dim"]
) -> Int64[np.ndarray, " items"]:
    gaps = x[:, None].astype(np.float64) - centroids  # [items, codes, dim]
    labels: Int64[np.ndarray, " items"] = (gaps * gaps).sum(axis=2).argmin(axis=1)
    return labels


def _nearest_rivals(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
    rivals: Bool[np.ndarray, "items codes"],
) -> Int64[np.ndarray, " items"]:
    """The nearest rival of each row, which has at least one, in float64."""
    rows, codes = np.nonzero(rivals)  # [pairs] each
    gaps = x[rows].astype(np.float64) - centroids[codes]  # [pairs, dim]
    costs = np.full(rivals.shape, np.inf)  # [items, codes]
    costs[rows, codes] = (gaps * gaps).sum(axis=1)
    labels: Int64[np.ndarray, " items"] = costs.argmin(axis=1)
    return labels


def nearest_of_each(
    x: Float32[np.ndarray, "items dim"],
    firsts: Int64[np.ndarray, " items"],
    counts: Int64[np.ndarray, " items"],
    vectors_of: Callable[[Int64[np.ndarray, " _"]], Float32[np.ndarray, "_ dim"]],
) -> Int64[np.ndarray, " items"]:
    """As `nearest`, where each vector has its own candidates: `counts` of them from `firsts` on.

    Args:
        x: Vectors.
        firsts: The number of each vector's first candidate.
        counts: How many candidates each vector has, at least one.
        vectors_of: Returns the vectors of candidates by their numbers.
    """
    labels = np.empty(len(x), dtype=np.int64)
    ends = np.cumsum(counts)  # of each item's candidates, if all are concatenated
    most = max(int(counts.max(initial=1)), _EXACT // x.shape[1])  # candidates of a block
    start = 0
    while start < len(x):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + most, side="right")))
        block_counts = counts[start:stop]  # [block], items
        begins = np.cumsum(block_counts) - block_counts  # where each item's candidates begin
        # All candidates of the block concatenated, each as its number within its item: [pairs].
        within = np.arange(block_counts.sum()) - np.repeat(begins, block_counts)
        candidates = np.repeat(firsts[start:stop], block_counts) + within
        gaps = vectors_of(candidates).astype(np.float64)  # [pairs, dim]
        gaps -= np.repeat(x[start:stop], block_counts, axis=0)
        costs = (gaps * gaps).sum(axis=1)
        least = np.minimum.reduceat(costs, begins)  # [block]
        best = np.flatnonzero(costs == np.repeat(least, block_counts))
        # The first of an item's equally near candidates: `best` ascends, as `begins` does.
        labels[start:stop] = within[best[np.searchsorted(best, begins)]]
        start = stop
    return labels


class VectorIndex:
    """Finds the rows of known vectors by their exact values."""

    def __init__(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        self._vectors = vectors
        keys = vector_keys(vectors)
        self._order = keys.argsort(kind="stable")
        self._keys = keys[self._order]

    def find(self, x: Float32[np.ndarray, "queries dim"]) -> Int64[np.ndarray, " queries"]:
        """The first row that equals each vector; -1 if no row does."""
        keys = vector_keys(x)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        rows = self._order[places]  # [queries]
        is_known = self._keys[places] == keys
        # Equal keys almost always mean equal vectors; only a comparison of their numbers decides.
        is_known[is_known] = (self._vectors[rows[is_known]] == x[is_known]).all(axis=1)
        return np.where(is_known, rows, -1)


def vector_keys(
    x: Float32[np.ndarray, "items dim"], *, seed: int = 0
) -> UInt64[np.ndarray, " items"]:
    """A 64-bit key per row: equal rows have equal keys, and different rows almost never do."""
    factors = np.random.default_rng(seed).integers(2**63, size=x.shape[1], dtype=np.uint64) * 2 + 1
    keys = np.empty(len(x), dtype=np.uint64)
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK] + np.float32(0)  # -0 becomes 0
        keys[start : start + CHUNK] = (part.view(np.uint32) * factors).sum(axis=1, dtype=np.uint64)
    return keys
