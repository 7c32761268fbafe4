"""Data frames in and out, held against the same tables in files."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from evalrec import (
    DataError,
    Interactions,
    Recommendations,
    evaluate,
    leave_last_n,
    leave_one_out,
    plan_table,
    prepare_table,
    rank_items,
    read_interactions,
    recommend,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BACKENDS = {
    "polars": lambda columns: pl.DataFrame(columns),
    "polars lazy": lambda columns: pl.DataFrame(columns).lazy(),
    "pyarrow": lambda columns: pa.table(columns),
    "pandas": lambda columns: pd.DataFrame(columns),
    "pandas of arrow": lambda columns: pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype),
}


def calmly(examples: int) -> settings:
    """No limits on time: a busy machine is no failure."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


def content(table: Interactions) -> tuple:
    """Everything that a table holds, to be compared."""
    weights = None if table.weights is None else table.weights.tolist()
    rows = (table.users.tolist(), table.items.tolist(), table.timestamps.tolist(), weights)
    return (*rows, table.user_ids, table.item_ids)


IDS = st.text("abÄ0 ,", min_size=1, max_size=3) | st.just("007")
ROWS = st.lists(
    st.tuples(IDS, st.integers(-3, 2**62), st.integers(-5, 2**40), st.floats(0.5, 9)),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("backend", BACKENDS)
@given(rows=ROWS)
@calmly(15)
def test_a_frame_is_the_file_of_the_same_table(rows, backend, tmp_path):
    names = ("user_id", "item_id", "timestamp", "weight")
    columns = {
        name: list(cells) for name, cells in zip(names, zip(*rows, strict=True), strict=True)
    }
    pl.DataFrame(columns).write_parquet(tmp_path / "interactions.parquet")
    pl.DataFrame(columns).write_csv(tmp_path / "interactions.csv")
    table = Interactions.from_frame(BACKENDS[backend](columns))
    for path in ("interactions.parquet", "interactions.csv"):
        assert content(table) == content(read_interactions(tmp_path / path))
    unordered = Interactions.from_frame(BACKENDS[backend](columns), time=None)
    assert content(unordered) == content(
        read_interactions(tmp_path / "interactions.parquet", timestamp_column=None)
    )
    weighted = Interactions.from_frame(BACKENDS[backend](columns), weight="weight")
    order = np.lexsort(
        (columns["timestamp"], np.unique(columns["user_id"], return_inverse=True)[1])
    )
    assert sorted(weighted.weights.tolist()) == sorted(np.array(columns["weight"])[order].tolist())


MOMENTS = [dt.datetime(2024, 3, 31, hour, 30, tzinfo=dt.UTC) for hour in (3, 0, 1, 2)]


def timed(times: object) -> dict[str, object]:
    return {"user_id": ["b", "b", "a", "a"], "item_id": [7, 8, 9, 7], "timestamp": times}


# A frame, and how many units of its times a second has.
TIMES = {
    "polars": (pl.DataFrame(timed(pl.Series(MOMENTS, dtype=pl.Datetime("ms", "UTC")))), 10**3),
    "polars, Berlin": (
        pl.DataFrame(timed(pl.Series(MOMENTS, dtype=pl.Datetime("us", "UTC")))).with_columns(
            pl.col("timestamp").dt.convert_time_zone("Europe/Berlin")
        ),
        10**6,
    ),
    "arrow, New York": (
        pa.table(timed(pa.array(MOMENTS, pa.timestamp("ms", "America/New_York")))),
        10**3,
    ),
    "arrow, no zone": (pa.table(timed(pa.array(MOMENTS, pa.timestamp("ns")))), 10**9),
    "pandas, Berlin": (
        pd.DataFrame(
            timed(pd.Series(MOMENTS).astype("datetime64[ns, UTC]").dt.tz_convert("Europe/Berlin"))
        ),
        10**9,
    ),
    "pandas, no zone": (
        pd.DataFrame(timed(pd.Series(MOMENTS).dt.tz_localize(None).astype("datetime64[ms]"))),
        10**3,
    ),
    "pandas of arrow": (
        pd.DataFrame(
            timed(pd.Series(MOMENTS, dtype=pd.ArrowDtype(pa.timestamp("us", "Europe/Berlin"))))
        ),
        10**6,
    ),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_are_those_of_the_same_parquet_file_in_utc(kind, tmp_path):
    frame, units = TIMES[kind]
    table = Interactions.from_frame(frame)
    assert table.user_ids == ("b", "a")
    assert table.items.tolist() == [1, 0, 2, 0]  # b had item 8 before item 7
    moments = [int(MOMENTS[place].timestamp()) for place in (1, 0, 2, 3)]
    assert table.timestamps.tolist() == [moment * units for moment in moments]
    parquet = tmp_path / "orders.parquet"
    pl.DataFrame(frame).write_parquet(parquet)
    prepare_table(plan_table(parquet), tmp_path / "out")
    prepared = read_interactions(tmp_path / "out" / "interactions.parquet")
    assert rows_by_id(prepared) == rows_by_id(table)


def rows_by_id(table: Interactions) -> set[tuple[str, str, int]]:
    return {
        (table.user_ids[user], table.item_ids[item], int(time))
        for user, item, time in zip(table.users, table.items, table.timestamps, strict=True)
    }


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_times_in_seconds_stay_in_seconds(zone):
    seconds = [int(moment.timestamp()) for moment in MOMENTS]
    times = pa.array(seconds, pa.timestamp("s", zone))
    by_arrow = Interactions.from_frame(pa.table(timed(times)))
    by_pandas = Interactions.from_frame(pa.table(timed(times)).to_pandas())
    assert content(by_arrow) == content(Interactions.from_frame(pl.DataFrame(timed(seconds))))
    assert content(by_pandas) == content(by_arrow)


DAY = dt.date(2024, 1, 2)
SECONDS = 1_704_153_600


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"user_id": ["a"], "item_id": ["i"], "timestamp": [DAY]}),
        pa.table({"user_id": ["a"], "item_id": ["i"], "timestamp": [DAY]}),
        pl.DataFrame(
            {"user_id": ["a"], "item_id": ["i"], "timestamp": [str(SECONDS)]},
            schema_overrides={"user_id": pl.Categorical, "item_id": pl.Enum(["i", "j"])},
        ),
        pa.table(
            {
                "user_id": pa.array(["a"]).dictionary_encode(),
                "item_id": pa.array(["i"], pa.large_string()),
                "timestamp": pa.array([Decimal(SECONDS)]),
            }
        ),
        pd.DataFrame(
            {
                "user_id": pd.Categorical(["a"]),
                "item_id": pd.Series(["i"], dtype=object),
                "timestamp": pd.array([SECONDS], dtype="Int64"),
            }
        ),
        pd.DataFrame({"user_id": ["a"], "item_id": ["i"], "timestamp": [float(SECONDS)]}),
        pd.DataFrame({"user_id": ["a"], "item_id": ["i"], "timestamp": [np.int32(SECONDS)]}).astype(
            {"timestamp": object}
        ),
    ],
)
def test_types_that_hold_the_same_give_the_same(frame):
    expected = ([0], [0], [SECONDS], None, ("a",), ("i",))
    assert content(Interactions.from_frame(frame)) == expected


