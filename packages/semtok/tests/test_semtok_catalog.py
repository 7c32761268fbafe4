from __future__ import annotations

import csv
import gzip
import io
import json
import time
import tracemalloc
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from semtok import Catalog, CatalogError, find_catalog, read_catalog
from semtok.catalog import Format, stream_catalog

ROWS = [{"item_id": "a", "title": "Tea"}, {"item_id": "b", "title": None}]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".parquet"])
def test_every_kind_of_file_reads_the_same(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"items{suffix}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if suffix == ".jsonl":
        write(path, "\ufeff" + lines)
    elif suffix == ".jsonl.gz":
        write(path, gzip.compress(lines.encode()))
    elif suffix == ".csv":
        write(path, "item_id,title\na,Tea\nb,\n")
    else:
        pl.DataFrame(ROWS).write_parquet(path)
    catalog = read_catalog(path)
    assert catalog.item_ids == ["a", "b"]
    assert dict(catalog.fields) == {"title": ["Tea", None]}
    assert find_catalog(tmp_path) == path


def test_ids_become_strings_and_keep_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"id": 2}\n\n{"id": 1}\n{"id": "007"}\n')
    assert read_catalog(path, id_column="id").item_ids == ["2", "1", "007"]
    path = write(tmp_path / "x.csv", 'id,t\n007,"a\nb"\n8,c\n')
    assert read_catalog(path, id_column="id").item_ids == ["007", "8"]


