from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from evalrec import (
    DataError,
    Interactions,
    PrepareOptions,
    drop_repeats,
    find_interactions,
    find_items,
    k_core,
    keep_last,
    prepare,
    read_interactions,
    read_item_ids,
    write_synthetic,
)
from evalrec.preparation import read_description
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = ["dataset.json", "interactions.parquet", "items.jsonl.gz"]


def read_back(folder) -> Interactions:
    ids = read_item_ids(find_items(folder))
    return read_interactions(find_interactions(folder), item_ids=ids)


def named(table):
    return {
        table.user_ids[user]: [table.item_ids[item] for item in history]
        for user, history in enumerate(table.histories())
    }


def test_every_layout_becomes_a_native_folder(raw, tmp_path):
    out = tmp_path / "made" / "data"
    prepared = prepare(raw.format, [raw.folder], out)
    assert sorted(path.name for path in out.iterdir()) == NAMES
    assert sorted(path.name for path in out.parent.iterdir()) == ["data"]
    table = read_back(out)
    assert named(table) == raw.histories()
    description = read_description(out)
    assert description["source"] == raw.format
    assert (description["users"], description["items"]) == (8, 7)
    assert description["interactions"] == description["interactions_read"] == 48
    assert description["options"] == {
        "min_rating": None,
        "unknown_items": "keep",
        "duplicates": "keep",
        "min_interactions": 1,
        "k_core": 5,
        "sample_users": None,
        "max_history": None,
        "seed": 0,
        "keep_images": False,
    }
    assert description["content_sha256"] == prepared.content_sha256
    with gzip.open(out / "items.jsonl.gz", "rt", encoding="utf-8") as lines:
        items = [json.loads(line) for line in lines]
    assert [item["item_id"] for item in items] == list(table.item_ids)
    assert all(("title" in item) == raw.has_items for item in items)
    assert not any("image" in item for item in items)
    assert prepared.num_without_text == (0 if raw.has_items else 7)


def test_the_same_input_writes_the_same_bytes(raw, tmp_path):
    first, second = (
        prepare(raw.format, [raw.folder], tmp_path / name, options=PrepareOptions(k_core=2))
        for name in ("first", "second")
    )
    assert first.content_sha256 == second.content_sha256
    for name in NAMES:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_every_stage_is_reported_to_its_end(make_raw, tmp_path):
    raw, calls = make_raw("hm"), {}
    prepare(
        "hm",
        [raw.folder],
        tmp_path / "out",
        progress=lambda stage, done, total: calls.update({stage: (done, total)}),
    )
    assert list(calls) == ["reading", "filtering", "reading items", "writing"]
    assert all(done == total for done, total in calls.values())


def test_the_hash_is_of_the_content(make_raw, tmp_path):
    raw = make_raw("movielens-csv")
    first = prepare("movielens", [raw.folder], tmp_path / "first")
    again = prepare("native", [first.folder], tmp_path / "again", options=PrepareOptions(k_core=1))
    assert again.content_sha256 == first.content_sha256
    text = raw.texts["movies.csv"].replace("Action", "Drama", 1)
    raw.write("movies.csv", text.encode())
    other = prepare("movielens", [raw.folder], tmp_path / "other")
    assert other.content_sha256 != first.content_sha256


def test_steps_are_applied_in_order_and_counted(tmp_path):
    # user a: x y x; user b: x y; user c: x z (rated 1)
    rows = [
        *[("a", "x", 1, 5.0), ("b", "x", 1, 5.0), ("a", "y", 2, 4.0), ("a", "x", 3, 5.0)],
        *[("b", "y", 5, 3.0), ("c", "x", 1, 5.0), ("c", "z", 2, 1.0)],
    ]
    schema = ["user_id", "item_id", "timestamp", "rating"]
    path = tmp_path / "interactions.parquet"
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(path)
    options = PrepareOptions(min_rating=2, duplicates="last", k_core=2, max_history=1)
    prepared = prepare("native", [path], tmp_path / "out", options=options)
    counts = [
        (step["step"], step["users"], step["items"], step["interactions"])
        for step in prepared.steps
    ]
    assert counts == [
        ("read", 3, 2, 6),
        ("last of repeated pairs", 3, 2, 5),
        ("2-core", 2, 2, 4),
        ("last 1 of each user", 2, 2, 2),
    ]
    assert prepared.num_below_rating == 1
    assert named(read_back(prepared.folder)) == {"a": ["x"], "b": ["y"]}


def test_equal_timestamps_keep_the_order_of_the_file(tmp_path):
    path = tmp_path / "interactions.csv"
    items = ["q", "b", "z", "a", "m"]
    rows = "".join(f"u,{item},7\n" for item in items)
    path.write_text("user_id,item_id,timestamp\n" + rows)
    prepared = prepare("native", [path], tmp_path / "out", options=PrepareOptions(k_core=1))
    assert named(read_back(prepared.folder)) == {"u": items}


@pytest.mark.parametrize("folder", ["d[1]", "~", "day=1"])
def test_a_folder_is_written_where_it_is_named(make_raw, tmp_path, monkeypatch, folder):
    raw = make_raw("movielens-1m")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    prepare("movielens", [raw.folder], folder)
    assert sorted(path.name for path in Path(folder).iterdir()) == NAMES
    assert named(read_back(folder)) == raw.histories()
    write_synthetic(f"{folder}2", num_items=50, num_users=20)
    assert read_interactions(find_interactions(f"{folder}2")).num_users == 20


