from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semtok import Catalog, load_tokenizer
from semtok.markup import without_markup

Semtok = Callable[..., Any]


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


def test_wrongly_decoded_text_is_repaired_where_that_is_wanted() -> None:
    pytest.importorskip("ftfy")
    titles = ["SchÃ¶n &amp; cafÃ©", "voil&Atilde;&nbsp; <b>Ã©tÃ©</b>", "“curly” ﬁ L'été &"]
    catalog = Catalog(item_ids=["a", "b", "c"], fields={"title": titles})
    assert catalog.texts(fix_text=True) == ["Schön & café", "voilà été", "“curly” ﬁ L'été &"]
    assert catalog.texts()[0] == "SchÃ¶n & cafÃ©"


def test_one_line_names_the_extra_that_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    catalog = Catalog(item_ids=["a"], fields={"title": ["x"]})
    assert catalog.texts() == ["x"]
    with pytest.raises(ImportError, match=r"no module ftfy\): pip install 'semtok\[ftfy\]'"):
        catalog.texts(fix_text=True)


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


def test_a_tokenizer_repairs_new_items_as_it_did_its_own(semtok: Semtok, tmp_path: Path) -> None:
    pytest.importorskip("ftfy")
    words = ["café", "thé", "crème", "pâté", "gelée"]
    titles = [f"{words[n % 5]} {words[n // 5 % 5]} {n}" for n in range(40)]
    for name, form in (("right", "utf-8"), ("wrong", "latin-1")):
        lines = (
            json.dumps({"item_id": f"{name}{n}", "title": title.encode().decode(form)}) + "\n"
            for n, title in enumerate(titles)
        )
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    options = ("--quantizer", "rq", "--levels", 2, "--codebook-size", 8, "--collisions", "allow")
    assert semtok("fit", "wrong.jsonl", "-o", "t", "--fix-text", *options).code == 0
    source: Any = load_tokenizer(tmp_path / "t").views[0].source
    assert source.fix_text
    assert "café" in source.vocabulary
    for name in ("right", "wrong"):
        assert semtok("encode", f"{name}.jsonl", "--tokenizer", "t").code == 0
    codes = [
        [
            json.loads(line)["codes"]
            for line in (tmp_path / f"{name}.codes.jsonl").read_text().splitlines()
        ]
        for name in ("right", "wrong")
    ]
    assert codes[0] == codes[1]
    refused = semtok("fit", "x.npy", "--embedding", "x.npy", "-o", "u", "--fix-text")
    assert refused.code == 2
    assert "needs lsa or a text model" in " ".join(refused.stderr.replace("│", " ").split())
    assert semtok("encode", "right.jsonl", "--tokenizer", "t", "--fix-text").code == 2