def test_texts_are_flattened_and_cleaned() -> None:
    nested = [["Tea", ["Green &amp;amp; Black"]], None, 3, {"k": "v"}]
    catalog = Catalog(
        item_ids=["a", "b", "c"],
        fields={
            "title": ["<b>Big</b> &lt;i&gt;Pot&lt;/i&gt; 1 < 2 > 0", " ", "\ud800x"],
            "brand": ["Unknown", "", None],
            "categories": [nested, [], float("nan")],
        },
    )
    assert catalog.texts() == ["Big Pot 1 < 2 > 0. Unknown. Tea, Green & Black, 3, v", "", "?x"]
    assert catalog.texts(["brand", "absent"]) == ["Unknown", "", ""]
    assert catalog.take([2, 0]).item_ids == ["c", "a"]
    with pytest.raises(ValueError, match=r"at least one field of the catalogue .*got absent"):
        catalog.texts(["absent"])
    with pytest.raises(ValueError, match="got 'absent'"):
        catalog.require_fields(["brand", "absent"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.jsonl", '{"item_id": "a"}\n{"item_id": \n', r"line 2: malformed JSON \(.*column \d+\)"),
        ("x.jsonl", '{"item_id": "a"}\n[1]\n', "line 2: must be a JSON object, got list"),
        ("x.jsonl", '{"id": "a", "title": "b"}\n', r"line 1: no column 'item_id' \(columns: id, t"),
        (
            "x.jsonl",
            '{"item_id": "a"}\n\n{"item_id": "a"}\n',
            "line 3: item id 'a' is already that of line 1",
        ),
        ("x.jsonl", '{"item_id": 1}\n{"item_id": "1"}\n', "'1' is already that of line 1"),
        ("x.jsonl", '{"item_id": null}\n', "line 1: 'item_id' is null"),
        ("x.jsonl", '{"item_id": NaN}\n', "must be a string or a whole number, got float"),
        ("x.jsonl", '{"item_id": 1, "item_id": 1}', "line 1: key 'item_id' comes twice"),
        ("x.jsonl", '{"item_id": 1, "t": [{"a": 1, "a": 2}]}', "line 1: key 'a' comes twice"),
        ("x.jsonl", '{"item_id": " "}\n', "line 1: 'item_id' is empty"),
        ("x.jsonl", '{"item_id": true}\n', "must be a string or a whole number, got bool"),
        ("x.jsonl", '{"item_id": "\\ud800"}\n', "must be valid Unicode"),
        ("x.jsonl", '{"item_id": ' + "[" * 100_000, "nested too deeply"),
        ("x.jsonl", '{"item_id": ' + "1" * 5000 + "}", "number too long"),
        ("x.jsonl", "", "holds no items"),
        ("x.jsonl", "\n \n", "holds no items"),
        ("x.txt", "a", r"x.txt: must end in one of .jsonl, .jsonl.gz, .csv, .csv.gz, .p"),
        ("x.jsonl", '{"item_id": "a"}\n{"item_id": "é"}'.encode("latin-1"), "line 2: not UTF-8"),
        ("x.jsonl.gz", gzip.compress(b'{"item_id": "a"}\n', mtime=0)[:-9], "broken gzip file"),
        ("x.jsonl.gz", b'{"item_id": "a"}\n', "line 1: broken gzip file"),
        ("x.csv", "", "holds no items"),
        ("x.csv", "item_id,title\n", "holds no items"),
        ("x.csv", "id,title\n1,b\n", "line 2: no column 'item_id'"),
        ("x.csv", "item_id,title\na\n", "line 2: has 1 cells, the header has 2"),
        (
            "x.csv",
            "item_id;title\na;Tee\n",
            "line 1: this file is separated by ';', not by commas: `evalrec prepare table",
        ),
        ("x.csv", "item_id\ttitle\na\tTee\n", "line 1: this file is separated by tabs, not by"),
        ("x.csv", "item_id,a,a\n1,2,3\n", "line 1: column 'a' is named twice"),
        ("x.csv", 'item_id,title\na,"b\n', "line 2: malformed CSV"),
        ("x.csv", "item_id,title\n,b\n", "line 2: 'item_id' is null"),
        ("x.csv", "item_id,title\na,\xe9".encode("latin-1"), "line 2: not UTF-8"),
        ("x.parquet", b"PAR1 no", "not a readable parquet file"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(CatalogError, match=words) as refusal:
        read_catalog(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no such file"):
        read_catalog(tmp_path / "x.jsonl")
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(CatalogError, match="is a folder"):
        read_catalog(tmp_path / "d.jsonl")
    with pytest.raises(CatalogError, match="no such folder"):
        find_catalog(tmp_path / "absent")
    with pytest.raises(CatalogError, match="got none of them"):
        find_catalog(tmp_path)
    write(tmp_path / "items.csv", "")
    write(tmp_path / "items.jsonl", "")
    with pytest.raises(CatalogError, match=r"got items.jsonl and items.csv"):
        find_catalog(tmp_path)


def test_parquet_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"item_id": ["a", "b", "a"]}).write_parquet(path)
    with pytest.raises(CatalogError, match="row 3: item id 'a' is already that of row 1"):
        read_catalog(path)


def test_a_catalog_checks_what_it_is_made_of() -> None:
    with pytest.raises(ValueError, match="at least one id"):
        Catalog(item_ids=[], fields={})
    with pytest.raises(ValueError, match="got 'a' twice"):
        Catalog(item_ids=["a", "a"], fields={})
    with pytest.raises(ValueError, match=r"one value per item \(1\), got 2 in 't'"):
        Catalog(item_ids=["a"], fields={"t": [1, 2]})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
json_lines = st.one_of(
    st.builds(lambda i, t: json.dumps({"item_id": i, "title": t}), st.text(), json_values),
    st.builds(json.dumps, json_values),
    st.text(),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lines=st.lists(json_lines, max_size=6),
    noise=st.binary(max_size=6),
    cut=st.integers(0, 400),
    suffix=st.sampled_from([".jsonl", ".jsonl.gz", ".csv", ".parquet"]),
)
def test_any_file_ends_in_a_catalog_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[str],
    noise: bytes,
    cut: int,
    suffix: str,
) -> None:
    content = "\n".join(lines).encode(errors="surrogatepass") + noise
    if suffix == ".jsonl.gz":
        content = gzip.compress(content)[: max(cut, 1)]
    path = write(tmp_path_factory.getbasetemp() / f"fuzz{suffix}", content)
    refusal = ""
    try:
        catalog = read_catalog(path)
    except CatalogError as error:
        refusal = str(error)
    else:
        assert len(set(catalog.item_ids)) == len(catalog) > 0
        if catalog.fields:
            assert len(catalog.texts(list(catalog.fields))) == len(catalog)
    assert not refusal or refusal.startswith(str(path))


def lines_of(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.name.endswith(".parquet"):
        pl.DataFrame(rows).write_parquet(path, row_group_size=3)
        return path
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if ".csv" in path.name:
        cells = [list(rows[0]), *(list(row.values()) for row in rows)]
        text = "".join(",".join(map(str, row)) + "\n" for row in cells)
    return write(path, gzip.compress(text.encode()) if path.name.endswith(".gz") else text)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("chunk_size", [1, 3, 8, 100])
def test_chunks_make_up_the_catalogue(tmp_path: Path, suffix: str, chunk_size: int) -> None:
    rows: list[dict[str, object]] = [{"item_id": f"i{row}", "t": f"t{row}"} for row in range(8)]
    path = lines_of(tmp_path / f"x{suffix}", rows)
    chunks = list(stream_catalog(path, chunk_size=chunk_size))
    assert [len(chunk) for chunk in chunks[:-1]] == [chunk_size] * (len(chunks) - 1)
    assert sum(map(len, chunks)) == 8
    assert [item_id for chunk in chunks for item_id in chunk.item_ids] == [
        row["item_id"] for row in rows
    ]
    assert all(list(chunk.fields) == ["t"] and chunk.folder == tmp_path for chunk in chunks)
    assert [value for chunk in chunks for value in chunk.fields["t"]] == [row["t"] for row in rows]
    whole = read_catalog(path)
    assert whole.item_ids == [row["item_id"] for row in rows]
    assert whole.folder == tmp_path


def test_an_id_that_comes_again_much_later_is_found(tmp_path: Path) -> None:
    lines = [f'{{"item_id": {row}}}\n' for row in range(300)]
    path = write(tmp_path / "x.jsonl", "".join(lines) + "\n" + lines[123])
    for chunk_size in (1, 7, 64, 10_000):
        with pytest.raises(CatalogError, match=r"line 302: item id '123' is already .* line 124$"):
            for _ in stream_catalog(path, chunk_size=chunk_size):
                pass
    frame = pl.DataFrame({"item_id": [*range(100), 5]})
    frame.write_parquet(tmp_path / "x.parquet")
    with pytest.raises(CatalogError, match="row 101: item id '5' is already that of row 6"):
        list(stream_catalog(tmp_path / "x.parquet", chunk_size=10))


def test_fields_that_come_late_are_absent_before(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"item_id": 1}\n{"item_id": 2, "t": 3}\n{"item_id": 3}')
    assert [dict(chunk.fields) for chunk in stream_catalog(path, chunk_size=1)] == [
        {},
        {"t": [3]},
        {"t": [None]},
    ]
    assert read_catalog(path).fields == {"t": [None, 3, None]}


@pytest.mark.parametrize(
    ("format", "text"),
    [
        (None, '{"item_id": 1, "t": "x"}\r\n'),
        ("jsonl", '\ufeff{"item_id": 1, "t": "x"}'),
        ("csv", "item_id,t\r\n1,x\r\n"),
        ("csv", "\ufeffitem_id,t\n1,x"),
    ],
)
def test_standard_input(monkeypatch: pytest.MonkeyPatch, format: Format | None, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    catalog = read_catalog("-", format=format)
    assert catalog.item_ids == ["1"]
    assert catalog.fields == {"t": ["x"]}
    assert catalog.folder == Path()


def test_what_a_file_is_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "items.txt", "item_id,t\n1,x\n")
    assert read_catalog(path, format="csv").item_ids == ["1"]
    with pytest.raises(CatalogError, match="standard input: must be jsonl or csv"):
        stream_catalog("-", format="parquet")
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        stream_catalog(path, format="csv", chunk_size=0)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"{}\n")))
    with pytest.raises(CatalogError, match=r"^standard input, line 1: no column 'item_id'"):
        read_catalog("-")
    with pytest.raises(CatalogError, match=r"absent.jsonl: no such file"):
        stream_catalog(tmp_path / "absent.jsonl")  # at once, not with the first chunk


