"""Floors: what any model must beat, fitted in seconds on training histories alone.

Popularity and three item-to-item models. Each scores a history by adding up the rows of a sparse
item-by-item matrix for its last items, and goes through the same `evaluate` as every model. None
needs training beyond counting, and together with text they beat many a published network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from scipy import sparse
from torch import Tensor

from evalrec.evaluate import evaluate
from evalrec.interactions import Histories, flatten
from evalrec.splits import Split

SparseMatrix: TypeAlias = sparse.csr_array
"""items x items in fp32; entry (i, j) is what item i in the history adds to the score of item j."""

# What is chosen on validation: first how far back the history counts, then the weight of text.
# The graph itself is fixed: within 50 steps, 1 / distance forward and half of it backward.
LAST_ITEMS = (3, 5, 10)
DECAYS = (0.4, 0.6, 0.8)
TEXT_WEIGHTS = (2.0, 4.0, 8.0)

_CHUNK_CELLS = 2**22  # similarities held at once


@runtime_checkable
class Floor(Protocol):
    """A fitted floor: `evaluate(queries, floor.score)`."""

    @property
    def parameters(self) -> Mapping[str, float]:
        """What was chosen on validation; empty where nothing is to choose."""

    def score(self, histories: Histories) -> Float[Tensor, "batch items"]:
        """A score for every item after each history; higher is better."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PopularityFloor:
    """Every item scores how often it was had; the history plays no part."""

    counts: Float32[np.ndarray, " items"]
    parameters: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, histories: Histories, num_items: int) -> PopularityFloor:
        """Count the items of the training histories."""
        return cls(counts=count_items(histories, num_items).astype(np.float32))

    def score(self, histories: Histories) -> Float[Tensor, "batch items"]:
        """The counts, for each history."""
        return torch.from_numpy(np.tile(self.counts, (len(histories), 1)))


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemToItemFloor:
    """The rows of a sparse matrix, added up over the last items of the history.

    The item that was had a steps before the last weighs `decay ** a`, for a < `last_items`.

    Attributes:
        matrix: Item by item.
        last_items: How many items of the history count.
        decay: Weight of each further step into the past.
        parameters: What was chosen on validation.
    """

    matrix: SparseMatrix
    last_items: int
    decay: float
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.last_items < 1:
            raise ValueError(f"last_items must be at least 1, got {self.last_items}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {self.decay}")

    def score(self, histories: Histories) -> Float[Tensor, "batch items"]:
        """Scores in fp32; an empty history scores 0 everywhere."""
        recent = [history[::-1][: self.last_items] for history in histories]
        owners, items = flatten(recent)
        ages = np.concatenate([np.arange(len(history)) for history in recent])
        weights = sparse.csr_array(
            ((self.decay**ages).astype(np.float32), (owners, items)),
            shape=(len(histories), self.matrix.shape[0]),
        )
        return torch.from_numpy((weights @ self.matrix).toarray())


def fit_floors(
    split: Split,
    texts: Sequence[str] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Floor]:
    """Fit every floor on the training histories, its parameters by NDCG@10 on validation.

    Args:
        split: Only `train` and `validation` are read; the test plays no part.
        texts: One text an item, such as its title and categories joined; without them there is no
            "graph + text".
        progress: Called with the settings tried and the settings in all.

    Returns:
        "popularity", "markov", "graph" and, with texts, "graph + text", in this order. What was
        chosen is in each one's `parameters`.

    Raises:
        ValueError: If `texts` is not one text an item, or holds no word at all.
    """
    if texts is not None and len(texts) != split.num_items:
        raise ValueError(f"texts must be one an item, {split.num_items}, got {len(texts)}")
    validation = split.validation
    recencies = list(itertools.product(LAST_ITEMS, DECAYS))
    num_settings = len(recencies) + (0 if texts is None else len(TEXT_WEIGHTS))
    num_tried = itertools.count(1)

    def best_of(candidates: Sequence[ItemToItemFloor]) -> ItemToItemFloor:
        values = []
        for candidate in candidates:
            report = evaluate(validation, candidate.score, ks=(min(10, split.num_items),))
            values.append(report.per_user(f"ndcg@{report.ks[0]}", "unfiltered").mean())
            if progress is not None:
                progress(next(num_tried), num_settings)
        return candidates[int(np.argmax(values))]  # the first of equals

    graph = cooccurrences(split.train, split.num_items)
    best = best_of(
        [
            ItemToItemFloor(
                matrix=graph,
                last_items=last_items,
                decay=decay,
                parameters={"last_items": last_items, "decay": decay},
            )
            for last_items, decay in recencies
        ]
    )
    floors: dict[str, Floor] = {
        "popularity": PopularityFloor.fit(split.train, split.num_items),
        "markov": ItemToItemFloor(
            matrix=transitions(split.train, split.num_items), last_items=1, decay=1.0
        ),
        "graph": best,
    }
    if texts is not None:
        neighbours = text_neighbours(texts)
        floors["graph + text"] = best_of(
            [
                replace(
                    best,
                    matrix=graph + weight * neighbours,
                    parameters={**best.parameters, "text_weight": weight},
                )
                for weight in TEXT_WEIGHTS
            ]
        )
    return floors


