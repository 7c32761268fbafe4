"""evaluate(): a model's scores or ranked lists against the held-out items."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from evalrec.interactions import flatten
from evalrec.ranking import Scorer, rank_lists, rank_targets, score_batches
from evalrec.report import Report
from evalrec.splits import Queries


def evaluate(
    queries: Queries,
    model: Scorer | Int[Tensor, "users k"] | Int[np.ndarray, "users k"],
    *,
    ks: Sequence[int] = (5, 10, 20),
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Rank every user's target among all items, with and without the items already seen.

    Args:
        queries: The users, as `Split.validation` or `Split.test` give them.
        model: Either a function from a list of histories to scores [batch, items], called batch
            by batch, or ranked lists of item rows, best first, -1 where nothing was returned. Seen
            items are struck out of the lists for the filtered figures, so pass lists longer than
            the largest k: by the length of the history where every place is to be filled.
        ks: Cut-offs of the metrics.
        batch_size: Users scored at once; None holds about four million scores.
        seed: Of the bootstrap behind the intervals.
        progress: Called with the users done and the users in all.

    Raises:
        ValueError: If the scores have the wrong shape or a NaN, a list is shorter than the largest
            k or holds an item twice, or a k is not in [1, num_items].
    """
    if not ks or not all(1 <= k <= queries.num_items for k in ks):
        raise ValueError(f"ks must be in [1, num_items = {queries.num_items}], got {tuple(ks)}")
    num_users, num_items = len(queries), queries.num_items
    counts = {"users": num_users, "items": num_items, "cold_targets": int(queries.cold.sum())}
    owners, items = flatten(queries.histories)
    repeated = np.unique(owners[items == queries.targets[owners]])
    counts["repeated_targets"] = len(repeated)
    if callable(model):
        unfiltered = np.empty(num_users, dtype=np.int64)
        filtered = np.empty(num_users, dtype=np.int64)
        for part, scores in score_batches(queries, model, batch_size):
            unfiltered[part], filtered[part] = rank_targets(
                scores, queries.targets[part], queries.histories[part]
            )
            if progress is not None:
                progress(part.stop, num_users)
    else:
        if batch_size is not None:
            raise ValueError(f"batch_size has no effect on ranked lists, got {batch_size}")
        ranked = model.cpu().numpy() if isinstance(model, torch.Tensor) else model
        if ranked.shape[1] < max(ks):
            raise ValueError(
                f"ranked must hold at least max(ks) = {max(ks)} places, got {ranked.shape[1]}"
            )
        unfiltered, filtered, unseen = rank_lists(ranked, queries)
        counts["short_lists"] = int((unseen < max(ks)).sum())
        if progress is not None:
            progress(num_users, num_users)
    return Report(
        ranks={"unfiltered": unfiltered, "filtered": filtered},
        ks=tuple(ks),
        counts=counts,
        seed=seed,
    )
