"""Balanced k-means: clusters whose sizes differ by at most one.

Each centroid carries a price that is added to its squared distances. Prices of crowded clusters
rise by just what makes their surplus rows look elsewhere (an auction); what surplus is left is
moved at the least regret. Both only ever hold the distances of a sample, so memory stays bounded.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

_CHUNK = 8192


def balanced_kmeans(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
    *,
    iterations: int = 15,
    sample_size: int = 65_536,
    seed: int = 0,
) -> tuple[Int64[np.ndarray, " items"], Float32[np.ndarray, "codes dim"]]:
    """Moves centroids, such as those of plain k-means, to clusters of equal size.

    Args:
        x: Vectors, at least as many as centroids.
        centroids: Where to start.
        iterations: Rounds of assignment and update at most; the best of them is kept.
        sample_size: How many rows, drawn at random, the rounds see. The last assignment sees all.
        seed: Draws the sample.

    Returns:
        The cluster of each row, and the centroids: the means of the clusters.
    """
    if len(centroids) > len(x):
        raise ValueError(f"centroids must be at most {len(x)}, one a row, got {len(centroids)}")
    sample = x
    if len(x) > sample_size:
        rows = np.random.default_rng(seed).choice(len(x), sample_size, replace=False)
        sample = x[np.sort(rows)]
    prices = np.zeros(len(centroids), dtype=np.float32)
    best = (np.inf, centroids, prices)
    before = np.empty(0, dtype=np.int64)
    for _ in range(iterations):
        prices = _raise_prices(sample, centroids, prices)
        labels = balanced_assignment(sample, centroids, prices)
        if np.array_equal(labels, before):
            break
        before = labels
        centroids = _means(sample, labels, len(centroids))
        gaps = sample - centroids[labels]
        cost = float(np.einsum("nd,nd->", gaps, gaps))
        if cost < best[0]:
            best = (cost, centroids, prices)
    _, centroids, prices = best
    labels = balanced_assignment(x, centroids, prices)
    return labels, _means(x, labels, len(centroids))


def balanced_assignment(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
    prices: Float32[np.ndarray, " codes"],
) -> Int64[np.ndarray, " items"]:
    """Assigns rows to their cheapest centroid, then moves the surplus of overfull clusters.

    In each round every row of an overfull cluster names its cheapest cluster with room; the moves
    that cost least are made, as many as leave no source too small and no target too large.

    Returns:
        The cluster of each row; the sizes differ by at most one.
    """
    labels, costs = _cheapest(x, centroids, prices)
    counts = np.bincount(labels, minlength=len(centroids))
    capacity = np.full(len(centroids), len(x) // len(centroids))
    capacity[np.argsort(-counts, kind="stable")[: len(x) % len(centroids)]] += 1
    while True:
        surplus = np.bincount(labels, minlength=len(centroids)) - capacity
        if (surplus <= 0).all():
            return labels
        rows = np.flatnonzero(surplus[labels] > 0)
        room = np.flatnonzero(surplus < 0)
        choice, moved = _cheapest(x[rows], centroids[room], prices[room])
        target = room[choice]
        order = np.argsort(moved - costs[rows], kind="stable")
        order = order[_rank(labels[rows[order]]) < surplus[labels[rows[order]]]]
        order = order[_rank(target[order]) < -surplus[target[order]]]
        labels[rows[order]] = target[order]
        costs[rows[order]] = moved[order]


def _cheapest(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
    prices: Float32[np.ndarray, " codes"],
) -> tuple[Int64[np.ndarray, " items"], Float32[np.ndarray, " items"]]:
    """The cheapest centroid of each row, and its cost up to a constant of the row."""
    labels = np.empty(len(x), dtype=np.int64)
    costs = np.empty(len(x), dtype=np.float32)
    offsets = np.einsum("kd,kd->k", centroids, centroids) + prices
    for start in range(0, len(x), _CHUNK):
        table = x[start : start + _CHUNK] @ (-2 * centroids.T) + offsets
        best = table.argmin(axis=1)
        labels[start : start + _CHUNK] = best
        costs[start : start + _CHUNK] = table[np.arange(len(table)), best]
    return labels, costs


def _raise_prices(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
    prices: Float32[np.ndarray, " codes"],
) -> Float32[np.ndarray, " codes"]:
    """Raises each crowded cluster's price until its surplus rows prefer their second choice."""
    if len(centroids) == 1:
        return prices
    labels = np.empty(len(x), dtype=np.int64)
    margins = np.empty(len(x), dtype=np.float32)
    offsets = np.einsum("kd,kd->k", centroids, centroids) + prices
    for start in range(0, len(x), _CHUNK):
        table = x[start : start + _CHUNK] @ (-2 * centroids.T) + offsets
        rows = np.arange(len(table))
        best = table.argmin(axis=1)
        first = table[rows, best]
        table[rows, best] = np.inf
        labels[start : start + _CHUNK] = best
        margins[start : start + _CHUNK] = table.min(axis=1) - first
    counts = np.bincount(labels, minlength=len(centroids))
    surplus = counts - -(-len(x) // len(centroids))
    crowded = np.flatnonzero(surplus > 0)
    by_margin = np.lexsort((margins, labels))
    starts = np.cumsum(counts) - counts
    raised: Float32[np.ndarray, " codes"] = prices.copy()
    raised[crowded] += margins[by_margin[starts[crowded] + surplus[crowded] - 1]]
    raised -= raised.min()
    return raised


def _rank(groups: Int64[np.ndarray, " items"]) -> Int64[np.ndarray, " items"]:
    """How many earlier entries belong to the same group."""
    order = np.argsort(groups, kind="stable")
    counts = np.bincount(groups) if len(groups) else np.zeros(0, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - starts[groups[order]]
    return ranks


def _means(
    x: Float32[np.ndarray, "items dim"], labels: Int64[np.ndarray, " items"], num_codes: int
) -> Float32[np.ndarray, "codes dim"]:
    """The mean of each cluster, none of which is empty."""
    counts = np.bincount(labels, minlength=num_codes)
    sums = np.add.reduceat(x[np.argsort(labels, kind="stable")], np.cumsum(counts) - counts, axis=0)
    means: Float32[np.ndarray, "codes dim"] = sums / counts[:, None].astype(np.float32)
    return means
