"""Data frames in and out, beside files of the same data."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from semtok import Catalog, CatalogError, LsaEmbedding, SemanticIds, Tokenizer, read_catalog

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

BERLIN = dt.datetime(2020, 6, 1, 12, 30, tzinfo=dt.UTC)
ROWS: list[dict[str, Any]] = [
    {
        "item_id": "a",
        "title": "Tea &amp; <b>cups</b>",
        "brand": "X",
        "categories": ["Home", "Kitchen"],
        "price": 3.5,
        "count": 7,
        "isnew": True,
        "since": dt.date(2020, 1, 2),
        "at": dt.datetime(2020, 6, 1, 12, 30, 0, 5),
    },
    {
        "item_id": "b",
        "title": None,
        "brand": None,
        "categories": None,
        "price": None,
        "count": None,
        "isnew": None,
        "since": None,
        "at": None,
    },
    {
        "item_id": "c",
        "title": "Pot",
        "brand": "X",
        "categories": [],
        "price": 1.0,
        "count": 2**53 + 1,
        "isnew": False,
        "since": dt.date(1960, 1, 2),
        "at": dt.datetime(1960, 6, 1),
    },
]
MAKERS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "polars": lambda frame: frame,
    "polars, lazy": lambda frame: frame.lazy(),
    "pandas of arrow": lambda frame: frame.to_pandas(use_pyarrow_extension_array=True),
    "pyarrow": lambda frame: frame.to_arrow(),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_frame_is_read_as_its_file(kind: str, tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS).with_columns(
        pl.col("brand").cast(pl.Categorical),
        pl.col("at").dt.replace_time_zone("Europe/Berlin").alias("zoned"),
        pl.col("categories").alias("features"),
        pl.struct("title", "count").alias("both"),
    )
    frame.write_parquet(tmp_path / "items.parquet")
    expected = read_catalog(tmp_path / "items.parquet")
    catalog = Catalog.from_frame(MAKERS[kind](frame), folder=tmp_path)
    assert catalog.item_ids == expected.item_ids == ["a", "b", "c"]
    assert catalog.fields.keys() == expected.fields.keys()
    for name, values in expected.fields.items():
        if name != "both":  # pyarrow and pandas know no struct that is missing as polars has it
            assert list(catalog.fields[name]) == list(values), name
    fields = tuple(expected.fields)
    assert catalog.texts(fields) == expected.texts(fields)
    assert catalog.folder == expected.folder


def test_types_of_pandas_are_right() -> None:
    frame = pd.DataFrame(
        {
            "item_id": pd.array([7, 2**60], dtype="Int64"),
            "nullable": pd.array([2**60 + 1, None], dtype="Int64"),
            "flag": pd.array([True, None], dtype="boolean"),
            "text": pd.array(["x", pd.NA], dtype="string"),
            "objects": ["y", float("nan")],
            "category": pd.Categorical(["z", None]),
            "numbers": pd.Categorical([3, 4]),
            "zoned": pd.Series([BERLIN, None]).dt.tz_convert("Europe/Berlin"),
            "naive": pd.to_datetime(["2020-01-02 03:04:05.000000007", None]),
            "length": pd.to_timedelta([90, None], unit="s"),
            "lists": [np.array(["p", "q"]), ["r", None]],
            "inner": [np.array([np.array([1, 2])]), None],
            "float": [1.5, None],
        }
    )
    catalog = Catalog.from_frame(frame)
    assert catalog.item_ids == ["7", str(2**60)]
    values = {name: list(column) for name, column in catalog.fields.items()}
    assert values == {
        "nullable": [2**60 + 1, None],
        "flag": [True, None],
        "text": ["x", None],
        "objects": ["y", None],
        "category": ["z", None],
        "numbers": [3, 4],
        "zoned": [BERLIN, None],
        "naive": [dt.datetime(2020, 1, 2, 3, 4, 5), None],
        "length": [dt.timedelta(seconds=90), None],
        "lists": [["p", "q"], ["r", None]],
        "inner": [[[1, 2]], None],
        "float": [1.5, None],
    }
    assert str(values["zoned"][0]) == "2020-06-01 14:30:00+02:00"
    assert catalog.texts(("lists", "category")) == ["p, q. z", "r"]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    ids=st.lists(st.integers(0, 2**62), min_size=1, max_size=6, unique=True),
    data=st.data(),
    kind=st.sampled_from(sorted(MAKERS)),
)
def test_any_frame_is_its_file(ids: list[int], data: Any, kind: str, tmp_path: Path) -> None:
    size = len(ids)
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    columns = {
        "words": (st.none() | texts, pl.String),
        "whole": (st.none() | st.integers(-(2**63), 2**63 - 1), pl.Int64),
        "real": (st.none() | st.floats(allow_nan=False), pl.Float64),
        "lists": (st.none() | st.lists(st.none() | texts, max_size=3), pl.List(pl.String)),
        "zoned": (
            st.none() | st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)),
            pl.Datetime("us", "Asia/Tokyo"),
        ),
    }
    frame = pl.DataFrame(
        {"id": ids}
        | {
            name: pl.Series(data.draw(st.lists(cells, min_size=size, max_size=size)), dtype=dtype)
            for name, (cells, dtype) in columns.items()
        }
    )
    frame.write_parquet(tmp_path / "x.parquet")
    expected = read_catalog(tmp_path / "x.parquet", id_column="id")
    catalog = Catalog.from_frame(MAKERS[kind](frame), id_column="id")
    assert catalog.item_ids == expected.item_ids
    assert {name: list(values) for name, values in catalog.fields.items()} == {
        name: list(values) for name, values in expected.fields.items()
    }


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (
            pl.DataFrame({"item_id": ["a", "b", "a"]}),
            "frame, row 3: item id 'a' is already that of",
        ),
        (pl.DataFrame({"item_id": [1.0]}), "frame, row 1: 'item_id' must be a string or a whole"),
        (pl.DataFrame({"item_id": ["a", None]}), "frame, row 2: 'item_id' is null"),
        (pl.DataFrame({"id": ["a"]}), "frame, row 1: no column 'item_id' [(]columns: id[)]"),
        (pl.DataFrame({"item_id": []}, schema={"item_id": pl.String}), "frame: holds no items"),
        (pd.DataFrame([["a", "b"]], columns=["x", "x"]), "frame: must name each column once"),
        (
            pd.DataFrame({"item_id": ["a"], 1: ["b"]}),
            "frame: columns must be named by texts, got 1",
        ),
        (
            pd.DataFrame({"item_id": ["a"], "p": pd.PeriodIndex(["2020-01"], freq="M")}),
            "frame, row 1: 'p' must hold texts, numbers, times, or lists of them, got Period",
        ),
        (
            pd.DataFrame({"item_id": ["a", "b"], "p": ["x", [object()]]}),
            "frame, row 2: 'p' must hold texts, numbers, times, or lists of them, got object",
        ),
    ],
)
def test_frames_that_are_no_catalogue_are_refused(frame: Any, words: str) -> None:
    with pytest.raises(CatalogError, match=words):
        Catalog.from_frame(frame)


def test_what_is_no_frame_is_refused() -> None:
    for value in ({"item_id": ["a"]}, pl.Series(["a"]), [1], "items.csv"):
        with pytest.raises(TypeError, match="frame must be a data frame, of pandas, polars"):
            Catalog.from_frame(value)
    wide = pl.DataFrame({"item_id": ["a"], **{f"c{n}": [1] for n in range(4096)}})
    with pytest.raises(CatalogError, match="has 4,097 columns, more than the 4,096"):
        Catalog.from_frame(wide)


IDS = SemanticIds(
    codes=np.array([[0, 3], [1, 2], [1, 0]]), codebook_sizes=(2, 4), item_ids=["7", "b", "ç"]
)


@pytest.mark.parametrize(
    ("backend", "module"),
    [
        ("polars", "polars"),
        ("pandas", "pandas"),
        ("pyarrow", "pyarrow"),
        (pl.DataFrame({"a": [1]}), "polars"),
        (pl.LazyFrame({"a": [1]}), "polars"),
        (pd.DataFrame({"a": [1]}), "pandas"),
        (pa.table({"a": [1]}), "pyarrow"),
    ],
)
def test_codes_to_any_frame_and_back(backend: Any, module: str) -> None:
    frame = IDS.to_frame(backend=backend)
    assert type(frame).__module__.split(".")[0] == module
    again = SemanticIds.from_frame(frame, codebook_sizes=(2, 4))
    np.testing.assert_array_equal(again.codes, IDS.codes)
    assert again.item_ids == IDS.item_ids
    assert again.codebook_sizes == IDS.codebook_sizes


def test_codes_of_a_frame_are_those_of_its_file(tmp_path: Path) -> None:
    assert IDS.to_frame().rows() == [("7", 0, 3), ("b", 1, 2), ("ç", 1, 0)]
    assert IDS.to_frame().columns == ["item_id", "code_1", "code_2"]
    for name in ("codes.parquet", "codes.csv"):
        IDS.write(tmp_path / name)
    expected = SemanticIds.read(tmp_path / "codes.parquet")
    frames = [
        pl.read_parquet(tmp_path / "codes.parquet"),
        pl.read_csv(tmp_path / "codes.csv", schema_overrides={"item_id": pl.String}),
        pd.read_parquet(tmp_path / "codes.parquet"),
    ]
    for frame in frames:
        table = SemanticIds.from_frame(frame)
        np.testing.assert_array_equal(table.codes, expected.codes)
        assert table.item_ids == expected.item_ids
        assert table.codebook_sizes == expected.codebook_sizes


def test_codes_that_are_none_are_refused() -> None:
    for frame, words in (
        ({"item_id": ["a"], "code_1": [-1]}, "frame: codes must be 1 integers within"),
        ({"item_id": ["a"], "code_1": [1.5]}, "frame: codes must be 1 integers"),
        ({"item_id": ["a"], "code_1": [None]}, "frame: codes must be 1 integers"),
        ({"item_id": ["a"], "title": ["x"]}, "frame: no column 'codes'"),
        ({"item_id": ["a", "b"], "code_1": [1, 1]}, "frame: codes must be unique"),
    ):
        with pytest.raises(CatalogError, match=words):
            SemanticIds.from_frame(pl.DataFrame(frame))
    for backend, words in (("excel", "got 'excel'"), (3, "got int")):
        with pytest.raises(ValueError, match=f"backend must be polars, pandas.*{words}"):
            IDS.to_frame(backend=backend)


def test_a_library_that_is_missing_is_named() -> None:
    script = (
        "import sys; sys.modules['pandas'] = None\n"
        "import numpy as np; from semtok import SemanticIds\n"
        "ids = SemanticIds(codes=np.array([[0]]), codebook_sizes=(1,), item_ids=['a'])\n"
        "try: ids.to_frame(backend='pandas')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pandas" in done.stdout


def test_a_tokenizer_of_a_frame() -> None:
    frame = pd.DataFrame(
        {"item_id": range(30), "title": [f"red soap no. {row}" for row in range(30)]}
    )
    catalog = Catalog.from_frame(frame)
    source = LsaEmbedding.fit(catalog, fields=("title",), dim=4)
    tokenizer = Tokenizer.fit(catalog, source=source)
    codes = tokenizer.semantic_ids.to_frame(backend=frame)
    joined = frame.astype({"item_id": str}).merge(codes, on="item_id")
    assert len(joined) == 30
    assert joined["code_1"].tolist() == tokenizer.semantic_ids.codes[:, 0].tolist()
