"""Residual codes, the nearest centroid a level, as fast as their matrix products allow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

from semtok.quantizers.nearest import block_size, nearest, rounding_slack, two_least
from semtok.quantizers.threads import in_threads

_EPS = np.finfo(np.float32).eps


class _Level(NamedTuple):
    """What a level is searched with.

    Attributes:
        factors: What vectors with a last coordinate of 1 are multiplied by to give costs.
        longest: The length of the longest centroid, moved by their mean.
        steps: What a centroid takes off a vector on its way to the next level's frame, and 0.
        drift: A bound of the length of what rounding does to that, less the vector's own share.
    """

    factors: Float32[np.ndarray, "wide codes"]
    longest: float
    steps: Float32[np.ndarray, "codes wide"]
    drift: float


class GreedySearch:
    """The codes that `greedy_codes` gives, faster where vectors are many.

    A block of vectors goes through all levels while it is in the cache. Each level's vectors and
    centroids are both moved by the mean of its centroids, and what is left of a vector goes from
    one level's frame to the next's in one subtraction. A vector for which float32 cannot tell the
    best two centroids of some level apart is searched again by `greedy_codes`, so that the codes
    are always its.

    Args:
        codebooks: The centroids of each level.
    """

    def __init__(self, codebooks: Float32[np.ndarray, "levels codes dim"]) -> None:
        self.codebooks = codebooks
        self._middles = codebooks.mean(axis=1)  # [levels, dim]
        self._levels = []
        for level, codebook in enumerate(codebooks):
            middle = self._middles[level]  # [dim]
            following = self._middles[level + 1] if level + 1 < len(codebooks) else middle
            moved = codebook - middle  # [codes, dim]
            sizes = np.einsum("kd,kd->k", moved, moved)  # [codes]
            factors = np.concatenate([-2 * moved.T, sizes[None]])  # [wide, codes], wide = dim + 1
            steps = np.zeros((len(codebook), codebook.shape[1] + 1), dtype=np.float32)
            steps[:, :-1] = moved + following
            longest_step = np.sqrt(np.einsum("kd,kd->k", steps, steps).max())
            drift = _EPS * (2 * longest_step + np.sqrt(following @ following))
            self._levels.append(_Level(factors, float(np.sqrt(sizes.max())), steps, float(drift)))

    def codes(self, x: Float32[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The codes of vectors, which are finite."""
        codes = np.empty((len(x), len(self.codebooks)), dtype=np.int64)
        is_close = np.zeros(len(x), dtype=np.bool_)

        def search(rows: slice) -> None:
            # Slices of the results are views: what is written into them stands in the results.
            self._search(x[rows], codes[rows], is_close[rows])

        in_threads(search, len(x))
        close = np.flatnonzero(is_close)
        codes[close] = greedy_codes(x[close], self.codebooks)
        return codes

    def _search(
        self,
        x: Float32[np.ndarray, "items dim"],
        codes: Int64[np.ndarray, "items levels"],
        is_close: Bool[np.ndarray, " items"],
    ) -> None:
        """Fills in the codes, and which of them float32 cannot be trusted with."""
        num_codes, dim = self.codebooks.shape[1:]
        size = block_size(len(x), num_codes)
        # Memory for a block, used again by the next: the last coordinate of each vector stays 1.
        block_memory = np.ones((size, dim + 1), dtype=np.float32)
        step_memory = np.empty((size, dim + 1), dtype=np.float32)
        cost_memory = np.empty((size, num_codes), dtype=np.float32)
        for start in range(0, len(x), size):
            part = x[start : start + size]  # [block, dim]
            count = len(part)
            left, steps, costs = (
                memory[:count] for memory in (block_memory, step_memory, cost_memory)
            )
            vectors = left[:, :-1]  # [block, dim], a view
            np.subtract(part, self._middles[0], out=vectors)
            drifts = np.zeros(count, dtype=np.float32)  # [block]
            for level, (factors, longest, level_steps, drift) in enumerate(self._levels):
                # |c|^2 - 2 x.c, the squared distance less what is the same for all centroids.
                np.matmul(left, factors, out=costs)  # [block, codes]
                best, least, second = two_least(costs)  # [block] each
                codes[start : start + count, level] = best
                lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))  # [block]
                # Two costs may be off by the rounding of the product, and by how far the vectors
                # of both ways have drifted apart: at most 2 |drift| |c - c'|.
                slack = rounding_slack(lengths, longest, dim) + 4 * longest * drifts  # [block]
                is_close[start : start + count] |= second - least <= slack
                if level + 1 < len(self._levels):
                    np.take(level_steps, best, axis=0, out=steps, mode="clip")  # [block, wide]
                    np.subtract(left, steps, out=left)
                    drifts += _EPS * lengths + np.float32(drift)


def greedy_codes(
    x: Float32[np.ndarray, "items dim"],
    codebooks: Float32[np.ndarray, "levels codes dim"],
    *,
    device: str = "cpu",
) -> Int64[np.ndarray, "items levels"]:
    """The nearest centroid of each level to what the levels before it have left over.

    Args:
        x: Vectors.
        codebooks: The centroids of each level.
        device: Where `nearest` looks for them; the codes are the same on any.
    """
    codes = np.empty((len(x), len(codebooks)), dtype=np.int64)
    for level, codebook in enumerate(codebooks):
        codes[:, level] = nearest(x, codebook, device=device)
        x = x - codebook[codes[:, level]]
    return codes
