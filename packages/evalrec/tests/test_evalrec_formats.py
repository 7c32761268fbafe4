from __future__ import annotations

import ast
import gzip
import json
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from evalrec import DataError, read_catalogue, read_raw
from evalrec.readers import blocks
from evalrec.readers.cleaning import clean_text, clean_texts, item_record
from evalrec.readers.formats import get_format, sort_files
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st


def named(table):
    """User id to item ids, oldest first."""
    return {
        table.user_ids[user]: [table.item_ids[item] for item in history]
        for user, history in enumerate(table.histories())
    }


def test_every_layout_gives_the_same_sequences(raw):
    read = read_raw(raw.format, [raw.folder])
    assert named(read.interactions) == raw.histories()
    assert (read.num_rows, read.num_below_rating) == (len(raw.rows()), 0)
    if raw.layout != "mind":  # whose histories have no times
        table = read.interactions
        rows = zip(table.users, table.items, table.timestamps, strict=True)
        got = {(table.user_ids[u], table.item_ids[i], int(time)) for u, i, time in rows}
        assert got == raw.rows()


@pytest.mark.parametrize("size", [64, 257, 4096])
def test_the_size_of_blocks_changes_nothing(raw, monkeypatch, size):
    whole = read_raw(raw.format, [raw.folder]).interactions
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    monkeypatch.setattr(blocks, "READ_BYTES", size)
    cut = read_raw(raw.format, [raw.folder]).interactions
    assert (cut.user_ids, cut.item_ids) == (whole.user_ids, whole.item_ids)
    for name in ("users", "items", "timestamps"):
        assert np.array_equal(getattr(cut, name), getattr(whole, name))


def test_the_slow_reader_reads_what_the_fast_one_does(raw, monkeypatch):
    fast = read_raw(raw.format, [raw.folder]).interactions
    for module in ("delimited", "json_lines"):
        monkeypatch.setattr(f"evalrec.readers.{module}.parse_whole", lambda *_: None)
    slow = read_raw(raw.format, [raw.folder]).interactions
    assert (slow.user_ids, slow.item_ids) == (fast.user_ids, fast.item_ids)
    assert np.array_equal(slow.timestamps, fast.timestamps)
    assert np.array_equal(slow.items, fast.items)


def test_ordinary_files_take_the_fast_reader(raw, monkeypatch):
    def refuse(*_):
        raise AssertionError("row by row")

    for module in ("delimited", "json_lines", "native"):
        monkeypatch.setattr(f"evalrec.readers.{module}.batch_of_rows", refuse)
    assert read_raw(raw.format, [raw.folder]).num_rows == len(raw.rows())


def test_progress_reaches_the_size_of_the_files(raw):
    calls = []
    read_raw(raw.format, [raw.folder], progress=lambda *call: calls.append(call))
    stages, done, totals = zip(*calls, strict=True)
    assert set(stages) == {"reading"}
    assert list(done) == sorted(done)
    assert done[-1] == totals[-1] > 0


@pytest.mark.parametrize("layout", ["native", "amazon2014", "last-out", "movielens-1m", "yelp"])
def test_ratings_below_the_least_are_left_out_and_counted(make_raw, layout):
    raw = make_raw(layout)
    read = read_raw(raw.format, [raw.folder], min_rating=4)
    table = read.interactions
    assert read.num_rows == len(raw.rows())
    assert len(table) + read.num_below_rating == read.num_rows
    assert read.num_below_rating == sum(
        (user + step) % 5 < 3 for user in range(8) for step in range(6)
    )


@pytest.mark.parametrize("name", ["mind", "hm"])
def test_formats_without_ratings_refuse_a_least_rating(make_raw, name):
    with pytest.raises(ValueError, match=r"min_rating must not be given: .* has no ratings"):
        read_raw(name, [make_raw(name).folder], min_rating=3)