def count_items(histories: Histories, num_items: int) -> Int[np.ndarray, " items"]:
    """How often each item occurs in the histories."""
    return np.bincount(flatten(histories)[1], minlength=num_items)


def transitions(histories: Histories, num_items: int) -> SparseMatrix:
    """First-order Markov: how often j came right after i.

    Equal counts are ordered by popularity: each entry has a share below 1 added that grows with
    the popularity of j. What never followed i scores 0.
    """
    counts = _pairs_at(1, histories, num_items)
    popularity = count_items(histories, num_items)
    share = popularity / (popularity.max() + 1)
    shared = (counts.data + share[counts.indices]).astype(np.float32)
    return sparse.csr_array((shared, counts.indices, counts.indptr), shape=counts.shape)


def cooccurrences(
    histories: Histories, num_items: int, *, window: int = 50, backward: float = 0.5
) -> SparseMatrix:
    """The transition graph: items had within `window` steps of one another.

    Each pair of items d steps apart adds 1 / d from the earlier to the later one, and
    `backward` / d the other way. An item adds nothing to itself.
    """
    forward: SparseMatrix = sparse.csr_array((num_items, num_items), dtype=np.float64)
    longest = max(len(history) for history in histories)
    for distance in range(1, min(window, longest - 1) + 1):
        pairs = _pairs_at(distance, histories, num_items)
        forward = sparse.csr_array(forward + pairs / distance)
    return _without_diagonal(forward + backward * forward.T.tocsr())


def text_neighbours(texts: Sequence[str], *, num_neighbours: int = 50) -> SparseMatrix:
    """The cubed TF-IDF cosine of each item's nearest neighbours in text, itself excluded.

    Computed in chunks of items, so that items x items is never held.

    Raises:
        ValueError: If no text holds a word of two letters or more.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes seconds

    try:
        vectors = sparse.csr_array(TfidfVectorizer(dtype=np.float32).fit_transform(texts))
    except ValueError as error:
        raise ValueError(f"texts must hold words, got {len(texts)} without: {error}") from error
    num_items = len(texts)
    k = min(num_neighbours, num_items - 1)
    chunk = max(1, _CHUNK_CELLS // num_items)
    rows, columns, values = [], [], []
    for start in range(0, num_items, chunk):
        cosines = np.asarray((vectors[start : start + chunk] @ vectors.T).todense())
        own = np.arange(start, start + len(cosines))
        cosines[own - start, own] = -1.0
        nearest = torch.from_numpy(cosines).topk(k, dim=1)
        rows.append(np.repeat(own, k))
        columns.append(nearest.indices.numpy().ravel())
        values.append(nearest.values.numpy().ravel() ** 3)
    matrix = sparse.csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(num_items, num_items),
    )
    matrix.eliminate_zeros()
    return matrix


def _pairs_at(distance: int, histories: Histories, num_items: int) -> SparseMatrix:
    """How often j came exactly `distance` steps after i."""
    owners, items = flatten(histories)
    same = owners[:-distance] == owners[distance:]
    earlier, later = items[:-distance][same], items[distance:][same]
    counts = sparse.csr_array(
        (np.ones(len(earlier)), (earlier, later)), shape=(num_items, num_items)
    )
    counts.sum_duplicates()
    return counts


def _without_diagonal(matrix: SparseMatrix) -> SparseMatrix:
    entries = matrix.tocoo()
    off = entries.row != entries.col
    data = entries.data[off].astype(np.float32)
    return sparse.csr_array((data, (entries.row[off], entries.col[off])), shape=matrix.shape)
