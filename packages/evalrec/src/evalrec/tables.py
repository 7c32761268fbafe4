"""Tables of reports and of comparisons: for a terminal, in Markdown, in LaTeX.

Reports and comparisons know nothing of tables; all of these are made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from evalrec.comparison import Comparison
from evalrec.gating import Gate
from evalrec.grid import Grid, escape_latex
from evalrec.metrics import is_less_better, metric_label
from evalrec.report import MODES, Estimate, Report
from evalrec.side_by_side import check_side_by_side, headline_metrics
from evalrec.terminal import cell

__all__ = [
    "comparison_table",
    "gate_text",
    "report_table",
    "reports_table",
    "systems_grid",
    "to_latex",
    "to_markdown",
]


def report_table(report: Report) -> Table:
    """One report for a terminal: all metrics and further figures, in both modes."""
    table = Table(title=cell(report.name) or None, caption=_caption(report), caption_justify="left")
    table.add_column("", no_wrap=True)
    for mode in MODES:
        table.add_column(mode, justify="right", no_wrap=True)
    for metric in report.metric_names:
        table.add_row(
            metric_label(metric), *(_cell(report.metrics[mode][metric]) for mode in MODES)
        )
    headline = headline_metrics(report)
    table.add_section()
    for group, size in report.group_sizes.items():
        means = report.by_group[group]
        figures = (_figure(means[mode][headline[0]]) for mode in MODES)
        table.add_row(f"{metric_label(headline[0])}, {size:,} {cell(group)} targets", *figures)
    for metric in report.lists.get(MODES[0], ()):
        figures = (_figure(report.lists[mode][metric]) for mode in MODES)
        table.add_row(cell(metric_label(metric)), *figures)
    if report.code_ranks is not None:
        table.add_section()
        for metric in headline:
            cells = (
                f"{_figure(report.on_codes[mode][metric])} ({_inflation(report, metric, mode)})"
                for mode in MODES
            )
            table.add_row(f"{metric_label(metric)} counted on codes", *cells)
    return table


def reports_table(
    reports: Mapping[str, Report],
    *,
    metrics: Sequence[str] | None = None,
    title: str | None = None,
) -> Table:
    """Several reports for a terminal, one row each; the best mean of every column is bold.

    Args:
        reports: By name, in the order of the rows; all with the same queries and cut-offs.
        metrics: The columns of each mode; None takes Recall and NDCG at 10, or at the largest
            cut-off if 10 is not among them.
        title: Printed above the table.

    Raises:
        ValueError: If there is none, they differ in users, items, cold targets or ks, or lack a
            metric.
    """
    first = check_side_by_side(reports, metrics or ())
    metrics = headline_metrics(first) if metrics is None else metrics
    table = Table(
        title=cell(title) if title else None, caption=_caption(first), caption_justify="left"
    )
    table.add_column("", overflow="fold")
    columns = [(mode, metric) for mode in MODES for metric in metrics]
    best = {}
    for mode, metric in columns:
        table.add_column(f"{mode}\n{metric_label(metric)}", justify="right", no_wrap=True)
        means = [report.estimate(metric, mode).mean for report in reports.values()]
        best[mode, metric] = min(means) if is_less_better(metric) else max(means)
    for name, report in reports.items():
        cells = (
            _cell(report.estimate(metric, mode), best=best[mode, metric])
            for mode, metric in columns
        )
        table.add_row(cell(name), *cells)
    return table


def comparison_table(comparison: Comparison) -> Table:
    """The systems and, below them, their differences from the baseline, for a terminal."""
    whole = Table.grid(padding=(1, 0))
    for grid in _grids(comparison):
        whole.add_row(grid.table())
    whole.add_row(cell(_comparison_caption(comparison)))
    return whole


def to_markdown(comparison: Comparison) -> str:
    """The systems, their differences from the baseline and a caption, in Markdown."""
    parts = [grid.markdown() for grid in _grids(comparison)]
    return "\n\n".join([*parts, _comparison_caption(comparison)]) + "\n"


def to_latex(comparison: Comparison) -> str:
    """The same as `to_markdown`, in LaTeX; the tables need the package booktabs."""
    parts = [grid.latex() for grid in _grids(comparison)]
    return "\n\n".join([*parts, escape_latex(_comparison_caption(comparison))]) + "\n"


def systems_grid(
    comparison: Comparison,
    *,
    intervals: bool = True,
    p_values: bool = False,
    facts: Mapping[str, Mapping[str, float | str]] | None = None,
) -> Grid:
    """A row per system: its means, the spread of its seeds, and further facts.

    Args:
        comparison: The comparison to show.
        intervals: Whether each mean is followed by its 95 % interval.
        p_values: Whether each mean is followed by a column with the p-value of its difference
            from the baseline: paired bootstrap over users, Holm-corrected over the comparison.
        facts: Further columns at the end: by system, name and value. A system that lacks a fact
            has an empty cell.

    Raises:
        ValueError: If there are facts of a system that is not compared.
    """
    facts = facts or {}
    names = [system.name for system in comparison.systems]
    unknown = [name for name in facts if name not in names]
    if unknown:
        raise ValueError(f"facts must be of the systems {names}, got {unknown}")
    columns = [(mode, metric) for mode in MODES for metric in comparison.metrics]
    header, best = ["system", "seeds"], set()
    for mode, metric in columns:
        means = [system.figures[mode, metric].mean for system in comparison.systems]
        top = min(means) if is_less_better(metric) else max(means)
        best |= {(row, len(header)) for row, mean in enumerate(means) if mean == top > 0}
        header += [f"{metric_label(metric)}, {mode}", *(["p"] if p_values else [])]
    further = list(dict.fromkeys(fact for values in facts.values() for fact in values))
    tested = {(d.system, d.mode, d.metric): _p_value(d.bootstrap_p) for d in comparison.differences}
    rows = []
    for system in comparison.systems:
        cells = [system.name, str(system.num_seeds)]
        for mode, metric in columns:
            estimate = system.figures[mode, metric]
            text = _estimate(estimate) if intervals else _figure(estimate.mean)
            if system.seed_spread is not None:
                spread = _figure(system.seed_spread[mode, metric])
                text += f", seeds ±{spread}" if intervals else f" ± {spread}"
            cells.append(text)
            if p_values:
                cells.append(tested.get((system.name, mode, metric), ""))
        values = facts.get(system.name, {})
        rows.append([*cells, *(str(values.get(fact, "")) for fact in further)])
    return Grid(header=[*header, *further], rows=rows, best=best)


def gate_text(gate: Gate) -> str:
    """A gate in four lines: the means, the difference, the verdict and the rule."""
    worst = "upper" if is_less_better(gate.metric) else "lower"
    share = f", {gate.tolerance} of OLD" if gate.tolerance.endswith("%") else ""
    verdict = "passed" if gate.passed else "failed"
    if gate.undecided:
        verdict += ": NEW may well be no worse, but so few users cannot show it"
    rule = (
        f"Rule: NEW passes where the {worst} end of the paired 95 % interval of NEW - OLD, by "
        "bootstrap over users, is worse than 0 by no more than the tolerance."
    )
    return "\n".join(
        [
            f"{metric_label(gate.metric)}, {gate.mode}, {gate.users:,} users: "
            f"NEW {gate.new.mean:.5f}, OLD {gate.old.mean:.5f}",
            f"NEW - OLD {gate.difference.mean:+.5f} [{gate.difference.low:+.5f}, "
            f"{gate.difference.high:+.5f}], tolerance {gate.allowed:.5f}{share}",
            verdict,
            rule,
        ]
    )


def _grids(comparison: Comparison) -> list[Grid]:
    """The systems and, if there are any, their differences from the baseline."""
    grids = [systems_grid(comparison)]
    if comparison.differences:
        grids.append(differences_grid(comparison))
    return grids


def differences_grid(comparison: Comparison) -> Grid:
    """A row for each difference from the baseline."""
    rows = [
        [
            difference.system,
            f"{metric_label(difference.metric)}, {difference.mode}",
            _estimate(difference.estimate, signed=True),
            _p_value(difference.bootstrap_p),
            _p_value(difference.t_test_p),
            _p_value(difference.wilcoxon_p),
        ]
        for difference in comparison.differences
    ]
    header = ["system", "metric", "difference", "p, bootstrap", "p, t-test", "p, Wilcoxon"]
    return Grid(header=header, rows=rows)


def _inflation(report: Report, metric: str, mode: str) -> str:
    """How much higher a mean is if hits are counted on codes: "+12.3 %"."""
    honest, flattered = report.metrics[mode][metric].mean, report.on_codes[mode][metric]
    if honest == 0:
        return "+0.0 %" if flattered == 0 else "from nothing"
    return f"{100 * (flattered / honest - 1):+.1f} %"


def _caption(report: Report) -> str:
    """The caption of a report."""
    counts = report.counts
    text = (
        f"{counts['users']:,} users, ranked over all {counts['items']:,} items; filtered: less the "
        f"items of the user's own history. {counts['cold_targets']:,} targets never occur in "
        "training; they count. ± is half the 95 % bootstrap interval."
    )
    if counts["repeated_targets"]:
        text += f" {counts['repeated_targets']:,} targets are in the history already."
    return text


def _comparison_caption(comparison: Comparison) -> str:
    """The caption of a comparison."""
    text = (
        f"{comparison.counts['users']:,} users, ranked over all {comparison.counts['items']:,} "
        "items. In brackets, 95 % bootstrap intervals over users"
    )
    if any(system.num_seeds > 1 for system in comparison.systems):
        text += "; seeds are pooled user by user, ± is the standard deviation of their means"
    if comparison.differences:
        text += (
            f". Differences from {comparison.systems[0].name}, paired by user; "
            f"p-values are Holm-corrected over {len(comparison.differences)} comparisons"
        )
    return text + "."


def _cell(estimate: Estimate, *, best: float = 0.0) -> str:
    mean = _figure(estimate.mean)
    half = _figure((estimate.high - estimate.low) / 2)
    return f"{f'[bold]{mean}[/bold]' if estimate.mean == best > 0 else mean} [dim]±{half}[/dim]"


def _estimate(estimate: Estimate, *, signed: bool = False) -> str:
    """A mean and, in brackets, its interval."""
    mean, low, high = (_signed(value) if signed else _figure(value) for value in estimate)
    return f"{mean} [{low}, {high}]"


def _figure(value: float) -> str:
    """Four decimals, without the zero before the point."""
    return f"{value:.4f}".removeprefix("0")


def _signed(value: float) -> str:
    size = _figure(abs(value))
    return size if float(size) == 0 else f"{'+' if value > 0 else '-'}{size}"


def _p_value(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
