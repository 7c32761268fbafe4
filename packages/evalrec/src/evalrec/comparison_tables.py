"""A comparison as a table: on a terminal, in Markdown, in LaTeX."""

from __future__ import annotations

from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from evalrec.comparison import Comparison
from evalrec.report import MODES, Estimate
from evalrec.report_tables import figure, label

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


class Grid(NamedTuple):
    """The cells of a table as plain text, and which of them are the best of their column."""

    header: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]]


def systems_grid(comparison: Comparison) -> Grid:
    """A row a system: means with intervals, and the spread of seeds where there are several."""
    columns = [(mode, metric) for mode in MODES for metric in comparison.metrics]
    header = ["system", "seeds", *(f"{label(metric)}, {mode}" for mode, metric in columns)]
    rows, best = [], set()
    for place, column in enumerate(columns):
        means = [system.figures[column].mean for system in comparison.systems]
        best |= {(row, place + 2) for row, mean in enumerate(means) if mean == max(means) > 0}
    for system in comparison.systems:
        cells = [system.name, str(system.num_seeds)]
        for column in columns:
            text = _estimate(system.figures[column])
            if system.seed_spread is not None:
                text += f", seeds ±{figure(system.seed_spread[column])}"
            cells.append(text)
        rows.append(cells)
    return Grid(header, rows, best)


def differences_grid(comparison: Comparison) -> Grid:
    """A row for each difference from the baseline."""
    header = ["system", "metric", "difference", "p, bootstrap", "p, t-test"]
    rows = [
        [
            one.system,
            f"{label(one.metric)}, {one.mode}",
            _estimate(one.estimate, signed=True),
            _p_value(one.bootstrap_p),
            _p_value(one.t_test_p),
        ]
        for one in comparison.differences
    ]
    return Grid(header, rows, set())


def caption(comparison: Comparison) -> str:
    """What the figures are."""
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


def rich_table(comparison: Comparison) -> Table:
    """Both tables, one above the other."""
    whole = Table.grid(padding=(1, 0))
    grids = [systems_grid(comparison)]
    if comparison.differences:
        grids.append(differences_grid(comparison))
    for grid in grids:
        table = Table()
        for place, name in enumerate(grid.header):
            table.add_column(name.replace(", ", ",\n"), justify="left" if place == 0 else "right")
        for row, cells in enumerate(grid.rows):
            shown = [escape(cell) for cell in cells]
            table.add_row(
                *(
                    f"[bold]{cell}[/bold]" if (row, place) in grid.best else cell
                    for place, cell in enumerate(shown)
                )
            )
        whole.add_row(table)
    whole.add_row(escape(caption(comparison)))
    return whole


def markdown(comparison: Comparison) -> str:
    """Both tables in Markdown."""

    def lines(grid: Grid) -> list[str]:
        rows = [
            [
                f"**{_plain(cell)}**" if (row, place) in grid.best else _plain(cell)
                for place, cell in enumerate(cells)
            ]
            for row, cells in enumerate(grid.rows)
        ]
        ruler = ["---", *["---:"] * (len(grid.header) - 1)]
        return ["| " + " | ".join(cells) + " |" for cells in (grid.header, ruler, *rows)]

    parts = [lines(systems_grid(comparison))]
    if comparison.differences:
        parts.append(lines(differences_grid(comparison)))
    parts.append([caption(comparison)])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def latex(comparison: Comparison) -> str:
    """Both tables in LaTeX, with booktabs, and the caption as text below."""

    def lines(grid: Grid) -> list[str]:
        rows = [
            [
                rf"\textbf{{{_tex(cell)}}}" if (row, place) in grid.best else _tex(cell)
                for place, cell in enumerate(cells)
            ]
            for row, cells in enumerate(grid.rows)
        ]
        shape = "l" + "r" * (len(grid.header) - 1)
        body = [" & ".join(cells) + r" \\" for cells in rows]
        head = " & ".join(_tex(cell) for cell in grid.header) + r" \\"
        start, end = rf"\begin{{tabular}}{{{shape}}}", r"\end{tabular}"
        return [start, r"\toprule", head, r"\midrule", *body, r"\bottomrule", end]

    parts = [lines(systems_grid(comparison))]
    if comparison.differences:
        parts.append(lines(differences_grid(comparison)))
    parts.append([_tex(caption(comparison))])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _tex(text: str) -> str:
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    return escaped.replace("±", r"$\pm$").replace("-.", "$-$.")


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _estimate(estimate: Estimate, *, signed: bool = False) -> str:
    mean, low, high = (_signed(value) if signed else figure(value) for value in estimate)
    return f"{mean} [{low}, {high}]"


def _signed(value: float) -> str:
    size = figure(abs(value))
    return size if float(size) == 0 else f"{'+' if value > 0 else '-'}{size}"


def _p_value(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
