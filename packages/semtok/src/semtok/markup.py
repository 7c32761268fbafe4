"""Text without markup: only real tags are removed, and the content of scripts and styles."""

from __future__ import annotations

import html
import re

_NAMES = (
    "a|abbr|acronym|address|applet|area|article|aside|audio|b|base|basefont|bdi|bdo|big|blink|"
    "blockquote|body|br|button|canvas|caption|center|cite|code|col|colgroup|data|datalist|dd|"
    "del|details|dfn|dialog|dir|div|dl|dt|em|embed|fieldset|figcaption|figure|font|footer|form|"
    "frame|frameset|h1|h2|h3|h4|h5|h6|head|header|hgroup|hr|html|i|iframe|img|input|ins|kbd|"
    "label|legend|li|link|main|map|mark|marquee|menu|meta|meter|nav|nobr|noframes|noscript|"
    "object|ol|optgroup|option|output|p|param|picture|pre|progress|q|rp|rt|ruby|s|samp|script|"
    "search|section|select|slot|small|source|span|strike|strong|style|sub|summary|sup|svg|table|"
    "tbody|td|template|textarea|tfoot|th|thead|time|title|tr|track|tt|u|ul|var|video|wbr|xmp"
)
_BARE = (
    "allowfullscreen|alt|async|autofocus|autoplay|border|checked|class|clear|compact|controls|"
    "default|defer|disabled|download|hidden|href|id|ismap|itemscope|loop|multiple|muted|nohref|"
    "noresize|noshade|novalidate|nowrap|open|readonly|required|reversed|selected|src|style"
)

# What a browser does not show, with its content; without an end tag, all of the following text.
_INVISIBLE = re.compile(
    r"<(script|style)\b[^<>]*>.*?(?:</\1\b[^<>]*>|\Z)|<!--.*?(?:-->|\Z)|<!\[CDATA\[|\]\]>",
    re.IGNORECASE | re.DOTALL,
)
# The quantifiers are possessive: the time is linear in the length of the text.
_ATTRIBUTE = rf"""
    (?: [\w:.@-]++ \s*+ = \s*+ (?: "[^"]*+" | '[^']*+' | [^\s"'<>]++ )
      | (?: {_BARE} ) (?![\w:.@-]) )
"""
_TAG = re.compile(
    rf"""
    < (?: /?+ (?: (?: {_NAMES} ) (?![\w:.-]) | [a-z]\w*+ [:-] [\w:.-]++ )
          (?: (?: [\s/]++ | (?<=["']) ) {_ATTRIBUTE} )*+ [\s/]*+
        | ! [a-z] [^<>]*+ | \? xml \b [^<>]*+ ) >
    """,
    re.IGNORECASE | re.VERBOSE,
)


def well_formed(text: str) -> str:
    """The text with lone surrogates, which no encoder accepts, replaced by "?"."""
    return text.encode(errors="replace").decode()


def without_markup(text: str) -> str:
    """A text with entities unescaped and tags, comments, scripts and styles replaced by a space.

    A tag has the name of an HTML element (or a name with a prefix, such as `o:p`) and nothing but
    attributes: "a<b and c>d" contains no tag.
    """
    if "&" in text:  # some data are escaped twice: &amp;amp;
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _TAG.sub(" ", _INVISIBLE.sub(" ", text))
    return text
