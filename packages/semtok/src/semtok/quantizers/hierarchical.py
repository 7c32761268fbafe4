"""Hierarchical k-means: codes are the path from the root of a tree of clusters to an item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import faiss
import numpy as np
from jaxtyping import Float, Float32, Int64

from semtok.quantizers.balanced import balanced_kmeans
from semtok.quantizers.nearest import VectorIndex, nearest
from semtok.quantizers.vectors import as_vectors
from semtok.storage import read_part, refusing, write_part

_SAMPLE_PER_CODE = 256  # k-means learns from at most so many vectors a centroid


@dataclass(frozen=True, kw_only=True, eq=False)
class HierarchicalKMeans:
    """A tree of k-means clusters whose leaves are the fitted items (PRORec, section 3.3).

    The vectors are split into `codebook_size` clusters, and each cluster again, until it holds at
    most `codebook_size` items: then every item becomes a child of its own. So each fitted item has
    its own path, even where vectors are identical. Paths that end early are padded with code 0,
    which keeps them unique, as nothing lies below an item.

    Attributes:
        codebook_size: The most children that a node has (the paper's K).
        balanced: Whether the clusters of each split differ by at most one item in size.
        centroids: One vector a node, the root first, then level by level; an item's own vector at
            its leaf.
        num_children: How many children each node has; those of a node lie side by side.
        leaves: The node of each fitted item.
    """

    kind: ClassVar[str] = "hierarchical_kmeans"

    codebook_size: int
    balanced: bool
    centroids: Float32[np.ndarray, "nodes dim"]
    num_children: Int64[np.ndarray, " nodes"]
    leaves: Int64[np.ndarray, " items"]

    def __post_init__(self) -> None:
        num_nodes = len(self.num_children)
        if len(self.centroids) != num_nodes or self.num_children.sum() + 1 != num_nodes:
            raise ValueError("num_children must describe one tree with a centroid a node")
        if self.num_children.min() < 0 or self.num_children.max() > self.codebook_size:
            raise ValueError(f"num_children must be within [0, {self.codebook_size}]")
        if not np.array_equal(np.sort(self.leaves), np.flatnonzero(self.num_children == 0)):
            raise ValueError("leaves must name every node without children once")
        if num_nodes < 2 or (self._parents[1:] >= np.arange(1, num_nodes)).any():
            raise ValueError("num_children must list parents before their children")

    @classmethod
    def fit(
        cls,
        x: Float[np.ndarray, "items dim"],
        *,
        codebook_size: int = 256,
        balanced: bool = False,
        seed: int = 0,
        iterations: int = 25,
        progress: Callable[[int, int], None] | None = None,
    ) -> HierarchicalKMeans:
        """Fits the tree by recursive k-means (faiss).

        Args:
            x: One vector an item; finite.
            codebook_size: Children of a node at most, the paper's K.
            balanced: Whether to make the clusters of each split equal in size: all paths then
                have about the same length, at somewhat greater distances to the centroids.
            seed: Same seed, same vectors: same tree.
            iterations: Iterations of each k-means.
            progress: Called with the number of items that have their path, and of all items.

        Raises:
            ValueError: If `x` is empty or not finite, or an option is out of range.
        """
        x = as_vectors(x)
        if len(x) == 0:
            raise ValueError("x must hold at least one vector, got none")
        for name, value, least in (
            ("codebook_size", codebook_size, 2),
            ("iterations", iterations, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        centroids = [x.mean(axis=0, keepdims=True)]
        num_children: list[int] = []
        leaves = np.empty(len(x), dtype=np.int64)
        frontier = [np.arange(len(x))]
        placed = 0
        while frontier:
            below: list[Int64[np.ndarray, " rows"]] = []
            for rows in frontier:
                node = len(num_children)
                if len(rows) == 1 and node > 0:
                    leaves[rows] = node
                    num_children.append(0)
                    continue
                if len(rows) <= codebook_size:
                    groups, vectors = list(rows[:, None]), x[rows]
                    placed += len(rows)
                else:
                    groups, vectors = _split(
                        x, rows, codebook_size, balanced, (seed, node), iterations
                    )
                    placed += sum(len(group) == 1 for group in groups)
                if progress is not None:
                    progress(placed, len(x))
                num_children.append(len(groups))
                centroids.append(vectors)
                below.extend(groups)
            frontier = below
        return cls(
            codebook_size=codebook_size,
            balanced=balanced,
            centroids=np.concatenate(centroids),
            num_children=np.array(num_children),
            leaves=leaves,
        )

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        return int(self.centroids.shape[1])

    @cached_property
    def num_levels(self) -> int:
        """Codes an item: the length of the longest path."""
        return int(self._depths.max())

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """`codebook_size` at every level."""
        return (self.codebook_size,) * self.num_levels

    @cached_property
    def codes(self) -> Int64[np.ndarray, "items levels"]:
        """The codes of the fitted items, in their order; no two rows are equal."""
        codes = np.zeros((len(self.leaves), self.num_levels), dtype=np.int64)
        nodes = self.leaves
        rows = np.arange(len(nodes))
        while len(rows):
            parents = self._parents[nodes]
            codes[rows, self._depths[nodes] - 1] = nodes - self._first_child[parents]
            rows, nodes = rows[parents > 0], parents[parents > 0]
        return codes

    def encode(self, x: Float[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The codes of vectors.

        A vector that was fitted has the codes of its item (of the first of those with identical
        vectors). Any other follows the nearest centroid from the root down to an item, whose codes
        it shares until collisions are resolved.

        Raises:
            ValueError: If `x` is not finite or its dim is not that of the fitted vectors.
        """
        x = as_vectors(x, dim=self.dim)
        rows = self._index.find(x)
        codes: Int64[np.ndarray, "items levels"] = self.codes[rows]
        unknown = np.flatnonzero(rows < 0)
        codes[unknown] = self._descend(x[unknown])
        return codes

    def decode(self, codes: Int64[np.ndarray, "items levels"]) -> Float32[np.ndarray, "items dim"]:
        """The vectors that codes stand for: the item's own, or for a prefix its cluster's centroid.

        Args:
            codes: Codes, or their first few levels.

        Raises:
            ValueError: If a row is not a path of the tree.
        """
        vectors: Float32[np.ndarray, "items dim"] = self.centroids[self._nodes(codes)]
        return vectors

    def distortion(self, x: Float[np.ndarray, "items dim"]) -> tuple[float, ...]:
        """Mean squared distance from vectors to what their first 1, 2, ... codes stand for.

        For fitted vectors the last is 0, as each item is a leaf; the others tell how tight the
        clusters of each level are.
        """
        x = as_vectors(x, dim=self.dim)
        codes = self.encode(x)
        gaps = (x - self.decode(codes[:, :level]) for level in range(1, self.num_levels + 1))
        return tuple(float(np.einsum("nd,nd->n", gap, gap).mean(dtype=float)) for gap in gaps)

    def save(self, folder: str | Path) -> None:
        """Writes config.json and tensors.safetensors into a new folder.

        Raises:
            FileExistsError: If the folder exists already.
        """
        config = {
            "kind": self.kind,
            "codebook_size": self.codebook_size,
            "balanced": self.balanced,
        }
        names = ("centroids", "num_children", "leaves")
        write_part(folder, config, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, folder: str | Path) -> HierarchicalKMeans:
        """Reads what `save` wrote.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        config, tensors = read_part(folder, cls.kind)
        with refusing(folder):
            return cls(
                codebook_size=int(config["codebook_size"]),
                balanced=bool(config["balanced"]),
                centroids=tensors["centroids"],
                num_children=tensors["num_children"],
                leaves=tensors["leaves"],
            )

    @cached_property
    def _first_child(self) -> Int64[np.ndarray, " nodes"]:
        first: Int64[np.ndarray, " nodes"] = 1 + np.cumsum(self.num_children) - self.num_children
        return first

    @cached_property
    def _parents(self) -> Int64[np.ndarray, " nodes"]:
        parents = np.zeros(len(self.num_children), dtype=np.int64)
        parents[1:] = np.repeat(np.arange(len(parents)), self.num_children)
        return parents

    @cached_property
    def _depths(self) -> Int64[np.ndarray, " nodes"]:
        depths = np.zeros(len(self.num_children), dtype=np.int64)
        start, stop, depth = 0, 1, 0
        while start < stop:
            depths[start:stop] = depth
            start, stop, depth = stop, stop + int(self.num_children[start:stop].sum()), depth + 1
        return depths

    @cached_property
    def _index(self) -> VectorIndex:
        return VectorIndex(self.centroids[self.leaves])

    def _descend(self, x: Float32[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The path of nearest centroids."""
        codes = np.zeros((len(x), self.num_levels), dtype=np.int64)
        nodes = np.zeros(len(x), dtype=np.int64)
        for level in range(self.num_levels):
            inner = np.flatnonzero(self.num_children[nodes] > 0)
            inner = inner[np.argsort(nodes[inner], kind="stable")]
            borders = np.flatnonzero(np.diff(nodes[inner])) + 1
            for rows in np.split(inner, borders) if len(inner) else []:
                first, count = self._first_child[nodes[rows[0]]], self.num_children[nodes[rows[0]]]
                codes[rows, level] = nearest(x[rows], self.centroids[first : first + count])
                nodes[rows] = first + codes[rows, level]
        return codes

    def _nodes(self, codes: Int64[np.ndarray, "items levels"]) -> Int64[np.ndarray, " items"]:
        """The node that each path, or prefix of one, leads to."""
        if not 1 <= codes.shape[1] <= self.num_levels:
            raise ValueError(f"codes must have 1 to {self.num_levels} levels, got {codes.shape[1]}")
        nodes = np.zeros(len(codes), dtype=np.int64)
        for level in range(codes.shape[1]):
            code = codes[:, level]
            wrong = (code < 0) | (code >= self.num_children[nodes].clip(min=1))
            if wrong.any():
                row = int(wrong.argmax())
                raise ValueError(f"codes must be paths of the tree, got {codes[row].tolist()}")
            inner = self.num_children[nodes] > 0
            nodes = np.where(inner, self._first_child[nodes] + code, nodes)
        return nodes


def _split(
    x: Float32[np.ndarray, "items dim"],
    rows: Int64[np.ndarray, " rows"],
    codebook_size: int,
    balanced: bool,
    seed: tuple[int, int],
    iterations: int,
) -> tuple[list[Int64[np.ndarray, " _"]], Float32[np.ndarray, "codes dim"]]:
    """Splits rows into 2 to `codebook_size` groups, none empty, with their centroids."""
    part = x[rows]
    draw = int(np.random.default_rng(seed).integers(2**31 - 1))
    kmeans = faiss.Kmeans(
        x.shape[1],
        codebook_size,
        niter=iterations,
        seed=draw,
        min_points_per_centroid=1,
        max_points_per_centroid=_SAMPLE_PER_CODE,
    )
    kmeans.train(part)
    centroids = np.asarray(kmeans.centroids)
    if balanced:
        labels, centroids = balanced_kmeans(
            part, centroids, sample_size=_SAMPLE_PER_CODE * codebook_size, seed=draw
        )
    else:
        labels = nearest(part, centroids)
        if (labels == labels[0]).all():  # identical vectors: only an even split makes progress
            labels = np.arange(len(rows)) * codebook_size // len(rows)
            centroids = np.repeat(part[:1], codebook_size, axis=0)
    counts = np.bincount(labels, minlength=codebook_size)
    order = rows[np.argsort(labels, kind="stable")]
    groups = [group for group in np.split(order, np.cumsum(counts)[:-1]) if len(group)]
    centroids = centroids[counts > 0]
    alone = counts[counts > 0] == 1  # these are leaves, which stand for the item itself
    centroids[alone] = x[[group[0] for group, one in zip(groups, alone, strict=True) if one]]
    return groups, centroids
