"""Exact nearest centroids, and exact look-up of known vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from semtok.quantizers.threads import in_threads
from semtok.quantizers.vectors import CHUNK

_EXACT = 2**21  # numbers that an exact comparison holds at a time
_FEW = 2**15  # numbers to compare exactly at once, without a product first
_BLOCK = 2**18  # costs that are searched at a time, in the cache
_LEAST = 64  # vectors of a product at least, however many the centroids


def nearest(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
) -> Int64[np.ndarray, " items"]:
    """The nearest centroid of each vector by squared distance, the first of equally near ones.

    The best two are found in float32, both sides moved to where the centroids lie. Only where
    they are within rounding error of each other are rivals compared in float64. So a row's answer
    never depends on its batch.
    """
    if len(centroids) == 1:
        return np.zeros(len(x), dtype=np.int64)
    if x.shape[1] * len(centroids) * len(x) <= _FEW:
        return _exactly_nearest(x, centroids)
    middle = centroids.mean(axis=0)
    moved = centroids - middle
    sizes = np.einsum("kd,kd->k", moved, moved)
    labels, costs, seconds, squares = best_two(x, centroids)
    slack = _slack(squares, sizes, x.shape[1])
    for rows in _blocks(np.flatnonzero(seconds - costs <= slack), moved):
        costs = sizes - 2 * ((x[rows] - middle) @ moved.T)
        rivals = costs <= (costs.min(axis=1) + slack[rows])[:, None]
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
    """The centroid that costs each vector least, in float32, and what the second would cost.

    A cost is the squared distance, plus the centroid's price, less the square of the vector, all
    moved by the mean of the centroids. One product gives them: a further coordinate, which is 1 in
    every vector, holds what does not depend on the vector. Blocks are so small that their costs
    stay in the cache, where two searches for the least take a tenth of the product's time; each
    thread goes through blocks of its own.

    Returns:
        The centroids, their costs, the second costs (infinite where there is but one centroid),
        and the squares.
    """
    num_codes, dim = centroids.shape
    middle = centroids.mean(axis=0)
    factors = np.empty((dim + 1, num_codes), dtype=np.float32)
    factors[:-1] = -2 * (centroids - middle).T
    factors[-1] = np.einsum("dk,dk->k", factors[:-1], factors[:-1]) / 4
    if prices is not None:
        factors[-1] += prices
    labels = np.empty(len(x), dtype=np.int64)
    costs, seconds, squares = (np.empty(len(x), dtype=np.float32) for _ in range(3))

    def search(rows: slice) -> None:
        found = labels[rows], costs[rows], seconds[rows], squares[rows]
        _search_blocks(x[rows], middle, factors, *found)

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
    size = max(1, min(len(x), max(_LEAST, _BLOCK // num_codes)))
    ones = np.ones((size, wide), dtype=np.float32)
    table = np.empty((size, num_codes), dtype=np.float32)
    places = np.arange(size)
    for start in range(0, len(x), size):
        part = x[start : start + size]
        block, all_costs, at = ones[: len(part)], table[: len(part)], places[: len(part)]
        moved = block[:, :-1]
        np.subtract(part, middle, out=moved)
        np.einsum("nd,nd->n", moved, moved, out=squares[start : start + size])
        np.matmul(block, factors, out=all_costs)
        best = all_costs.argmin(axis=1)
        labels[start : start + size] = best
        costs[start : start + size] = all_costs[at, best]
        all_costs[at, best] = np.inf
        seconds[start : start + size] = all_costs[at, all_costs.argmin(axis=1)]


def _slack(
    squares: Float32[np.ndarray, " items"], sizes: Float32[np.ndarray, " codes"], dim: int
) -> Float32[np.ndarray, " items"]:
    """How far squared distances in float32 may be from the truth, generously.

    Args:
        squares: Of the vectors.
        sizes: Squares of the centroids.
        dim: How long both are.
    """
    eps = 8 * np.finfo(np.float32).eps * np.float32(np.sqrt(dim))
    slack: Float32[np.ndarray, " items"] = eps * (np.sqrt(squares) + np.sqrt(sizes.max())) ** 2
    return slack


def _blocks(
    rows: Int64[np.ndarray, " rows"], centroids: Float32[np.ndarray, "codes dim"]
) -> list[Int64[np.ndarray, " _"]]:
    """Rows in blocks whose comparison with all centroids stays small."""
    size = max(1, _EXACT // centroids.size)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _exactly_nearest(
    x: Float32[np.ndarray, "items dim"], centroids: Float32[np.ndarray, "codes dim"]
) -> Int64[np.ndarray, " items"]:
    gaps = x[:, None].astype(np.float64) - centroids
    labels: Int64[np.ndarray, " items"] = (gaps * gaps).sum(axis=2).argmin(axis=1)
    return labels


def _nearest_rivals(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
    rivals: Bool[np.ndarray, "items codes"],
) -> Int64[np.ndarray, " items"]:
    """The nearest among each row's rivals, of which it has at least one, in float64."""
    rows, codes = np.nonzero(rivals)
    gaps = x[rows].astype(np.float64) - centroids[codes]
    costs = np.full(rivals.shape, np.inf)
    costs[rows, codes] = (gaps * gaps).sum(axis=1)
    labels: Int64[np.ndarray, " items"] = costs.argmin(axis=1)
    return labels


def nearest_of_each(
    x: Float32[np.ndarray, "items dim"],
    firsts: Int64[np.ndarray, " items"],
    counts: Int64[np.ndarray, " items"],
    vectors_of: Callable[[Int64[np.ndarray, " _"]], Float32[np.ndarray, "_ dim"]],
) -> Int64[np.ndarray, " items"]:
    """As `nearest`, where each vector has candidates of its own: `counts` of them from `firsts`.

    Args:
        x: Vectors.
        firsts: The number of the first candidate of each.
        counts: How many candidates each has, at least one.
        vectors_of: Gives the vectors of candidates by their numbers.
    """
    labels = np.empty(len(x), dtype=np.int64)
    ends = np.cumsum(counts)
    block = max(int(counts.max(initial=1)), _EXACT // x.shape[1])
    start = 0
    while start < len(x):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + block, side="right")))
        some = counts[start:stop]
        begins = np.cumsum(some) - some
        within = np.arange(some.sum()) - np.repeat(begins, some)
        gaps = vectors_of(np.repeat(firsts[start:stop], some) + within).astype(np.float64)
        gaps -= np.repeat(x[start:stop], some, axis=0)
        costs = (gaps * gaps).sum(axis=1)
        best = np.flatnonzero(costs == np.repeat(np.minimum.reduceat(costs, begins), some))
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
        """The first row that equals each vector, -1 where none does."""
        keys = vector_keys(x)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        rows = self._order[places]
        found = self._keys[places] == keys
        found[found] = (self._vectors[rows[found]] == x[found]).all(axis=1)
        return np.where(found, rows, -1)


def vector_keys(
    x: Float32[np.ndarray, "items dim"], *, seed: int = 0
) -> UInt64[np.ndarray, " items"]:
    """A 64-bit key a row: equal rows have equal keys, and others almost never."""
    factors = np.random.default_rng(seed).integers(2**63, size=x.shape[1], dtype=np.uint64) * 2 + 1
    keys = np.empty(len(x), dtype=np.uint64)
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK] + np.float32(0)  # -0 becomes 0
        keys[start : start + CHUNK] = (part.view(np.uint32) * factors).sum(axis=1, dtype=np.uint64)
    return keys
