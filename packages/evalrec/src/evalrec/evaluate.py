"""evaluate(): embeddings, scores or ranked lists against the held-out items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from evalrec.distributed import add_up, shard, together
from evalrec.interactions import flatten
from evalrec.item_shards import ItemShards
from evalrec.list_metrics import GROUPS, coverage, exposures, gini, popularity_groups
from evalrec.list_values import ListMetric
from evalrec.metrics import METRICS
from evalrec.ranking import CodeGroups, Ranks, rank_lists, rank_tiles
from evalrec.recommendations import Recommendations
from evalrec.report import MODES, Report, digest
from evalrec.scorers import (
    EmbeddingScorer,
    RankedLists,
    ScoreMatrix,
    Scorer,
    Scores,
    padded_lists,
    scorer_of,
)
from evalrec.splits import Queries

__all__ = ["evaluate"]

Progress = Callable[[int, int], None]

_LIST_BATCH = 512  # users per batch whose lists are measured, as items' vectors take memory


def evaluate(
    queries: Queries,
    model: EmbeddingScorer | Scorer | Scores | RankedLists | Recommendations | ItemShards,
    *,
    ks: Sequence[int] = (5, 10, 20),
    batch_size: int | None = None,
    lists: bool = False,
    list_metrics: Sequence[ListMetric] = (),
    item_counts: Int[np.ndarray, " items"] | None = None,
    codes: Int[np.ndarray, "items levels"] | Int[Tensor, "items levels"] | None = None,
    name: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Rank every user's target among all items, with and without the items already seen.

    In a torch.distributed group, all processes call it with the same arguments. Each process scores
    a share of the users, and all return the same report as a single process would. If the model is
    `ItemShards`, each process scores its items for all users, with the same result.

    Args:
        queries: The users, as `Split.validation` or `Split.test`.
        model: One of these:

            - Embeddings: an `EmbeddingScorer`.
            - A function from a list of histories to scores [batch, items], called for each batch.
              If it has a keyword `users` without a default, it also gets the rows of the users.
            - All scores, float [users, items] in the order of the queries: an array, a tensor or a
              sparse matrix of scipy. An item that a sparse matrix does not store has minus
              infinity: it is not recommended.
            - Ranked lists of item rows, best first: int [users, k] with -1 for empty places, a list
              per query, or the `Recommendations` of a frame. For the filtered metrics, seen items
              are removed from the lists. So pass lists longer than the largest k, by the length of
              the history if every place is to be filled.
            - `ItemShards`: models of some of the items each.
        ks: Cut-offs of the metrics.
        batch_size: Users scored at once; None takes about four million scores at once.
        lists: Also report coverage and Gini of the users' first k items.
        list_metrics: Further metrics of each user's first k items, such as `Novelty` or
            `Calibration`, each reported under its name.
        item_counts: Interactions of each item in training: [items]. If passed, targets are also
            reported by popularity, otherwise only as warm and cold.
        codes: The semantic IDs. If passed, hits of any item with the target's codes are reported
            beside the hits of the target, and how much higher they are.
        name: The name of the model in the report.
        seed: The seed of the bootstrap for the intervals.
        progress: Called with the users done and the users in all; in several processes, with
            those of its own share.

    Returns:
        The report of all users.

    Raises:
        TypeError: If embeddings are not fp32, fp16 or bf16, ranked lists not integers, or a table
            of scores not floats.
        ValueError: If the scores have the wrong shape or a NaN, a vector is not finite, a list is
            shorter than the largest k or holds an item twice, a k is not in [1, num_items],
            `item_counts`, `codes` or a list metric do not have one row per item, or two list
            metrics have the same name.
    """
    if not ks or not all(1 <= k <= queries.num_items for k in ks):
        raise ValueError(f"ks must be in [1, num_items = {queries.num_items}], got {tuple(ks)}")
    counts = _counts(queries)
    groups, group_names = _groups(queries, item_counts)
    code_groups = None if codes is None else _code_groups(codes, queries.num_items)
    shown = _Shown(queries, tuple(ks), exposure=lists, list_metrics=list_metrics)
    ranked = None if callable(model) else _lists(model)
    if ranked is None:
        scorer = (
            model.checked(queries) if isinstance(model, ItemShards) else scorer_of(queries, model)
        )
        ranks, code_ranks = _by_scores(queries, scorer, batch_size, shown, code_groups, progress)
    else:
        if batch_size is not None:
            raise ValueError(f"batch_size has no effect on ranked lists, got {batch_size}")
        ranks, code_ranks, counts["short_lists"] = _by_lists(
            queries, ranked, max(ks), shown, code_groups
        )
        if progress is not None:
            progress(len(queries), len(queries))
    return Report(
        name=name,
        queries=digest(queries),
        ranks=ranks,
        ks=tuple(ks),
        counts=counts,
        groups=groups,
        group_names=group_names,
        lists=shown.metrics(),
        list_values=shown.by_mode(),
        code_ranks=code_ranks,
        seed=seed,
    )


