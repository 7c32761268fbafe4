"""Exact nearest centroids, and exact look-up of known vectors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64, UInt64

from semtok.quantizers.vectors import CHUNK


def nearest(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
) -> Int64[np.ndarray, " items"]:
    """The nearest centroid of each vector by squared distance, the first of equally near ones.

    One matrix product in float32 rules out all but the few centroids within its rounding error of
    the best; those are compared in float64. So a row's answer never depends on its batch.
    """
    labels = np.empty(len(x), dtype=np.int64)
    squares = np.einsum("kd,kd->k", centroids, centroids)
    reach = np.sqrt(squares.max())
    slack = 8 * np.finfo(np.float32).eps * np.sqrt(x.shape[1])
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        costs = squares - 2 * (part @ centroids.T)
        best = costs.argmin(axis=1)
        norms = np.sqrt(np.einsum("nd,nd->n", part, part))
        limit = costs[np.arange(len(part)), best] + slack * (norms + reach) ** 2
        close = costs <= limit[:, None]
        for row in np.flatnonzero(close.sum(axis=1) > 1):
            rivals = np.flatnonzero(close[row])
            gaps = centroids[rivals].astype(np.float64) - part[row]
            best[row] = rivals[(gaps * gaps).sum(axis=1).argmin()]
        labels[start : start + CHUNK] = best
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
