from __future__ import annotations

import gzip
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from evalrec import DataError, Interactions, find_interactions, read_interactions
from evalrec.readers import blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROWS = [("u1", "b", 5), ("u2", "a", 1), ("u1", "a", 3), ("u1", "c", 5), ("u2", "c", 0)]


def calmly(examples: int) -> settings:
    """No limits on time: a busy machine is no failure."""
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


def write(path: Path, rows=ROWS, names=("user_id", "item_id", "timestamp")) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        with path.open("wb") as file:
            pl.DataFrame(rows, schema=list(names), orient="row").write_parquet(file)
        return path
    if name.endswith(".csv"):
        lines = [",".join(map(str, row)) for row in [names, *rows]]
    else:
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    text = "\n".join(lines) + "\n"
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def keyed(table: Interactions) -> list[tuple[str, str, int]]:
    return [
        (table.user_ids[user], table.item_ids[item], int(time))
        for user, item, time in zip(table.users, table.items, table.timestamps, strict=True)
    ]


@pytest.mark.parametrize("name", ["i.parquet", "i.csv", "i.csv.gz", "i.jsonl", "i.jsonl.gz"])
def test_every_format_reads_the_same_sorted_table(tmp_path, name):
    table = read_interactions(write(tmp_path / name))
    assert table.user_ids == ("u1", "u2")
    assert table.item_ids == ("b", "a", "c")
    expected = [("u1", "a", 3), ("u1", "b", 5), ("u1", "c", 5), ("u2", "c", 0), ("u2", "a", 1)]
    assert keyed(table) == expected
    assert [history.tolist() for history in table.histories()] == [[1, 0, 2], [2, 1]]


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(-3, 3)), min_size=1, max_size=40
    )
)
@calmly(50)
def test_sorting_is_pythons_stable_sort(rows):
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    table = Interactions(
        users=users,
        items=items,
        timestamps=times,
        user_ids=tuple("abcde"),
        item_ids=tuple("tuvwxyz"),
    )
    expected = sorted(rows, key=lambda row: (row[0], row[2]))
    got = zip(table.users.tolist(), table.items.tolist(), table.timestamps.tolist(), strict=True)
    assert list(got) == expected
    histories = [[item for user, item, _ in expected if user == row] for row in range(5)]
    assert [history.tolist() for history in table.histories()] == histories


@pytest.mark.parametrize("name", ["i.parquet", "i.csv", "i.jsonl"])
def test_whole_number_ids_become_strings(tmp_path, name):
    table = read_interactions(write(tmp_path / name, [(7, 70, 1), (7, 71, 2)]))
    assert (table.user_ids, table.item_ids) == (("7",), ("70", "71"))


def test_the_catalogue_gives_the_item_rows(tmp_path):
    path = write(tmp_path / "i.csv")
    table = read_interactions(path, item_ids=["x", "c", "b", "a"])
    assert (table.num_items, table.item_ids) == (4, ("x", "c", "b", "a"))
    assert table.histories()[0].tolist() == [3, 2, 1]


def test_columns_are_named_by_option_and_order_may_be_the_files(tmp_path):
    path = write(tmp_path / "i.csv", names=("who", "what", "when"))
    named = {"user_column": "who", "item_column": "what"}
    by_time = read_interactions(path, **named, timestamp_column="when")
    by_file = read_interactions(path, **named, timestamp_column=None)
    assert by_time.histories()[0].tolist() == [1, 0, 2]
    assert by_file.histories()[0].tolist() == [0, 1, 2]


def test_floats_without_fraction_are_whole_numbers(tmp_path):
    (tmp_path / "i.csv").write_text("user_id,item_id,timestamp\nu,a,2.0\nu,b,1e0\n")
    table = read_interactions(tmp_path / "i.csv")
    assert keyed(table) == [("u", "b", 1), ("u", "a", 2)]