@pytest.mark.parametrize(
    "ids",
    [
        pd.Categorical([10, 7, 10]),
        pd.array([10, 7, 10], dtype="Int64"),
        pd.array([10, 7, 10], dtype="uint8"),
        pd.Series([10, "7", np.int64(10)], dtype=object),
        pd.Series(["10", "7", "10"]),
        pd.Series([10, 7, 10], dtype=pd.ArrowDtype(pa.dictionary(pa.int32(), pa.int64()))),
    ],
)
def test_ids_are_texts_whatever_they_were(ids):
    frame = pd.DataFrame({"user_id": ids, "item_id": ids, "timestamp": [1, 2, 3]})
    table = Interactions.from_frame(frame)
    assert (table.user_ids, table.items.tolist()) == (("10", "7"), [0, 0, 1])


def one_row(**cells: object) -> pd.DataFrame:
    columns = {"user_id": ["a", "b"], "item_id": ["i", "j"], "timestamp": [1, 2]}
    return pd.DataFrame({**columns, **cells})


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (one_row(user_id=["a", None]), "row 2: user_id must be given, got nothing"),
        (one_row(user_id=["a", ""]), "row 2: user_id must be given, got nothing"),
        (one_row(item_id=pd.Categorical(["i", None])), "row 2: item_id must be given"),
        (
            one_row(item_id=[1.0, 2.0]),
            r"row 1: item_id must be a string or a whole number, got 1\.0",
        ),
        (one_row(item_id=[1.0, np.nan]), r"row 1: item_id must be a string or a whole number"),
        (one_row(item_id=pd.Categorical([1.5, 2.5])), "row 1: item_id must be a string or a whole"),
        (one_row(item_id=[True, False]), "row 1: item_id must be a string or a whole number"),
        (
            one_row(item_id=pd.to_datetime(["2024-01-01"] * 2)),
            "item_id must be a string or a whole",
        ),
        (
            one_row(item_id=pd.Series(["i", "\ud800"], dtype=object)),
            "row 2: item_id must be valid Unicode",
        ),
        (one_row(timestamp=pd.array([1, None], dtype="Int64")), "row 2: timestamp must be a whole"),
        (one_row(timestamp=pd.to_datetime(["2024-01-01", None])), "row 2: timestamp must be given"),
        (one_row(timestamp=[1.5, 2.0]), r"row 1: timestamp must be a whole number, got 1\.5"),
        (one_row(timestamp=np.array([1, 2**63], dtype=np.uint64)), "row 2: .* must fit 64 bits"),
        (
            one_row(timestamp=["2024-01-01", "x"]),
            "row 1: timestamp must be whole numbers, or a col",
        ),
        (one_row(timestamp=[DAY, DAY]), "must be whole numbers, or a column whose type is a date"),
        (one_row(timestamp=pd.to_timedelta([1, 2])), "row 1: timestamp must be a whole number"),
        (
            one_row().drop(columns="item_id"),
            "frame has no column 'item_id'; it has 'user_id', 'time",
        ),
        (one_row()[["user_id", "user_id", "item_id"]], "frame must have each column once"),
        (one_row().head(0), "frame holds no interactions"),
        (pa.table({"user_id": pa.nulls(1), "item_id": ["i"], "timestamp": [1]}), "row 1: user_id"),
    ],
)
def test_what_a_frame_must_not_hold_is_refused_in_one_sentence(frame, words):
    with pytest.raises(DataError, match=words) as refusal:
        Interactions.from_frame(frame)
    assert "\n" not in str(refusal.value)


