from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from semtok import Catalog, CatalogError, find_catalog, read_catalog

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
    path = write(tmp_path / "x.jsonl", '{"id": 2}\n\n{"id": 1.0}\n{"id": "007"}\n')
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
        ("x.jsonl", '{"item_id": NaN}\n', "line 1: 'item_id' is null"),
        ("x.jsonl", '{"item_id": " "}\n', "line 1: 'item_id' is empty"),
        ("x.jsonl", '{"item_id": true}\n', "must be a string or a number, got bool"),
        ("x.jsonl", '{"item_id": "\\ud800"}\n', "must be valid Unicode"),
        ("x.jsonl", '{"item_id": ' + "[" * 100_000, "nested too deeply"),
        ("x.jsonl", '{"item_id": ' + "1" * 5000 + "}", "number too long"),
        ("x.jsonl", "", "holds no items"),
        ("x.jsonl", "\n \n", "holds no items"),
        ("x.txt", "a", r"x.txt: must end in one of .jsonl, .jsonl.gz, .csv, .csv.gz, .p"),
        ("x.jsonl", '{"item_id": "a"}\n{"item_id": "é"}'.encode("latin-1"), "line 2: not UTF-8"),
        ("x.jsonl.gz", gzip.compress(b'{"item_id": "a"}\n')[:-9], "broken gzip file"),
        ("x.jsonl.gz", b'{"item_id": "a"}\n', "line 1: broken gzip file"),
        ("x.csv", "", "holds no items"),
        ("x.csv", "item_id,title\n", "holds no items"),
        ("x.csv", "id,title\n1,b\n", "line 2: no column 'item_id'"),
        ("x.csv", "item_id,title\na\n", "line 2: has 1 cells, the header has 2"),
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
    with pytest.raises(ValueError, match=r"one value an item \(1\), got 2 in 't'"):
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