def _counts(queries: Queries) -> dict[str, int]:
    owners, items = flatten(queries.histories)
    repeated = np.unique(owners[items == queries.targets[owners]])
    return {
        "users": len(queries),
        "items": queries.num_items,
        "cold_targets": int(queries.cold.sum()),
        "repeated_targets": len(repeated),
    }


def _by_lists(
    queries: Queries,
    ranked: Int[np.ndarray, "users k"],
    longest_k: int,
    shown: _Shown,
    code_groups: CodeGroups | None,
) -> tuple[Ranks, Ranks | None, int]:
    """Ranks, ranks by codes, and how many lists have fewer than `longest_k` unseen items."""
    if ranked.shape[1] < longest_k:
        raise ValueError(
            f"ranked must hold at least max(ks) = {longest_k} places, got {ranked.shape[1]}"
        )
    ranks, code_ranks, by_mode = rank_lists(ranked, queries, code_groups=code_groups)
    shown.add(slice(0, len(queries)), by_mode)
    filled = (by_mode["filtered"] >= 0).sum(axis=1)
    return ranks, code_ranks, int((filled < longest_k).sum())


def _lists(model: Any) -> Int[np.ndarray, "users k"] | None:
    """Ranked lists as a table; None if the model is scores or embeddings."""
    if isinstance(model, Recommendations):
        return model.ranked
    if isinstance(model, Sequence):
        return padded_lists(model)
    if not isinstance(model, Tensor | np.ndarray) or "int" not in str(model.dtype):
        return None
    if model.ndim != 2:
        raise TypeError(
            f"ranked must be int [users, k], got {model.dtype} of shape {list(model.shape)}"
        )
    return model.cpu().numpy() if isinstance(model, Tensor) else model


def _by_scores(
    queries: Queries,
    model: EmbeddingScorer | ScoreMatrix | Scorer | ItemShards,
    batch_size: int | None,
    shown: _Shown,
    code_groups: CodeGroups | None,
    progress: Progress | None,
) -> tuple[Ranks, Ranks | None]:
    """Ranks, and ranks by codes; the shares of the users of all processes are added up.

    With item shards, each process has all users, and their ranks are complete already.
    """
    by_item = {mode: np.zeros(len(queries), dtype=np.int64) for mode in MODES}
    by_codes = {mode: np.zeros(len(queries), dtype=np.int64) for mode in MODES}
    shares_users = not isinstance(model, ItemShards)
    with together():
        results = rank_tiles(
            queries,
            model,
            batch_size=batch_size,
            top_k=shown.top_k,
            code_groups=code_groups,
            shard=shard() if shares_users else (0, 1),
        )
        for result in results:
            for mode in MODES:
                by_item[mode][result.part] = result.ranks[mode]
                if result.code_ranks is not None:
                    by_codes[mode][result.part] = result.code_ranks[mode]
            if result.ranked is not None:
                shown.add(result.part, result.ranked)
            if progress is not None:
                progress(result.part.stop, len(queries))
    if shares_users:
        by_item = dict(zip(MODES, add_up(list(by_item.values())), strict=True))
        by_codes = dict(zip(MODES, add_up(list(by_codes.values())), strict=True))
        shown.share()
    return by_item, None if code_groups is None else by_codes


