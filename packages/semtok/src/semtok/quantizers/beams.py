"""Beam search over residual codebooks, with the same result in any batch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64, Int64

NUM_COSTS = 2**22  # costs that are in memory at a time


def nearest_beams(
    x: Float32[np.ndarray, "items dim"],
    codebooks: Float32[np.ndarray, "levels codes dim"],
    num_beams: int,
) -> Int64[np.ndarray, "items levels"]:
    """The best path of codes that a beam search over the levels finds.

    At each level, the `num_beams` sums nearest to the vector are kept; of equally near ones, the
    first path. Candidates within rounding error of the last kept one are compared in float64.
    """
    num_codes = codebooks.shape[1]
    size = max(1, NUM_COSTS // (num_codes * min(num_beams, num_codes) + num_beams * x.shape[1]))
    blocks = [x[start : start + size] for start in range(0, len(x), size)]
    if not blocks:
        return np.empty((0, len(codebooks)), dtype=np.int64)
    return np.concatenate([_search(block, codebooks, num_beams) for block in blocks])


def _search(
    x: Float32[np.ndarray, "items dim"],
    codebooks: Float32[np.ndarray, "levels codes dim"],
    num_beams: int,
) -> Int64[np.ndarray, "items levels"]:
    paths = np.empty((len(x), 1, 0), dtype=np.int64)  # [items, beams, levels so far]
    gaps = x[:, None].astype(np.float64)  # [items, beams, dim], what each beam leaves over
    items = np.arange(len(x))[:, None]
    for codebook in codebooks:
        # [items, kept] each: which beam is extended, and by which code.
        beams, codes = _extend(gaps, codebook, min(num_beams, gaps.shape[1] * len(codebook)))
        paths = np.concatenate([paths[items, beams], codes[..., None]], axis=2)
        gaps = gaps[items, beams] - codebook[codes]
    return paths[:, 0]


def _extend(
    gaps: Float64[np.ndarray, "items beams dim"],
    codebook: Float32[np.ndarray, "codes dim"],
    keep: int,
) -> tuple[Int64[np.ndarray, "items kept"], Int64[np.ndarray, "items kept"]]:
    """The beam and the code of each item's `keep` cheapest extensions, best first."""
    num_items, num_beams, dim = gaps.shape
    single = gaps.astype(np.float32)
    squares = np.einsum("nbd,nbd->nb", single, single)  # [items, beams]
    sizes = np.einsum("kd,kd->k", codebook, codebook)  # [codes]
    # The squared distance |gap - code|^2 of every extension, in float32: [items, beams * codes].
    costs = sizes - 2 * (single.reshape(-1, dim) @ codebook.T)
    costs = (costs.reshape(num_items, num_beams, -1) + squares[..., None]).reshape(num_items, -1)
    # How far these may be from the exact costs. All that may be among the cheapest are candidates.
    eps = 8 * np.finfo(np.float32).eps * np.float32(np.sqrt(dim))
    slack = eps * (np.sqrt(squares.max(axis=1)) + np.sqrt(sizes.max())) ** 2  # [items]
    limit = np.partition(costs, keep - 1, axis=1)[:, keep - 1] + 2 * slack
    rows, places = np.nonzero(costs <= limit[:, None])  # [candidates] each, by item
    beams, codes = places // len(codebook), places % len(codebook)
    left = gaps[rows, beams] - codebook[codes]  # [candidates, dim], in float64
    exact = (left * left).sum(axis=1)
    order = np.lexsort((places, exact, rows))  # by item, then cost, then the earlier path
    starts = np.searchsorted(rows, np.arange(num_items))  # each item's first candidate
    chosen = order[starts[:, None] + np.arange(keep)]  # [items, kept]
    return beams[chosen], codes[chosen]
