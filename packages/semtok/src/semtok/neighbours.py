"""Neighbour overlap: do items that are close in embedding space have similar codes?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

CodeSpace = Literal["prefix", "hamming"]
"""How near two items' codes are: the length of their common prefix, or how many codes agree."""

CHUNK = 4096  # items that are compared with the queries at a time
NUM_QUERIES = 1024  # items whose neighbours are looked up together


def neighbour_overlap(
    embeddings: Float[np.ndarray, "rows dim"],
    codes: Int[np.ndarray, "items levels"],
    *,
    num_neighbours: int = 10,
    space: CodeSpace = "prefix",
    sample: int | None = 1000,
    seed: int = 0,
) -> float:
    """The share of an item's nearest neighbours that are also its nearest by codes.

    Nearest in embedding space is by squared Euclidean distance, which every quantizer here
    minimises; on vectors of length 1, as most embedding models return, cosine ranks alike. Nearest
    by codes is by the longest common prefix, so thousands of items may be equally near. Ties on
    either side count by the exact expectation over random tie-breaking. So the figure is
    deterministic, does not depend on the order of the items, and is the chance level
    (`num_neighbours` / items) if all items have the same code. An item is no neighbour of itself.

    Memory stays bounded (about 100 MB) for any number of items; embeddings may be a memory map.

    Args:
        embeddings: The vectors that were quantized, row i for item i.
        codes: The codes of the same items. For the overlap of the first levels, pass only those.
        num_neighbours: How many neighbours count; at most the number of other items.
        space: "prefix", or "hamming", which counts the codes that agree at any level: the fair
            measure for product quantization, whose codes have no order.
        sample: How many items, drawn without replacement, to look up; None takes all.
        seed: Draws the sample.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: If there are fewer than two items, shapes disagree, an option is out of range
            or the embeddings are not finite.
    """
    num_items = len(codes)
    if num_items < 2:
        raise ValueError(f"codes must be those of at least two items, got {num_items}")
    if len(embeddings) != num_items:
        raise ValueError(
            f"embeddings must have one row per item ({num_items}), got {len(embeddings)}"
        )
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours must be at least 1, got {num_neighbours}")
    if sample is not None and sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
    if space not in get_args(CodeSpace):
        raise ValueError(f"space must be one of {', '.join(get_args(CodeSpace))}, got {space!r}")
    rows = np.arange(num_items)
    if sample is not None and sample < num_items:
        drawn = np.random.default_rng(seed).choice(num_items, size=sample, replace=False)
        rows = np.sort(drawn)
    k = min(num_neighbours, num_items - 1)
    total = 0.0
    for start in range(0, len(rows), NUM_QUERIES):
        block = _Queries(embeddings, codes, rows[start : start + NUM_QUERIES], space)
        total += block.overlap(k)
    return total / (k * len(rows))


