from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semtok import Catalog
from semtok.markup import without_markup


def text_of(value: str) -> str:
    return Catalog(item_ids=["a"], fields={"title": [value]}).texts()[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("size a<b and c>d end", "size a<b and c>d end"),
        ("if x<i or y>z", "if x<i or y>z"),
        ("1 < 2 > 0, <3, a<3>b", "1 < 2 > 0, <3, a<3>b"),
        ("<tea> for <two>", "<tea> for <two>"),
        ("<b>Big</b> <I>Pot</I>", "Big Pot"),
        ("a<br>b<br/>c<br />d<BR\n>e", "a b c d e"),
        ("<a href=\"x>y\" class=z title='<b>'>link</a>", "link"),
        ('<a href="x"target="_blank">link</a>', "link"),
        ("<input disabled><td nowrap>x</td><hr noshade size=1>", "x"),
        ("<p class=x data-y='1' @click=\"z\">para</p><o:p></o:p>", "para"),
        ("<my-tag a=1>x</my-tag>", "x"),
        ("<style>p { color: red }</style>Soap", "Soap"),
        (
            "Soap <SCRIPT type='x'>var aPageStart = (new Date()).getTime();</script > bar",
            "Soap bar",
        ),
        ("Soap <script>if (a<b && c>d) x()", "Soap"),
        ("Soap<!-- hidden <b> --> bar<!DOCTYPE html><!--", "Soap bar"),
        ("<![CDATA[Soap]]> bar", "Soap bar"),
        ("&lt;style&gt;p {}&lt;/style&gt;Soap &amp;amp; water", "Soap & water"),
        ("<stylex>a</stylex>", "<stylex>a</stylex>"),
        ("a<b", "a<b"),
        ("<a href='unclosed", "<a href='unclosed"),
    ],
)
def test_only_real_tags_are_markup(value: str, expected: str) -> None:
    assert text_of(value) == expected


@given(st.text(alphabet="abi <>/=\"'!-x", max_size=40))
def test_words_outside_angle_brackets_stay(text: str) -> None:
    cleaned = without_markup(text)
    assert len(cleaned) <= max(len(text), 1)
    if "<" not in text:
        assert cleaned == text


@pytest.mark.parametrize(
    "piece",
    ["<script>", "<style", "<!--", "<a b=\"", "<a b='", "<a ", "<a/", "<", "<a b=c ", "</b ", "<a:",
     "&amp;", "<!a", "<script>x</script>", "<![CDATA["],
)  # fmt: skip
def test_time_is_linear(piece: str) -> None:
    started = time.monotonic()
    without_markup(piece * (500_000 // len(piece)))
    without_markup("<a " + " " * 500_000)
    without_markup("<a x" + "=" * 500_000)
    assert time.monotonic() - started < 10
