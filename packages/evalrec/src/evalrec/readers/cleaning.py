"""Text of items as people read it: without HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

# The elements of HTML, old ones included. "a<b and c>d" looks like one, but gives no values.
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
# Nothing of a tag goes back once it is read, so that the time follows the text.
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
    """A text with characters for HTML's references to them, which may be of any length."""
    return html.unescape(_LONG_REFERENCE.sub(_shortened, text)) if "&" in text else text


def _shortened(reference: re.Match[str]) -> str:
    """The same reference in eight digits, beyond every character; thousands, Python refuses."""
    hexadecimal, *digits = reference.groups(default="")
    return f"&#{hexadecimal}{''.join(digits).lstrip('0')[:8] or '0'}"


def clean_text(text: str) -> str:
    """A text without tags, scripts, style sheets, entities, line breaks and double spaces.

    A "<" that opens no tag of HTML stays: "size < 5", "a<b and c>d".
    """
    text = unescape(unescape(text))  # feeds escape twice: &amp;amp;
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
