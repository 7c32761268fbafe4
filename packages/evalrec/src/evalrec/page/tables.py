"""Tables of a page: results, plain rows, shares as bars, and examples of recommendations."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalrec.metrics import is_less_better
from evalrec.page.document import NUM_COLOURS, Html, tag, text

__all__ = ["Example", "examples_table", "results_table", "share_bars", "table"]

_NUMBER = re.compile(r"((?:< )?[+-]?[\d.]+( ± [\d.]+)?%?)?")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One user's history (oldest first), what was recommended (best first), what came next.

    All are titles, which several items may share; `hit` is the place of the target among what was
    recommended, from 0, or None.
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
            a mode or a metric, as a published figure does; it shows as a dash.
        model: The row that the page is about, tinted; None tints no row.

    Raises:
        ValueError: ``model`` is none of the rows.
    """
    if model is not None and model not in results:
        raise ValueError(f"model must be one of {', '.join(results)}, got {model!r}")
    best: dict[tuple[str, str], float] = {}
    for modes in results.values():
        for mode, metrics in modes.items():
            for metric, value in metrics.items():
                better = min if is_less_better(metric) else max
                best[mode, metric] = better(best.get((mode, metric), value), value)
    order = list(dict.fromkeys(mode for mode, _ in best))
    columns = sorted(best, key=lambda column: order.index(column[0]))
    opens = {column for i, column in enumerate(columns) if i == 0 or columns[i - 1][0] != column[0]}

    def style(column: tuple[str, str], *more: str) -> str:
        return " ".join(["number", *(["first"] if column in opens else []), *more])

    top, names = [tag("th")], [tag("th")]
    for mode in order:
        span = sum(column[0] == mode for column in columns)
        top.append(tag("th", text(mode), css="mode first", colspan=str(span)))
    names += [tag("th", text(column[1]), css=style(column)) for column in columns]
    body = []
    for name, modes in results.items():
        cells = [tag("th", text(name))]
        for mode, metric in columns:
            value = modes.get(mode, {}).get(metric, math.nan)
            bold = ["best"] if value == best[mode, metric] else []
            shown = Html("&ndash;") if math.isnan(value) else text(f"{value:.4f}")
            cells.append(tag("td", shown, css=style((mode, metric), *bold)))
        body.append(tag("tr", *cells, css="model" if name == model else ""))
    return _table([tag("tr", *top), tag("tr", *names)], body)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """A plain table; columns of numbers are set to the right, those with a spread or a sign too.

    Raises:
        ValueError: A row is not as long as the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"rows must have {len(header)} cells, got {len(row)}: {list(row)}")
    css = ["number" if all(_is_number(row[i]) for row in rows) else "" for i in range(len(header))]

    def line(kind: str, cells: Sequence[object]) -> Html:
        return tag("tr", *(tag(kind, text(v), css=c) for v, c in zip(cells, css, strict=True)))

    return _table([line("th", header)], [line("td", row) for row in rows])


def _is_number(value: object) -> bool:
    """Whether it is a number, is written as one, or is left out among numbers."""
    return isinstance(value, int | float) or bool(_NUMBER.fullmatch(str(value)))


def examples_table(examples: Sequence[Example]) -> Html:
    """Histories beside their recommendations, the hit marked, the item that came next below."""
    body = []
    for example in examples:
        bought = [tag("li", text(title)) for title in example.history]
        listed = [
            tag("li", text(title), css="hit" if place == example.hit else "")
            for place, title in enumerate(example.recommended)
        ]
        target = tag("p", text("came next: "), text(example.target), css="note target")
        right = tag("td", tag("ol", *listed), target)
        body.append(tag("tr", tag("td", tag("ol", *bought)), right))
    head = tag(
        "tr", tag("th", text("history, oldest first")), tag("th", text("recommended, best first"))
    )
    return tag("div", _table([head], body), css="examples")


def share_bars(rows: Mapping[str, Mapping[str, float]]) -> Html:
    """One bar a row, row name to part name to share in [0, 1]; what is missing to 1 stays empty."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    lines = []
    for name, row in rows.items():
        filled = [
            tag("span", css=_swatch(parts.index(part)), style=f"width:{100 * share:.2f}%")
            for part, share in row.items()
        ]
        shown = " / ".join(f"{share:.1%}" for share in row.values())
        track = tag("span", *filled, css="track")
        lines.append(
            tag("div", tag("span", text(name)), track, tag("span", text(shown)), css="bar")
        )
    if len(parts) > 1:
        swatches = [tag("i", css=_swatch(i)) for i in range(len(parts))]
        keys = [tag("span", s, text(p)) for s, p in zip(swatches, parts, strict=True)]
        lines.append(tag("div", *keys, css="legend"))
    return tag("div", *lines)


def _swatch(part: int) -> str:
    """The class of a part's colour; from the ninth part on the colours come again."""
    return f"swatch-{part % NUM_COLOURS}"


def _table(head: Sequence[Html], body: Sequence[Html]) -> Html:
    """A table of rows, which the reader scrolls sideways where it is too wide."""
    return tag("div", tag("table", tag("thead", *head), tag("tbody", *body)), css="scroll")
