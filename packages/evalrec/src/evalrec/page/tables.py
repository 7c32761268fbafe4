"""Tables of a page: results, plain rows, shares as bars, and examples of recommendations."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalrec.metrics import is_less_better
from evalrec.page.document import NUM_COLOURS, Html, render

__all__ = ["Example", "examples_table", "results_table", "share_bars", "table"]

_NUMBER = re.compile(r"((?:< )?[+-]?[\d.]+( ± [\d.]+)?%?)?")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One user's history (oldest first), the recommendations (best first), and the next item.

    All are titles, which several items may share. `hit` is the position of the target among the
    recommendations, from 0, or None.
    """

    history: Sequence[str]
    recommended: Sequence[str]
    target: str
    hit: int | None


def results_table(
    results: Mapping[str, Mapping[str, Mapping[str, float]]], *, model: str | None = None
) -> Html:
    """Model and floors in rows, metrics grouped by how seen items are treated, best in bold.

    Args:
        results: Row name to mode (``unfiltered``, ``filtered``) to metric to value. A row may lack
            a mode or a metric, as published figures do; a dash is shown there.
        model: The row that the page is about, in a tint; None for no row.

    Raises:
        ValueError: If ``model`` is none of the rows.
    """
    if model is not None and model not in results:
        raise ValueError(f"model must be one of {', '.join(results)}, got {model!r}")
    best: dict[tuple[str, str], float] = {}
    for modes in results.values():
        for mode, metrics in modes.items():
            for metric, value in metrics.items():
                better, worst = (min, math.inf) if is_less_better(metric) else (max, -math.inf)
                best[mode, metric] = better(best.get((mode, metric), worst), value)
    order = list(dict.fromkeys(mode for mode, _ in best))
    columns = sorted(best, key=lambda column: order.index(column[0]))
    opens = {column for i, column in enumerate(columns) if i == 0 or columns[i - 1][0] != column[0]}

    def style(column: tuple[str, str], *more: str) -> str:
        return " ".join(["number", *(["first"] if column in opens else []), *more])

    rows = []
    for name, by_mode in results.items():
        cells = []
        for mode, metric in columns:
            value = by_mode.get(mode, {}).get(metric, math.nan)
            bold = ["best"] if value == best[mode, metric] else []
            shown = None if math.isnan(value) else f"{value:.4f}"
            cells.append({"value": shown, "css": style((mode, metric), *bold)})
        rows.append({"name": name, "cells": cells, "is_model": name == model})
    return render(
        "results.html",
        modes=[(mode, sum(column[0] == mode for column in columns)) for mode in order],
        columns=[{"metric": column[1], "css": style(column)} for column in columns],
        rows=rows,
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """A plain table; columns of numbers are aligned right, also numbers with a spread or a sign.

    Raises:
        ValueError: If a row is not as long as the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"rows must have {len(header)} cells, got {len(row)}: {list(row)}")
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    return render("table.html", header=header, rows=rows, numeric=numeric)


def _is_number(value: object) -> bool:
    """Whether a value is a number, is written as one, or is missing among numbers."""
    return isinstance(value, int | float) or bool(_NUMBER.fullmatch(str(value)))


def examples_table(examples: Sequence[Example]) -> Html:
    """Histories beside their recommendations; the hit is marked, the next item is shown below."""
    return render("examples.html", examples=examples)


def share_bars(rows: Mapping[str, Mapping[str, float]]) -> Html:
    """One bar per row: row name to part name to share in [0, 1]; the rest to 1 stays empty."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    shown = [
        (
            name,
            [(_swatch(parts.index(part)), f"{100 * share:.2f}") for part, share in row.items()],
            " / ".join(f"{share:.1%}" for share in row.values()),
        )
        for name, row in rows.items()
    ]
    legend = [(_swatch(place), part) for place, part in enumerate(parts)]
    return render("shares.html", rows=shown, legend=legend)


def _swatch(part: int) -> str:
    """The class of a part's colour; from the ninth part on, colours repeat."""
    return f"swatch-{part % NUM_COLOURS}"
