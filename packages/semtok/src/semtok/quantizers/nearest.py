"""Exact nearest centroids, and exact look-up of known vectors."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from semtok.quantizers.vectors import CHUNK

_EXACT = 2**21  # numbers that an exact comparison holds at a time
_FEW = 2**15  # numbers to compare exactly at once, without asking faiss first


def nearest(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
) -> Int64[np.ndarray, " items"]:
    """The nearest centroid of each vector by squared distance, the first of equally near ones.

    faiss finds the best two in float32, both sides moved to where the centroids lie. Only where
    they are within rounding error of each other are rivals compared in float64. So a row's answer
    never depends on its batch.
    """
    labels = np.zeros(len(x), dtype=np.int64)
    if len(centroids) == 1:
        return labels
    if x.shape[1] * len(centroids) * len(x) <= _FEW:
        return _exactly_nearest(x, centroids)
    middle = centroids.mean(axis=0)
    moved = np.ascontiguousarray(centroids - middle)
    squares = np.einsum("kd,kd->k", moved, moved)
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK] - middle
        distances, best = faiss.knn(part, moved, 2)
        slack = _slack(part, squares)
        labels[start : start + CHUNK] = best[:, 0]
        for rows in _blocks(np.flatnonzero(distances[:, 1] - distances[:, 0] <= slack), moved):
            costs = squares - 2 * (part[rows] @ moved.T)
            rivals = costs <= (costs.min(axis=1) + slack[rows])[:, None]
            labels[start + rows] = _nearest_rivals(x[start + rows], centroids, rivals)
    return labels


def _slack(
    x: Float32[np.ndarray, "items dim"], squares: Float32[np.ndarray, " codes"]
) -> Float32[np.ndarray, " items"]:
    """How far squared distances in float32 may be from the truth, generously."""
    eps = 8 * np.finfo(np.float32).eps * np.float32(np.sqrt(x.shape[1]))
    norms = np.sqrt(np.einsum("nd,nd->n", x, x))
    slack: Float32[np.ndarray, " items"] = eps * (norms + np.sqrt(squares.max())) ** 2
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
