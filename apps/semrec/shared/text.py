"""Safe texts for a terminal: file names, ids and titles must not control it."""

from __future__ import annotations

import unicodedata

_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}
_DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(value: object) -> str:
    r"""A text whose control characters, direction marks and lone surrogates are escaped.

    ESC becomes ``\x1b``, so that a title or a folder's name can neither move the cursor nor reverse
    the line.
    """
    return "".join(_escaped(sign) for sign in str(value))


def _escaped(sign: str) -> str:
    if unicodedata.category(sign) in _CONTROLS or sign in _DIRECTIONS:
        return sign.encode("unicode_escape").decode("ascii")
    return sign