def test_known_ids_give_the_rows_and_refuse_others():
    frame = one_row()
    table = Interactions.from_frame(frame, user_ids=["c", "b", "a"], item_ids=["j", "k", "i"])
    assert content(table)[:3] == ([1, 2], [0, 2], [2, 1])
    with pytest.raises(DataError, match="row 2: item 'j' is not in item_ids"):
        Interactions.from_frame(frame, item_ids=["i"])
    with pytest.raises(ValueError, match="item_ids must be unique, got 'i' twice"):
        Interactions.from_frame(frame, item_ids=["i", "i"])
    for table in ([1], {"user_id": ["a"]}, None, pd.Series([1])):
        with pytest.raises(
            TypeError, match="frame must be a data frame, of pandas, polars, pyarrow"
        ):
            Interactions.from_frame(table)


@pytest.fixture(scope="module")
def interactions() -> Interactions:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(9), 6)
    return Interactions(
        users=users,
        items=rng.integers(15, size=len(users)),
        timestamps=np.arange(len(users)),
        user_ids=tuple(f"u{row}" for row in range(9)),
        item_ids=tuple(f"i{row}" for row in range(15)),
    )


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    scores = np.random.default_rng(1).normal(size=(9, 15))
    scores[3, 4:] = -np.inf  # a short list
    return scores


@pytest.mark.parametrize("backend", ["polars", "pandas", "pyarrow"])
def test_recommendations_go_into_a_frame_and_back(interactions, scores, backend):
    queries = leave_one_out(interactions).test
    recommended = recommend(queries, scores, interactions, top_k=8, filter_seen=False)
    np.testing.assert_array_equal(recommended.ranked, rank_items(queries, scores, top_k=8))
    frame = recommended.to_frame(backend=backend)
    table = pl.DataFrame(frame)
    assert table.columns == ["user", "item", "rank", "score"]
    assert table.height == 8 * 8 + len(np.unique(recommended.ranked[3])) - 1
    for user, item, rank, score in table.rows():
        row, column = int(user[1:]), int(item[1:])
        assert score == scores[row, column]
        assert rank == 1 + (scores[row] > score).sum()
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=0)
    of_lists = evaluate(queries, recommended.ranked, ks=(1, 5)).to_json()
    for columns in ({}, {"score": "score"}, {"rank": None, "score": "score"}):
        back = Recommendations.from_frame(shuffled, queries, interactions, **columns)
        assert back.user_ids == recommended.user_ids
        assert evaluate(queries, back, ks=(1, 5)).to_json() == of_lists
        assert (back.scores is None) == (not columns)
    np.testing.assert_array_equal(back.scores, recommended.scores)
    assert pl.DataFrame(back.to_frame(backend=backend)).equals(table)


