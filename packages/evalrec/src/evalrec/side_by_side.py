"""Which reports may be shown together, and which metrics are shown by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evalrec.report import Report

__all__ = ["check_same_queries", "check_side_by_side", "headline_metrics"]


def check_same_queries(first: Report, name: str, report: Report) -> None:
    """Refuse a report whose users, histories, targets or items differ from those of the first.

    Args:
        first: The report that the other is compared with.
        name: The name of the other report.
        report: The other report.

    Raises:
        ValueError: If they differ; the message says in what.
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
    """Refuse reports that cannot be rows of one table.

    Args:
        reports: By name.
        metrics: The columns that each must have.

    Returns:
        The first report; all have its queries and cut-offs.

    Raises:
        ValueError: If there is none, they differ in users, items, cold targets or ks, or lack a
            metric.
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
    """Recall and NDCG at 10, or at the largest cut-off if 10 is not among them."""
    k = 10 if 10 in report.ks else max(report.ks)
    return f"recall@{k}", f"ndcg@{k}"
