"""The page itself: sections under a heading, escaped text, and a policy that loads nothing.

Data, especially titles of items, may hold markup, control characters or marks for the direction of
writing. All values of a template go through `text`, unless they are fragments already: `text`
escapes markup, shows control characters as U+FFFD, and limits the direction of a text to that text.
As a second guard, jinja2 escapes values too.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evalrec.storage import replacing_file

__all__ = ["Html", "Section", "facts", "tag", "text", "write_page"]


class Html(Markup):
    """A fragment whose text is already escaped."""

    __slots__ = ()


NUM_COLOURS = 8
"""The colours of series in page.css: --series-0 and so on, and the swatches of each."""

# Control characters except tab and line ends; the paragraph separator, which ends an isolate; and
# halves of surrogate pairs, which JSON can hold and UTF-8 cannot.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2029\ud800-\udfff]")
_REPLACEMENT = "\ufffd"

# The bidirectional classes (UAX #9) that do not simply run from left to right.
_DIRECTED = {
    *("R", "AL", "AN"),
    *("LRE", "LRO", "RLE", "RLO", "PDF"),
    *("LRI", "RLI", "FSI", "PDI"),
}
_POP_ISOLATE = "\u2069"


@dataclass(frozen=True, kw_only=True)
class Section:
    """One card of the page: fragments under a heading, and a closing remark."""

    title: str
    body: Sequence[Html]
    note: str = ""


def write_page(
    path: str | Path,
    *,
    title: str,
    lead: str,
    summary: Mapping[str, Mapping[str, object]],
    sections: Sequence[Section],
    opening: Section | None = None,
) -> None:
    """Write the page beside its place and rename it, so that ``path`` is never half a page.

    The page loads nothing and runs nothing, and its Content-Security-Policy enforces this.

    Args:
        path: The file to write; its folder exists.
        title: The heading of the page.
        lead: One sentence under the heading.
        summary: Groups of facts for the first card, such as data, configuration and times.
        sections: The cards, in order.
        opening: A card before the summary, such as the main result; None for none.

    Raises:
        OSError: If the file cannot be written; an older file then stays.
    """
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    page = render(
        "page.html",
        title=title,
        lead=lead,
        style=Html(style),
        opening=opening,
        summary=facts(summary),
        sections=sections,
    )
    with replacing_file(Path(path)) as beside:
        beside.write_text(f"{page}\n", encoding="utf-8")


def facts(groups: Mapping[str, Mapping[str, object]]) -> Html:
    """Named figures side by side: group name to fact name to value."""
    return render("facts.html", groups=groups)


def render(template: str, **values: Any) -> Html:
    """A fragment from one of the templates; values that are not fragments are escaped as text."""
    return Html(_templates().get_template(template).render(values))


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        finalize=_fragment,
        undefined=StrictUndefined,
    )
    environment.filters["plain"] = lambda value: _escaped(str(value))  # where elements are invalid
    return environment


def _fragment(value: object) -> Markup:
    """The fragment that a template shows for a value."""
    return value if isinstance(value, Markup) else text(value)


def text(value: object) -> Html:
    """Any value as escaped text: integers with thousands separators, floats with four digits.

    A text that is written from right to left, or that holds marks of direction, is put into
    `<bdi>`, so that it cannot change the direction of other text.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:,}"
    elif isinstance(value, float):
        value = f"{value:.4g}"
    plain = str(value)
    if plain.isascii() or not any(unicodedata.bidirectional(sign) in _DIRECTED for sign in plain):
        return _escaped(plain)
    return tag("bdi", _escaped(_balanced(plain)))


def tag(name: str, *content: Html, css: str = "", **attributes: str) -> Html:
    """An element around fragments; other text in it is escaped; ``css`` is its class."""
    if css:
        attributes = {"class": css, **attributes}
    inside = "".join(f' {key}="{_escaped(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{inside}>{''.join(map(_fragment, content))}</{name}>")


def visible(value: str) -> str:
    """A text whose control characters and lone surrogates are shown as U+FFFD."""
    return _CONTROL.sub(_REPLACEMENT, value)


def _escaped(value: str) -> Html:
    return Html(html.escape(visible(value)))


def _balanced(value: str) -> str:
    """A text that closes exactly the isolates that it opens, and no others, such as `<bdi>`.

    Embeddings and overrides within an isolate end with it (UAX #9, X6a).
    """
    signs, depth = [], 0
    for sign in value:
        if unicodedata.bidirectional(sign) in ("LRI", "RLI", "FSI"):
            depth += 1
        elif sign == _POP_ISOLATE:
            if depth == 0:
                sign = _REPLACEMENT
            else:
                depth -= 1
        signs.append(sign)
    return "".join(signs) + depth * _POP_ISOLATE
