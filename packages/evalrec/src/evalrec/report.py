"""Report: the ranks of one evaluation and their metrics with intervals, stored as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from evalrec.documents import count, counts, finite, has_format, mapping, read_json, refusing, text
from evalrec.interactions import DataError, flatten
from evalrec.metrics import METRICS, REPORTED
from evalrec.significance import bootstrap_means, interval
from evalrec.splits import Queries
from evalrec.storage import replacing_file

__all__ = [
    "MODES",
    "Estimate",
    "Report",
    "read_report",
]

MODES = ("unfiltered", "filtered")
"""How metrics are counted: with all items in the list, or without the items of the history."""
_FORMAT = 2
_BOOTSTRAP_SAMPLES = 5000


class Estimate(NamedTuple):
    """A mean over users, and the 95 % bootstrap interval around it."""

    mean: float
    low: float
    high: float


def digest(queries: Queries) -> str:
    """A hash of the histories, the targets and the size of the catalogue, in order."""
    owners, items = flatten(queries.histories)
    lengths = np.bincount(owners, minlength=len(queries))
    content = hashlib.sha256(str(queries.num_items).encode())
    for part in (lengths, items, queries.targets):
        content.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return content.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """The result of one model on one set of queries.

    Attributes:
        name: The name of the model; may be empty.
        queries: A digest of the users' histories and targets and of the number of items. Two
            reports can be compared if these are equal.
        ranks: For each mode, "unfiltered" and "filtered", the rank of every user's target, in the
            order of the queries; 1 is best, `num_items + 1` is a miss.
        ks: Cut-offs of the metrics.
        counts: users; items; cold_targets (never in training, counted in the means);
            repeated_targets (already in the history: misses in the filtered mode); and, for ranked
            lists, short_lists (fewer than max(ks) items after the seen ones are removed).
        groups: For every user, the index in `group_names` of the target's group.
        group_names: "warm" and "cold", or "head", "middle", "tail" and "cold".
        lists: By mode, "coverage@k" and "gini@k"; empty if they were not requested.
        list_values: By mode and metric, such as "novelty@10", the value of each user's list; empty
            if no list metrics were requested.
        code_ranks: Like `ranks`, but of the best item that has the target's codes; None without
            codes.
        seed: The seed of the bootstrap.
    """

    name: str = ""
    queries: str
    ranks: Mapping[str, Int[np.ndarray, " users"]]
    ks: tuple[int, ...]
    counts: Mapping[str, int]
    groups: Int[np.ndarray, " users"]
    group_names: tuple[str, ...]
    lists: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    list_values: Mapping[str, Mapping[str, Float[np.ndarray, " users"]]] = field(
        default_factory=dict
    )
    code_ranks: Mapping[str, Int[np.ndarray, " users"]] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for ranks_of in (self.ranks, self.code_ranks):
            if ranks_of is not None:
                self._check_ranks(ranks_of)
        for by_metric in self.list_values.values():
            for metric, values in by_metric.items():
                if len(values) != self.counts["users"]:
                    raise ValueError(
                        f"{metric} must be one value per user, {self.counts['users']}, "
                        f"got {len(values)}"
                    )
        if len(self.groups) != self.counts["users"]:
            raise ValueError(
                f"groups must be one per user, {self.counts['users']}, got {len(self.groups)}"
            )

    def _check_ranks(self, ranks_of: Mapping[str, Int[np.ndarray, " users"]]) -> None:
        if tuple(ranks_of) != MODES:
            raise ValueError(f"ranks must be given for {MODES}, got {tuple(ranks_of)}")
        for mode, ranks in ranks_of.items():
            if len(ranks) != self.counts["users"] or len(ranks) == 0 or ranks.min() < 1:
                raise ValueError(
                    f"{mode} ranks must be {self.counts['users']} numbers from 1 on, "
                    f"got {len(ranks)} from {ranks.min(initial=self.counts['items'] + 1)} on"
                )

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that are shown, at every k: "recall@5", ..., "mrr@20", and list metrics."""
        return (*self._of_ranks(REPORTED), *self.list_values.get(MODES[0], ()))

    @property
    def known_metrics(self) -> tuple[str, ...]:
        """All metrics of the report: `metric_names`, and "precision@5", ..., "hit_rate@20"."""
        rest = [name for name in METRICS if name not in REPORTED]
        return (*self.metric_names, *self._of_ranks(rest))

    def _of_ranks(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{name}@{k}" for name in names for k in self.ks)

    def per_user(
        self, metric: str, mode: str, *, by_codes: bool = False
    ) -> Float[np.ndarray, " users"]:
        """The value of one metric, such as "ndcg@10", for every user.

        Args:
            metric: Its name and cut-off; a metric of ranks may have any cut-off.
            mode: "unfiltered" or "filtered".
            by_codes: Count the hits of any item with the target's codes.

        Raises:
            ValueError: If the metric or the mode is unknown, or `by_codes` is set without codes.
        """
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        if not by_codes and metric in self.list_values.get(mode, ()):
            return self.list_values[mode][metric]
        name, _, k = metric.partition("@")
        if name not in METRICS or not k.isdecimal():
            raise ValueError(f"metric must be one of {self.known_metrics}, got {metric!r}")
        if by_codes and self.code_ranks is None:
            raise ValueError("by_codes must be False for a report without codes, got True")
        ranks = self.code_ranks if by_codes and self.code_ranks is not None else self.ranks
        return METRICS[name](ranks[mode], int(k))

    @cached_property
    def metrics(self) -> dict[str, dict[str, Estimate]]:
        """Means and intervals: `metrics["unfiltered"]["recall@10"].mean`."""
        return {mode: self._estimates(mode, self.metric_names) for mode in MODES}

    def estimate(self, metric: str, mode: str) -> Estimate:
        """The mean and interval of any metric of the report.

        Args:
            metric: One of `known_metrics`.
            mode: "unfiltered" or "filtered".

        Raises:
            ValueError: If the metric or the mode is unknown.
        """
        if mode not in MODES or metric not in self.known_metrics:
            raise ValueError(
                f"metric must be one of {self.known_metrics} and mode of {MODES}, "
                f"got {metric!r} and {mode!r}"
            )
        if metric in self.metric_names:
            return self.metrics[mode][metric]
        return self._estimates(mode, [metric])[metric]

    def by_user_group(self, labels: Sequence[str]) -> dict[str, dict[str, dict[str, Estimate]]]:
        """Means and intervals of each group of users: `["new"]["filtered"]["recall@10"].mean`.

        Args:
            labels: The group of each query's user, in the order of the queries.

        Returns:
            The groups in the order in which they first occur.

        Raises:
            ValueError: If the labels are not one per query.
        """
        if len(labels) != self.counts["users"]:
            raise ValueError(
                f"labels must be one per query, {self.counts['users']}, got {len(labels)}"
            )
        group_of = np.asarray(labels, dtype=object)
        return {label: self._of_users(group_of == label).metrics for label in dict.fromkeys(labels)}

    def _of_users(self, members: Bool[np.ndarray, " users"]) -> Report:
        """The report of some of the users."""
        return replace(
            self,
            ranks={mode: ranks[members] for mode, ranks in self.ranks.items()},
            counts={**self.counts, "users": int(members.sum())},
            groups=self.groups[members],
            list_values={
                mode: {metric: values[members] for metric, values in by_metric.items()}
                for mode, by_metric in self.list_values.items()
            },
            code_ranks=None,
        )

    @cached_property
    def by_group(self) -> dict[str, dict[str, dict[str, float]]]:
        """Means by the group of the target: `by_group["cold"]["filtered"]["recall@10"]`.

        Groups without a target are left out.
        """
        means: dict[str, dict[str, dict[str, float]]] = {}
        for index, group in enumerate(self.group_names):
            members = self.groups == index
            if members.any():
                means[group] = {
                    mode: {
                        metric: float(self.per_user(metric, mode)[members].mean())
                        for metric in self.metric_names
                    }
                    for mode in MODES
                }
        return means

    @cached_property
    def group_sizes(self) -> dict[str, int]:
        """How many targets each group has; empty groups are left out."""
        sizes = np.bincount(self.groups, minlength=len(self.group_names)).tolist()
        return {name: size for name, size in zip(self.group_names, sizes, strict=True) if size}

    @cached_property
    def on_codes(self) -> dict[str, dict[str, float]]:
        """Means if hits are counted on codes, which are too high; empty without codes."""
        if self.code_ranks is None:
            return {}
        return {
            mode: {
                metric: float(self.per_user(metric, mode, by_codes=True).mean())
                for metric in self._of_ranks(REPORTED)
            }
            for mode in MODES
        }

    def _estimates(self, mode: str, metrics: Sequence[str]) -> dict[str, Estimate]:
        """Means with percentile bootstrap intervals.

        A metric of ranks depends only on the rank, and all misses are alike. So drawing users with
        replacement is the same as drawing the count of each rank from a multinomial distribution.
        This is exact and needs no indices [samples, users]. For list metrics, users are drawn.
        """
        worst = max(self.ks) + 1
        cells = np.arange(1, worst + 1)
        frequency = np.bincount(np.minimum(self.ranks[mode], worst), minlength=worst + 1)[1:]
        total = frequency.sum()
        draws = np.random.default_rng(self.seed).multinomial(
            total, frequency / total, size=_BOOTSTRAP_SAMPLES
        )
        of_lists = [metric for metric in metrics if metric in self.list_values.get(mode, ())]
        resampled = {}
        if of_lists:
            values = np.stack([self.list_values[mode][metric] for metric in of_lists], axis=1)
            means = bootstrap_means(values, num_samples=_BOOTSTRAP_SAMPLES, seed=self.seed)
            resampled = dict(zip(of_lists, means.T, strict=True))
        estimates = {}
        for metric in metrics:
            if metric not in resampled:
                name, _, k = metric.partition("@")
                resampled[metric] = draws @ METRICS[name](cells, int(k)) / total
            mean = self.per_user(metric, mode).mean()
            estimates[metric] = Estimate(float(mean), *interval(resampled[metric]))
        return estimates

    def to_json(self, *, per_user: bool = True) -> dict[str, Any]:
        """A dict that `json.dumps` takes; the same ranks give the same dict.

        Args:
            per_user: Whether to keep the ranks; `from_json` needs them.
        """
        document: dict[str, Any] = {
            "format": _FORMAT,
            "name": self.name,
            "queries": self.queries,
            "counts": dict(self.counts),
            "ks": list(self.ks),
            "seed": self.seed,
            "metrics": {
                mode: {name: estimate._asdict() for name, estimate in estimates.items()}
                for mode, estimates in self.metrics.items()
            },
            "group_sizes": self.group_sizes,
            "by_group": self.by_group,
            "lists": {mode: dict(metrics) for mode, metrics in self.lists.items()},
            "on_codes": self.on_codes,
        }
        if per_user:
            document["ranks"] = _plain(self.ranks)
            document["code_ranks"] = None if self.code_ranks is None else _plain(self.code_ranks)
            document["groups"] = self.groups.tolist()
            document["group_names"] = list(self.group_names)
        if per_user and self.list_values:
            document["list_values"] = {
                mode: {metric: values.tolist() for metric, values in by_metric.items()}
                for mode, by_metric in self.list_values.items()
            }
        return document

    def to_frame(
        self,
        *,
        per_user: bool = False,
        user_groups: Sequence[str] | None = None,
        backend: str = "polars",
    ) -> Any:
        """The figures as a data frame.

        Args:
            per_user: If set, a row is a query and a mode: `name`, `query` (its position, from 0),
                `mode`, `group` (of the target), `rank`, and a column per metric. Otherwise a row is
                a mode and a metric: `name`, `mode`, `metric`, `mean`, and `low` and `high`, the
                ends of the 95 % interval.
            user_groups: The labels of `by_user_group`. The means are then those of each group,
                which a column `users` names.
            backend: The library of the frame: "polars", "pandas", "pyarrow" or any other whose
                tables narwhals makes.

        Raises:
            ImportError: If the library is not installed.
            ValueError: If narwhals makes no tables of that name, or user groups are not one per
                query, or are passed with `per_user`, where they have no effect.
        """
        from evalrec.report_frames import means_frame, users_frame  # they load polars

        if per_user and user_groups is not None:
            raise ValueError("user_groups has no effect where per_user is True")
        if per_user:
            return users_frame(self, backend)
        return means_frame(self, user_groups, backend)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Report:
        """Reads the dict that `to_json` made.

        Raises:
            ValueError: If it is of another format, or lacks the ranks.
        """
        if not has_format(document, _FORMAT):
            raise ValueError(
                f"format must be {_FORMAT}, got {document.get('format')!r}: a report of another "
                "version of evalrec: make it again"
            )
        if "ranks" not in document:
            raise ValueError("ranks must be in the document, got one made with per_user=False")
        code_ranks = document["code_ranks"]
        report = cls(
            name=text("name", document["name"]),
            queries=text("queries", document["queries"]),
            ranks=_arrays(document["ranks"]),
            ks=tuple(counts("ks", document["ks"]).tolist()),
            counts={
                name: count(name, number)
                for name, number in mapping("counts", document["counts"]).items()
            },
            groups=counts("groups", document["groups"]),
            group_names=tuple(text("group_names", name) for name in document["group_names"]),
            lists={
                mode: {metric: finite(metric, value) for metric, value in metrics.items()}
                for mode, metrics in mapping("lists", document["lists"]).items()
            },
            list_values={
                mode: {
                    metric: np.array([finite(metric, value) for value in values], dtype=np.float64)
                    for metric, values in mapping(mode, by_metric).items()
                }
                for mode, by_metric in mapping(
                    "list_values", document.get("list_values", {})
                ).items()
            },
            code_ranks=None if code_ranks is None else _arrays(code_ranks),
            seed=count("seed", document["seed"]),
        )
        _check_ranges(report)
        return report

    def write_json(self, path: str | Path) -> None:
        """Write `to_json()` to a file, whole or not at all."""
        with replacing_file(Path(path)) as beside:
            beside.write_text(json.dumps(self.to_json()) + "\n", encoding="utf-8")


def read_report(path: str | Path) -> Report:
    """Reads the report in a file that `Report.write_json` wrote.

    Raises:
        DataError: If the file is not such a report; the message names it.
        OSError: If it cannot be read.
    """
    path = Path(path)
    document = read_json(path)
    with refusing(path):
        if "format" not in document:
            raise DataError(f"{path} is not a report of evalrec")
        return Report.from_json(document)


def _check_ranges(report: Report) -> None:
    """Refuses figures that no evaluation gives."""
    for what in ("items", "cold_targets", "repeated_targets"):
        if what not in report.counts:
            raise ValueError(f"counts must have {what}, got {', '.join(report.counts)}")
    most = report.counts["items"] + 1
    for ranks_of in (report.ranks, report.code_ranks or {}):
        for mode, ranks in ranks_of.items():
            if ranks.max() > most:
                raise ValueError(f"{mode} ranks must be at most {most}, got {ranks.max()}")
    if not report.ks or not all(1 <= k < most for k in report.ks):
        raise ValueError(f"ks must be in [1, {most - 1}], got {report.ks}")
    if report.groups.max() >= len(report.group_names):
        raise ValueError(f"groups must be of {report.group_names}, got {report.groups.max()}")


def _plain(ranks_of: Mapping[str, Int[np.ndarray, " users"]]) -> dict[str, list[int]]:
    return {mode: ranks.tolist() for mode, ranks in ranks_of.items()}


def _arrays(ranks_of: Mapping[str, list[int]]) -> dict[str, Int[np.ndarray, " users"]]:
    return {mode: counts("ranks", ranks) for mode, ranks in mapping("ranks", ranks_of).items()}
