"""Report: the ranks of one evaluation, their metrics with intervals, as table and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from rich.markup import escape
from rich.table import Table

from evalrec.metrics import METRICS

MODES = ("unfiltered", "filtered")
_FORMAT = 1
_BOOTSTRAP_SAMPLES = 5000


class Estimate(NamedTuple):
    """A mean over users, and the 95 % bootstrap interval around it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What one model reached on one set of queries.

    Attributes:
        ranks: For each mode, "unfiltered" and "filtered", the rank of every user's target, in the
            order of the queries; 1 is best, `num_items + 1` is a miss.
        ks: Cut-offs of the metrics.
        counts: users; items; cold_targets (never in training, counted in the means);
            repeated_targets (already in the history: misses in the filtered mode); and, of ranked
            lists, short_lists (fewer than max(ks) items once the seen ones are struck out).
        seed: Of the bootstrap.
    """

    ranks: Mapping[str, Int[np.ndarray, " users"]]
    ks: tuple[int, ...]
    counts: Mapping[str, int]
    seed: int = 0

    def __post_init__(self) -> None:
        if tuple(self.ranks) != MODES:
            raise ValueError(f"ranks must be given for {MODES}, got {tuple(self.ranks)}")
        for mode, ranks in self.ranks.items():
            if len(ranks) != self.counts["users"] or len(ranks) == 0 or ranks.min() < 1:
                raise ValueError(
                    f"{mode} ranks must be {self.counts['users']} numbers from 1 on, "
                    f"got {len(ranks)} from {ranks.min(initial=self.counts['items'] + 1)} on"
                )

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Every metric at every k: "recall@5", ..., "mrr@20"."""
        return tuple(f"{name}@{k}" for name in METRICS for k in self.ks)

    def per_user(self, metric: str, mode: str) -> Float[np.ndarray, " users"]:
        """The value of one metric, such as "ndcg@10", for every user."""
        name, _, k = metric.partition("@")
        if name not in METRICS or not k.isdecimal():
            raise ValueError(f"metric must be one of {self.metric_names}, got {metric!r}")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        return METRICS[name](self.ranks[mode], int(k))

    @cached_property
    def metrics(self) -> dict[str, dict[str, Estimate]]:
        """Means and intervals: `metrics["unfiltered"]["recall@10"].mean`."""
        return {mode: self._estimates(mode) for mode in MODES}

    def _estimates(self, mode: str) -> dict[str, Estimate]:
        """Means with percentile bootstrap intervals.

        A metric depends on the rank alone, and all misses are alike: drawing users with
        replacement is drawing how often each rank occurs from a multinomial, which is exact and
        needs no users x samples indices.
        """
        worst = max(self.ks) + 1
        cells = np.arange(1, worst + 1)
        frequency = np.bincount(np.minimum(self.ranks[mode], worst), minlength=worst + 1)[1:]
        total = frequency.sum()
        draws = np.random.default_rng(self.seed).multinomial(
            total, frequency / total, size=_BOOTSTRAP_SAMPLES
        )
        estimates = {}
        for metric in self.metric_names:
            name, _, k = metric.partition("@")
            values = METRICS[name](cells, int(k))
            low, high = np.percentile(draws @ values / total, (2.5, 97.5))
            mean = self.per_user(metric, mode).mean()
            estimates[metric] = Estimate(float(mean), float(low), float(high))
        return estimates

    def to_json(self, *, per_user: bool = True) -> dict[str, Any]:
        """A dict that `json.dumps` takes, the same for the same ranks.

        Args:
            per_user: Whether to keep the ranks, without which `from_json` cannot read it back.
        """
        document: dict[str, Any] = {
            "format": _FORMAT,
            "counts": dict(self.counts),
            "ks": list(self.ks),
            "seed": self.seed,
            "metrics": {
                mode: {name: estimate._asdict() for name, estimate in estimates.items()}
                for mode, estimates in self.metrics.items()
            },
        }
        if per_user:
            document["ranks"] = {mode: ranks.tolist() for mode, ranks in self.ranks.items()}
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Report:
        """The report of a dict that `to_json` made.

        Raises:
            ValueError: If it is of another format, or lacks the ranks.
        """
        if document.get("format") != _FORMAT:
            raise ValueError(f"format must be {_FORMAT}, got {document.get('format')!r}")
        if "ranks" not in document:
            raise ValueError("ranks must be in the document, got one made with per_user=False")
        return cls(
            ranks={
                mode: np.array(ranks, dtype=np.int64) for mode, ranks in document["ranks"].items()
            },
            ks=tuple(document["ks"]),
            counts=dict(document["counts"]),
            seed=document["seed"],
        )

    def write_json(self, path: str | Path) -> None:
        """Write `to_json()` to a file, whole or not at all."""
        path = Path(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            beside.write_text(json.dumps(self.to_json()) + "\n", encoding="utf-8")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def __rich__(self) -> Table:
        table = Table(caption=_caption(self), caption_justify="left")
        table.add_column("", no_wrap=True)
        for mode in MODES:
            table.add_column(mode, justify="right", no_wrap=True)
        for metric in self.metric_names:
            table.add_row(_label(metric), *(_cell(self.metrics[mode][metric]) for mode in MODES))
        return table


def reports_table(
    reports: Mapping[str, Report],
    *,
    metrics: Sequence[str] | None = None,
    title: str | None = None,
) -> Table:
    """Several reports, one row each; the best mean of every column is bold.

    Args:
        reports: By name, in the order of the rows; all of the same queries and cut-offs.
        metrics: The columns of each mode; None takes Recall and NDCG at 10, or at the largest
            cut-off where 10 is none.
        title: Printed above the table.

    Raises:
        ValueError: If there is none, they differ in users, items, cold targets or ks, or a metric
            is none of theirs.
    """
    if not reports:
        raise ValueError("reports must be at least one, got none")
    first = next(iter(reports.values()))
    for name, report in reports.items():
        for what in ("users", "items", "cold_targets"):
            if report.counts[what] != first.counts[what]:
                raise ValueError(
                    f"reports must be of the same queries, got {first.counts[what]:,} and, in "
                    f"{name!r}, {report.counts[what]:,} {what}"
                )
        if report.ks != first.ks:
            raise ValueError(f"reports must share ks, got {first.ks} and, in {name!r}, {report.ks}")
    if metrics is None:
        k = 10 if 10 in first.ks else max(first.ks)
        metrics = (f"recall@{k}", f"ndcg@{k}")
    for metric in metrics:
        if metric not in first.metric_names:
            raise ValueError(f"metrics must be among {first.metric_names}, got {metric!r}")
    table = Table(title=title, caption=_caption(first), caption_justify="left")
    table.add_column("", overflow="fold")
    columns = [(mode, metric) for mode in MODES for metric in metrics]
    best = {}
    for mode, metric in columns:
        table.add_column(f"{mode}\n{_label(metric)}", justify="right", no_wrap=True)
        best[mode, metric] = max(report.metrics[mode][metric].mean for report in reports.values())
    for name, report in reports.items():
        cells = (
            _cell(report.metrics[mode][metric], best=best[mode, metric]) for mode, metric in columns
        )
        table.add_row(escape(name), *cells)
    return table


def _label(metric: str) -> str:
    name, _, k = metric.partition("@")
    return f"{name.capitalize() if name == 'recall' else name.upper()}@{k}"


def _cell(estimate: Estimate, *, best: float = 0.0) -> str:
    mean = _figure(estimate.mean)
    half = _figure((estimate.high - estimate.low) / 2)
    return f"{f'[bold]{mean}[/bold]' if estimate.mean == best > 0 else mean} [dim]±{half}[/dim]"


def _figure(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _caption(report: Report) -> str:
    counts = report.counts
    text = (
        f"{counts['users']:,} users, ranked over all {counts['items']:,} items; filtered: less the "
        f"items of the user's own history. {counts['cold_targets']:,} targets never occur in "
        "training; they count. ± is half the 95 % bootstrap interval."
    )
    if counts["repeated_targets"]:
        text += f" {counts['repeated_targets']:,} targets are in the history already."
    return text