def test_latin_1_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "item_id,t\na,b\nc,Café\n".encode("latin-1"))
    with pytest.raises(CatalogError, match=r"line 3: .*byte 0xe9 in column 6; in Latin-1 .* 'é'"):
        read_catalog(path)


def test_long_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * 5_000_000
    path = write(tmp_path / "x.jsonl", f'{{"item_id": 1, "t": "{long}"}}\n{{"item_id": 2}}\n')
    assert read_catalog(path).fields["t"] == [long, None]
    assert read_catalog(write(tmp_path / "x.csv", f"item_id,t\n1,{long}\n")).fields["t"] == [long]
    monkeypatch.setattr("semtok.rows.LONGEST_LINE", 1 << 20)
    with pytest.raises(CatalogError, match="line 1: longer than 1 MiB, so it is not a line"):
        read_catalog(path)


def test_many_empty_titles(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "item_id,title\n" + "".join(f"{n},\n" for n in range(20_000)))
    chunks = list(stream_catalog(path))
    assert [len(chunk) for chunk in chunks] == [16_384, 20_000 - 16_384]
    assert [text for chunk in chunks for text in chunk.texts()] == [""] * 20_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, "7"), (-3, "-3"), (2**70, str(2**70)), ("1e3", "1e3"), ("1.0", "1.0")],
)
def test_ids_as_numbers(tmp_path: Path, value: object, expected: str) -> None:
    path = write(tmp_path / "x.jsonl", json.dumps({"item_id": value}))
    assert read_catalog(path).item_ids == [expected]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("true", "must be a string or a whole number, got bool"),
        ("[1]", "must be a string or a whole number, got list"),
        ('{"a": 1}', "must be a string or a whole number, got dict"),
        ("Infinity", "must be a string or a whole number, got float"),
        ("NaN", "must be a string or a whole number, got float"),
        ("1.0", "must be a string or a whole number, got float"),
        ("9007199254740993.0", "must be a string or a whole number, got float"),
        ("1e3", "must be a string or a whole number, got float"),
        ("null", "is null"),
    ],
)
def test_ids_that_are_none(tmp_path: Path, value: str, words: str) -> None:
    with pytest.raises(CatalogError, match=f"line 1: 'item_id' {words}"):
        read_catalog(write(tmp_path / "x.jsonl", f'{{"item_id": {value}}}'))


