"""Recall, NDCG, MRR and further metrics of one target per user, from its rank (1 is best).

A miss is any rank above k, so a target that was not ranked needs no special value here; `evalrec`
gives it the rank `num_items + 1`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

Metric: TypeAlias = Callable[[Int[np.ndarray, " users"], int], Float[np.ndarray, " users"]]


def recall(ranks: Int[np.ndarray, " users"], k: int) -> Float[np.ndarray, " users"]:
    """1 where the target is among the first k, else 0 (with one target, also the hit rate)."""
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: Int[np.ndarray, " users"], k: int) -> Float[np.ndarray, " users"]:
    """1 / log2(rank + 1) where the target is among the first k, else 0; the ideal gain is 1."""
    return np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)


def mrr(ranks: Int[np.ndarray, " users"], k: int) -> Float[np.ndarray, " users"]:
    """1 / rank where the target is among the first k, else 0."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def precision(ranks: Int[np.ndarray, " users"], k: int) -> Float[np.ndarray, " users"]:
    """1 / k where the target is among the first k, else 0: the share of the k that is relevant."""
    return recall(ranks, k) / k


def average_precision(ranks: Int[np.ndarray, " users"], k: int) -> Float[np.ndarray, " users"]:
    """The precision at the place of the target, whose mean is MAP; with one target it is `mrr`."""
    return mrr(ranks, k)


def hit_rate(ranks: Int[np.ndarray, " users"], k: int) -> Float[np.ndarray, " users"]:
    """1 where the target is among the first k, else 0; with one target it is `recall`."""
    return recall(ranks, k)


METRICS: dict[str, Metric] = {
    "recall": recall,
    "ndcg": ndcg,
    "mrr": mrr,
    "precision": precision,
    "map": average_precision,
    "hit_rate": hit_rate,
}
"""All metrics of ranks by name; with one target per user the last three follow from the first."""

REPORTED = ("recall", "ndcg", "mrr")
"""The metrics that a report shows by default."""

LESS_IS_BETTER = ("miscalibration",)
"""The metrics for which smaller values are better."""


def is_less_better(metric: str) -> bool:
    """Whether smaller values of a metric, by its name or label, are better."""
    return metric.partition("@")[0].lower() in LESS_IS_BETTER


def metric_label(metric: str) -> str:
    """A metric as people write it: "NDCG@10" for "ndcg@10", "Hit rate@10" for "hit_rate@10"."""
    name, _, k = metric.partition("@")
    words = name.replace("_", " ")
    return f"{name.upper() if name in ('ndcg', 'mrr', 'map') else words.capitalize()}@{k}"