TITLES = {
    "native": ("Soap 3", None, None, None, None),
    "amazon2014": ("Soap & Water 3", "L'Or", ["Beauty", "Bath", "Soap"], None, "It's new"),
    "amazon2018": (
        *("Soap 3", "Lor", ["Beauty", "Soap & Bath"], ["Soft", "Mild < 5"], "One. Two."),
    ),
    "ratings-2018": (
        *("Soap 3", "Lor", ["Beauty", "Soap & Bath"], ["Soft", "Mild < 5"], "One. Two."),
    ),
    "amazon2023": ("Soap 3", "Lor", ["Beauty", "Soap"], ["Soft"], "Clean."),
    "movielens-100k": ("Café 3 (1995)", None, ["Action", "Comedy"], None, None),
    "movielens-1m": ("Café 3 (1995)", None, ["Action", "Comedy"], None, None),
    "movielens-csv": ('Café, The "3" (1995)', None, ["Action", "Comedy"], None, None),
    "mind": ('A "quiet" day 3', None, ["news", "newsworld"], None, "It & rained"),
    "hm": (
        *("Strap top 3", None),
        ["Ladieswear", "Womens Everyday Basics", "Garment Upper body", "Vest top", "Jersey Basic"],
        *(["Black", "Solid"], "Jersey top, with straps."),
    ),
    "yelp": ("Café 3", None, ["Food", "Coffee & Tea"], ["Tucson", "AZ"], None),
}


@pytest.mark.parametrize("layout", TITLES)
def test_items_become_records_without_html(make_raw, layout):
    raw = make_raw(layout)
    wanted = [raw.item(row) for row in (3, 0, 5)]
    records = read_catalogue(raw.format, [raw.folder], wanted)
    assert set(records) == set(wanted)
    names = ("title", "brand", "categories", "features", "description")
    expected = {
        name: value for name, value in zip(names, TITLES[layout], strict=True) if value is not None
    }
    assert records[raw.item(3)] == {"item_id": raw.item(3), **expected}


def test_of_an_item_listed_twice_amazon_takes_the_first(make_raw):
    raw = make_raw("amazon2018")
    assert read_catalogue("amazon2018", [raw.folder], ["B000"])["B000"]["title"] == "Soap 0"


@pytest.mark.parametrize("layout", ["native", "movielens-1m", "hm", "yelp"])
def test_an_item_listed_twice_is_refused_where_each_is_listed_once(make_raw, layout):
    raw = make_raw(layout)
    name = list(raw.texts)[1]
    text = raw.texts[name]
    path = raw.write(name, raw.encoded(name, text + text.splitlines(keepends=True)[-1]))
    with pytest.raises(DataError, match=rf"{path.name}, line \d+: item .* (occurs twice|is that)"):
        read_catalogue(raw.format, [raw.folder], [raw.item(6)])


def test_metadata_lines_are_data_and_never_run(make_raw, tmp_path):
    raw = make_raw("amazon2014")
    planted = tmp_path / "planted"
    code = f"{{'asin': 'B001', 'title': open({str(planted)!r}, 'w').write('x')}}\n"
    raw.write("meta_Beauty.json.gz", code.encode())
    with pytest.raises(DataError, match="line 1: malformed Python literal"):
        read_catalogue("amazon2014", [raw.folder], ["B001"])
    assert not planted.exists()