HEAD = "user_id,item_id,timestamp\n"
GOOD = '{"user_id": "u", "item_id": "a", "timestamp": 1}\n'


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("i.csv", "", "is empty"),
        ("i.csv", HEAD, "holds no interactions"),
        ("i.csv", "user_id,item,time\nu,a,1\n", "no column 'item_id'; it has 'user_id', 'item', "),
        ("i.csv", HEAD + "u,a,1\nu,b\n", "i.csv, line 3: 2 fields, but the header names 3"),
        ("i.csv", HEAD + "u,a,1\nu,,2\n", "line 3: item_id must be given, got nothing"),
        ("i.csv", HEAD + "u,a,2020-01-01\n", "line 2: timestamp must be a whole number, got '2020"),
        ("i.csv", HEAD + "u,a,1.5\n", "line 2: timestamp must be a whole number, got '1.5'"),
        ("i.csv", HEAD + "u,a,nan\n", "line 2: timestamp must be a whole number, got 'nan'"),
        ("i.csv", HEAD + "u,a,1_0\n", "line 2: timestamp must be a whole number, got '1_0'"),
        ("i.csv", HEAD + "u,a,99999999999999999999\n", "line 2: timestamp must fit 64 bits"),
        ("i.csv", HEAD + '"u,a,1\n', "line 2: malformed CSV"),
        ("i.csv", HEAD + "\nu,a,x\n", "line 3: timestamp"),
        ("i.jsonl", GOOD + '{"user_id": "u", "ite', "i.jsonl, line 2: malformed JSON"),
        ("i.jsonl", GOOD + "[1]\n", "line 2: must be a JSON object, got"),
        ("i.jsonl", GOOD + '{"user_id": "u", "item_id": "a"}\n', "line 2: no 'timestamp'"),
        ("i.jsonl", '{"user": "u"}\n', "no column 'user_id'; it has 'user'"),
        ("i.jsonl", GOOD + GOOD.replace('"u"', "null"), "line 2: user_id must be given"),
        ("i.jsonl", GOOD.replace('"a"', "1.5"), "line 1: item_id must be a string or a whole"),
        ("i.jsonl", GOOD.replace('"a"', "true"), "line 1: item_id must be a string or a whole"),
        ("i.jsonl", GOOD.replace("1}", "true}"), "line 1: timestamp must be a whole number"),
        ("i.jsonl", "\n\n", "holds no interactions"),
        ("i.tsv", "x", "must end in one of .parquet, .csv"),
        ("i.parquet", "not parquet", "cannot be read as parquet"),
        ("i.csv.gz", "not gzip", "line 1: the gzip stream is broken"),
    ],
)
def test_bad_files_are_refused_in_words(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as error:
        read_interactions(tmp_path / name)
    assert words in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"i\.csv is missing"):
        read_interactions(tmp_path / "i.csv")
    with pytest.raises(DataError, match="is a folder, not a file"):
        read_interactions(tmp_path)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "i.csv").write_bytes(HEAD.encode() + b"u,\xff\xfe,1\n")
    with pytest.raises(DataError, match="the text is not UTF-8"):
        read_interactions(tmp_path / "i.csv")


@pytest.mark.parametrize("name", ["i.csv.gz", "i.jsonl.gz"])
def test_a_truncated_gzip_is_refused_with_its_line(tmp_path, name):
    rows = [(f"user-{n * 7919 % 1000}", f"item-{n * 104729 % 5000}", n) for n in range(3000)]
    path = write(tmp_path / name, rows)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=rf"{name}, line \d+: the gzip stream is broken"):
        read_interactions(path)


class Counted(bytearray):
    """Counts the bytes in which something was counted."""

    total = 0

    def count(self, sub, start=0, end=None):
        end = len(self) if end is None else end
        self.total += end - start
        return super().count(sub, start, end)


