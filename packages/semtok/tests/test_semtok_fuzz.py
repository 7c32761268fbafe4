"""Whatever the reader is given, and the command line over it: a result or one clear sentence."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import math
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from semtok.catalog import TEXT_FIELDS, CatalogError, read_catalog
from semtok.cli import main

# As users run it, without the checks of shapes and types that would refuse in its place.
pytestmark = pytest.mark.usefixtures("unchecked")


def fuzz(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


class Outcome(NamedTuple):
    code: int
    stdout: str
    stderr: str


def semtok(*arguments: object, stdin: bytes = b"") -> Outcome:
    """Runs the command line here; only SystemExit may leave it."""
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    handler = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.object(sys, "argv", ["semtok", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            signal.signal(signal.SIGTERM, handler)
    return Outcome(code, stdout.getvalue(), stderr.getvalue())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, and what files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def assert_sentence(done: Outcome, words: str = "") -> None:
    """One clear sentence on stderr, nothing on stdout."""
    assert done.code in (1, 2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    if done.code == 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("semtok: ")]
        assert len(said) == 1
        assert done.stderr.splitlines()[-1] == said[0]
        assert 10 < len(said[0]) < 1000
        assert words in said[0]


def check(folder: Path, *arguments: object, stdin: bytes = b"", words: str = "") -> Outcome:
    """Runs the command line: it succeeds, or says why not and leaves the folder as it was."""
    before = tree(folder)
    done = semtok(*arguments, stdin=stdin)
    if done.code != 0:
        assert_sentence(done, words)
        assert tree(folder) == before
    else:
        left = [name for name in tree(folder) if name not in before]
        assert not [name for name in left if ".part" in name or ".old" in name or ".work" in name]
    return done


def jsonl(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(*rows: dict[str, object]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(list(rows)).write_parquet(file)
    return file.getvalue()


def items(start: int = 0, stop: int = 30) -> list[dict[str, object]]:
    things = ("red polish", "blue cream", "soap", "hair brush", "comb")
    return [
        {"item_id": f"i{row}", "title": f"{things[row % 5]} {row % 7}"}
        for row in range(start, stop)
    ]


def deep(depth: int) -> bytes:
    return b'{"item_id": "a", "title": ' + b"[" * depth + b"]" * depth + b"}\n"


GOOD = jsonl(*items())
JUNK = bytes(np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8))

BROKEN = {
    "truncated.jsonl.gz": (gzip.compress(GOOD, mtime=0)[:-20], "broken gzip file"),
    "damaged.jsonl.gz": (gzip.compress(GOOD)[:40] + b"\xff" * 40, "broken gzip file"),
    "plain.jsonl.gz": (GOOD, "broken gzip file"),
    "empty.jsonl.gz": (b"", "holds no items"),
    "truncated.csv.gz": (gzip.compress(b"item_id,title\na,b\n")[:-9], "broken gzip file"),
    "latin.jsonl": ('{"item_id": "a", "title": "caf\xe9"}'.encode("latin-1"), "line 1: not UTF-8"),
    "latin.csv": ("item_id,title\na,b\nc,caf\xe9\n".encode("latin-1"), "line 3: not UTF-8"),
    "utf16.jsonl": (GOOD.decode().encode("utf-16"), "line 1: not UTF-8"),
    "junk.jsonl": (JUNK, "line 1"),
    "junk.csv": (JUNK, "line 1"),
    "junk.parquet": (JUNK, "not a readable parquet file"),
    "truncated.parquet": (parquet(*items())[:-100], "not a readable parquet file"),
    "halved.parquet": (parquet(*items())[:200], "not a readable parquet file"),
    "empty.parquet": (b"", "not a readable parquet file"),
    "none.parquet": (parquet({"item_id": "a", "title": "b"})[:0], "not a readable parquet file"),
    "empty.jsonl": (b"", "holds no items"),
    "blank.jsonl": (b"\n\r\n  \n", "holds no items"),
    "empty.csv": (b"", "holds no items"),
    "header.csv": (b"item_id,title\n", "holds no items"),
    "bom.only.csv": (b"\xef\xbb\xbf", "holds no items"),
    "twice.jsonl": (jsonl({"item_id": 1}, {"item_id": "1"}), "line 2: item id '1' is already"),
    "twice.csv": (b"item_id,title\na,b\na,c\n", "line 3: item id 'a' is already"),
    "columns.csv": (b"item_id,title,title\na,b,c\n", "column 'title' is named twice"),
    "cells.csv": (b"item_id,title\na\n", "has 1 cells, the header has 2"),
    "quote.csv": (b'item_id,title\na,"b\n', "malformed CSV"),
    "nul.csv": (b"item_id,title\n\x00,b\n", ""),
    "cut.jsonl": (GOOD[:-10], "line 30: malformed JSON"),
    "nan.jsonl": (b'{"item_id": NaN}\n', "line 1"),
    "infinite.jsonl": (b'{"item_id": 1e999}\n', "line 1"),
    "long.jsonl": (b'{"item_id": ' + b"9" * 5000 + b"}\n", "line 1"),
    "bool.jsonl": (b'{"item_id": true}\n', "line 1"),
    "null.jsonl": (b'{"item_id": null}\n', "line 1"),
    "list.jsonl": (b'{"item_id": ["a"]}\n', "line 1"),
    "object.jsonl": (b'{"item_id": {}}\n', "line 1"),
    "blank_id.jsonl": (b'{"item_id": ""}\n', "line 1"),
    "surrogate.jsonl": (b'{"item_id": "\\ud800", "title": "b"}\n', "line 1"),
    "array.jsonl": (b"[1, 2]\n", "line 1: must be a JSON object, got list"),
    "json.jsonl": (json.dumps(items(), indent=1).encode(), "line 1"),
    "deep.jsonl": (deep(100_000), "line 1: malformed JSON"),
    "no_id.jsonl": (b'{"sku": "a"}\n', "no column 'item_id'"),
    "no_id.csv": (b"sku,title\na,b\n", "no column 'item_id'"),
    "no_id.parquet": (parquet({"sku": "a"}), "no column 'item_id'"),
    "null.parquet": (parquet({"item_id": "a"}, {"item_id": None}), "row 2"),
    "nan.parquet": (parquet({"item_id": math.nan, "title": "b"}), "row 1"),
    "no_text.jsonl": (jsonl({"item_id": "a", "price": 3}), "fields"),
    "no_words.jsonl": (jsonl({"item_id": "a", "title": ""}), "words"),
    "null_title.jsonl": (jsonl({"item_id": "a", "title": [[None], {"b": None}]}), "words"),
    "stop_words.jsonl": (jsonl({"item_id": "a", "title": "!!! ... ---"}), "words"),
}

ODD = {
    "bom.jsonl": b"\xef\xbb\xbf" + GOOD,
    "bom.csv": b"\xef\xbb\xbfitem_id,title\na,b c\nd,e f\n",
    "crlf.jsonl": GOOD.replace(b"\n", b"\r\n"),
    "crlf.csv": b"item_id,title\r\na,b c\r\nd,e f\r\n",
    "no_newline.jsonl": GOOD[:-1],
    "blank_lines.jsonl": b"\n\n" + GOOD.replace(b"\n", b"\n\n"),
    "quotes.csv": b'item_id,title\na,"b\nc, ""d"""\ne,f\n',
    "numbers.jsonl": jsonl({"item_id": 1, "title": 2}, {"item_id": -3, "title": 4.5}),
    "one.jsonl": jsonl({"item_id": "a", "title": "b c"}),
    "same.jsonl": jsonl(*({"item_id": n, "title": "soap"} for n in range(300))),
    "some_empty.jsonl": jsonl(*({"item_id": n, "title": "soap" * (n < 5)} for n in range(40))),
    "nested.jsonl": jsonl(
        {"item_id": "a", "title": [None, ["red", {"b": [1, None, True]}]], "brand": None},
        {"item_id": "b", "title": {"x": [[], {}, [None]]}, "features": [["one"], "two"]},
    ),
    "types.jsonl": jsonl(
        {"item_id": "a", "title": "red"}, {"item_id": "b", "title": 7}, {"item_id": "c"}
    ),
    "surrogate_title.jsonl": jsonl({"item_id": "a", "title": "red \ud83d polish"}),
    "html.jsonl": jsonl({"item_id": "</script>", "title": "<b>red &amp; &#0; &#xD800;</b>"}),
    "spaces.jsonl": jsonl({"item_id": "a b\tc\nd", "title": "x y"}, {"item_id": "a", "title": "x"}),
    "many.parquet": parquet(*items()),
    "numbers.parquet": parquet({"item_id": 1, "title": "red"}, {"item_id": 2, "title": None}),
    "lists.parquet": parquet({"item_id": 1, "title": ["a b", None]}, {"item_id": 2, "title": []}),
    "UPPER.JSONL": GOOD,
    "two.jsonl.gz": gzip.compress(GOOD[: len(GOOD) // 2]) + gzip.compress(GOOD[len(GOOD) // 2 :]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_end_in_one_sentence(tmp_path: Path, name: str) -> None:
    data, words = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    done = check(tmp_path, "encode", tmp_path / name, words=words)
    if words:
        assert done.code == 1
        assert name in done.stderr or words == "words" or words == "fields"


@pytest.mark.parametrize("name", ODD)
def test_odd_files_end_in_codes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(ODD[name])
    output, page = tmp_path / "out.jsonl", tmp_path / "page.html"
    done = check(tmp_path, "encode", tmp_path / name, "-o", output, "--codebook-size", 4)
    assert done.code == 0, done.stderr
    catalog = read_catalog(tmp_path / name)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["item_id"] for row in rows] == catalog.item_ids
    assert len({tuple(row["codes"]) for row in rows}) == len(rows)
    done = check(tmp_path, "inspect", output, "--html", page, "--catalog", tmp_path / name)
    assert done.code == 0, done.stderr
    assert page.read_text(encoding="utf-8").endswith("</html>\n")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.jsonl.gz"])
def test_folders_are_no_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    done = check(tmp_path, "encode", tmp_path / name, words="is a folder, not a file")
    assert done.code == 1


def test_a_line_of_50_megabytes(tmp_path: Path) -> None:
    long = tmp_path / "long.jsonl"
    with long.open("wb") as file:
        file.write(b'{"item_id": "a", "title": "soap", "blob": "')
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n')
    assert len(str(read_catalog(long).fields["blob"][0])) == 50_000_000
    assert check(tmp_path, "encode", long, "-o", tmp_path / "out.jsonl").code == 0
    with long.open("r+b") as file:
        file.truncate(30_000_000)  # and now the string has no end
    done = check(tmp_path, "encode", long, "-o", tmp_path / "no.jsonl", words="malformed JSON")
    assert done.code == 1


@pytest.mark.slow
def test_a_million_empty_titles(tmp_path: Path) -> None:
    path = tmp_path / "million.jsonl"
    with path.open("w") as file:
        file.writelines(f'{{"item_id": {row}, "title": ""}}\n' for row in range(1_000_000))
    before = sorted(tmp_path.iterdir())
    done = semtok("encode", path)
    assert_sentence(done, "words")
    assert done.code == 1
    assert sorted(tmp_path.iterdir()) == before


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["<b>red</b>", "&lt;", "\ud800", "\x00", "soap", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=6,
)
names = st.sampled_from([*TEXT_FIELDS, "item_id", "codes", "", "x y"])
json_rows = st.lists(
    st.dictionaries(names, json_values, max_size=4).flatmap(
        lambda row: st.one_of(
            st.just(row), st.text(max_size=3).map(lambda item_id: {**row, "item_id": item_id})
        )
    ),
    max_size=6,
)


def reads_or_refuses(path: Path) -> None:
    """The reader gives a catalogue whose texts are strings, or a sentence that names the file."""
    try:
        catalog = read_catalog(path)
    except CatalogError as error:
        refusal = str(error)
    else:
        assert len(set(catalog.item_ids)) == len(catalog) > 0
        texts = catalog.texts(tuple(catalog.fields)) if catalog.fields else []
        assert all(type(text) is str for text in texts)
        return
    assert refusal.startswith(str(path))
    assert "\n" not in refusal


@fuzz(100)
@given(rows=json_rows)
@example(rows=[{"item_id": math.nan}])
@example(rows=[{"item_id": "a", "title": math.inf}])
def test_the_reader_takes_any_json(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(jsonl(*rows))
    reads_or_refuses(path)


@fuzz(80)
@given(
    suffix=st.sampled_from([".jsonl", ".csv", ".jsonl.gz", ".parquet"]),
    data=st.binary(max_size=60)
    | st.text(alphabet='{}[]":,\\\r\n\0 ab1é', max_size=60).map(str.encode),
)
def test_the_reader_takes_any_bytes(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"items{suffix}"
    path.write_bytes(data)
    reads_or_refuses(path)


def csv_bytes() -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, ["item_id", "title"])
    writer.writeheader()
    writer.writerows(items())
    return file.getvalue().encode()


INTACT = {
    ".jsonl": GOOD,
    ".csv": csv_bytes(),
    ".jsonl.gz": gzip.compress(GOOD, mtime=0),
    ".parquet": parquet(*items()),
}


@fuzz(100)
@given(suffix=st.sampled_from(sorted(INTACT)), data=st.data())
def test_the_reader_takes_damaged_files(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    damaged = bytearray(INTACT[suffix])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        what = data.draw(st.sampled_from(["flip", "cut", "drop", "double"]))
        if what == "flip":
            damaged[place] ^= data.draw(st.integers(1, 255))
        elif what == "cut":
            del damaged[max(place, 1) :]
        elif what == "drop":
            del damaged[place : min(place + 9, len(damaged) - 1)]
        else:
            damaged[place:place] = damaged[place : place + 9]
    path = tmp_path / f"items{suffix}"
    path.write_bytes(damaged)
    reads_or_refuses(path)


@fuzz(40)
@given(rows=json_rows)
def test_the_command_line_takes_any_json(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "items.jsonl").write_bytes(jsonl(*rows))
    done = check(folder, "encode", folder / "items.jsonl", "--codebook-size", 3)
    piped = check(folder, "encode", "-", "--codebook-size", 3, stdin=jsonl(*rows))
    assert piped.code == done.code
    if done.code == 0:
        assert piped.stdout == (folder / "items.codes.jsonl").read_text(encoding="utf-8")


# Tokenizers of all kinds of parts, and what may befall their files.


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers")
    (folder / "items.jsonl").write_bytes(jsonl(*items()))
    (folder / "new.jsonl").write_bytes(jsonl(*items(25, 35)))
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32))
    np.save(folder / "new.npy", np.random.default_rng(1).normal(size=(10, 6)).astype(np.float32))
    for name, arguments in {
        "lsa": ("--codebook-size", 4),
        "stored": (
            *("--embedding", folder / "x.npy", "--pca", 4, "--collisions", "suffix"),
            *("--quantizer", "rq", "--levels", 2, "--codebook-size", 4),
        ),
        "views": (
            *("--views", f"title,sound={folder / 'x.npy'}", "--pca", 4),
            *("--quantizer", "opq", "--levels", 2, "--codebook-size", 4),
        ),
    }.items():
        done = semtok("fit", folder / "items.jsonl", "-o", folder / name, *arguments)
        assert done.code == 0, done.stderr
    return folder


def copy_of(tokenizers: Path, name: str, folder: Path) -> Path:
    for file in tokenizers.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    return Path(shutil.copytree(tokenizers / name, folder / "t"))


def check_tokenizer(folder: Path, name: str) -> list[Outcome]:
    options = {
        "stored": ("--embedding", folder / "new.npy"),
        "views": ("--views", f"sound={folder / 'new.npy'}"),
    }
    stored = options.get(name, ())
    return [
        check(folder, "inspect", folder / "t"),
        check(folder, "encode", folder / "new.jsonl", "--tokenizer", folder / "t", *stored),
    ]


def without_digests(folder: Path) -> None:
    """Makes a folder of format 1, which had none."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        del config["files"], config["digest"]
        path.write_text(json.dumps({**config, "format": 1}))


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def clipped(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def junk(path: Path) -> None:
    path.write_bytes(JUNK)


def removed(path: Path) -> None:
    path.unlink()


def made_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: tuple[Callable[[Path], None], ...] = (
    halved,
    clipped,
    emptied,
    junk,
    removed,
    made_folder,
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["lsa", "stored", "views"])
def test_every_file_of_a_tokenizer_may_break(
    tokenizers: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    for number, path in enumerate(sorted((tokenizers / name).rglob("*"))):
        if not path.is_file():
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        copy = copy_of(tokenizers, name, folder)
        damage(copy / path.relative_to(tokenizers / name))
        for done in check_tokenizer(folder, name):
            # One byte less may be the newline at the end of the outermost JSON file.
            assert done.code == 1 or (damage is clipped and path.suffix == ".json"), path


@pytest.mark.parametrize("name", ["lsa", "stored"])
def test_files_of_a_tokenizer_may_be_swapped(tokenizers: Path, tmp_path: Path, name: str) -> None:
    files = [path for path in sorted((tokenizers / name).rglob("*")) if path.is_file()]
    number = 0
    for path in files:
        for other in files:
            if path.suffix != other.suffix or path == other:
                continue
            number += 1
            folder = tmp_path / str(number)
            folder.mkdir()
            copy = copy_of(tokenizers, name, folder)
            shutil.copy(other, copy / path.relative_to(tokenizers / name))
            for done in check_tokenizer(folder, name):
                assert done.code == 1, (path, other)


def config_paths(value: object, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every value inside a JSON value."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from config_paths(inner, (*at, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value[:2]):
            yield from config_paths(inner, (*at, place))


@pytest.mark.parametrize("name", ["lsa", "views"])
@pytest.mark.parametrize("wrong", ["absent", None, -1, "x", [], 10**30])
def test_every_value_of_a_config_may_be_wrong(
    tokenizers: Path, tmp_path: Path, name: str, wrong: object
) -> None:
    copy = copy_of(tokenizers, name, tmp_path)
    without_digests(copy)
    for path in sorted(copy.rglob("config.json")):
        text = path.read_text()
        for way in config_paths(json.loads(text)):
            config = inner = json.loads(text)
            for key in way[:-1]:
                inner = inner[key]
            if wrong == "absent":
                del inner[way[-1]]
            else:
                inner[way[-1]] = wrong
            path.write_text(json.dumps(config))
            check(tmp_path, "inspect", copy)
        path.write_text(text)


def test_formats_to_come_are_refused(tokenizers: Path, tmp_path: Path) -> None:
    copy = copy_of(tokenizers, "lsa", tmp_path)
    for path in sorted(copy.rglob("config.json")):
        text = path.read_text()
        path.write_text(json.dumps({**json.loads(text), "format": 99}))
        outer = copy / "config.json"
        if path != outer:  # whose digests would be met first
            kept = outer.read_text()
            config = json.loads(kept)
            del config["files"], config["digest"]
            outer.write_text(json.dumps({**config, "format": 1}))
        for done in check_tokenizer(tmp_path, "lsa"):
            assert done.code == 1
            assert "has format 99" in done.stderr
            assert "upgrade" in done.stderr
        if path != outer:
            outer.write_text(kept)
        path.write_text(text)


# A flipped bit may make a weight of 1e38: numpy warns of an overflow, and goes on.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@fuzz(40)
@given(name=st.sampled_from(["lsa", "stored", "views"]), data=st.data())
def test_bits_of_a_tokenizer_may_flip(
    tokenizers: Path,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    copy = copy_of(tokenizers, name, folder)
    files = [path for path in sorted(copy.rglob("*")) if path.is_file()]
    path = data.draw(st.sampled_from(files))
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    intact = path.read_bytes()
    path.write_bytes(damaged)
    for done in check_tokenizer(folder, name):
        # White space of the outermost JSON file may be other white space.
        harmless = path == copy / "config.json" and _says_the_same(intact, bytes(damaged))
        assert (done.code == 0) == (damaged == intact or harmless), path


def _says_the_same(text: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(text) == json.loads(other))
    except ValueError:
        return False


def test_other_codes_are_refused_even_if_they_fit(tokenizers: Path, tmp_path: Path) -> None:
    copy = copy_of(tokenizers, "lsa", tmp_path)
    path = copy / "codes.parquet"
    pl.read_parquet(path).with_columns(pl.col("codes").reverse()).write_parquet(path)
    for done in check_tokenizer(tmp_path, "lsa"):
        assert done.code == 1
        assert "codes.parquet: damaged, its digest differs" in done.stderr


# Embeddings made elsewhere.


def npy(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


def tensors(**arrays: np.ndarray) -> bytes:
    from safetensors.numpy import save

    return save(arrays)


X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
HOLED = np.where(np.arange(30)[:, None] == 7, np.nan, X).astype(np.float32)
HALVED = b"not a readable safetensors file"


def vectors(ids: list[object], **more: object) -> bytes:
    file = io.BytesIO()
    pl.DataFrame({"item_id": ids, **more}, strict=False).write_parquet(file)
    return file.getvalue()


IDS: list[object] = [row["item_id"] for row in items()]
EMBEDDINGS = {
    "pickle.npy": (npy(np.array([{}] * 30, dtype=object)), ".npy file of numbers"),
    "strings.npy": (npy([["a"]] * 30), "must hold numbers"),
    "complex.npy": (npy(X.astype(np.complex64)), "must hold numbers"),
    "bools.npy": (npy(X > 0), "must hold numbers"),
    "structured.npy": (npy(np.zeros(30, dtype=[("a", "f4")])), "must"),
    "flat.npy": (npy(X[:, 0]), "must have the shape [items, dim]"),
    "cube.npy": (npy(X[:, :, None]), "must have the shape [items, dim]"),
    "scalar.npy": (npy(3.0), "must have the shape [items, dim]"),
    "no_dim.npy": (npy(X[:, :0]), "must have the shape [items, dim]"),
    "short.npy": (npy(X[:3]), "has 3 rows for 30 item ids"),
    "none.npy": (npy(X[:0]), "has 0 rows for 30 item ids"),
    "nan.npy": (npy(HOLED), "row 7 (item 'i7'): holds NaN"),
    "huge.npy": (npy(X.astype(np.float64) * 1e300), "beyond float32"),
    "truncated.npy": (npy(X)[:-40], "not a readable .npy file"),
    "header.npy": (npy(X)[:20], "not a readable .npy file"),
    "empty.npy": (b"", "not a readable .npy file"),
    "junk.npy": (JUNK, "not a readable .npy file"),
    "zip.npy": (b"PK\x03\x04" + JUNK, "not a readable .npy file"),
    "truncated.safetensors": (tensors(x=X)[:-40], "not a readable safetensors file"),
    "header.safetensors": (tensors(x=X)[:20], "not a readable safetensors file"),
    "empty.safetensors": (b"", "not a readable safetensors file"),
    "junk.safetensors": (JUNK, "not a readable safetensors file"),
    "length.safetensors": (b"\xff" * 8 + b"{}", "not a readable safetensors file"),
    "two.safetensors": (tensors(x=X, y=X), "exactly one tensor"),
    "nan.safetensors": (tensors(x=HOLED), "row 7 (item 'i7'): holds NaN"),
    "short.safetensors": (tensors(x=X[:3]), "has 3 rows for 30 item ids"),
    "junk.parquet": (JUNK, "not a readable parquet file"),
    "truncated.parquet": (vectors(IDS, x=X.tolist())[:-60], "not a readable parquet file"),
    "no_id.parquet": (parquet({"x": 1.0}), "no column 'item_id'"),
    "only_id.parquet": (vectors(IDS), "no column beside 'item_id'"),
    "missing.parquet": (vectors(IDS[1:], x=X[1:].tolist()), "has no row for item 'i0'"),
    "other.parquet": (vectors([*IDS[1:], "z"], x=X.tolist()), "item 'z' is not in the catalogue"),
    "twice.parquet": (vectors([*IDS[1:], "i1"], x=X.tolist()), "is already that of row 1"),
    "null.parquet": (vectors(IDS, x=[None, *X[1:].tolist()]), "row 1"),
    "null_in.parquet": (vectors(IDS, x=[*X[:-1].tolist(), [1.0, None, 2.0, 3.0]]), "row 30"),
    "ragged.parquet": (vectors(IDS, x=[*X[:-1].tolist(), [1.0]]), "row 30"),
    "words.parquet": (vectors(IDS, x=[["a"]] * 30), "numbers"),
    "word.parquet": (vectors(IDS, x=["a"] * 30), "numbers"),
    "nan.parquet": (vectors(IDS, x=HOLED.tolist()), "item 'i7'"),
    "nested.parquet": (vectors(IDS, x=[[[1.0]]] * 30), "numbers"),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_broken_embeddings_end_in_one_sentence(tmp_path: Path, name: str) -> None:
    data, words = EMBEDDINGS[name]
    (tmp_path / "items.jsonl").write_bytes(GOOD)
    (tmp_path / name).write_bytes(data)
    arguments = ("encode", tmp_path / "items.jsonl", "--embedding", tmp_path / name)
    done = check(tmp_path, *arguments, words=words)
    assert done.code == 1
    assert name in done.stderr


# Files of codes and of interactions, and options.


CODES = {
    "empty.jsonl": b"",
    "junk.jsonl": JUNK,
    "junk.parquet": JUNK,
    "none.jsonl": jsonl({"item_id": "a", "codes": []}),
    "null.jsonl": jsonl({"item_id": "a", "codes": None}),
    "absent.jsonl": jsonl({"item_id": "a", "codes": [1]}, {"item_id": "b"}),
    "ragged.jsonl": jsonl({"item_id": "a", "codes": [1]}, {"item_id": "b", "codes": [1, 2]}),
    "floats.jsonl": jsonl({"item_id": "a", "codes": [1.5]}),
    "nan.jsonl": b'{"item_id": "a", "codes": [NaN]}\n',
    "strings.jsonl": jsonl({"item_id": "a", "codes": ["1"]}),
    "bools.jsonl": jsonl({"item_id": "a", "codes": [True]}),
    "negative.jsonl": jsonl({"item_id": "a", "codes": [-1]}),
    "huge.jsonl": jsonl({"item_id": "a", "codes": [2**40]}),
    "huger.jsonl": jsonl({"item_id": "a", "codes": [2**80]}),
    "nested.jsonl": jsonl({"item_id": "a", "codes": [[1]]}),
    "object.jsonl": jsonl({"item_id": "a", "codes": {"1": 2}}),
    "twice.jsonl": jsonl({"item_id": "a", "codes": [1]}, {"item_id": "a", "codes": [2]}),
    "words.csv": b"item_id,code_1\na,x\n",
    "header.csv": b"item_id,code_1\n",
    "empty_cell.csv": b"item_id,code_1,code_2\na,1,\n",
    "strings.parquet": parquet({"item_id": "a", "codes": ["x"]}),
    "flat.parquet": parquet({"item_id": "a", "codes": 1}),
    "nulls.parquet": parquet({"item_id": "a", "codes": [1, None]}),
}


@pytest.mark.parametrize("name", CODES)
def test_broken_codes_end_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(CODES[name])
    page = ("--html", tmp_path / "page.html")
    assert check(tmp_path, "inspect", tmp_path / name, words=name).code == 1
    assert check(tmp_path, "inspect", tmp_path / name, *page, words=name).code == 1


EVENTS = {
    "empty.jsonl": b"",
    "junk.csv": JUNK,
    "no_user.jsonl": jsonl({"item_id": "i1"}),
    "no_item.jsonl": jsonl({"user_id": "u"}),
    "null.jsonl": jsonl({"user_id": None, "item_id": "i1"}),
    "time.jsonl": jsonl({"user_id": "u", "item_id": "i1", "timestamp": "noon"}),
    "nan.jsonl": b'{"user_id": "u", "item_id": "i1", "timestamp": NaN}\n',
    "other.jsonl": jsonl({"user_id": "u", "item_id": "i1"}, {"user_id": "u", "item_id": "z"}),
    "alone.jsonl": jsonl({"user_id": "u", "item_id": "i1"}, {"user_id": "v", "item_id": "i2"}),
}


@pytest.mark.parametrize("name", EVENTS)
def test_broken_sequences_end_in_one_sentence(tokenizers: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(EVENTS[name])
    done = check(tmp_path, "inspect", tokenizers / "lsa", "--sequences", tmp_path / name)
    assert done.code == 1


words_for_options = st.sampled_from(
    ["", "-1", "0", "1", "2", "3", "1000000000000", "1e9", "nan", "x", "title", "title,title", ",",
     "a=b", "title=lsa", "=", "suffix", "pq", "rq", "opq", "random", "lsa", "items.jsonl",
     "absent.npy", ".", "/", "\x00", "\ud800", "--"]
)  # fmt: skip
options = st.sampled_from(
    ["--fields", "--id-column", "--codebook-size", "--seed", "--views", "--pca", "--collisions",
     "--output", "--quantizer", "--levels", "--beams", "--refit-above"]
)  # fmt: skip


@fuzz(100)
@given(
    command=st.sampled_from(["fit", "encode", "inspect"]),
    given_options=st.lists(st.tuples(options, words_for_options), max_size=3),
    flags=st.lists(
        st.sampled_from(["--balanced", "--force", "--json", "--fuse", "--whiten"]), max_size=2
    ),
    place=st.sampled_from(["items.jsonl", "absent.jsonl", "", ".", "new.jsonl", "\x00.jsonl"]),
)
def test_any_options_end_in_a_result_or_a_sentence(
    tokenizers: Path,
    tmp_path_factory: pytest.TempPathFactory,
    command: str,
    given_options: list[tuple[str, str]],
    flags: list[str],
    place: str,
) -> None:
    folder = tmp_path_factory.mktemp("options")
    for name in ("items.jsonl", "new.jsonl"):
        shutil.copy(tokenizers / name, folder)
    with contextlib.chdir(folder):
        check(folder, command, place, *(w for pair in given_options for w in pair), *flags)


def test_pages_that_cannot_be_written(tokenizers: Path, tmp_path: Path) -> None:
    copy = copy_of(tokenizers, "lsa", tmp_path)
    (tmp_path / "page.html").mkdir()
    for page in ("page.html", "absent/page.html", "page.txt"):
        for more in ((), ("--force",)):
            done = check(tmp_path, "inspect", copy, "--html", tmp_path / page, *more)
            assert done.code == 1
