"""A page of reports, and a page of a comparison: the means in a table, their intervals as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evalrec.metrics import metric_label
from evalrec.page.document import Html, Section, write_page
from evalrec.page.figures import Bars, bars
from evalrec.page.tables import results_table, table
from evalrec.report import MODES, Estimate, Report
from evalrec.side_by_side import check_side_by_side, headline_metrics

if TYPE_CHECKING:
    from evalrec.comparison import Comparison

__all__ = ["comparison_page", "report_page"]

_FILTERED = "Filtered: the items of a user's own history are removed first."


def report_page(
    reports: Mapping[str, Report],
    path: str | Path,
    *,
    title: str,
    metrics: Sequence[str] | None = None,
    model: str | None = None,
    summary: Mapping[str, Mapping[str, object]] | None = None,
) -> None:
    """Write a page of reports: their means in a table, and bars with 95 % intervals.

    Args:
        reports: By name, in the order of the rows; all with the same queries and cut-offs.
        path: The file to write; its folder exists.
        title: The heading of the page.
        metrics: The metrics of the table and the bars. None takes Recall and NDCG, at every cut-off
            in the table, and in the bars at 10 or, if 10 is not among them, the largest cut-off.
        model: The report that the page is about, in its own colour; None for none.
        summary: Further groups of facts for the first card, besides the facts about the data.

    Raises:
        ImportError: If matplotlib is not installed; the message names the extra.
        OSError: If the page cannot be written; an older file then stays.
        ValueError: If there is no report, the reports have different queries or cut-offs, lack a
            metric, or `model` is none of them.
    """
    first = check_side_by_side(reports, metrics or ())
    charted = headline_metrics(first) if metrics is None else metrics
    if metrics is None:
        metrics = [metric for metric in first.metric_names if not metric.startswith("mrr")]
    if model is not None and model not in reports:
        raise ValueError(f"model must be one of {', '.join(reports)}, got {model!r}")
    figures = {
        name: {
            (mode, metric): report.estimate(metric, mode) for mode in MODES for metric in metrics
        }
        for name, report in reports.items()
    }
    note = f"{_FILTERED} The bars are means with 95 % bootstrap intervals over users."
    repeated = first.counts.get("repeated_targets", 0)
    if repeated:
        note += f" {repeated:,} targets are in the history already, which makes them misses then."
    write_page(
        path,
        title=title,
        lead=_lead(first.counts),
        summary={"Data": _counts(first.counts), **(summary or {})},
        sections=[Section(title="Results", body=_results(figures, charted, model), note=note)],
    )


def comparison_page(comparison: Comparison, path: str | Path, *, title: str) -> None:
    """Write a page of a comparison: means in a table, bars with 95 % intervals, differences.

    Args:
        comparison: The result of `compare`; the baseline has its own colour.
        path: The file to write; its folder exists.
        title: The heading of the page.

    Raises:
        ImportError: If matplotlib is not installed; the message names the extra.
        OSError: If the page cannot be written; an older file then stays.
    """
    from evalrec.tables import differences_grid  # loads scipy.stats, which takes a second

    baseline = comparison.systems[0].name
    figures = {system.name: system.figures for system in comparison.systems}
    note = f"{_FILTERED} The bars are means with 95 % bootstrap intervals over users."
    if any(system.num_seeds > 1 for system in comparison.systems):
        note += " The seeds of a system are pooled user by user."
    sections = [
        Section(title="Results", body=_results(figures, comparison.metrics, baseline), note=note)
    ]
    if comparison.differences:
        grid = differences_grid(comparison)
        sections.append(
            Section(
                title=f"Differences from {baseline}",
                body=[table(grid.header, grid.rows)],
                note="Paired by user, with 95 % bootstrap intervals; p-values are Holm-corrected "
                f"over {len(comparison.differences)} comparisons.",
            )
        )
    seeds = {system.name: system.num_seeds for system in comparison.systems}
    write_page(
        path,
        title=title,
        lead=_lead(comparison.counts),
        summary={"Data": _counts(comparison.counts), "Seeds": seeds},
        sections=sections,
    )


def _results(
    figures: Mapping[str, Mapping[tuple[str, str], Estimate]],
    charted: Sequence[str],
    model: str | None,
) -> list[Html]:
    """The table of all figures, by name and (mode, metric), and charts per mode of some of them."""
    means: dict[str, dict[str, dict[str, float]]] = {name: {} for name in figures}
    for name, estimates in figures.items():
        for (mode, metric), estimate in estimates.items():
            means[name].setdefault(mode, {})[metric_label(metric)] = estimate.mean
    highlighted = None if model is None else list(figures).index(model)
    panels = [
        Bars(
            title=f"{metric_label(metric)}, {mode}",
            values={name: estimates[mode, metric] for name, estimates in figures.items()},
            highlighted=highlighted,
        )
        for metric in charted
        for mode in MODES
    ]
    return [results_table(means, model=model), bars(panels)]


def _lead(counts: Mapping[str, int]) -> str:
    return f"{counts['users']:,} users, each target ranked among all {counts['items']:,} items"


def _counts(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts[name.replace(" ", "_")] for name in ("users", "items", "cold targets")}
