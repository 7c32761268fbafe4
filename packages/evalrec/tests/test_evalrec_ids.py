"""One rule for ids and numbers, whichever way a file is read: nothing merges or is rounded."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from evalrec import DataError, Interactions, read_catalogue, read_interactions, read_raw
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

CALM = settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
LINE = '{"user_id": %s, "item_id": "a", "timestamp": %s, "rating": %s}\n'


def outcome(path: Path):
    """The rows of a file, or that it is refused."""
    try:
        table = read_raw("native", [path], min_rating=-1e300).interactions
    except DataError as error:
        return "refused" if str(path) in str(error) and "\n" not in str(error) else str(error)
    return table.user_ids, table.item_ids, table.timestamps.tolist(), table.users.tolist()


def both_ways(path: Path, monkeypatch):
    """What the reader of whole blocks and the one row by row make of a file: must be the same."""
    fast = outcome(path)
    with monkeypatch.context() as patch:
        for module in ("delimited", "json_lines"):
            patch.setattr(f"evalrec.readers.{module}.parse_whole", lambda *_: None)
        patch.setattr("evalrec.readers.native.checked_frame", lambda *_: None)
        assert outcome(path) == fast
    return fast


NUMBERS = (
    *("1", "0", "-0", "-7", "1.0", "1.5", "-0.0", "1e25", "1E5", "1e-5", "1e400", "1e999999999"),
    *("9007199254740993.0", "9007199254740992.0", "9007199254740993", "9223372036854775807"),
    *("9223372036854775808", "18446744073709551615", "-9223372036854775809", "01", "+1", "NaN"),
    *("123456789012345678901234567890", "1234567890123456789012345678901234567890123", "Infinity"),
)
TEXTS = (
    *(r'"\ud83d"', r'"\ud83c"', r'"a\ud83cb"', r'"\udc00"', r'"\ud83d\ude00"', r'"\ud83d\u0041"'),
    *(r'"\u0000"', '""', '" "', '"1"', '"1.0"', '"-0"', '"true"', '"null"', r'"\x"', '"a\tb"'),
    *(r'"\/"', '"user_id"', r'"\"user_id\""', '"1e5"', '"inf"', '"1_0"', '" 5"', '"\u0663"'),
)
VALUES = st.one_of(
    st.sampled_from(NUMBERS + TEXTS),
    st.sampled_from(["true", "false", "null", "[1]", '["a"]', "{}", '{"user_id": "n"}', "", "x"]),
    st.text(max_size=3).map(json.dumps),
    st.text(max_size=3).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.integers().map(str),
    st.floats().map(json.dumps),
)
KEYS = st.sampled_from(
    [
        '"user_id"',
        '"item_id"',
        '"timestamp"',
        '"rating"',
        r'"user\u005fid"',
        r'"\u0075ser_id"',
        '"x"',
    ]
)
PAIRS = st.tuples(KEYS, VALUES).map(": ".join)
GOOD = st.just(('"user_id": "u"', '"item_id": "i"', '"timestamp": 1', '"rating": 2'))
LINES = st.one_of(
    st.sampled_from(["", " ", "\t", "\r", "[]", "{}", '{"user_id"', "\x0c", "\xa0"]),
    st.tuples(VALUES, VALUES, VALUES).map(lambda values: LINE.strip() % values),
    st.tuples(GOOD, st.lists(PAIRS, max_size=2), st.booleans()).map(
        lambda parts: "{" + ", ".join([*parts[0], *parts[1]][:: -1 if parts[2] else 1]) + "}"
    ),
)


@given(st.lists(LINES, min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]))
@example([LINE.strip() % (r'"\ud83d"', "1", "1")], "\n")
@example([LINE.strip() % ("9007199254740993.0", "1", "1")], "\n")
@example([LINE.strip() % ("true", "true", "true")], "\n")
@CALM
def test_any_json_lines_are_read_alike_by_both_readers(tmp_path, monkeypatch, lines, end):
    path = tmp_path / "interactions.jsonl"
    path.write_bytes(end.join(lines).encode(errors="surrogatepass") + b"\n")
    both_ways(path, monkeypatch)


CELLS = st.one_of(
    st.sampled_from(
        [*NUMBERS, "", " ", "true", '"', '"a"', '""', '"a,b"', "inf", "1_0", " 5", "\u0663"]
    ),
    st.text(max_size=3),
)


@given(
    st.lists(
        st.lists(CELLS, max_size=5).map(",".join) | st.tuples(*[CELLS] * 4).map(",".join),
        max_size=4,
    )
)
@CALM
def test_any_csv_is_read_alike_by_both_readers(tmp_path, monkeypatch, lines):
    path = tmp_path / "interactions.csv"
    text = "\n".join(["user_id,item_id,timestamp,rating", "u,i,1,2", *lines]) + "\n"
    path.write_bytes(text.encode(errors="surrogatepass"))
    both_ways(path, monkeypatch)


DTYPES = (
    *(
        pl.Int8,
        pl.UInt64,
        pl.Int64,
        pl.Float32,
        pl.Float64,
        pl.Boolean,
        pl.String,
        pl.Null,
        pl.Date,
    ),
    *(pl.Decimal(10, 2), pl.Decimal(38, 0), pl.Datetime("us"), pl.Duration("ms"), pl.Binary),
    *(pl.Categorical, pl.List(pl.Int64)),
)


@given(st.sampled_from(["user_id", "item_id", "timestamp", "rating"]), st.data())
@CALM
def test_any_column_of_parquet_is_read_alike_by_both_readers(tmp_path, monkeypatch, name, data):
    from polars.testing.parametric import series

    column = data.draw(series(dtype=data.draw(st.sampled_from(DTYPES)), min_size=2, max_size=4))
    columns = {"user_id": "u", "item_id": "i", "timestamp": 1, "rating": 1.0}
    frame = pl.select(pl.lit(column).alias(name)).with_columns(
        pl.lit(value).alias(other) for other, value in columns.items() if other != name
    )
    path = tmp_path / "interactions.parquet"
    frame.write_parquet(path)
    both_ways(path, monkeypatch)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (r'"\ud83d"', r"line 2: user_id must be valid Unicode, got '\ud83d'"),
        (
            "9007199254740993.0",
            "line 2: user_id must be a string or a whole number, got 90071992547",
        ),
        ("1.0", "line 2: user_id must be a string or a whole number, got 1.0"),
        ("1e25", "line 2: user_id must be a string or a whole number, got 1"),
        ("true", "line 2: user_id must be a string or a whole number, got True"),
        ("null", "line 2: user_id must be given"),
        ("[1]", "line 2: user_id must be a string or a whole number, got [1]"),
        ('"u", "user_id": "v"', "line 2: 'user_id' occurs twice"),
        (r'"u", "user\u005fid": "v"', "line 2: 'user_id' occurs twice"),
    ],
)
@pytest.mark.parametrize("blank", ["", "\n", "  \r\n"])
def test_ids_that_are_none_are_refused_by_line(tmp_path, monkeypatch, value, words, blank):
    path = tmp_path / "interactions.jsonl"
    path.write_text(LINE % ('"u"', 1, 1) + LINE % (value, 2, 1) + blank)
    with pytest.raises(DataError) as error:
        read_interactions(path)
    assert words in str(error.value)
    assert both_ways(path, monkeypatch) == "refused"


@pytest.mark.parametrize("value", ["9007199254740993", "-7", "123456789012345678901234567890"])
def test_a_whole_number_is_its_digits_everywhere(tmp_path, monkeypatch, value):
    for blank in ("", "\n"):
        path = tmp_path / "interactions.jsonl"
        path.write_text(LINE % (value, 1, 1) + blank + LINE % (f'"{value}"', 2, 1))
        assert both_ways(path, monkeypatch)[0] == (value,)
    path = tmp_path / "interactions.csv"
    path.write_text(f"user_id,item_id,timestamp,rating\n\n{value},a,1,1\n  \n{value},a,2,1\n")
    assert both_ways(path, monkeypatch)[0] == (value,)


def test_float_ids_in_parquet_are_refused(tmp_path):
    path = tmp_path / "interactions.parquet"
    pl.DataFrame({"user_id": [1.0], "item_id": ["a"], "timestamp": [1]}).write_parquet(path)
    with pytest.raises(
        DataError, match=r"row 1: user_id must be a string or a whole number, got 1\.0"
    ):
        read_interactions(path)


@pytest.mark.parametrize(
    "text", ['{"item_id": "a", "title": "x", "title": "y"}', r'{"item_id": "\ud83d"}']
)
def test_items_keep_the_same_rule(tmp_path, text):
    (tmp_path / "interactions.jsonl").write_text(LINE % ('"u"', 1, 1))
    (tmp_path / "items.jsonl").write_text('{"item_id": "b"}\n\n' + text + "\n")
    with pytest.raises(DataError, match=r"items\.jsonl, line 3: .*(occurs twice|valid Unicode)"):
        read_catalogue("native", [tmp_path], ["a"])


def test_blank_lines_are_skipped_before_and_among_lines_of_csv(tmp_path):
    path = tmp_path / "interactions.csv"
    path.write_text("\n  \nuser_id,item_id,timestamp\n\nu,a,1\n \t\nu,b,x\n")
    with pytest.raises(DataError, match="line 7: timestamp must be a whole number, got 'x'"):
        read_interactions(path)
    path.write_text("\n  \nuser_id,item_id,timestamp\n\nu,a,1\n \t\nu,b,2\n\n")
    assert len(read_interactions(path)) == 2


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        (
            "timestamp",
            [Decimal("1.75"), Decimal("1.25")],
            "timestamp must be a whole number, got 1.75",
        ),
        ("timestamp", [1.75, 1.25], "timestamp must be a whole number, got 1.75"),
        ("timestamp", [2.0**53, 1.0], "timestamp must be below 2^53 where it is a float, got 9007"),
        (
            "timestamp",
            pl.Series([2**63, 1], dtype=pl.UInt64),
            "timestamp must fit 64 bits, got 9223",
        ),
        (
            "rating",
            [2**53 + 1, 1],
            "rating must be a number that a float holds, got 9007199254740993",
        ),
        ("rating", [True, False], "rating must be a number, got True"),
    ],
)
def test_a_cast_that_loses_something_is_refused_by_column(tmp_path, column, values, words):
    columns = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [2, 1], "rating": [1, 1]}
    path = tmp_path / "interactions.parquet"
    pl.DataFrame({**columns, column: values}, strict=False).write_parquet(path)
    with pytest.raises(DataError) as error:
        read_raw("native", [path], min_rating=0)
    assert f"row 1: {words}" in str(error.value)


def test_decimals_and_floats_without_a_fraction_are_whole_numbers(tmp_path):
    path = tmp_path / "interactions.parquet"
    for times in ([Decimal("2.00"), Decimal("1.00")], [2.0, 1.0]):
        columns = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": times}
        pl.DataFrame(columns).write_parquet(path)
        assert read_interactions(path).timestamps.tolist() == [1, 2]
    path = tmp_path / "interactions.csv"
    path.write_text("user_id,item_id,timestamp\nu,a,9007199254740993.0\nu,b,9007199254740992.0\n")
    assert read_interactions(path).timestamps.tolist() == [9007199254740992, 9007199254740993]


def test_a_leap_second_is_refused_by_both_readers(make_raw, monkeypatch):
    raw = make_raw("yelp")
    text = raw.texts["yelp_academic_dataset_review.json"].replace("00:00:00", "23:59:60", 1)
    raw.write("yelp_academic_dataset_review.json", text.encode())
    with pytest.raises(DataError, match="line 1: date must be a time as"):
        read_raw("yelp", [raw.folder])


@pytest.mark.parametrize("name", ["users", "items", "timestamps"])
@pytest.mark.parametrize("values", [[1.75, 1.25], [2**63, 0], [True, False]])
def test_a_table_of_other_than_whole_numbers_is_refused(name, values):
    columns = {each: np.array([0, 1]) for each in ("users", "items", "timestamps")}
    column = np.array(values, dtype=np.uint64) if values[0] == 2**63 else np.array(values)
    with pytest.raises((ValueError, TypeError), match=name):  # TypeError: types are checked
        Interactions(**{**columns, name: column}, user_ids=("u", "v"), item_ids=("a", "b"))