def test_metadata_of_2014_may_be_strict_json(make_raw):
    raw = make_raw("amazon2014")
    literals = [ast.literal_eval(line) for line in raw.texts["meta_Beauty.json.gz"].splitlines()]
    wanted = [raw.item(row) for row in range(7)]
    before = read_catalogue("amazon2014", [raw.folder], wanted)
    extra = {"brand": None, "price": 1.5, "new": True}  # null and true, which are no literals
    lines = [json.dumps({**record, **extra}) for record in literals]
    lines[1] = repr(literals[1])  # both kinds in one file
    raw.write("meta_Beauty.json.gz", "\n".join(lines).encode())
    after = read_catalogue("amazon2014", [raw.folder], wanted)
    assert after["B001"] == before["B001"]
    assert after["B002"] == {key: value for key, value in before["B002"].items() if key != "brand"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "{'asin': B001}",
            "malformed Python literal: it holds a name, a call or an operation where",
        ),
        ('{"asin": "B001", "x": tru}', "malformed JSON: Expecting value"),
        ("{'asin': 'B001', 'title': 'a', 'title': 'b'}", "the key 'title' occurs twice"),
        ('{"asin": "B001", "title": "a", "title": "b"}', "the key 'title' occurs twice"),
        ("{'asin': 'B001', 'x': '" + "y" * 2**20 + "'}", "is longer than 1,048,576 characters"),
    ],
)
def test_metadata_of_2014_that_is_neither_is_refused_in_words(make_raw, line, words):
    raw = make_raw("amazon2014")
    raw.write("meta_Beauty.json.gz", line.encode())
    with pytest.raises(DataError, match=f"line 1: .*{words}") as error:
        read_catalogue("amazon2014", [raw.folder], ["B001"])
    assert " at 0x" not in str(error.value)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("years", [("2014", "2018"), ("2018", "2014")])
def test_metadata_of_another_year_names_the_format_that_reads_it(make_raw, years, strict):
    raw, (of, read_as) = make_raw(f"amazon{years[0]}"), years
    if of == "2014" and strict:
        lines = raw.texts["meta_Beauty.json.gz"].splitlines()
        text = "".join(json.dumps(ast.literal_eval(line)) + "\n" for line in lines)
        raw.write("meta_Beauty.json.gz", text.encode())
    with pytest.raises(DataError, match=f"meta_Beauty.json.gz, line 1: .*format amazon{of} reads"):
        read_catalogue(
            f"amazon{read_as}", [raw.folder / "meta_Beauty.json.gz", reviews(raw)], ["B000"]
        )


def reviews(raw) -> Path:
    """The file of reviews under a name that 2014 and 2018 both know."""
    path = next(raw.folder.glob("*_5.json.gz"))
    return path.rename(raw.folder / "reviews_Beauty_5.json.gz")


@pytest.mark.parametrize("layout", ["last-out", "last-out-history"])
def test_a_target_listed_twice_is_refused(make_raw, layout):
    raw = make_raw(layout)
    name = "All_Beauty.test.csv"
    text = raw.texts[name]
    raw.write(name, (text + text.splitlines(keepends=True)[1]).encode())
    with pytest.raises(
        DataError, match=r"test.csv, line 10: user 'AE0' has the target 'B00\d' twice"
    ):
        read_raw("amazon2023", [raw.folder])


def test_what_only_a_history_names_comes_first(make_raw):
    raw = make_raw("last-out-history")
    (raw.folder / "All_Beauty.train.csv").unlink()
    read = read_raw("amazon2023", [raw.folder])
    assert named(read.interactions) == raw.histories()
    assert read.num_rows == len(raw.rows())


