"""Ranks over all items, from scores or from ranked lists, with and without seen items.

The tie rule: among equal scores the target comes last, so that a constant scorer earns nothing.
Ranks start at 1; a target that is not ranked has rank `num_items + 1`. In the filtered mode the
items of the user's own history are removed from the candidates; a target among them is a miss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from evalrec.interactions import Histories, flatten
from evalrec.splits import Queries

Scorer: TypeAlias = Callable[[Histories], Float[Tensor, "batch items"]]
"""From a batch of histories to a score for every item; higher is better."""

# Scores held at once where no batch size is given: 16 MiB in fp32, small enough to be allocated
# from the heap instead of fresh pages, but never fewer users than make a matrix product pay.
_BATCH_CELLS = 2**22
_LEAST_BATCH = 16


def score_batches(
    queries: Queries, score: Scorer, batch_size: int | None = None
) -> Iterator[tuple[slice, Float[Tensor, "batch items"]]]:
    """Score the queries batch by batch, so that users x items is never held.

    Args:
        queries: Whom to score.
        score: Called with a batch of histories; its tensor stays on its device.
        batch_size: Users at once; None holds about four million scores.

    Yields:
        The slice of users, and their scores.

    Raises:
        ValueError: If the scores are not floats of shape [batch, items], or one is NaN.
    """
    if batch_size is None:
        batch_size = max(_LEAST_BATCH, _BATCH_CELLS // queries.num_items)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    for start in range(0, len(queries), batch_size):
        part = slice(start, min(start + batch_size, len(queries)))
        with torch.no_grad():
            scores = score(queries.histories[part])
        shape = (part.stop - part.start, queries.num_items)
        if tuple(scores.shape) != shape or not scores.is_floating_point():
            raise ValueError(
                f"scores must be floats of shape [batch, items] = {list(shape)}, "
                f"got {scores.dtype} of shape {list(scores.shape)}"
            )
        # A sum without NaN proves that there is none, in a tenth of the time of looking at each.
        if scores.sum().isnan() and scores.isnan().any():
            user = start + int(scores.isnan().any(dim=1).nonzero()[0])
            raise ValueError(f"scores must be numbers, got NaN for user {user}")
        yield part, scores


def rank_targets(
    scores: Float[Tensor, "batch items"],
    targets: Int[np.ndarray, " batch"],
    histories: Histories,
) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
    """The rank of each target among all items, unfiltered and with seen items removed.

    Both come from one comparison of the scores: the filtered rank is the unfiltered one less the
    seen items that score at least as high as the target.
    """
    num_items = scores.shape[1]
    columns = torch.from_numpy(targets).to(scores.device)
    target_scores = scores.gather(1, columns.unsqueeze(1))
    ranks = (scores >= target_scores).sum(dim=1, dtype=torch.int32).long()

    owners, items = np.divmod(_seen_pairs(histories, num_items), num_items)
    rows = torch.from_numpy(owners).to(scores.device)
    above = scores[rows, torch.from_numpy(items).to(scores.device)] >= target_scores[rows, 0]
    filtered = ranks - torch.zeros_like(ranks).index_add_(0, rows, above.to(ranks.dtype))
    filtered_ranks = filtered.cpu().numpy()
    filtered_ranks[owners[items == targets[owners]]] = num_items + 1
    return ranks.cpu().numpy(), filtered_ranks


def rank_lists(
    ranked: Int[np.ndarray, "users k"], queries: Queries
) -> tuple[Int[np.ndarray, " users"], Int[np.ndarray, " users"], Int[np.ndarray, " users"]]:
    """The place of each target in its user's ranked list, unfiltered and filtered.

    Filtered, the seen items are struck out and the rest moves up, so a list that is to hold k
    unseen items must be longer than k.

    Args:
        ranked: Item rows, best first; -1 fills the end of a list that is shorter.
        queries: The users of the lists, in their order.

    Returns:
        Unfiltered ranks, filtered ranks, and how many unseen items each list holds.

    Raises:
        ValueError: If the lists are not those of the queries' users, hold a row that is no item,
            an item twice, or an item after a -1.
    """
    if len(ranked) != len(queries):
        raise ValueError(f"ranked must hold one list a user, {len(queries)}, got {len(ranked)}")
    ranked = ranked.astype(np.int64)
    _check_lists(ranked, queries.num_items)
    owners = np.arange(len(queries))[:, None]
    seen_pairs = _seen_pairs(queries.histories, queries.num_items)
    seen = (ranked >= 0) & np.isin(owners * queries.num_items + ranked, seen_pairs)
    hits = ranked == queries.targets[:, None]
    found, place = hits.any(axis=1), hits.argmax(axis=1)
    miss = queries.num_items + 1
    ranks = np.where(found, place + 1, miss)
    struck = np.cumsum(seen, axis=1)[owners[:, 0], place]
    target_seen = seen[owners[:, 0], place]
    filtered = np.where(found & ~target_seen, place + 1 - struck, miss)
    return ranks, filtered, ((ranked >= 0) & ~seen).sum(axis=1)


def rank_items(
    queries: Queries,
    score: Scorer,
    *,
    top_k: int,
    filter_seen: bool = False,
    batch_size: int | None = None,
) -> Int[np.ndarray, "users k"]:
    """The `top_k` best items of every user, best first, in bounded memory.

    Items that score -inf, seen ones included where `filter_seen` is set, are not returned: where a
    user has fewer than `top_k` others, -1 fills the end.

    Raises:
        ValueError: If `top_k` is not in [1, num_items], or the scores are refused.
    """
    if not 1 <= top_k <= queries.num_items:
        raise ValueError(f"top_k must be in [1, {queries.num_items}], got {top_k}")
    ranked = np.empty((len(queries), top_k), dtype=np.int64)
    for part, scores in score_batches(queries, score, batch_size):
        if filter_seen:
            owners, items = flatten(queries.histories[part])
            scores = scores.clone()
            scores[torch.from_numpy(owners), torch.from_numpy(items)] = -torch.inf
        best = scores.topk(top_k, dim=1)
        ranked[part] = best.indices.masked_fill(best.values == -torch.inf, -1).cpu().numpy()
    return ranked


def _seen_pairs(histories: Histories, num_items: int) -> Int[np.ndarray, " seen"]:
    """Each distinct (history, item) once, as history * num_items + item, ascending."""
    owners, items = flatten(histories)
    return np.unique(owners * num_items + items)


def _check_lists(ranked: Int[np.ndarray, "users k"], num_items: int) -> None:
    wrong = (ranked < -1) | (ranked >= num_items)
    if wrong.any():
        user, place = np.argwhere(wrong)[0]
        raise ValueError(
            f"ranked must hold item rows in [0, {num_items}) or -1, "
            f"got {ranked[user, place]} for user {user}"
        )
    late = (ranked[:, :-1] == -1) & (ranked[:, 1:] != -1)
    if late.any():
        user = np.argwhere(late)[0][0]
        raise ValueError(f"ranked must hold -1 at the end only, got an item after -1: user {user}")
    ordered = np.sort(ranked, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != -1)
    if twice.any():
        user, place = np.argwhere(twice)[0]
        raise ValueError(
            f"ranked must hold an item once, got item {ordered[user, place]} twice for user {user}"
        )
