"""Costs of the codes that may follow a prefix: by these, `reassign` chooses among free codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int64

from semtok.quantizers.contract import Quantizer
from semtok.quantizers.hierarchical import HierarchicalKMeans
from semtok.quantizers.views import ViewQuantizer

CodeCosts = Callable[[np.ndarray, tuple[int, ...]], Float[np.ndarray, " codes"]]
"""Called with a vector and a prefix of codes; returns one cost per code of the next level."""


def code_costs(quantizer: Quantizer) -> CodeCosts:
    """The costs of the codes that may follow a prefix, by the quantizer's own distance.

    A cost is the squared distance from the vector to the vector that the prefix and the code
    decode to. Codes that decode to nothing (a tree has no such node) cost infinity.
    """
    if isinstance(quantizer, HierarchicalKMeans):
        return _tree_costs(quantizer)
    if isinstance(quantizer, ViewQuantizer):
        return _view_costs(quantizer)

    def costs(x: np.ndarray, prefix: tuple[int, ...]) -> Float[np.ndarray, " codes"]:
        paths = _paths(prefix, quantizer.codebook_sizes[len(prefix)])
        return _squared_distances(x, quantizer.decode(paths))

    return costs


def _tree_costs(tree: HierarchicalKMeans) -> CodeCosts:
    first_child = 1 + np.cumsum(tree.num_children) - tree.num_children

    def costs(x: np.ndarray, prefix: tuple[int, ...]) -> Float[np.ndarray, " codes"]:
        distances = np.full(tree.codebook_size, np.inf)
        node = 0
        for code in prefix:
            if code >= tree.num_children[node]:
                return distances
            node = int(first_child[node]) + code
        count = int(tree.num_children[node])
        if count:
            distances[:count] = _squared_distances(x, tree.decode(_paths(prefix, count)))
        return distances

    return costs


def _view_costs(quantizer: ViewQuantizer) -> CodeCosts:
    parts = [code_costs(part) for part in quantizer.parts]
    owner = np.repeat(np.arange(len(parts)), [part.num_levels for part in quantizer.parts])
    first_level = np.searchsorted(owner, np.arange(len(parts)))
    borders = np.cumsum([0, *quantizer.dims])

    def costs(x: np.ndarray, prefix: tuple[int, ...]) -> Float[np.ndarray, " codes"]:
        # The codes of the other views are the same for all candidates: they shift all costs alike.
        view = int(owner[len(prefix)])
        part = x[borders[view] : borders[view + 1]]
        return parts[view](part, prefix[first_level[view] :])

    return costs


def _paths(prefix: tuple[int, ...], count: int) -> Int64[np.ndarray, "codes levels"]:
    paths = np.empty((count, len(prefix) + 1), dtype=np.int64)
    paths[:, :-1] = prefix
    paths[:, -1] = np.arange(count)
    return paths


def _squared_distances(
    x: Float[np.ndarray, " dim"], vectors: Float[np.ndarray, "codes dim"]
) -> Float[np.ndarray, " codes"]:
    gaps = vectors.astype(np.float64) - x
    distances: Float[np.ndarray, " codes"] = np.einsum("kd,kd->k", gaps, gaps)
    return distances