def test_clicks_of_several_mind_files_are_joined_by_the_earliest_history(make_raw, tmp_path):
    raw = make_raw("mind")
    text = raw.texts["behaviors.tsv"]
    later = [line for line in text.splitlines(keepends=True)][: len(text.splitlines()) // 2]
    grown = [line.replace("\tN", "\tN99 N", 1) for line in later]
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "behaviors.tsv").write_text(
        "".join(line.replace("/2014", "/2015").replace("-1", "-0", 9) for line in grown)
    )
    paths = [raw.folder / "behaviors.tsv", tmp_path / "dev" / "behaviors.tsv"]
    assert named(read_raw("mind", paths).interactions) == raw.histories()


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("a &amp;amp; b", "a & b"),
        ("size < 5 > 3", "size < 5 > 3"),
        ("<p class='x'>One</p><p>Two</p>", "One Two"),
        ("a<script>var x = '<b>';</script>b<style>p {}</style>", "a b"),
        ("<script>never closed", ""),
        ("a<!-- note\n -->b", "a b"),
        ("  two\n\tlines&nbsp;here ", "two lines here"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ("size a<b and c>d end", "size a<b and c>d end"),
        ("a<STYLE type='text/css'>p {}</STYLE >b", "a b"),
        ("the <style guide> of 2018", "the <style guide> of 2018"),
        ("<script async src=x.js>var x;</script>b", "b"),
        ("<td nowrap width=5>z</td><o:p>w</o:p>", "z w"),
        ("<p class='x'id='y'>One<br />two<br/>three</br>", "One two three"),
        ("<img alt='a > b' src=q>z<a href='x>text</a>", "z text"),
        ("I <3 u, <no tag>", "I <3 u, <no tag>"),
        (
            "a &#" + "9" * 5000 + "; b &#" + "0" * 5000 + "65; c &#x" + "0" * 20 + "41;",
            "a \ufffd b A c A",
        ),
    ],
)
def test_cleaning(html, text):
    assert clean_text(html) == text


