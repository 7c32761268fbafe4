"""Reports as rich tables: one in full, or several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from evalrec.report import MODES, Estimate, Report

__all__ = ["reports_table"]


def report_table(report: Report) -> Table:
    """One report: every metric, and what else was asked for, in both modes."""
    table = Table(
        title=escape(report.name) or None, caption=_caption(report), caption_justify="left"
    )
    table.add_column("", no_wrap=True)
    for mode in MODES:
        table.add_column(mode, justify="right", no_wrap=True)
    for metric in report.metric_names:
        table.add_row(label(metric), *(_cell(report.metrics[mode][metric]) for mode in MODES))
    k = _headline_k(report)
    table.add_section()
    for group, size in report.group_sizes.items():
        found = report.by_group[group]
        figures = (figure(found[mode][f"recall@{k}"]) for mode in MODES)
        table.add_row(f"Recall@{k}, {size:,} {group} targets", *figures)
    for metric in report.lists.get(MODES[0], ()):
        table.add_row(label(metric), *(figure(report.lists[mode][metric]) for mode in MODES))
    if report.code_ranks is not None:
        table.add_section()
        for metric in (f"recall@{k}", f"ndcg@{k}"):
            cells = (
                f"{figure(report.on_codes[mode][metric])} ({inflation(report, metric, mode)})"
                for mode in MODES
            )
            table.add_row(f"{label(metric)} counted on codes", *cells)
    return table


def inflation(report: Report, metric: str, mode: str) -> str:
    """By how much counting hits on codes flatters a mean: "+12.3 %"."""
    honest, flattered = report.metrics[mode][metric].mean, report.on_codes[mode][metric]
    if honest == 0:
        return "+0.0 %" if flattered == 0 else "from nothing"
    return f"{100 * (flattered / honest - 1):+.1f} %"


def _headline_k(report: Report) -> int:
    return 10 if 10 in report.ks else max(report.ks)


def check_same_queries(first: Report, name: str, report: Report) -> None:
    """Refuse a report whose users, histories, targets or items differ from those of the first.

    Raises:
        ValueError: If they do; it says in what.
    """
    for what in ("users", "items", "cold_targets"):
        if report.counts[what] != first.counts[what]:
            raise ValueError(
                f"reports must be of the same queries, got {first.counts[what]:,} and, in "
                f"{name!r}, {report.counts[what]:,} {what}"
            )
    if report.queries != first.queries:
        raise ValueError(
            f"reports must be of the same queries, got other histories or targets in {name!r}"
        )


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
        check_same_queries(first, name, report)
        if report.ks != first.ks:
            raise ValueError(f"reports must share ks, got {first.ks} and, in {name!r}, {report.ks}")
    if metrics is None:
        k = _headline_k(first)
        metrics = (f"recall@{k}", f"ndcg@{k}")
    for metric in metrics:
        if metric not in first.metric_names:
            raise ValueError(f"metrics must be among {first.metric_names}, got {metric!r}")
    table = Table(title=title, caption=_caption(first), caption_justify="left")
    table.add_column("", overflow="fold")
    columns = [(mode, metric) for mode in MODES for metric in metrics]
    best = {}
    for mode, metric in columns:
        table.add_column(f"{mode}\n{label(metric)}", justify="right", no_wrap=True)
        best[mode, metric] = max(report.metrics[mode][metric].mean for report in reports.values())
    for name, report in reports.items():
        cells = (
            _cell(report.metrics[mode][metric], best=best[mode, metric]) for mode, metric in columns
        )
        table.add_row(escape(name), *cells)
    return table


def label(metric: str) -> str:
    """A metric as people write it: "NDCG@10"."""
    name, _, k = metric.partition("@")
    return f"{name.upper() if name in ('ndcg', 'mrr') else name.capitalize()}@{k}"


def _cell(estimate: Estimate, *, best: float = 0.0) -> str:
    mean = figure(estimate.mean)
    half = figure((estimate.high - estimate.low) / 2)
    return f"{f'[bold]{mean}[/bold]' if estimate.mean == best > 0 else mean} [dim]±{half}[/dim]"


def figure(value: float) -> str:
    """Four places, without the zero before the point."""
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
