"""One self-contained HTML page from a run's numbers: what the three apps share for reports.

An app composes `Section`s from the fragments below and calls `write_report`. Text is escaped where
it enters a fragment; colours follow the reader's light or dark mode (`page.css`); the same input
gives the same bytes. Charts are in `figures.py`.
"""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NewType

Html = NewType("Html", str)
"""A fragment whose text is already escaped."""

_NUMBER = re.compile(r"([+-]?[\d.]+( ± [\d.]+)?%?)?")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One card of the page: fragments under a heading, and a closing remark."""

    title: str
    body: Sequence[Html]
    note: str = ""


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


def write_report(
    path: Path,
    *,
    title: str,
    lead: str,
    summary: Mapping[str, Mapping[str, object]],
    sections: Sequence[Section],
) -> None:
    """Write the page beside its place and rename it, so that ``path`` is never half a page.

    Args:
        path: Where the page goes; its folder exists.
        title: Its heading.
        lead: One sentence under the heading.
        summary: Groups of facts for the first card, such as data, configuration and times.
        sections: The cards, in order.
    """
    cards = [tag("section", facts(summary))]
    for section in sections:
        note = [tag("p", text(section.note), css="note")] if section.note else []
        cards.append(tag("section", tag("h2", text(section.title)), *section.body, *note))
    heading = tag("header", tag("h1", text(title)), tag("p", text(lead), css="lead"))
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{tag('title', text(title))}\n{tag('style', Html(style))}\n</head>\n"
        f"<body>{tag('main', heading, *cards)}</body>\n</html>\n"
    )
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)


def results_table(results: Mapping[str, Mapping[str, Mapping[str, float]]], *, model: str) -> Html:
    """Model and floors in rows, metrics grouped by how seen items are treated, best in bold.

    Args:
        results: Row name to mode (``unfiltered``, ``filtered``) to metric to value. A row may lack
            a mode or a metric, as a published figure does; it shows as a dash.
        model: The row that the report is about, tinted.

    Raises:
        ValueError: ``model`` is none of the rows.
    """
    if model not in results:
        raise ValueError(f"model must be one of {', '.join(results)}, got {model!r}")
    best: dict[tuple[str, str], float] = {}
    for modes in results.values():
        for mode, metrics in modes.items():
            for metric, value in metrics.items():
                best[mode, metric] = max(value, best.get((mode, metric), value))
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
        target = tag("p", text(f"came next: {example.target}"), css="note target")
        right = tag("td", tag("ol", *listed), target)
        body.append(tag("tr", tag("td", tag("ol", *bought)), right))
    head = tag(
        "tr", tag("th", text("history, oldest first")), tag("th", text("recommended, best first"))
    )
    return tag("div", _table([head], body), css="examples")


def facts(groups: Mapping[str, Mapping[str, object]]) -> Html:
    """Named figures side by side: group name to fact name to value."""
    columns = []
    for name, group in groups.items():
        lines = [
            tag("div", tag("dt", text(key)), tag("dd", text(value))) for key, value in group.items()
        ]
        columns.append(tag("div", tag("h3", text(name)), tag("dl", *lines, css="facts")))
    return tag("div", *columns, css="grid")


def share_bars(rows: Mapping[str, Mapping[str, float]]) -> Html:
    """One bar a row, row name to part name to share in [0, 1]; what is missing to 1 stays empty."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    lines = []
    for name, row in rows.items():
        filled = [
            tag("span", css=f"swatch-{parts.index(part)}", style=f"width:{100 * share:.2f}%")
            for part, share in row.items()
        ]
        shown = " / ".join(f"{share:.1%}" for share in row.values())
        track = tag("span", *filled, css="track")
        lines.append(
            tag("div", tag("span", text(name)), track, tag("span", text(shown)), css="bar")
        )
    if len(parts) > 1:
        swatches = [tag("i", css=f"swatch-{i}") for i in range(len(parts))]
        keys = [tag("span", s, text(p)) for s, p in zip(swatches, parts, strict=True)]
        lines.append(tag("div", *keys, css="legend"))
    return tag("div", *lines)


def duration(seconds: float) -> str:
    """Seconds as people say them: ``3.2 s``, ``4 min 7 s``, ``1 h 12 min``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def text(value: object) -> Html:
    """Any value as escaped text: integers in thousands, floats to four digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:,}"
    elif isinstance(value, float):
        value = f"{value:.4g}"
    return Html(html.escape(str(value)))


def tag(name: str, *content: Html, css: str = "", **attributes: str) -> Html:
    """An element around fragments; ``css`` is its class."""
    if css:
        attributes = {"class": css, **attributes}
    inside = "".join(f' {key}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{inside}>{''.join(content)}</{name}>")


def _table(head: Sequence[Html], body: Sequence[Html]) -> Html:
    return tag("div", tag("table", tag("thead", *head), tag("tbody", *body)), css="scroll")