def test_half_of_a_surrogate_pair_in_a_text_stops_nothing(make_raw, tmp_path):
    raw = make_raw("native")
    text = raw.texts["items.jsonl"].replace("Soap 3", "Soap \\ud83d 3")
    raw.write("items.jsonl", text.encode())
    out = prepare("native", [raw.folder], tmp_path / "out").folder
    with gzip.open(out / "items.jsonl.gz", "rt", encoding="utf-8") as lines:
        titles = {json.loads(line)["title"] for line in lines}
    assert "Soap ? 3" in titles


def test_a_folder_is_replaced_only_when_asked_and_only_if_prepared(make_raw, tmp_path):
    raw, out = make_raw("movielens-1m"), tmp_path / "out"
    prepare("movielens", [raw.folder], out)
    before = (out / "dataset.json").read_bytes()
    with pytest.raises(FileExistsError, match="out exists already; --force"):
        prepare("movielens", [raw.folder], out)
    assert (out / "dataset.json").read_bytes() == before
    prepare("movielens", [raw.folder], out, options=PrepareOptions(k_core=1), overwrite=True)
    assert (out / "dataset.json").read_bytes() != before
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"also holds notes\.txt, which would be lost"):
        prepare("movielens", [raw.folder], out, overwrite=True)
    with pytest.raises(FileExistsError, match="is not a prepared folder"):
        prepare("movielens", [raw.folder], raw.folder, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["movielens-1m", "out"]


def test_what_is_refused_writes_nothing(raw, tmp_path):
    for name, text in raw.texts.items():
        data = raw.encoded(name, text)
        lines = data.splitlines(keepends=True)
        lines[-1] = lines[-1][: len(lines[-1]) // 3]
        path = raw.write(name, b"".join(lines))
        with pytest.raises(DataError, match=rf"line {len(lines)}: ") as error:
            prepare(raw.format, [raw.folder], tmp_path / "out")
        assert str(path) in str(error.value)
        raw.write(name, data)
    assert [path.name for path in tmp_path.iterdir()] == [raw.layout]


def test_a_write_that_fails_leaves_the_old_folder(make_raw, tmp_path, monkeypatch):
    raw, out = make_raw("movielens-1m"), tmp_path / "out"
    prepare("movielens", [raw.folder], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("evalrec.preparation.gzip.compress", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare("movielens", [raw.folder], out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["movielens-1m", "out"]


def test_options_out_of_range_are_refused(make_raw, tmp_path):
    for options, words in (
        ({"sample_users": 0}, "sample_users must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"k_core": 0}, "k_core must be at least 1, got 0"),
        ({"max_history": 0}, "max_history must be at least 1, got 0"),
        ({"min_rating": float("nan")}, "min_rating must be a number, got nan"),
    ):
        with pytest.raises(ValueError, match=words):
            PrepareOptions(**options)
    with pytest.raises((ValueError, TypeError), match="duplicates"):  # TypeError: types are checked
        PrepareOptions(duplicates="all")
    raw = make_raw("movielens-1m")
    with pytest.raises(DataError, match="the 50-core is empty"):
        prepare("movielens", [raw.folder], tmp_path / "out", options=PrepareOptions(k_core=50))
    with pytest.raises(DataError, match="holds no interactions of at least 9"):
        prepare("movielens", [raw.folder], tmp_path / "out", options=PrepareOptions(min_rating=9))
    assert not (tmp_path / "out").exists()


def test_a_description_that_is_not_ours_is_refused(tmp_path):
    assert read_description(tmp_path) is None
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json is malformed JSON"):
        read_description(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match=r"dataset\.json must be of format 1"):
        read_description(tmp_path)


EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40
)


def table_of(rows) -> Interactions:
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    return Interactions(
        users=users,
        items=items,
        timestamps=times,
        user_ids=tuple("abcd"),
        item_ids=tuple("vwxyz"),
    )


def sequences(rows):
    ordered = sorted(rows, key=lambda row: (row[0], row[2]))
    return {
        "abcd"[user]: ["vwxyz"[item] for who, item, _ in ordered if who == user]
        for user in sorted({row[0] for row in rows})
    }


@given(EVENTS, st.sampled_from(["first", "last"]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_drop_repeats_is_the_plain_one(rows, keep):
    expected = {}
    for user, items in sequences(rows).items():
        way = items if keep == "first" else items[::-1]
        once = list(dict.fromkeys(way))
        expected[user] = once if keep == "first" else once[::-1]
    assert named(drop_repeats(table_of(rows), keep=keep)) == expected


@given(EVENTS, st.integers(1, 5))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_keep_last_is_the_plain_one(rows, n):
    expected = {user: items[-n:] for user, items in sequences(rows).items()}
    got = keep_last(table_of(rows), n=n)
    assert named(got) == expected
    assert set(got.item_ids) == {item for items in expected.values() for item in items}


def test_filters_refuse_what_they_do_not_know():
    table = table_of([(0, 0, 0)])
    with pytest.raises((ValueError, TypeError), match="keep"):  # TypeError: types are checked
        drop_repeats(table, keep="any")
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        keep_last(table, n=0)
    assert k_core(table, k=1).user_ids == ("a",)
