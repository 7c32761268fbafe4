"""Scripts without spaces between words: each of their characters counts as a word."""

from __future__ import annotations

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    "\u3005-\u3007\u3021-\u3029"  # Han: repetition marks, zero, numerals
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"  # Hiragana, Katakana
    "\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # Bopomofo, Katakana of Ainu
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\uff66-\uff9f"  # Katakana of half width
    "\U0001b000-\U0001b16f\U00020000-\U000323af"  # older kana, rare Han
)
"""The characters of these scripts, as the inside of a character class of a regular expression."""

WORD = rf"(?u)[{UNSPACED}]|[^\W{UNSPACED}]+"
"""A word as `\\b\\w+\\b` matches it, except that each character of those scripts is a word.

Pairs of neighbouring words are then pairs of characters. A text without these scripts is split
exactly as by `\\b\\w+\\b`.
"""