class _Queries:
    """Some items, and how near all other items are to them, a chunk of items at a time."""

    def __init__(
        self,
        embeddings: Float[np.ndarray, "items dim"],
        codes: Int[np.ndarray, "items levels"],
        rows: Int64[np.ndarray, " queries"],
        space: CodeSpace,
    ) -> None:
        self._embeddings, self._codes, self._rows, self._space = embeddings, codes, rows, space
        x = np.asarray(embeddings[rows], dtype=np.float64)
        # Distances are differences of squares: after centring, these are small and exact.
        self._centre = x.mean(axis=0)
        self._x = (x - self._centre).astype(np.float32)
        self._squares = np.einsum("qd,qd->q", self._x, self._x)

    def overlap(self, k: int) -> float:
        """The expected number of common neighbours, summed over the queries."""
        kth, slack, within = self._first_pass(k)
        # `within[:, level]` items agree with a query in `level` or more codes, and `beyond` in
        # more. Those that agree in `level` fill the places up to k that nearer ones leave.
        beyond = np.column_stack([within[:, 1:], np.zeros(len(within), dtype=np.int64)])
        chance = ((k - beyond) / np.maximum(within - beyond, 1)).clip(0, 1)
        counts = np.zeros((2, len(kth)))  # of nearer items, and of items tied for the last places
        common = np.zeros((2, len(kth)))
        for start, distances in self._distances():
            close = distances <= (kth + slack)[:, None]
            for query in np.flatnonzero(close.any(axis=1)):
                columns = np.flatnonzero(close[query])
                query_codes = self._codes[self._rows[query : query + 1]]
                agreeing = self._agreeing(query_codes, self._codes[start + columns])[0]
                is_tied = distances[query, columns] >= kth[query] - slack[query]
                counts[:, query] += np.bincount(is_tied, minlength=2)
                common[:, query] += np.bincount(is_tied, chance[query, agreeing], minlength=2)
        return float((common[0] + (k - counts[0]) / counts[1] * common[1]).sum())

    def _first_pass(
        self, k: int
    ) -> tuple[
        Float32[np.ndarray, " queries"],
        Float32[np.ndarray, " queries"],
        Int64[np.ndarray, "queries agreements"],
    ]:
        """The distance of the k-th neighbour, its rounding error, and items by agreeing codes."""
        num_levels = self._codes.shape[1]
        within = np.zeros((len(self._rows), num_levels + 1), dtype=np.int64)
        best = np.full((len(self._rows), k), np.inf, dtype=np.float32)
        for start, distances in self._distances():
            open_ = distances.min(axis=1) < best.max(axis=1)
            merged = np.concatenate([best[open_], distances[open_]], axis=1)
            best[open_] = np.partition(merged, k - 1, axis=1)[:, :k]
            chunk = self._codes[start : start + distances.shape[1]]
            agreeing = self._agreeing(self._codes[self._rows], chunk)
            for level in range(num_levels + 1):
                within[:, level] += np.count_nonzero(agreeing >= level, axis=1)
        within -= 1  # a query agrees with itself in every code
        kth = best.max(axis=1)
        reach = 2 * np.sqrt(self._squares) + np.sqrt(kth.clip(0))
        slack = np.finfo(np.float32).eps * np.sqrt(self._x.shape[1]) * reach**2
        return kth, slack.astype(np.float32), within

    def _agreeing(
        self, queries: Int[np.ndarray, "queries levels"], others: Int[np.ndarray, "others levels"]
    ) -> Int[np.ndarray, "queries others"]:
        """How many codes each query has in common with each other item."""
        agreeing = np.zeros((len(queries), len(others)), dtype=np.int16)
        alive = np.ones(agreeing.shape, dtype=bool)
        for query_codes, codes in zip(queries.T, np.ascontiguousarray(others.T), strict=True):
            same = query_codes[:, None] == codes  # [queries, others]
            alive = alive & same if self._space == "prefix" else same
            agreeing += alive
        return agreeing

    def _distances(self) -> Iterator[tuple[int, Float32[np.ndarray, "queries chunk"]]]:
        """Squared distances to each chunk of items, infinite to the query itself."""
        for start in range(0, len(self._embeddings), CHUNK):
            part = np.asarray(self._embeddings[start : start + CHUNK], dtype=np.float64)
            x = (part - self._centre).astype(np.float32)  # [chunk, dim]
            squares = np.einsum("nd,nd->n", x, x)
            # |q - x|^2 = |x|^2 - 2 q.x + |q|^2, in one array: [queries, chunk]
            distances = self._x @ x.T
            distances *= -2
            distances += squares
            distances += self._squares[:, None]
            if not np.isfinite(distances).all():
                raise ValueError("embeddings must be finite and below 1e18, got others")
            in_chunk = np.flatnonzero((self._rows >= start) & (self._rows < start + len(part)))
            distances[in_chunk, self._rows[in_chunk] - start] = np.inf
            yield start, distances
