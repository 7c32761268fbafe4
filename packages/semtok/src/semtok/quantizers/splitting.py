"""The tree of hierarchical k-means grows level by level: each cluster is split in turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from semtok.progress import Progress, report
from semtok.quantizers.balanced import balanced_kmeans
from semtok.quantizers.kmeans import SAMPLE_PER_CODE, kmeans
from semtok.quantizers.nearest import nearest
from semtok.vectors import CHUNK, mean_vector


@dataclass(frozen=True, kw_only=True)
class Splitter:
    """Splits the vectors of a cluster; at most a chunk and a sample of them are copied.

    Attributes:
        x: All vectors.
        codebook_size: The maximal number of groups of a split.
        balanced: Whether the groups are equally large.
        iterations: Iterations of each k-means.
        seed: The seed of all splits; each cluster derives its own.
        device: Where k-means runs; the prices of balanced splits are computed on the CPU.
    """

    x: Float32[np.ndarray, "items dim"]
    codebook_size: int
    balanced: bool
    iterations: int
    seed: int
    device: str = "cpu"

    def split(
        self, rows: Int64[np.ndarray, " rows"], node: int
    ) -> tuple[
        Int64[np.ndarray, " rows"], Int64[np.ndarray, " groups"], Float32[np.ndarray, "inner dim"]
    ]:
        """Splits rows into 2 to `codebook_size` groups, none empty.

        Returns:
            The rows, group by group; the sizes of the groups; and the centroids of the groups with
            more than one row.
        """
        seed = (self.seed, node)
        sample, most = rows, SAMPLE_PER_CODE * self.codebook_size
        if len(rows) > most:
            sample = np.random.default_rng(seed).choice(rows, most, replace=False)
        learned = self.x[np.sort(sample)]
        centroids = kmeans(
            learned, self.codebook_size, iterations=self.iterations, seed=seed, device=self.device
        )
        if self.balanced:
            labels, centroids = balanced_kmeans(self.x, rows, learned, centroids)
        else:
            labels = np.empty(len(rows), dtype=np.int64)
            for start in range(0, len(rows), CHUNK):
                part = self.x[rows[start : start + CHUNK]]
                labels[start : start + CHUNK] = nearest(part, centroids, device=self.device)
            if (labels == labels[0]).all():  # identical vectors: only an even split helps
                labels = np.arange(len(rows)) * self.codebook_size // len(rows)
                centroids = np.repeat(self.x[rows[:1]], self.codebook_size, axis=0)
        sizes = np.bincount(labels, minlength=self.codebook_size)
        return rows[np.argsort(labels, kind="stable")], sizes[sizes > 0], centroids[sizes > 1]


def grow(
    splitter: Splitter, progress: Progress | None
) -> tuple[
    Float32[np.ndarray, "inner dim"], Int64[np.ndarray, " nodes"], Int64[np.ndarray, " items"]
]:
    """Grows a tree until each item is a leaf.

    Returns:
        A centroid for each node that has children and the number of children of each node, both
        level by level from the root; and the node of each item.
    """
    num_items, size = len(splitter.x), splitter.codebook_size
    centroids, num_children = [mean_vector(splitter.x)[None]], []
    leaves = np.empty(num_items, dtype=np.int64)
    rows = np.arange(num_items)  # the rows of the level's nodes, node by node
    sizes = np.array([num_items])
    first, placed, told = 0, 0, 0
    while len(sizes):
        starts = np.cumsum(sizes) - sizes
        is_leaf = (sizes == 1) & (first + np.arange(len(sizes)) > 0)
        leaves[rows[starts[is_leaf]]] = first + np.flatnonzero(is_leaf)
        counts = np.where(is_leaf, 0, sizes)
        placed += int(sizes[~is_leaf & (sizes <= size)].sum())
        groups = []
        for node in np.flatnonzero(sizes > size):
            mine = slice(starts[node], starts[node] + sizes[node])
            rows[mine], parts, vectors = splitter.split(rows[mine], first + int(node))
            counts[node] = len(parts)
            groups.append(parts)
            centroids.append(vectors)
            placed += int((parts == 1).sum())
            report(progress, told := placed, num_items)
        if placed > told:
            report(progress, told := placed, num_items)
        below = np.ones(counts.sum(), dtype=np.int64)
        first_below = np.cumsum(counts) - counts
        for node, parts in zip(np.flatnonzero(sizes > size), groups, strict=True):
            below[first_below[node] : first_below[node] + len(parts)] = parts
        rows = rows[np.repeat(~is_leaf, sizes)]
        num_children.append(counts)
        first, sizes = first + len(sizes), below
    return np.concatenate(centroids), np.concatenate(num_children), leaves