id_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["\ud83d", "\ud83c", "\x00", " ", "1.0", "007", "\u2028", "é"]),
    st.lists(st.integers(), max_size=2),
)


def expected_id(value: object) -> str | None:
    """The rule in words: strings, and whole numbers as their digits, valid and not blank."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    is_valid = not any("\ud800" <= character <= "\udfff" for character in text)
    return text if is_valid and text.strip() else None


def read_ids(path: Path) -> list[str] | str:
    try:
        return read_catalog(path).item_ids
    except CatalogError as error:
        return str(error)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=st.lists(id_values, min_size=1, max_size=4), blanks=st.booleans())
def test_one_rule_for_ids_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, values: list[object], blanks: bool
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    expected = [expected_id(value) for value in values]
    is_good = None not in expected and len(set(expected)) == len(expected)
    gap = "\n  \n" if blanks else "\n"
    lines = gap.join(json.dumps({"item_id": value, "title": "x"}) for value in values)
    outcomes = [read_ids(write(folder / "x.jsonl", lines + gap))]
    outcomes.append(read_ids(write(folder / "x.jsonl.gz", gzip.compress(lines.encode()))))
    if all(isinstance(value, str) for value in values) and is_good:
        cells = io.StringIO()
        csv.writer(cells).writerows([["item_id", "title"], *([value, "x"] for value in values)])
        text = cells.getvalue().replace("\r\n", "\r\n" + gap[1:] * blanks)
        outcomes.append(read_ids(write(folder / "x.csv", text)))
    kinds = {type(value) for value in values}
    if len(kinds - {type(None)}) == 1 and is_encodable(values):
        frame = pl.DataFrame({"item_id": values, "title": ["x"] * len(values)}, strict=False)
        frame.write_parquet(folder / "x.parquet")
        outcomes.append(read_ids(folder / "x.parquet"))
    for outcome in outcomes:
        assert (outcome == expected) == is_good, outcome
        if not is_good:
            assert isinstance(outcome, str)
            assert "line " in outcome or "row " in outcome


def is_encodable(values: list[object]) -> bool:
    return not any("\\ud" in json.dumps(value) for value in values)


@pytest.mark.parametrize("kind", [pl.Float64, pl.Float32, pl.Boolean, pl.List(pl.Int64)])
def test_ids_of_another_kind_in_parquet_are_refused(tmp_path: Path, kind: pl.DataType) -> None:
    from semtok import read_embeddings

    frame = pl.DataFrame({"item_id": pl.Series([1, 0], dtype=pl.Int64), "x": [1.0, 2.0]})
    if isinstance(kind, pl.List):
        frame = frame.with_columns(pl.concat_list("item_id"))
    else:
        frame = frame.with_columns(pl.col("item_id").cast(kind))
    frame.select("item_id").write_parquet(tmp_path / "items.parquet")
    frame.with_columns(pl.concat_list("x")).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(CatalogError, match="row 1: 'item_id' must be a string or a whole number"):
        read_catalog(tmp_path / "items.parquet")
    with pytest.raises(CatalogError, match="row 1: 'item_id' must be a string or a whole number"):
        read_embeddings(tmp_path / "x.parquet", ["1", "0"])


def test_many_columns_are_refused_in_no_time(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(100_000)]
    wide = dict.fromkeys(["item_id", *names], "x")
    paths = [
        write(tmp_path / "x.csv", ",".join(wide) + "\n" + ",".join(wide.values()) + "\n"),
        write(tmp_path / "x.jsonl", json.dumps(wide)),
    ]
    pl.DataFrame([wide]).write_parquet(tmp_path / "x.parquet")
    started = time.monotonic()
    for path in [*paths, tmp_path / "x.parquet"]:
        with pytest.raises(CatalogError, match=r"has 100,001 columns, more than the 4,096"):
            read_catalog(path)
    assert time.monotonic() - started < 20


def test_rows_with_ever_new_keys_keep_memory_bounded(tmp_path: Path) -> None:
    lines = (f'{{"item_id": {row}, "k{row}": 1}}\n' for row in range(100_000))
    path = write(tmp_path / "x.jsonl", "".join(lines))
    tracemalloc.start()
    with pytest.raises(CatalogError, match=r"line 4096: with its columns .* more than 4,096"):
        read_catalog(path)
    assert tracemalloc.get_traced_memory()[1] < 250e6
    tracemalloc.stop()


def test_chunks_of_many_columns_have_fewer_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semtok.catalog._MOST_CELLS", 100)
    rows = [{"item_id": f"i{row}", **{f"c{n}": n for n in range(24)}} for row in range(10)]
    path = write(tmp_path / "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    chunks = list(stream_catalog(path))
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert read_catalog(path).fields["c7"] == [7] * 10


def test_texts_of_megabytes_are_learned_from_in_bounded_memory() -> None:
    from semtok import LsaEmbedding

    texts = [" ".join(str(row * 7919 + word) for word in range(100_000)) for row in range(20)]
    catalog = Catalog(item_ids=[f"i{row}" for row in range(20)], fields={"title": texts})
    assert {len(text) for text in catalog.texts()} == {65_536}
    tracemalloc.start()
    x = LsaEmbedding.fit(catalog, fields=("title",)).embed(catalog)
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()
    assert x.shape == (20, 20)
