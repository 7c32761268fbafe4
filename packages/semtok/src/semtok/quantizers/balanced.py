"""Balanced k-means: clusters whose sizes differ by at most one.

Each centroid has a price that is added to its squared distances. The prices of overfull clusters
rise until their surplus rows prefer another cluster (an auction). Rows that are still surplus are
moved where this costs least. Rows are visited in chunks, so memory stays bounded.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64
from scipy.sparse import csr_array

from semtok.quantizers.nearest import best_two
from semtok.vectors import CHUNK

_CANDIDATES = 4  # rows that are considered for each row that must leave its cluster


def balanced_kmeans(
    x: Float32[np.ndarray, "items dim"],
    rows: Int64[np.ndarray, " rows"],
    sample: Float32[np.ndarray, "sample dim"],
    centroids: Float32[np.ndarray, "codes dim"],
    *,
    iterations: int = 5,
) -> tuple[Int64[np.ndarray, " rows"], Float32[np.ndarray, "codes dim"]]:
    """Moves centroids, such as those of plain k-means, to clusters of equal size.

    Args:
        x: All vectors.
        rows: The rows of `x` to be clustered, at least as many as centroids.
        sample: Vectors of some or all of these rows, from which the prices are learned.
        centroids: The initial centroids.
        iterations: Rounds of assignment and update, on the sample only.

    Returns:
        The cluster of each row, and the centroids: the means of the clusters.
    """
    if len(centroids) > len(rows):
        raise ValueError(
            f"centroids must be at most {len(rows)}, one per row, got {len(centroids)}"
        )
    prices = np.zeros(len(centroids), dtype=np.float32)
    sample_rows = np.arange(len(sample))
    for _ in range(iterations if len(centroids) > 1 else 0):
        labels, _, margins = _cheapest(sample, sample_rows, centroids, prices)
        prices = _raised(prices, labels, margins)
        centroids = _means(sample, sample_rows, labels, centroids)
    labels = balanced_assignment(x, rows, centroids, prices)
    return labels, _means(x, rows, labels, centroids)


def balanced_assignment(
    x: Float32[np.ndarray, "items dim"],
    rows: Int64[np.ndarray, " rows"],
    centroids: Float32[np.ndarray, "codes dim"],
    prices: Float32[np.ndarray, " codes"],
) -> Int64[np.ndarray, " rows"]:
    """Assigns rows to their cheapest centroid, then moves the surplus of overfull clusters.

    In each round, the rows of overfull clusters with the smallest loss choose their cheapest
    cluster with room. The cheapest moves are made, as long as no source gets too small and no
    target too large.

    Returns:
        The cluster of each row; the sizes differ by at most one.
    """
    labels, costs, margins = _cheapest(x, rows, centroids, prices)  # [rows] each
    counts = np.bincount(labels, minlength=len(centroids))  # [codes]
    # If the rows do not divide evenly, the clusters that are largest now hold one more row.
    capacity = np.full(len(centroids), len(rows) // len(centroids))
    capacity[np.argsort(-counts, kind="stable")[: len(rows) % len(centroids)]] += 1
    while True:
        surplus = np.bincount(labels, minlength=len(centroids)) - capacity  # [codes]
        if (surplus <= 0).all():
            return labels
        # The rows of overfull clusters that lose least by moving, a few for each row that must
        # leave: [crowded], positions in `rows`.
        crowded = np.flatnonzero(surplus[labels] > 0)
        crowded = crowded[np.argsort(margins[crowded], kind="stable")]
        crowded = crowded[_rank(labels[crowded]) < _CANDIDATES * surplus[labels[crowded]]]
        room = np.flatnonzero(surplus < 0)  # [codes with room]
        choice, moved, _ = _cheapest(x, rows[crowded], centroids[room], prices[room])
        target = room[choice]  # [crowded], the cluster that each would move to
        # The cheapest moves: from each source as many as its surplus, and of these, to each target
        # as many as it has room for.
        order = np.argsort(moved - costs[crowded], kind="stable")
        order = order[_rank(labels[crowded[order]]) < surplus[labels[crowded[order]]]]
        order = order[_rank(target[order]) < -surplus[target[order]]]
        labels[crowded[order]] = target[order]
        costs[crowded[order]] = moved[order]


def _cheapest(
    x: Float32[np.ndarray, "items dim"],
    rows: Int64[np.ndarray, " rows"],
    centroids: Float32[np.ndarray, "codes dim"],
    prices: Float32[np.ndarray, " codes"],
) -> tuple[Int64[np.ndarray, " rows"], Float32[np.ndarray, " rows"], Float32[np.ndarray, " rows"]]:
    """The cheapest centroid of each row, its cost, and how much more the second one would cost."""
    labels = np.empty(len(rows), dtype=np.int64)
    costs, margins = np.empty((2, len(rows)), dtype=np.float32)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        labels[part], least, second, squares = best_two(x[rows[part]], centroids, prices)
        costs[part], margins[part] = least + squares, second - least
    return labels, costs, margins


def _raised(
    prices: Float32[np.ndarray, " codes"],
    labels: Int64[np.ndarray, " items"],
    margins: Float32[np.ndarray, " items"],
) -> Float32[np.ndarray, " codes"]:
    """Raises each crowded cluster's price until its surplus rows prefer their second choice."""
    counts = np.bincount(labels, minlength=len(prices))  # [codes]
    surplus = counts - -(-len(labels) // len(prices))  # above the mean size, rounded up
    crowded = np.flatnonzero(surplus > 0)
    by_margin = np.lexsort((margins, labels))  # [items], cluster by cluster
    starts = np.cumsum(counts) - counts  # where each cluster's rows begin there
    raised: Float32[np.ndarray, " codes"] = prices.copy()
    # By the margin of the last surplus row; surplus rows are those with the smallest margins.
    raised[crowded] += margins[by_margin[starts[crowded] + surplus[crowded] - 1]]
    raised -= raised.min()
    return raised


def _rank(groups: Int64[np.ndarray, " items"]) -> Int64[np.ndarray, " items"]:
    """How many earlier entries belong to the same group."""
    order = np.argsort(groups, kind="stable")  # [items], group by group
    counts = np.bincount(groups) if len(groups) else np.zeros(0, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - starts[groups[order]]
    return ranks


def _means(
    x: Float32[np.ndarray, "items dim"],
    rows: Int64[np.ndarray, " rows"],
    labels: Int64[np.ndarray, " rows"],
    centroids: Float32[np.ndarray, "codes dim"],
) -> Float32[np.ndarray, "codes dim"]:
    """The mean of each cluster; for an empty cluster, its centroid stays."""
    sums = np.zeros(centroids.shape, dtype=np.float64)
    for start in range(0, len(rows), CHUNK):
        part = labels[start : start + CHUNK]
        ends = np.bincount(part, minlength=len(centroids)).cumsum()
        # [codes, chunk], 1 where a row belongs to a cluster; its product with the rows is the sums.
        members = csr_array(
            (
                np.ones(len(part), dtype=np.float32),
                np.argsort(part, kind="stable"),
                np.concatenate([[0], ends]),
            ),
            shape=(len(centroids), len(part)),
        )
        sums += members @ x[rows[start : start + CHUNK]]
    counts = np.bincount(labels, minlength=len(centroids))
    means = sums / np.maximum(counts, 1)[:, None]
    return np.where(counts[:, None] > 0, means, centroids).astype(np.float32)
