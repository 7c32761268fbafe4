"""Text of items as people read it: without HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

_INVISIBLE = re.compile(
    r"<(script|style)\b.*?(?:</\1\s*>|$)|<!--.*?(?:-->|$)", re.IGNORECASE | re.DOTALL
)
_TAG = re.compile(r"<(?:/?[a-zA-Z]|!)[^<>]*>")


def clean_text(text: str) -> str:
    """A text without tags, scripts, entities, line breaks and double spaces.

    A "<" that opens no tag stays: "size < 5".
    """
    if "&" in text:  # feeds escape twice: &amp;amp;
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _TAG.sub(" ", _INVISIBLE.sub(" ", text))
    return " ".join(text.encode(errors="replace").decode().split())


def clean_texts(value: Any) -> list[str]:
    """The cleaned texts of a field that is a text, a list or a list of lists; none empty or twice.

    Numbers become text; what is neither is left out.
    """
    return list(dict.fromkeys(text for text in map(clean_text, _strings(value)) if text))


def item_record(
    item_id: str,
    *,
    title: Any = None,
    brand: Any = None,
    categories: Any = None,
    features: Any = None,
    description: Any = None,
) -> dict[str, Any]:
    """A line of `items.jsonl`: the id, and of the five fields those that hold text.

    Title, brand and description are one text each; categories and features are lists.
    """
    record: dict[str, Any] = {"item_id": item_id}
    for name, value, separator in (
        ("title", title, " "),
        ("brand", brand, " "),
        ("categories", categories, None),
        ("features", features, None),
        ("description", description, " "),
    ):
        texts = clean_texts(value)
        if texts:
            record[name] = texts if separator is None else separator.join(texts)
    return record


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