def test_a_stray_quote_costs_one_pass_and_is_refused_in_a_long_file(tmp_path, monkeypatch):
    pending = Counted(b'u,a,1\nu,5" disc,2\n' + b"u,b,3\n" * 1000)
    assert blocks.end_of_lines(pending, '"') == 6
    assert pending.total <= 2 * len(pending)
    path = tmp_path / "interactions.csv"
    path.write_bytes(b"user_id,item_id,timestamp\n" + pending)
    assert len(read_interactions(path)) == 1002  # one block, read as a spreadsheet would
    monkeypatch.setattr(blocks, "READ_BYTES", 512)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1024)
    monkeypatch.setattr(blocks, "QUOTED_BYTES", 1024)
    with pytest.raises(DataError, match=r"line 3: a double quote opens a field that does not end"):
        read_interactions(path)


def test_a_truncated_parquet_is_refused(tmp_path):
    path = write(tmp_path / "i.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_interactions(path)


def test_parquet_refusals_name_column_and_row(tmp_path):
    path = tmp_path / "i.parquet"
    write(path, names=("user_id", "item_id", "time"))
    with pytest.raises(
        DataError, match="no column 'timestamp'; it has 'user_id', 'item_id', 'time'"
    ):
        read_interactions(path)
    write(path, [("u", "a", datetime(2020, 1, 1))])
    with pytest.raises(DataError, match="row 1: timestamp must be a whole number, got datetime"):
        read_interactions(path)
    write(path, [("u", "a", 1), ("u", None, 2)])
    with pytest.raises(DataError, match="row 2: item_id must be given"):
        read_interactions(path)


@pytest.mark.parametrize("name", ["i.parquet", "i.csv", "i.csv.gz", "i.jsonl", "i.jsonl.gz"])
@pytest.mark.parametrize("folder", ["d[1]", "d?", "d*", "~", "day=1", "{d1,d2}"])
def test_a_path_is_read_as_it_is_written(tmp_path, monkeypatch, folder, name):
    monkeypatch.chdir(tmp_path)
    for each in ("d1", folder):
        Path(each).mkdir()
    write(Path("d1") / name, [("other", "x", 1)])
    path = write(Path(folder) / name)
    assert read_interactions(path).user_ids == ("u1", "u2")
    assert read_interactions(path, user_column="item_id").user_ids == ("b", "a", "c")


def test_items_outside_the_catalogue_are_refused(tmp_path):
    path = write(tmp_path / "i.jsonl")
    with pytest.raises(DataError, match=r"i.jsonl, line 4: item 'c' is not in the catalogue"):
        read_interactions(path, item_ids=["a", "b"])
    with pytest.raises(ValueError, match="item_ids must be unique, got 'a' twice"):
        read_interactions(path, item_ids=["a", "b", "c", "a"])


def test_a_native_folder_holds_one_interactions_file(tmp_path):
    with pytest.raises(DataError, match="holds no interactions file"):
        find_interactions(tmp_path)
    path = write(tmp_path / "interactions.csv")
    assert find_interactions(tmp_path) == path
    write(tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match=r"one interactions file, got interactions\.parquet, "):
        find_interactions(tmp_path)
    with pytest.raises(DataError, match="is missing"):
        find_interactions(tmp_path / "none")
    with pytest.raises(DataError, match="is a file, not a folder"):
        find_interactions(path)


def test_interactions_refuse_what_is_no_table():
    good = {
        "users": np.array([0, 1]),
        "items": np.array([0, 0]),
        "timestamps": np.array([0, 0]),
        "user_ids": ("u", "v"),
        "item_ids": ("a",),
    }
    assert len(Interactions(**good)) == 2
    with pytest.raises(ValueError, match=r"items must be rows in \[0, 1\), got 3"):
        Interactions(**{**good, "items": np.array([0, 3])})
    with pytest.raises(ValueError, match=r"users must be rows in \[0, 2\), got -1"):
        Interactions(**{**good, "users": np.array([-1, 1])})
    with pytest.raises(ValueError, match="keys of users must be unique, got 'u' twice"):
        Interactions(**{**good, "user_ids": ("u", "u")})
    empty = np.array([], dtype=np.int64)
    with pytest.raises(ValueError, match="at least one"):
        Interactions(**{**good, "users": empty, "items": empty, "timestamps": empty})
    with pytest.raises(ValueError, match="read-only"):
        Interactions(**good).items[0] = 1
