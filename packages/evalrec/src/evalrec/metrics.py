"""Recall, NDCG and MRR of one target a user, from its rank (1 is best).

A miss is any rank above k, so that a target which was not ranked at all needs no special value
here; `evalrec` writes it as `num_items + 1`.
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


METRICS: dict[str, Metric] = {"recall": recall, "ndcg": ndcg, "mrr": mrr}


def metric_label(metric: str) -> str:
    """A metric as people write it: "NDCG@10" of "ndcg@10"."""
    name, _, k = metric.partition("@")
    return f"{name.upper() if name in ('ndcg', 'mrr') else name.capitalize()}@{k}"