class _Shown:
    """What is measured on the lists within each k, in each mode.

    This is how often each item is shown, if requested, and the values of the list metrics.
    """

    def __init__(
        self,
        queries: Queries,
        ks: tuple[int, ...],
        *,
        exposure: bool,
        list_metrics: Sequence[ListMetric],
    ) -> None:
        names = [metric.name for metric in list_metrics]
        for metric in list_metrics:
            if metric.num_items != queries.num_items:
                raise ValueError(
                    f"list metrics must know {queries.num_items} items, got {metric.num_items} of "
                    f"{metric.name!r}"
                )
            if names.count(metric.name) > 1 or metric.name in METRICS or "@" in metric.name:
                raise ValueError(
                    "names of list metrics must be unique and without @, and none of "
                    f"{', '.join(METRICS)}, got {metric.name!r}"
                )
        self.queries, self.ks, self.list_metrics = queries, ks, list_metrics
        self.exposures = {
            (mode, k): np.zeros(queries.num_items, dtype=np.int64)
            for mode in MODES
            for k in ks
            if exposure
        }
        self.values = {
            (mode, f"{metric.name}@{k}"): np.zeros(len(queries))
            for mode in MODES
            for metric in list_metrics
            for k in ks
        }

    @property
    def top_k(self) -> int | None:
        """The length of the longest list that is needed; None if no list is needed."""
        return max(self.ks) if self.exposures or self.values else None

    def add(self, part: slice, ranked: Mapping[str, Int[np.ndarray, "batch k"]]) -> None:
        for mode, k in self.exposures:
            self.exposures[mode, k] += exposures(ranked[mode], k, self.queries.num_items)
        for start in range(part.start, part.stop, _LIST_BATCH) if self.list_metrics else ():
            users = slice(start, min(start + _LIST_BATCH, part.stop))
            rows = slice(users.start - part.start, users.stop - part.start)
            histories, targets = self.queries.histories[users], self.queries.targets[users]
            for mode in MODES:
                for metric in self.list_metrics:
                    for k in self.ks:
                        values = metric(ranked[mode][rows, :k], histories, targets)
                        self.values[mode, f"{metric.name}@{k}"][users] = values

    def share(self) -> None:
        sums = add_up([*self.exposures.values(), *self.values.values()])
        self.exposures = dict(zip(self.exposures, sums[: len(self.exposures)], strict=True))
        self.values = dict(zip(self.values, sums[len(self.exposures) :], strict=True))

    def metrics(self) -> dict[str, dict[str, float]]:
        """By mode: "coverage@k" and "gini@k"; empty if they were not requested."""
        by_mode: dict[str, dict[str, float]] = {mode: {} for mode in MODES if self.exposures}
        for measure in (coverage, gini):
            for (mode, k), shown in self.exposures.items():
                by_mode[mode][f"{measure.__name__}@{k}"] = measure(shown)
        return by_mode

    def by_mode(self) -> dict[str, dict[str, Float[np.ndarray, " users"]]]:
        """By mode and metric: the value of every user's list; empty without list metrics.

        Raises:
            ValueError: If a value is not finite.
        """
        by_mode: dict[str, dict[str, np.ndarray]] = {mode: {} for mode in MODES if self.values}
        for (mode, metric), values in self.values.items():
            if not np.isfinite(values).all():
                user = int(np.argmin(np.isfinite(values)))
                raise ValueError(f"{metric} must be finite, got {values[user]} for user {user}")
            by_mode[mode][metric] = values
        return by_mode


def _groups(
    queries: Queries, item_counts: Int[np.ndarray, " items"] | None
) -> tuple[Int[np.ndarray, " users"], tuple[str, ...]]:
    if item_counts is None:
        return queries.cold.astype(np.int64), ("warm", "cold")
    if len(item_counts) != queries.num_items:
        raise ValueError(
            f"item_counts must be one count an item, {queries.num_items}, got {len(item_counts)}"
        )
    return popularity_groups(queries.targets, queries.cold, item_counts), GROUPS


def _code_groups(
    codes: Int[np.ndarray, "items levels"] | Int[Tensor, "items levels"], num_items: int
) -> CodeGroups:
    if len(codes) != num_items:
        raise ValueError(f"codes must be one row per item, {num_items}, got {len(codes)}")
    return CodeGroups(codes.cpu().numpy() if isinstance(codes, torch.Tensor) else codes)
