"""Hierarchical k-means: an item's codes are its path from the root of a tree of clusters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int64

from semtok.limits import MOST_CODES
from semtok.parts import (
    flag,
    floats,
    integers,
    map_npy,
    read_part,
    refusing,
    whole,
    write_npy,
    write_tensors,
    writing_part,
)
from semtok.phrases import counted
from semtok.progress import Progress
from semtok.quantizers.fitted import quantizer_repr
from semtok.quantizers.kmeans import check_kmeans_device
from semtok.quantizers.nearest import VectorIndex, nearest, nearest_of_each
from semtok.quantizers.splitting import Splitter, grow
from semtok.vectors import (
    as_vectors,
    check_options,
    measured_distortion,
    vector_chunks,
)

ENCODED_NUMBERS = 2**24  # numbers in vectors that are encoded together, so that many share a node
_SCATTERED = 512  # with fewer distances at a node than this, many nodes are searched together


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HierarchicalKMeans:
    """A tree of k-means clusters whose leaves are the fitted items (PRORec, section 3.3).

    The vectors are split into `codebook_size` clusters, and each cluster again, until it holds at
    most `codebook_size` items: these become children of their own. So each fitted item has its
    own path, even where vectors are identical. Shorter paths are padded with code 0, and stay
    unique, as no node lies below an item.

    Attributes:
        codebook_size: The maximal number of children of a node (the paper's K).
        balanced: Whether the clusters of each split differ by at most one item in size.
        centroids: One vector per node with children, the root first, then level by level.
        num_children: The number of children of each node; the children of a node are adjacent.
        leaves: The node of each fitted item.
        vectors: The fitted vectors, which the leaves decode to: the array that was fitted if it
            is float32, not a copy.
    """

    kind: ClassVar[str] = "hierarchical_kmeans"

    codebook_size: int
    balanced: bool
    centroids: Float32[np.ndarray, "inner dim"]
    num_children: Int64[np.ndarray, " nodes"]
    leaves: Int64[np.ndarray, " items"]
    vectors: Float32[np.ndarray, "items dim"]

    def __post_init__(self) -> None:
        num_nodes = len(self.num_children)
        num_inner = np.count_nonzero(self.num_children)
        if len(self.centroids) != num_inner or self.num_children.sum() + 1 != num_nodes:
            raise ValueError("num_children must describe one tree, centroids its nodes with some")
        if self.num_children.min() < 0 or self.num_children.max() > self.codebook_size:
            raise ValueError(f"num_children must be within [0, {self.codebook_size}]")
        if not np.array_equal(np.sort(self.leaves), np.flatnonzero(self.num_children == 0)):
            raise ValueError("leaves must name every node without children once")
        if self.vectors.shape != (len(self.leaves), self.centroids.shape[1]):
            raise ValueError("vectors must be one per leaf, as long as the centroids")
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
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> HierarchicalKMeans:
        """Fits the tree by recursive k-means (faiss).

        Args:
            x: One vector per item; finite. May be a memory map. It becomes part of the tree, so it
                must not be changed afterwards.
            codebook_size: The maximal number of children of a node, the paper's K.
            balanced: Whether to make the clusters of each split equally large. All paths then
                have about the same length, at somewhat greater distances to the centroids.
            seed: The same seed and vectors give the same tree.
            iterations: Iterations of each k-means.
            device: Where k-means runs: "cpu" for faiss; any other device of torch for torch, which
                ends at other centroids.
            progress: Called with the number of items that have their path and of all items.

        Raises:
            ValueError: If `x` is empty or not finite, or an option is out of range.
        """
        check_options(
            ("codebook_size", codebook_size, 2), ("iterations", iterations, 1), ("seed", seed, 0)
        )
        check_kmeans_device(device)
        x = as_vectors(x)
        if len(x) == 0:
            raise ValueError("x must hold at least one vector, got none")
        splitter = Splitter(
            x=x,
            codebook_size=codebook_size,
            balanced=balanced,
            iterations=iterations,
            seed=seed,
            device=device,
        )
        centroids, num_children, leaves = grow(splitter, progress)
        return cls(
            codebook_size=codebook_size,
            balanced=balanced,
            centroids=centroids,
            num_children=num_children,
            leaves=leaves,
            vectors=x,
        )

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        return int(self.centroids.shape[1])

    @cached_property
    def num_levels(self) -> int:
        """Codes per item: the length of the longest path."""
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

        A fitted vector has the codes of its item (of the first one if several vectors are
        identical). Any other vector follows the nearest centroid from the root down to an item,
        and shares that item's codes until collisions are resolved.

        Raises:
            ValueError: If `x` is not finite or has another dim than the fitted vectors.
        """
        codes = np.empty((len(x), self.num_levels), dtype=np.int64)
        for rows, part in vector_chunks(x, dim=self.dim, size=max(1, ENCODED_NUMBERS // self.dim)):
            known = self._index.find(part)
            codes[rows] = self.codes[known]
            unknown = np.flatnonzero(known < 0)
            codes[rows.start + unknown] = self._descend(part[unknown])
        return codes

    def decode(self, codes: Int64[np.ndarray, "items levels"]) -> Float32[np.ndarray, "items dim"]:
        """The vectors of codes: the item's vector, or for a prefix the centroid of its cluster.

        Args:
            codes: Codes, or their first few levels.

        Raises:
            ValueError: If a row is not a path of the tree.
        """
        return self._vectors_of(self._nodes(codes))

    def distortion(self, x: Float[np.ndarray, "items dim"]) -> tuple[float, ...]:
        """Mean squared distance from vectors to the vectors of their first 1, 2, ... codes.

        For fitted vectors the last distortion is 0, as each item is a leaf; the others show how
        narrow the clusters of each level are.
        """
        return measured_distortion(self, x)

    def save(self, folder: str | Path) -> None:
        """Writes config.json, tensors.safetensors and vectors.npy into a new folder.

        Raises:
            FileExistsError: If the folder exists already.
        """
        config = {
            "kind": self.kind,
            "codebook_size": self.codebook_size,
            "balanced": self.balanced,
        }
        names = ("centroids", "num_children", "leaves")
        with writing_part(folder, config) as beside:
            tensors = {name: getattr(self, name) for name in names}
            write_tensors(beside / "tensors.safetensors", tensors)
            write_npy(beside / "vectors.npy", self.vectors)

    @classmethod
    def load(cls, folder: str | Path) -> HierarchicalKMeans:
        """Reads what `save` wrote; the vectors stay on disk, as a memory map.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        config, tensors = read_part(folder, cls.kind)
        with refusing(folder):
            return cls(
                codebook_size=whole(config, "codebook_size", 2, MOST_CODES),
                balanced=flag(config, "balanced"),
                centroids=floats(tensors, "centroids", 2),
                num_children=integers(tensors, "num_children"),
                leaves=integers(tensors, "leaves"),
                vectors=floats({"vectors": map_npy(Path(folder) / "vectors.npy")}, "vectors", 2),
            )

    def __repr__(self) -> str:
        balanced = ["balanced"] if self.balanced else []
        return quantizer_repr(self, counted(len(self.leaves), "item"), *balanced)

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
        return VectorIndex(self.vectors)

    @cached_property
    def _places(self) -> Int64[np.ndarray, " nodes"]:
        """The row of each node in `centroids`, or for a leaf in `vectors`."""
        places = np.cumsum(self.num_children > 0) - 1
        places[self.leaves] = np.arange(len(self.leaves))
        return places

    def _vectors_of(self, nodes: Int64[np.ndarray, " some"]) -> Float32[np.ndarray, "some dim"]:
        """The vectors of nodes."""
        vectors = np.empty((len(nodes), self.dim), dtype=np.float32)
        is_leaf = self.num_children[nodes] == 0
        vectors[is_leaf] = self.vectors[self._places[nodes[is_leaf]]]
        vectors[~is_leaf] = self.centroids[self._places[nodes[~is_leaf]]]
        return vectors

    def _descend(self, x: Float32[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The path of nearest centroids."""
        codes = np.zeros((len(x), self.num_levels), dtype=np.int64)
        nodes = np.zeros(len(x), dtype=np.int64)
        for level in range(self.num_levels):
            inner = np.flatnonzero(self.num_children[nodes] > 0)
            inner = inner[np.argsort(nodes[inner], kind="stable")]
            borders = np.flatnonzero(np.diff(nodes[inner])) + 1
            scattered = []
            for rows in np.split(inner, borders) if len(inner) else []:
                first, count = self._first_child[nodes[rows[0]]], self.num_children[nodes[rows[0]]]
                if len(rows) * count < _SCATTERED:
                    scattered.append(rows)
                    continue
                children = self._vectors_of(np.arange(first, first + count))
                codes[rows, level] = nearest(x[rows], children)
            if scattered:
                rows = np.concatenate(scattered)
                codes[rows, level] = nearest_of_each(
                    x[rows],
                    self._first_child[nodes[rows]],
                    self.num_children[nodes[rows]],
                    self._vectors_of,
                )
            nodes[inner] = self._first_child[nodes[inner]] + codes[inner, level]
        return codes

    def _nodes(self, codes: Int64[np.ndarray, "items levels"]) -> Int64[np.ndarray, " items"]:
        """The node to which each path, or prefix of a path, leads."""
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
