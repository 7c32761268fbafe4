"""Fragments of HTML and SVG; text is escaped when it becomes a fragment."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import NewType

from semtok.markup import well_formed

Html = NewType("Html", str)
"""A fragment whose text is already escaped."""


def text(value: object) -> Html:
    """Any value as escaped text: integers with thousands separators, floats with four digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:,}"
    elif isinstance(value, float):
        value = f"{value:.4g}"
    return Html(html.escape(well_formed(str(value))))


def isolated(value: object) -> Html:
    """A text from data as an element of its own, so that its text direction ends with it."""
    return tag("bdi", text(value))


def tag(name: str, *content: Html, css: str = "", **attributes: str | float) -> Html:
    """An element around fragments; `css` is its class, `_` in names of attributes means `-`."""
    if css:
        attributes = {"class": css, **attributes}
    inside = "".join(
        f' {key.replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items()
    )
    if name == "input":
        return Html(f"<{name}{inside}>")
    return Html(f"<{name}{inside}>{''.join(content)}</{name}>")


def facts(values: Mapping[str, object]) -> Html:
    """Names and values as a list of definitions."""
    lines = [tag("div", tag("dt", text(k)), tag("dd", isolated(v))) for k, v in values.items()]
    return tag("dl", *lines, css="facts")