@pytest.mark.parametrize(
    "piece",
    ["<a x='", "<p a=b ", "<p a=", "<!--", "<script ", "<script>", "<p/ / ", "&#", "<p a = "],
)
def test_the_time_of_cleaning_follows_the_text(piece):
    """Twice quadratic, this took minutes; one second would be slow."""
    start = time.process_time()
    clean_text(piece * (400_000 // len(piece)))
    clean_text("<p " + piece[1:] * (400_000 // len(piece)))
    assert time.process_time() - start < 10


@pytest.mark.parametrize("layout", ["movielens-100k", "movielens-1m"])
@pytest.mark.parametrize("packed", [False, True])
def test_titles_of_movies_are_utf8_or_else_latin1(make_raw, layout, packed):
    raw = make_raw(layout)
    name = list(raw.texts)[1]
    for encoding in ("utf-8", "latin-1"):
        (raw.folder / name).unlink(missing_ok=True)
        raw.write(name + ".gz" * packed, raw.texts[name].encode(encoding))
        records = read_catalogue("movielens", [raw.folder], ["1"])
        assert records["1"]["title"] == "Café 0 (1995)", encoding


def test_titles_of_2018_that_are_scripts_are_left_out_and_said(make_raw, caplog):
    raw = make_raw("amazon2018")
    script = "var aPageStart = (new Date()).getTime();\\nvar ue_t0=ue_t0||+new Date();"
    text = raw.texts["meta_Beauty.json.gz"].replace("Soap 3", script).replace("Soap 4", "Variety 4")
    raw.write("meta_Beauty.json.gz", text.encode())
    records = read_catalogue("amazon2018", [raw.folder], ["B003", "B004", "B005"])
    assert "title" not in records["B003"]
    assert records["B003"]["brand"] == "Lor"
    assert records["B004"]["title"] == "Variety 4"
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "1 titles are scripts, which are left out"
    ]


def test_records_leave_out_what_is_empty():
    assert clean_texts([["a", None, ""], "a", 3, True, {"x": 1}]) == ["a", "3"]
    assert item_record("x", title=" <br> ", features=[]) == {"item_id": "x"}


# What may be broken in the interactions of each layout, and the words for it.
BREAKS = {
    "native": (
        '"timestamp": 1',
        '"timestamp": "2014-05-14", "was": 1',
        "timestamp must be a whole",
    ),
    "amazon2014": ('"unixReviewTime": ', '"unixReviewTime": "2014"+', "malformed JSON"),
    "amazon2018": ('"unixReviewTime": 1', '"unixReviewTime": "5 14", "x": 1', "must be a whole"),
    "amazon2023": (
        '"timestamp": 1',
        '"timestamp": null, "x": 1',
        "must be a whole number, got None",
    ),
    "ratings-2018": (",1", ",day 1", "unixReviewTime must be a whole number, got 'day 1"),
    "ratings-2023": (",1", ",day 1", "timestamp must be a whole number, got 'day 1"),
    "timestamps": (",1", ",day 1", "timestamp must be a whole number, got 'day 1"),
    "last-out": (",1", ",2014-05-14 1", "timestamp must be a whole number, got '2014-05-14 1"),
    "last-out-history": (",B00", ",,B00", "6 fields, but the header names 5"),
    "movielens-100k": ("\t1", "\tday 1", "timestamp must be a whole number, got 'day 1"),
    "movielens-1m": ("::1", "::day 1", "timestamp must be a whole number, got 'day 1"),
    "movielens-csv": (",1", ",day 1", "timestamp must be a whole number, got 'day 1"),
    "mind": (" AM", "", "time must be a time as %m/%d/%Y %I:%M:%S %p, got "),
    "hm": ("2014-", "14.5.", "t_dat must be a time as %Y-%m-%d, got '14.5."),
    "yelp": ('"date": "', '"date": "on ', "date must be a time as %Y-%m-%d %H:%M:%S, got 'on "),
}


def refused(raw, path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_raw(raw.format, [raw.folder])
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_a_wrong_value_is_refused_with_its_line(raw):
    name = next(iter(raw.texts))
    old, new, words = BREAKS[raw.layout]
    lines = raw.texts[name].splitlines(keepends=True)
    at = len(lines) // 2
    before, _, after = lines[at].rpartition(old)
    lines[at] = before + new + after
    text = refused(raw, raw.write(name, "".join(lines).encode()))
    assert words in text
    assert f"line {at + 1}: " in text


def test_half_a_line_is_refused_with_its_line(raw):
    name = next(iter(raw.texts))
    lines = raw.texts[name].splitlines(keepends=True)
    lines[-1] = lines[-1][: len(lines[-1]) // 3]
    assert f"line {len(lines)}: " in refused(raw, raw.write(name, "".join(lines).encode()))


def test_an_empty_file_is_refused(raw):
    name = next(iter(raw.texts))
    path = raw.folder / name
    path.write_bytes(b"")
    assert refused(raw, path) == f"{path} is empty"


def test_a_file_of_no_rows_is_refused(raw):
    for name in raw.texts:
        raw.write(name, b"\n")
    assert "holds no interactions" in refused(raw, raw.folder) or "no column" in refused(
        raw, raw.folder
    )


def test_a_file_of_another_kind_is_refused(raw):
    name = next(iter(raw.texts))
    other = b'{"a": 1}\n' if ".json" not in name else b"a,b\n1,2\n"
    text = refused(raw, raw.write(name, other))
    assert any(words in text for words in ("no column", "fields", "malformed JSON"))


def test_a_truncated_gzip_is_refused_with_its_line(raw):
    name = next(iter(raw.texts))
    packed = raw.folder / f"{name.removesuffix('.gz')}.gz"
    (raw.folder / name).unlink()
    data = gzip.compress(raw.texts[name].encode(), mtime=0)
    packed.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match=r"line (\d+): the gzip stream is broken") as error:
        read_raw(raw.format, [raw.folder])
    line = int(str(error.value).split("line ")[1].split(":")[0])
    assert 1 < line <= len(raw.texts[name].splitlines())


GOOD = b'{"user_id": "u", "item_id": "a", "timestamp": 1}\n'


@pytest.mark.parametrize(
    "name", ["interactions.jsonl", "interactions.csv", "u.data", "items.jsonl"]
)
def test_a_line_has_an_end_by_16_mib_and_is_refused_early(tmp_path, name):
    first = {"interactions.csv": b"user_id,item_id,timestamp\n", "u.data": b"1\t2\t3\t4\n"}
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(first.get(name, GOOD)) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    # Two gibibytes of one line, in two megabytes.
    (tmp_path / f"{name}.gz").write_bytes(head + piece * 128)
    script = (
        "import resource, sys\n"
        "from evalrec import DataError, read_raw, read_item_ids\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "form, path = sys.argv[1:]\n"
        "try: read_item_ids(path) if 'items' in path else read_raw(form, [path])\n"
        "except DataError as error: print(error)\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
        "assert usage.ru_maxrss - before < 200 * 1024, usage.ru_maxrss - before\n"
    )
    form = "movielens" if name == "u.data" else "native"
    done = subprocess.run(
        [sys.executable, "-c", script, form, str(tmp_path / f"{name}.gz")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("line 2: is longer than 16,777,216 bytes, the maximum\n")


@pytest.mark.parametrize("size", [1000, 1001, 1300, 2000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n" + GOOD])
@pytest.mark.parametrize("start", [0, 7])
def test_exactly_what_is_longer_than_the_longest_line_is_refused(
    tmp_path, monkeypatch, size, end, start
):
    for constant, value in (("LINE_BYTES", 1000), ("BLOCK_BYTES", 1000), ("READ_BYTES", 256)):
        monkeypatch.setattr(blocks, constant, value)
    line = GOOD.strip()[:-1] + b', "x": "' + b"y" * size
    path = tmp_path / "interactions.jsonl"
    path.write_bytes(GOOD * start + line[: size - 2] + b'"}' + end)
    if size == 1000:
        assert len(read_raw("native", [path]).interactions) == start + 1 + end.count(b"{")
    else:
        with pytest.raises(DataError, match=f"line {start + 1}: is longer than 1,000 bytes"):
            read_raw("native", [path])


@pytest.mark.parametrize("name", ["interactions.jsonl", "interactions.csv", "ratings.dat"])
def test_the_time_of_a_long_line_follows_its_length(tmp_path, name):
    """Searched anew for each piece that was read, 15 MiB in one line took a minute."""
    rows = {
        "interactions.jsonl": '{"user_id": "%s", "item_id": "a", "timestamp": 1}\n',
        "interactions.csv": 'user_id,item_id,timestamp\n"%s",a,1\n',
        "ratings.dat": "%s::1::1::1\n",
    }
    path = tmp_path / name
    path.write_text(rows[name] % ("y" * (15 * 2**20)))
    start = time.process_time()
    form = "movielens" if name == "ratings.dat" else "native"
    assert len(read_raw(form, [path]).interactions.user_ids[0]) == 15 * 2**20
    assert time.process_time() - start < 10


def test_a_hundred_thousand_columns_are_read_in_linear_time(tmp_path):
    names = ["user_id", "item_id", "timestamp", *(f"c{place}" for place in range(100_000))]
    path = tmp_path / "interactions.csv"
    rows = "".join(f"u,{row},1" + "," * 100_000 + "\n" for row in range(3))
    path.write_text(",".join(names) + "\n" + rows)
    start = time.process_time()
    assert len(read_raw("native", [path]).interactions) == 3
    assert time.process_time() - start < 30


@pytest.mark.parametrize("junk", [b"", b"\0" * 70_000, b"\0" * 9 + gzip.compress(GOOD, mtime=0)])
def test_members_and_padding_of_gzip_are_read(tmp_path, junk):
    path = tmp_path / "interactions.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD * 3) + gzip.compress(b"") + gzip.compress(GOOD) + junk)
    assert read_raw("native", [path]).num_rows == 4 + (len(junk) in range(10, 200))
    path.write_bytes(path.read_bytes() + b"junk")
    with pytest.raises(DataError, match=r"line \d: the gzip stream is broken"):
        read_raw("native", [path])


def refusal(raw) -> str | None:
    """What reading everything is refused with, if it is."""
    try:
        table = read_raw(raw.format, [raw.folder]).interactions
        read_catalogue(raw.format, [raw.folder], table.item_ids)
    except DataError as error:
        return str(error)
    return None


def test_any_cut_and_any_byte_end_in_rows_or_in_a_refusal(raw):
    rng = np.random.default_rng(5)
    for name in raw.texts:
        data = raw.encoded(name, raw.texts[name])
        for _ in range(25):
            broken = bytearray(data)
            if rng.random() < 0.5:
                del broken[int(rng.integers(len(broken))) :]
            else:
                broken[int(rng.integers(len(broken)))] = int(rng.integers(256))
            path = raw.write(name, bytes(broken))
            text = refusal(raw)
            assert text is None or (str(path) in text and "\n" not in text)
        raw.write(name, data)


SPECIAL = st.text(alphabet='ab,"\n\r\t|:é {}[].\x00', min_size=1, max_size=6)


@given(st.lists(st.tuples(SPECIAL, SPECIAL, st.integers(-(2**63), 2**63 - 1)), min_size=1))
@example([('a"b', "x\ny", 1), ("c,", "\r", 2)])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_whatever_ids_are_written_are_read(tmp_path, rows):
    records = [dict(zip(("user_id", "item_id", "timestamp"), row, strict=True)) for row in rows]
    frame = pl.DataFrame(records, schema={"user_id": str, "item_id": str, "timestamp": pl.Int64})
    expected = sorted(rows, key=lambda row: [r[0] for r in rows].index(row[0]))
    frame.write_parquet(tmp_path / "interactions.parquet")
    (tmp_path / "interactions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    frame.write_csv(tmp_path / "interactions.csv", quote_style="always")
    for name in ("interactions.parquet", "interactions.jsonl", "interactions.csv"):
        table = read_raw("native", [tmp_path / name]).interactions
        got = [
            (table.user_ids[user], table.item_ids[item], int(time))
            for user, item, time in zip(table.users, table.items, table.timestamps, strict=True)
        ]
        users = list(dict.fromkeys(row[0] for row in rows))
        assert got == sorted(expected, key=lambda row: (users.index(row[0]), row[2])), name


def test_files_are_told_by_their_names(make_raw, tmp_path):
    raw = make_raw("movielens-1m")
    with pytest.raises(ValueError, match=r"format must be one of native, amazon2014, .* got 'ml'"):
        read_raw("ml", [raw.folder])
    (tmp_path / "other.txt").write_text("x")
    with pytest.raises(DataError, match=r"other\.txt is not a file of MovieLens by its name"):
        read_raw("movielens", [tmp_path / "other.txt"])
    with pytest.raises(DataError, match=r"ratings\.dat is given twice"):
        read_raw("movielens", [raw.folder, raw.folder / "ratings.dat"])
    with pytest.raises(DataError, match="no file of interactions is given"):
        read_raw("movielens", [raw.folder / "movies.dat"])
    with pytest.raises(DataError, match="missing is missing"):
        read_raw("movielens", [tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no file of MovieLens"):
        read_raw("movielens", [tmp_path / "empty"])


@pytest.mark.parametrize(
    ("name", "first", "other"),
    [
        ("native", "interactions.csv", "interactions.parquet"),
        ("amazon2014", "reviews_Beauty_5.json", "reviews_Beauty_5.json.gz"),
        ("amazon2023", "Beauty.csv", "Beauty.test.csv"),
        ("amazon2023", "Beauty.csv.gz", "Beauty.train.csv"),
    ],
)
def test_the_same_interactions_twice_are_refused(tmp_path, name, first, other):
    for file in (first, other):
        (tmp_path / file).write_text("x")
    for files in ([tmp_path], [tmp_path / first, tmp_path / other]):
        with pytest.raises(DataError, match=f"{first} and {other} hold the same interactions"):
            read_raw(name, files)
    (tmp_path / "b").mkdir()
    (tmp_path / other).rename(tmp_path / "b" / other)
    assert len(sort_files(get_format(name), [tmp_path, tmp_path / "b"]).interactions) == 2