def test_lists_of_other_systems_are_of_the_users_that_are_asked(interactions):
    split = leave_one_out(interactions)
    queries = split.test.sample(5, seed=0)
    targets = [f"i{target}" for target in split.test.targets]
    frame = pd.DataFrame({"user": [f"u{row}" for row in range(9)], "item": targets, "rank": 3})
    more = pd.DataFrame({"user": ["u0"] * 2, "item": ["i3", "i4"], "rank": [1, 7]})
    more = more[~more.item.isin(targets[:1])]
    lists = Recommendations.from_frame(pd.concat([frame, more]), queries, interactions)
    first = lists.ranked[:, 0]
    assert lists.ranked.shape == (5, 1 + len(more) * (0 in queries.users))
    assert (first == queries.targets).sum() >= 4
    without = frame[frame.user != f"u{queries.users[2]}"]
    empty = Recommendations.from_frame(without, queries, interactions)
    assert empty.ranked[2].tolist() == [-1]
    assert evaluate(queries, empty, ks=(1,)).metrics["unfiltered"]["recall@1"].mean == 0.8


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("u0", "i1", 1), ("u0", "i1", 2)], "row 2: user 'u0' has item 'i1' in row 1 already"),
        ([("u0", "i1", 1), ("u0", "i2", 1)], "row 2: user 'u0' has rank 1 in row 1 already"),
        ([("u0", "i1", 1), ("x", "i2", 1)], "row 2: user 'x' is not in the interactions"),
        ([("u0", "x", 1)], "row 1: item 'x' is not in the interactions"),
        ([("u0", "i1", 1.5)], r"row 1: rank must be a whole number, got 1\.5"),
    ],
)
def test_lists_that_cannot_be_are_refused(interactions, rows, words):
    queries = leave_one_out(interactions).test
    frame = pl.DataFrame(rows, schema=["user", "item", "rank"], orient="row")
    with pytest.raises(DataError, match=words):
        Recommendations.from_frame(frame, queries, interactions)


def test_queries_without_one_user_each_have_no_frames(interactions, scores):
    twice = leave_last_n(interactions, n=2).test
    frame = pl.DataFrame({"user": ["u0"], "item": ["i0"], "rank": [1]})
    with pytest.raises(ValueError, match="queries must ask each user once"):
        Recommendations.from_frame(frame, twice, interactions)
    with pytest.raises(ValueError, match="rank or score must name a column"):
        Recommendations.from_frame(frame, twice, interactions, rank=None)
    with pytest.raises(ValueError, match=r"backend must be polars, pandas, pyarrow .* got 'excel'"):
        recommend(leave_one_out(interactions).test, scores, interactions, top_k=2).to_frame(
            backend="excel"
        )


@pytest.mark.parametrize("backend", ["polars", "pandas", "pyarrow"])
def test_a_report_is_a_frame_of_means_and_of_users(interactions, scores, backend):
    report = evaluate(leave_one_out(interactions).test, scores, ks=(2, 5), name="ours")
    means = pl.DataFrame(report.to_frame(backend=backend))
    assert means.columns == ["name", "mode", "metric", "mean", "low", "high"]
    assert means.height == 2 * len(report.metric_names)
    for name, mode, metric, *estimate in means.rows():
        assert (name, tuple(estimate)) == ("ours", report.metrics[mode][metric])
    users = pl.DataFrame(report.to_frame(per_user=True, backend=backend))
    assert users.columns == ["name", "query", "mode", "group", "rank", *report.metric_names]
    for mode in ("unfiltered", "filtered"):
        part = users.filter(pl.col("mode") == mode).sort("query")
        assert part["query"].to_list() == list(range(9))
        assert part["rank"].to_list() == report.ranks[mode].tolist()
        for metric in report.metric_names:
            assert part[metric].to_list() == report.per_user(metric, mode).tolist()
    assert set(users["group"]) <= {"warm", "cold"}


def test_a_time_in_a_far_zone_is_the_moment_and_not_the_clock():
    zone = ZoneInfo("Asia/Kolkata")
    moments = [dt.datetime(2024, 1, 1, 5, 30, tzinfo=zone), dt.datetime(2024, 1, 1, tzinfo=dt.UTC)]
    for moment in moments:
        frame = pl.DataFrame({"user_id": ["a"], "item_id": ["i"], "timestamp": [moment]})
        assert Interactions.from_frame(frame).timestamps.tolist() == [1_704_067_200 * 10**6]
