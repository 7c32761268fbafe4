"""Hostile inputs: each is answered rightly, or refused in one sentence that no terminal obeys."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

APPS = ("prorec", "cocorec", "tssr")

# JSON as it stands in the file, and the id that it is: None where it is none.
IDS = {
    "plain": ('"a"', "a"),
    "line separator": (r'"a\u2028b"', "a\u2028b"),
    "paragraph separator": (r'"a\u2029b"', "a\u2029b"),
    "next line": (r'"a\u0085b"', "a\x85b"),
    "line feed": (r'"a\nb"', "a\nb"),
    "high surrogate": (r'"\ud83d"', None),
    "low surrogate": (r'"\udc00"', None),
    "pair": (r'"\ud83d\ude00"', "\U0001f600"),
    "nul": (r'"a\u0000b"', "a\0b"),
    "escape": (r'"\u001b[31mred\u001b]0;t\u0007"', "\x1b[31mred\x1b]0;t\x07"),
    "c1": (r'"\u009b31m"', "\x9b31m"),
    "bidi": (r'"\u202eabc\u2066"', "\u202eabc\u2066"),
    "markup": ('"[red]x[/red][/x]"', "[red]x[/red][/x]"),
    "html": ('"<script>alert(1)</script>"', "<script>alert(1)</script>"),
    "long": ('"' + "x" * 100_000 + '"', "x" * 100_000),
    "whole": ("9007199254740993", "9007199254740993"),
    "fraction": ("9007199254740993.0", None),
    "huge": ("1" + "0" * 400, "1" + "0" * 400),
    "infinite": ("1e999", None),
    "nan": ("NaN", None),
    "true": ("true", None),
    "null": ("null", None),
    "empty": ('""', None),
    "list": ("[1]", None),
    "object": ("{}", None),
    "deep": ("[" * 100_000 + "]" * 100_000, None),
}
TAKEN_OR_NOT = ("nul", "long", "huge", "line feed")
"""Ids that may be refused: a refusal of them is as right as the id itself."""


def rows(raw: str) -> tuple[str, str]:
    """A catalogue and interactions in which one id is this one."""
    ids = [*(f'"i{row}"' for row in range(19)), raw]
    items = "".join(
        f'{{"item_id": {id_}, "title": "soap {row % 4}"}}\n' for row, id_ in enumerate(ids)
    )
    table = "".join(
        f'{{"user_id": "u{user}", "item_id": {ids[(7 * user + step) % 20]}, "timestamp": {step}}}\n'
        for user in range(20)
        for step in range(5)
    )
    return items, table


@pytest.mark.parametrize("kind", IDS)
def test_an_id_is_itself_or_none(tools, tmp_path, kind):
    raw, expected = IDS[kind]
    items, table = rows(raw)
    (tmp_path / "items.jsonl").write_text(items)
    (tmp_path / "interactions.jsonl").write_text(table)
    allowed = {None, expected} if kind in TAKEN_OR_NOT else {expected}
    encoded = tools(tmp_path, "semtok", "encode", "items.jsonl", "-o", "-", "--quiet")
    encoded.assert_says(kind)
    ids = [json.loads(line)["item_id"] for line in encoded.stdout.split("\n") if line]
    assert (ids[19] if ids else None) in allowed, encoded.stderr
    assert encoded.code == (not ids)
    prepared = tools(tmp_path, "evalrec", "prepare", "native", ".", "-o", "out", "--k-core", 1)
    prepared.assert_says(kind)
    kept = set()
    if prepared.code == 0:
        text = gzip.decompress((tmp_path / "out/items.jsonl.gz").read_bytes()).decode()
        kept = {json.loads(line)["item_id"] for line in text.split("\n") if line}
        assert len(kept) == 20
    extra = kept - {f"i{row}" for row in range(19)}
    assert (extra or {None}) <= allowed, prepared.stderr
    for command in ("check", "floors"):
        done = tools(tmp_path, "evalrec", command, "." if command == "check" else "out")
        done.assert_says(f"{command} {kind}")


def bomb() -> bytes:
    """64 MiB of one line in 64 KiB."""
    return gzip.compress(b'{"item_id": "' + b"a" * 2**26)


GOOD = rows('"a"')[0].encode()
FILES = {
    "plain.jsonl": (GOOD, True),
    "bom.jsonl": (b"\xef\xbb\xbf" + GOOD, True),
    "crlf.jsonl": (GOOD.replace(b"\n", b"\r\n"), True),
    "blank.jsonl": (GOOD.replace(b"\n", b"\n\n"), True),
    "unended.jsonl": (GOOD[:-1], True),
    "empty.jsonl": (b"", False),
    "half.jsonl": (GOOD[:-20], False),
    "utf16.jsonl": (GOOD.decode().encode("utf-16"), False),
    "latin.jsonl": (GOOD.replace(b"soap", b"so\xe4p"), False),
    "nuls.jsonl": (bytes(1000), False),
    "list.jsonl": (b"[1, 2]\n", False),
    "nan.jsonl": (GOOD.replace(b'"soap 3"', b"NaN"), True),  # no text, as an absent one
    "twice.jsonl": (GOOD + GOOD, False),
    "deep.jsonl": (b'{"item_id": "a", "title": ' + b"[" * 100_000, False),
    "bomb.jsonl.gz": (bomb(), False),
    "plain.jsonl.gz": (gzip.compress(GOOD), True),
    "half.jsonl.gz": (gzip.compress(GOOD)[:-12], False),
    "no.jsonl.gz": (GOOD, False),
    "empty.csv": (b"", False),
    "nuls.csv": (bytes(1000), False),
    "quote.csv": (b'item_id,title\na,"' + b"x" * 1000, False),
    "magic.parquet": (b"PAR1" + bytes(100) + b"PAR1", False),
    "empty.parquet": (b"", False),
    "folder.jsonl": (None, False),
    "folder.csv": (None, False),
    "folder.parquet": (None, False),
}


def put(path: Path, content: bytes | None) -> None:
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_rightly_or_refused(tools, tmp_path, name):
    content, is_good = FILES[name]
    put(tmp_path / name, content)
    done = tools(tmp_path, "semtok", "encode", name, "-o", "-", "--quiet")
    done.assert_says(name)
    ids = [json.loads(line)["item_id"] for line in done.stdout.split("\n") if line]
    assert ids == ([*(f"i{row}" for row in range(19)), "a"] if is_good else []), done.stderr
    assert done.code == (not is_good)
    done = tools(tmp_path, "semtok", "fit", name, "-o", "tok", "--quiet")
    done.assert_says(name)
    assert done.code == (not is_good)
    assert (tmp_path / "tok").exists() == is_good
    done = tools(tmp_path, "semtok", "inspect", name)
    done.assert_says(name)
    assert done.code == 1


TABLE = rows('"a"')[1].encode()
PARTS = {
    **{name: content for name, (content, _) in FILES.items() if name not in ("bomb.jsonl.gz",)},
    "order.jsonl": TABLE.replace(b'"timestamp": 3', b'"timestamp": 1e400'),
    "huge.jsonl": TABLE.replace(b'"timestamp": 3', b'"timestamp": 1' + b"0" * 30),
    "word.jsonl": TABLE.replace(b'"timestamp": 3', b'"timestamp": "3x"'),
    "missing.jsonl": TABLE.replace(b'"user_id": "u3"', b'"user_id": null'),
    "lacking.jsonl": TABLE.replace(b'"timestamp"', b'"time"'),
    "unknown.jsonl": TABLE.replace(b'"i3"', b'"i99"'),
}


@pytest.mark.parametrize("name", PARTS)
def test_interactions_are_refused_in_a_sentence(tools, tmp_path, name):
    """None of these is a file of interactions of the catalogue beside it."""
    (tmp_path / "items.jsonl").write_bytes(GOOD)
    put(tmp_path / f"interactions.{name.partition('.')[2]}", PARTS[name])
    for command in (("check", "."), ("floors", "."), ("prepare", "native", ".", "-o", "out")):
        done = tools(tmp_path, "evalrec", *command)
        done.assert_says(f"{command} {name}")
        refused_later = name == "unknown.jsonl" and command[0] == "prepare"
        assert refused_later or (done.code, done.stdout) == (1, ""), done.stderr
        assert not (tmp_path / "out").exists() or refused_later


@pytest.fixture(scope="session")
def app_ids(data) -> list[str]:
    lines = (data / "items.jsonl").read_text().splitlines()
    return [json.loads(line)["item_id"] for line in lines]


HISTORIES = {
    "empty": (b"", True),
    "nobody": (b'{"history": []}\n', True),
    "not json": (b"history\n", False),
    "nul": (bytes(100), False),
    "deep": (b'{"history": ' + b"[" * 100_000 + b"\n", False),
    "deep beside": (b'{"history": [], "x": ' + b"[" * 100_000 + b"\n", False),
    "number": (b'{"history": 3}\n', False),
    "fraction": (b'{"history": [1.0]}\n', False),
    "nan": (b'{"history": [NaN]}\n', False),
    "true": (b'{"history": [true]}\n', False),
    "huge": (b'{"history": [1' + b"0" * 5000 + b"]}\n", False),
    "escape": (b'{"history": ["\\u001b[31m\\u202e"]}\n', False),
    "surrogate": (b'{"history": ["\\ud83d"]}\n', False),
    "latin": (b'{"history": ["\xe4"]}\n', False),
    "array": (b"[]\n", False),
    "folder": (None, False),
}


@pytest.mark.parametrize("name", APPS)
def test_histories_are_answered_or_refused(apps, completed, tmp_path, name):
    run = completed(name).place / "run"
    for kind, (content, is_good) in HISTORIES.items():
        place = tmp_path / kind
        place.mkdir()
        put(place / "h.jsonl", content)
        how = ("--run", run, "--input", "h.jsonl", "--output", "o.jsonl", "--device", "cpu")
        done = apps(place, name, "recommend", *how)
        done.assert_says(kind)
        assert (done.code == 0) == is_good, f"{kind}: {done.stderr}"
        assert (place / "o.jsonl").exists() == is_good, kind
        assert [path.name for path in place.iterdir() if path.name.startswith(".")] == []


LISTS = {
    "line separator": "i0\u2028x\n{0}\n",
    "crlf": "{0}\r\n",
    "bom": "\ufeff{0}\n",
    "escape": "{0}\n\x1b[31m\u202e\n",
    "nul": "{0}\n\0\n",
    "empty": "",
    "sold out": "gone\n",
}


@pytest.mark.parametrize("name", APPS)
def test_what_is_denied_is_not_recommended(apps, completed, app_ids, tmp_path, name):
    run = completed(name).place / "run"
    ask = ("recommend", "--run", run, "--history", app_ids[3], "--top-k", 60, "--device", "cpu")
    for kind, text in LISTS.items():
        denied = tmp_path / "denied.txt"
        denied.write_bytes(text.replace("{0}", app_ids[0]).encode())
        done = apps(tmp_path, name, *ask, "--deny", denied)
        done.assert_says(kind)
        assert done.code == 0, f"{kind}: {done.stderr}"
        assert (app_ids[0] in done.stdout) == ("{0}" not in text), kind
        assert app_ids[5] in done.stdout
    denied.write_bytes(b"\xff\xfe")
    assert apps(tmp_path, name, *ask, "--deny", denied).code == 1


def test_hostile_names_and_texts_pass_through_a_run(apps, data, run_arguments, tmp_path):
    """Ids and titles are shown harmless, kept exactly, and denied where they are denied."""
    lines = (data / "items.jsonl").read_text().splitlines()
    ids = {json.loads(line)["item_id"]: json.loads(line)["item_id"] for line in lines}
    names = ("line separator", "next line", "escape", "c1", "bidi", "markup", "html", "pair")
    hostile = dict(zip(ids, [IDS[name][1] for name in names], strict=False))
    shutil.copytree(data, tmp_path / "data")
    items = [json.loads(line) for line in lines]
    for item in items:
        item["item_id"] = hostile.get(item["item_id"], item["item_id"])
        item["title"] += " \x1b[31m\u202e[/x]<script>alert(1)</script>"
    text = "".join(json.dumps(item) + "\n" for item in items)
    (tmp_path / "data/items.jsonl").write_text(text)
    import polars as pl

    table = pl.read_parquet(tmp_path / "data/interactions.parquet")
    table = table.with_columns(pl.col("item_id").replace(hostile))
    table.write_parquet(tmp_path / "data/interactions.parquet")
    arguments = ["data" if value == data else value for value in run_arguments("tssr")]
    done = apps(tmp_path, "tssr", *arguments)
    assert done.code == 0, done.stderr
    done.assert_says()
    page = (tmp_path / "run/report.html").read_text()
    assert "<script>alert" not in page
    queries = "".join(json.dumps({"history": [id_]}) + "\n" for id_ in hostile.values())
    (tmp_path / "h.jsonl").write_text(queries)
    denied = next(iter(hostile.values()))
    (tmp_path / "denied.txt").write_text(denied + "\n")
    ask = ("recommend", "--run", "run", "--device", "cpu", "--top-k", 60, "--deny", "denied.txt")
    done = apps(tmp_path, "tssr", *ask, "--input", "h.jsonl", "--output", "o.jsonl")
    assert done.code == 0, done.stderr
    answers = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().split("\n") if line]
    assert [answer["history"] for answer in answers] == [[id_] for id_ in hostile.values()]
    for answer in answers:
        answered = {item["item_id"] for item in answer["items"]}
        assert denied not in answered
        assert set(list(hostile.values())[1:]) <= answered
    shown = apps(tmp_path, "tssr", *ask, "--history", items[20]["item_id"])
    assert shown.code == 0, shown.stderr
    assert "\x1b" not in shown.stdout
    assert "\x9b" not in shown.stdout
    assert "\u202e" not in shown.stdout
