"""Which reports may stand side by side, and what is shown of them where nothing is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evalrec.report import Report

__all__ = ["check_same_queries", "check_side_by_side", "headline_metrics"]


def check_same_queries(first: Report, name: str, report: Report) -> None:
    """Refuse a report whose users, histories, targets or items differ from those of the first.

    Args:
        first: What the others are held against.
        name: What the other report is called.
        report: The other report.

    Raises:
        ValueError: If they differ; it says in what.
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


def check_side_by_side(reports: Mapping[str, Report], metrics: Sequence[str]) -> Report:
    """Refuse reports that cannot stand in the rows of one table.

    Args:
        reports: By name.
        metrics: The columns that each must have.

    Returns:
        The first report, whose queries and cut-offs are those of all.

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
    for metric in metrics:
        for report in reports.values():
            if metric not in report.known_metrics:
                raise ValueError(f"metrics must be among {report.known_metrics}, got {metric!r}")
    return first


def headline_metrics(report: Report) -> tuple[str, str]:
    """Recall and NDCG at 10, or at the largest cut-off where 10 is none."""
    k = 10 if 10 in report.ks else max(report.ks)
    return f"recall@{k}", f"ndcg@{k}"
