"""compare(): several systems, each with its seeds, and the differences between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from evalrec.report import MODES, Estimate, Report
from evalrec.side_by_side import check_same_queries
from evalrec.significance import (
    bootstrap_means,
    bootstrap_p_value,
    holm,
    interval,
    paired_t_test,
    wilcoxon_test,
)

__all__ = ["Comparison", "Difference", "System", "compare"]

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class System:
    """The figures of one system, pooled over its seeds.

    Attributes:
        name: The name of the system.
        num_seeds: The number of its reports.
        figures: By (mode, metric): the mean over users of each user's mean over seeds, with its
            interval over users.
        seed_spread: By (mode, metric): the standard deviation of the seeds' means; None with one
            seed.
    """

    name: str
    num_seeds: int
    figures: Mapping[tuple[str, str], Estimate]
    seed_spread: Mapping[tuple[str, str], float] | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A system minus the baseline, in one metric and mode.

    Attributes:
        system: The system's name.
        mode: "unfiltered" or "filtered".
        metric: Such as "ndcg@10".
        estimate: The mean difference with its paired bootstrap interval.
        bootstrap_p: The p-value of the paired bootstrap, corrected.
        t_test_p: The p-value of the paired t-test, corrected.
        wilcoxon_p: The p-value of Wilcoxon's signed-rank test, corrected.
    """

    system: str
    mode: str
    metric: str
    estimate: Estimate
    bootstrap_p: float
    t_test_p: float
    wilcoxon_p: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Systems on the same queries, the first of them the baseline.

    Attributes:
        systems: In the order of the input, the baseline first.
        metrics: The metrics that are compared.
        counts: users, items and cold_targets of the queries.
        differences: Every other system minus the baseline. The p-values of each test are corrected
            together (Holm).
    """

    systems: tuple[System, ...]
    metrics: tuple[str, ...]
    counts: Mapping[str, int]
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """A dict that `json.dumps` takes."""
        return {
            "format": _FORMAT,
            "counts": dict(self.counts),
            "baseline": self.systems[0].name,
            "systems": [
                {
                    "name": system.name,
                    "seeds": system.num_seeds,
                    "metrics": {
                        mode: {name: system.figures[mode, name]._asdict() for name in self.metrics}
                        for mode in MODES
                    },
                    "seed_spread": system.seed_spread
                    and {
                        mode: {name: system.seed_spread[mode, name] for name in self.metrics}
                        for mode in MODES
                    },
                }
                for system in self.systems
            ],
            "differences": [
                {
                    "system": difference.system,
                    "mode": difference.mode,
                    "metric": difference.metric,
                    **difference.estimate._asdict(),
                    "bootstrap_p": difference.bootstrap_p,
                    "t_test_p": difference.t_test_p,
                    "wilcoxon_p": difference.wilcoxon_p,
                }
                for difference in self.differences
            ],
        }


def compare(
    systems: Mapping[str, Sequence[Report]],
    *,
    metrics: Sequence[str] = ("recall@10", "ndcg@10"),
    num_samples: int = 5000,
    seed: int = 0,
) -> Comparison:
    """Compare systems with the first of them, on the same users and targets.

    The seeds of a system are pooled user by user: a user's value is the mean over seeds. The
    intervals and tests are over users; the spread of the seeds is reported beside them.

    Args:
        systems: The reports of each system, one per seed; the first is the baseline.
        metrics: The metrics to compare, in both modes.
        num_samples: Bootstrap resamples; all systems are resampled with the same users.
        seed: The seed of the bootstrap.

    Raises:
        ValueError: If there is no system or one has no report, the reports have different users,
            histories or targets, or lack a metric.
    """
    if not systems or not metrics:
        raise ValueError("systems and metrics must be at least one each, got none")
    _check(systems, metrics)
    columns = [(mode, metric) for mode in MODES for metric in metrics]
    seeds = {
        name: np.stack([_values(report, columns) for report in reports])
        for name, reports in systems.items()
    }
    pooled = {name: values.mean(axis=0) for name, values in seeds.items()}
    resampled = bootstrap_means(
        np.concatenate(list(pooled.values()), axis=1), num_samples=num_samples, seed=seed
    )
    means = dict(zip(pooled, np.split(resampled, len(pooled), axis=1), strict=True))
    first = next(iter(systems.values()))[0]
    return Comparison(
        systems=tuple(_system(name, seeds[name], means[name], columns) for name in systems),
        metrics=tuple(metrics),
        counts={name: first.counts[name] for name in ("users", "items", "cold_targets")},
        differences=_differences(pooled, means, columns),
    )


def _check(systems: Mapping[str, Sequence[Report]], metrics: Sequence[str]) -> None:
    first: Report | None = None
    for name, reports in systems.items():
        if not reports:
            raise ValueError(f"each system must have a report, got none of {name!r}")
        for report in reports:
            first = first or report
            check_same_queries(first, name, report)
            for metric in metrics:
                if metric not in report.known_metrics:
                    raise ValueError(
                        f"metrics must be among {report.known_metrics}, which {name!r} has, "
                        f"got {metric!r}"
                    )


def _values(
    report: Report, columns: Sequence[tuple[str, str]]
) -> Float[np.ndarray, "users columns"]:
    return np.stack([report.per_user(metric, mode) for mode, metric in columns], axis=1)


def _system(
    name: str,
    seeds: Float[np.ndarray, "seeds users columns"],
    means: Float[np.ndarray, "samples columns"],
    columns: Sequence[tuple[str, str]],
) -> System:
    by_seed = seeds.mean(axis=1)
    figures = {
        column: Estimate(float(by_seed[:, place].mean()), *interval(means[:, place]))
        for place, column in enumerate(columns)
    }
    spread = None
    if len(seeds) > 1:
        deviations = by_seed.std(axis=0, ddof=1)
        spread = {column: float(deviations[place]) for place, column in enumerate(columns)}
    return System(name=name, num_seeds=len(seeds), figures=figures, seed_spread=spread)


def _differences(
    pooled: Mapping[str, Float[np.ndarray, "users columns"]],
    means: Mapping[str, Float[np.ndarray, "samples columns"]],
    columns: Sequence[tuple[str, str]],
) -> tuple[Difference, ...]:
    baseline, *others = pooled
    raw = []
    for name in others:
        for place, (mode, metric) in enumerate(columns):
            by_user = pooled[name][:, place] - pooled[baseline][:, place]
            by_sample = means[name][:, place] - means[baseline][:, place]
            estimate = Estimate(float(by_user.mean()), *interval(by_sample))
            tests = (
                bootstrap_p_value(by_sample),
                paired_t_test(by_user),
                wilcoxon_test(by_user),
            )
            raw.append((name, mode, metric, estimate, tests))
    # Each test is corrected separately, over all differences.
    by_test = zip(*(tests for *_, tests in raw), strict=True)
    corrected = zip(*(holm(p_values) for p_values in by_test), strict=True)
    return tuple(
        Difference(
            system=name,
            mode=mode,
            metric=metric,
            estimate=estimate,
            bootstrap_p=bootstrap_p,
            t_test_p=t_test_p,
            wilcoxon_p=wilcoxon_p,
        )
        for (name, mode, metric, estimate, _), (bootstrap_p, t_test_p, wilcoxon_p) in zip(
            raw, corrected, strict=True
        )
    )
