"""Text of items as people read it: without HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

# The elements of HTML, including old ones. "a<b and c>d" looks like one, but has no values.
_ELEMENTS = (
    "abbr|acronym|address|applet|area|article|aside|audio|a|basefont|base|bdi|bdo|big|blink|"
    "blockquote|body|br|button|b|canvas|caption|center|cite|code|colgroup|col|data|datalist|dd|del|"
    "details|dfn|dialog|dir|div|dl|dt|embed|em|fieldset|figcaption|figure|font|footer|form|"
    "frameset|frame|h[1-6]|header|head|hgroup|hr|html|iframe|image|img|input|ins|i|kbd|label|"
    "legend|link|li|main|map|mark|marquee|menu|meta|meter|nav|nobr|noframes|noscript|object|"
    "optgroup|option|ol|output|param|picture|pre|progress|p|q|rp|rt|ruby|samp|script|section|"
    "select|slot|small|source|span|strike|strong|style|sub|summary|sup|svg|s|table|tbody|td|"
    "template|textarea|tfoot|thead|th|time|title|tr|track|tt|ul|u|var|video|wbr|[a-z]+:[a-z]+"
)
_FLAGS = (  # the attributes that need no value
    "allowfullscreen|async|autofocus|autoplay|checked|compact|controls|default|defer|disabled|"
    "hidden|ismap|loop|multiple|muted|nohref|noresize|noshade|novalidate|nowrap|open|readonly|"
    "required|reversed|selected"
)
# The groups are atomic: there is no backtracking, so the time is linear in the text.
_VALUE = r"""(?>"[^"<]*"|'[^'<]*'|[^\s<>]*)"""
_ATTRIBUTES = rf"(?>[\s/]*(?:[\w:.-]+\s*=\s*{_VALUE}|(?:{_FLAGS})(?=[\s/>])))*+[\s/]*+"
_INVISIBLE = re.compile(
    rf"<(script|style)(?=[\s/>]){_ATTRIBUTES}>.*?(?:</\1\s*>|$)|<!--.*?(?:-->|$)",
    re.IGNORECASE | re.DOTALL,
)
_TAG = re.compile(
    rf"</?(?:{_ELEMENTS})(?=[\s/>]){_ATTRIBUTES}>|<!(?:doctype|\[cdata\[)[^<>]*>", re.IGNORECASE
)
_LONG_REFERENCE = re.compile(r"&#(?:([xX])([0-9a-fA-F]{9,})|([0-9]{9,}))")


def unescape(text: str) -> str:
    """A text with HTML's references, which may be of any length, replaced by their characters."""
    return html.unescape(_LONG_REFERENCE.sub(_shortened, text)) if "&" in text else text


def _shortened(reference: re.Match[str]) -> str:
    """The same reference with at most eight digits: Python refuses to read thousands of them."""
    hexadecimal, *digits = reference.groups(default="")
    return f"&#{hexadecimal}{''.join(digits).lstrip('0')[:8] or '0'}"


def clean_text(text: str) -> str:
    """A text without tags, scripts, style sheets, entities, line breaks and double spaces.

    A "<" that does not open an HTML tag stays: "size < 5", "a<b and c>d".
    """
    text = unescape(unescape(text))  # some data are escaped twice: &amp;amp;
    if "<" in text:
        text = _TAG.sub(" ", _INVISIBLE.sub(" ", text))
    return " ".join(text.encode(errors="replace").decode().split())


def clean_texts(value: Any) -> list[str]:
    """The cleaned texts of a field (a text, a list or a list of lists); no empty or equal ones.

    Numbers become text; other types are left out.
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
    """A line of `items.jsonl`: the id, and those of the five fields that hold text.

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
