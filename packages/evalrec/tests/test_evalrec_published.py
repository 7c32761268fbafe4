"""The data sets of papers by name, what else is kept, and images, on files in the raw layouts."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from evalrec import (
    FORMATS,
    PUBLISHED,
    CountDifference,
    DataError,
    Interactions,
    PrepareOptions,
    plan_table,
    prepare,
    prepare_table,
    read_interactions,
)
from evalrec.cli import main
from evalrec.filtering import keep_items, sample_users
from evalrec.importing import PRESETS
from evalrec.reduction import counts_of
from hypothesis import given, settings
from hypothesis import strategies as st

LAYOUTS = {  # the files that make each set, in small
    **dict.fromkeys(("prorec-beauty", "prorec-sports", "prorec-toys"), "amazon2014"),
    **dict.fromkeys(("cocorec-instruments", "cocorec-scientific"), "ratings-2023"),
    **{"cocorec-games": "amazon2023", "cocorec-baby": "last-out"},
    **{"tssr-hm": "hm", "tssr-yelp": "yelp", "tssr-mind": "mind"},
    **{"tssr-phone": "amazon2018", "tssr-toy": "amazon2018", "lcrec-games": "ratings-2018"},
}
TABLES = {
    "steam": "{u'username': u'a', u'product_id': u'1', u'date': u'2017-12-17'}\n",
    "gowalla": "0\t2010-10-19T23:55:27Z\t30.23\t-97.79\t22847\n",
    "taobao": "1,2268318,2520377,pv,1511544070\n",
    "microlens-100k": "user,item,timestamp\n1,18,1660000000000\n",
}
TABLE_FILES = {
    **{"steam": "steam_reviews.json", "gowalla": "loc-gowalla_totalCheckins.txt"},
    **{"taobao": "UserBehavior.csv", "microlens-100k": "MicroLens-100k_pairs.csv"},
}


@pytest.fixture
def evalrec(monkeypatch, capsys):
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evalrec", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


def rows_of(text):
    """The cells of a printed table's rows."""
    cells = ([cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines())
    return [row for row in cells if len(row) == 4]


def items_of(folder):
    with gzip.open(folder / "items.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def add_photos(raw):
    """Pictures where H&M and Yelp keep them, but for item 6."""
    names = [f"images/010/{raw.item(row)}.jpg" for row in range(6)]
    if raw.format == "yelp":
        names = [f"photos/p{row}.jpg" for row in range(6)]
        photos = [
            {"photo_id": f"{kind}{row}", "business_id": raw.item(row), "label": "food"}
            for row in range(6)
            for kind in ("p", "later")
        ]
        raw.write("photos.json", "".join(json.dumps(line) + "\n" for line in photos).encode())
    for name in names:
        path = raw.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a picture")
    return names


def test_every_published_set_is_walked_here():
    assert {*LAYOUTS, *TABLES} == set(PUBLISHED)
    for name, published in PUBLISHED.items():
        assert published.name == name
        assert published.format in {*FORMATS, *PRESETS}
        assert set(published.counts) <= {"users", "items", "interactions"}
        assert published.source


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_is_made_of_raw_files_and_its_counts_are_said(make_raw, evalrec, tmp_path, name):
    raw, published = make_raw(LAYOUTS[name]), PUBLISHED[name]
    assert raw.format == published.format
    if raw.format in ("hm", "yelp"):
        add_photos(raw)
    less = ["--sample-users", 5, "--seed", 3] if name == "tssr-hm" else []
    out = tmp_path / "out"
    code, text, error = evalrec(
        *("prepare", published.format, raw.folder, "--out", out, "--published", name, *less)
    )
    assert code == 0, error
    table = read_interactions(out / "interactions.parquet")
    here = {"users": 5 if less else 8, "items": 7, "interactions": 6 * (5 if less else 8)}
    assert (table.num_users, table.num_items, len(table)) == tuple(here.values())
    expected = [
        [kind, f"{count:,}", f"{here[kind]:,}", f"{here[kind] - count:+,}"]
        for kind, count in published.counts.items()
    ]
    assert rows_of(text)[-3:] == expected
    assert published.source in text
    assert published.note in text
    assert published.options.keep_images == any("image" in item for item in items_of(out))
    description = json.loads((out / "dataset.json").read_text())
    chosen = replace(published.options, **({"sample_users": 5, "seed": 3} if less else {}))
    assert PrepareOptions(**description["options"]) == chosen


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_made_and_its_counts_are_said(evalrec, tmp_path, name):
    path = tmp_path / TABLE_FILES[name]
    path.write_text(TABLES[name])
    form = PUBLISHED[name].format
    code, text, _ = evalrec("prepare", form, path, "--out", tmp_path / "out", "--published", name)
    assert code == 0
    expected = [
        [kind, f"{count:,}", "1", f"{1 - count:+,}"]
        for kind, count in PUBLISHED[name].counts.items()
    ]
    assert rows_of(text)[-len(expected) :] == expected


def test_the_page_of_the_site_has_every_set_with_its_counts():
    page = Path(__file__).parents[3] / "docs" / "packages" / "evalrec_data.md"
    rows = [
        line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    for name, published in PUBLISHED.items():
        counts = [published.counts.get(kind) for kind in ("users", "items", "interactions")]
        cells = ["" if count is None else f"{count:,}" for count in counts]
        assert f"| `{name}` | `{published.format}` | {' | '.join(cells)} |" in rows


def test_what_prorec_prints_is_less_than_the_public_files_have():
    public = {"prorec-beauty": 198_502, "prorec-sports": 296_337, "prorec-toys": 167_597}
    differences = {"prorec-beauty": 142, "prorec-sports": 162, "prorec-toys": 71}
    for name, interactions in public.items():
        counts = {**PUBLISHED[name].counts, "interactions": interactions}
        *same, last = PUBLISHED[name].compare(counts)
        assert [count.difference for count in same] == [0, 0]
        assert last.difference == differences[name]
        assert f"{interactions:,}" in PUBLISHED[name].note


def test_options_go_before_those_of_the_set(make_raw, evalrec, tmp_path):
    raw, out = make_raw("amazon2018"), tmp_path / "out"
    arguments = ("--max-history", 3, "--no-keep-images", "--published", "tssr-toy")
    assert evalrec("prepare", "amazon2018", raw.folder, "--out", out, *arguments)[0] == 0
    assert len(read_interactions(out / "interactions.parquet")) == 24
    assert not any("image" in item for item in items_of(out))


def test_a_set_of_other_files_is_refused(make_raw, evalrec, tmp_path):
    raw = make_raw("yelp")
    arguments = ("prepare", "yelp", raw.folder, "--out", tmp_path / "out", "--published")
    code, _, error = evalrec(*arguments, "prorec-beauty")
    assert code == 2
    assert "prorec-beauty is made of amazon2014" in " ".join(error.split())
    code, _, error = evalrec(*arguments, "prorec-books")
    assert code == 1
    assert error.startswith("evalrec: published must be one of prorec-beauty, ")
    code, _, error = evalrec(*arguments, "tssr-yelp")
    assert code == 1
    assert "no file with images is given" in error
    assert [path.name for path in tmp_path.iterdir()] == ["yelp"]


def test_a_prepared_folder_is_checked_against_a_set(make_raw, evalrec, tmp_path):
    out = prepare("amazon2014", [make_raw("amazon2014").folder], tmp_path / "out").folder
    code, text, _ = evalrec("check", out, "--published", "prorec-beauty")
    assert code == 0
    assert ["items", "12,101", "7", "-12,094"] in rows_of(text)
    report = json.loads(evalrec("check", out, "--published", "prorec-toys", "--json")[1])
    assert report["published"]["source"] == "PRORec, table 2"
    assert {"name": "users", "published": 19_412, "here": 8} in report["published"]["counts"]
    assert "published" not in json.loads(evalrec("check", out, "--json")[1])
    assert evalrec("check", out, "--published", "no")[0] == 1


def test_items_without_interactions_do_not_count():
    table = Interactions(
        users=np.array([0, 0]),
        items=np.array([1, 1]),
        timestamps=np.array([1, 2]),
        user_ids=("a",),
        item_ids=("x", "y"),
    )
    counts = {count.name: count for count in PUBLISHED["tssr-toy"].compare(counts_of(table))}
    assert counts["items"] == CountDifference(name="items", published=55_285, here=1)
    assert [count.here for count in counts.values()] == [1, 1, 2]


TABLE_ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=30)


def small_table(rows):
    users, items = (np.array(column) for column in zip(*rows, strict=True))
    users = np.unique(users, return_inverse=True)[1]
    return Interactions(
        users=users,
        items=items,
        timestamps=np.arange(len(rows)),
        user_ids=tuple(f"u{row}" for row in range(users.max() + 1)),
        item_ids=tuple("vwxyz"),
    )


def histories(table):
    return {
        user: [table.item_ids[item] for item in history]
        for user, history in zip(table.user_ids, table.histories(), strict=True)
    }


@given(TABLE_ROWS, st.integers(1, 6), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_users_are_drawn_whole_and_again_alike(rows, n, seed):
    table = small_table(rows)
    if n > table.num_users:
        with pytest.raises(DataError, match=rf"{n} users cannot be drawn of {table.num_users}"):
            sample_users(table, n=n, seed=seed)
        return
    drawn, all_users = histories(sample_users(table, n=n, seed=seed)), histories(table)
    assert len(drawn) == n
    assert drawn.items() <= all_users.items()
    assert list(drawn) == [user for user in all_users if user in drawn]
    assert drawn == histories(sample_users(table, n=n, seed=seed))


def test_every_user_may_be_drawn_and_the_seed_decides():
    table = small_table([(user, 0) for user in range(6)])
    drawn = [tuple(sample_users(table, n=3, seed=seed).user_ids) for seed in range(40)]
    assert {user for users in drawn for user in users} == set(table.user_ids)
    assert len(set(drawn)) > 5


@given(TABLE_ROWS, st.sets(st.sampled_from("vwxyz")))
@settings(max_examples=100, deadline=None)
def test_items_are_kept_as_plainly(rows, wanted):
    table = small_table(rows)
    expected = {
        user: kept
        for user, items in histories(table).items()
        if (kept := [item for item in items if item in wanted])
    }
    if not expected:
        with pytest.raises(DataError, match="no item of an interaction is one"):
            keep_items(table, wanted)
    else:
        assert histories(keep_items(table, wanted)) == expected


def test_users_are_drawn_after_the_core_and_before_the_cut(make_raw, tmp_path):
    options = PrepareOptions(sample_users=3, max_history=4, seed=1)
    prepared = prepare("hm", [make_raw("hm").folder], tmp_path / "out", options=options)
    counts = [(step["step"], step["users"], step["interactions"]) for step in prepared.steps]
    assert counts == [
        *[("read", 8, 48), ("5-core", 8, 48)],
        *[("3 users drawn", 3, 18), ("last 4 of each user", 3, 12)],
    ]


@pytest.mark.parametrize("layout", ["ratings-2018", "amazon2014", "hm", "yelp", "mind"])
def test_items_that_no_file_describes_are_dropped_or_refused(make_raw, tmp_path, layout):
    raw = make_raw(layout)
    name = [name for name in raw.texts if name.startswith(("meta_", "articles", "yelp", "news"))][
        -1
    ]
    lines = raw.texts[name].splitlines(keepends=True)
    kept = [line for line in lines if f"{raw.item(3)}" not in line]
    raw.write(name, raw.encoded(name, "".join(kept)))
    read = {"k_core": 1, "duplicates": "first"}
    options = PrepareOptions(unknown_items="drop", **read)
    prepared = prepare(raw.format, [raw.folder], tmp_path / "out", options=options)
    assert [step["step"] for step in prepared.steps[1:2]] == ["items that are described"]
    assert named(prepared.folder) == {
        user: [item for item in items if item != raw.item(3)]
        for user, items in raw.histories().items()
    }
    assert prepared.num_without_text == 0
    with pytest.raises(DataError, match=rf"1 items have .* such as '{raw.item(3)}'; unknown"):
        prepare(
            raw.format,
            [raw.folder],
            tmp_path / "no",
            options=PrepareOptions(unknown_items="refuse", **read),
        )
    assert not (tmp_path / "no").exists()
    kept_all = prepare(raw.format, [raw.folder], tmp_path / "all", options=PrepareOptions(**read))
    assert named(kept_all.folder) == raw.histories()


def named(folder):
    frame = pl.read_parquet(folder / "interactions.parquet")
    return {
        user: frame.filter(pl.col("user_id") == user)["item_id"].to_list()
        for user in frame["user_id"].unique(maintain_order=True)
    }


def test_unknown_items_need_a_file_of_items(make_raw, tmp_path):
    raw = make_raw("ratings-2023")
    with pytest.raises(ValueError, match="unknown_items must be keep without a file of items"):
        prepare(
            "amazon2023",
            [raw.folder],
            tmp_path / "out",
            options=PrepareOptions(unknown_items="drop"),
        )
    with pytest.raises((ValueError, TypeError), match="unknown_items"):  # types are checked too
        PrepareOptions(unknown_items="maybe")


@pytest.mark.parametrize("layout", ["amazon2014", "amazon2018", "amazon2023"])
def test_amazon_keeps_the_address_of_the_main_image(make_raw, tmp_path, layout):
    raw = make_raw(layout)
    options = PrepareOptions(keep_images=True)
    out = prepare(raw.format, [raw.folder], tmp_path / "out", options=options).folder
    expected = {raw.item(row): f"http://e.org/{row}.jpg" for row in range(7)}
    if layout == "amazon2018":
        expected["B006"] = "http://e.org/small6.jpg"  # which has no large one
    assert {item["item_id"]: item["image"] for item in items_of(out)} == expected


@pytest.mark.parametrize("layout", ["hm", "yelp"])
def test_paths_of_images_start_at_the_folder_that_is_written(make_raw, tmp_path, layout):
    raw = make_raw(layout)
    names = add_photos(raw)
    options = PrepareOptions(keep_images=True)
    prepared = prepare(raw.format, [raw.folder], tmp_path / "a" / "b", options=options)
    assert prepared.notes == ("1 of 7 items have no image",)
    images = {item["item_id"]: item.get("image") for item in items_of(prepared.folder)}
    assert images == {
        **{raw.item(row): f"../../{layout}/{name}" for row, name in enumerate(names)},
        raw.item(6): None,
    }
    # A prepared folder that is prepared again, elsewhere, still names its images.
    again = prepare("native", [prepared.folder], tmp_path / "c", options=PrepareOptions(k_core=1))
    for item in items_of(again.folder):
        if "image" in item:
            assert (again.folder / item["image"]).read_bytes() == b"a picture"
    assert sum("image" in item for item in items_of(again.folder)) == 6


def test_every_stage_of_images_is_reported_to_its_end(make_raw, tmp_path):
    for layout in ("hm", "yelp", "amazon2014"):
        raw, calls = make_raw(layout), {}
        add_photos(raw)
        prepare(
            raw.format,
            [raw.folder],
            tmp_path / f"{layout}-out",
            options=PrepareOptions(keep_images=True),
            progress=lambda stage, done, total, calls=calls: calls.update({stage: (done, total)}),
        )
        assert "reading images" in calls
        assert all(done == total for done, total in calls.values())


def test_images_are_refused_where_there_are_none(make_raw, tmp_path):
    options = PrepareOptions(keep_images=True)
    for layout, error, words in (
        ("mind", ValueError, "keep_images must not be set: MIND has no images of items"),
        (
            "movielens-1m",
            ValueError,
            "keep_images must not be set: MovieLens has no images",
        ),
        (
            "yelp",
            DataError,
            r"no file with images is given, .* Yelp calls them \*photo\*",
        ),
        ("last-out", DataError, "no file with images is given, .* calls them meta_"),
    ):
        with pytest.raises(error, match=words):
            prepare(make_raw(layout).format, [tmp_path / layout], tmp_path / "out", options=options)
        assert not (tmp_path / "out").exists()
        shutil.rmtree(tmp_path / layout)


def test_what_a_table_says_otherwise_is_refused(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text("user,item,time\nu,i,5\n")
    for options, words in (
        ({"keep_images": True}, "keep_images must not be set for a table"),
        ({"unknown_items": "drop"}, "unknown_items of a table must be set by TableOptions"),
    ):
        with pytest.raises(ValueError, match=words):
            prepare_table(plan_table(path), tmp_path / "out", options=PrepareOptions(**options))


def test_unknown_items_of_both_kinds_on_the_command_line(make_raw, evalrec, tmp_path):
    orders, catalogue = tmp_path / "orders.csv", tmp_path / "catalogue.csv"
    orders.write_text("user,item,time\nu,i,5\nu,j,6\nu,k,7\n")
    catalogue.write_text("item,title\ni,I\nj,J\n")
    arguments = ("table", orders, catalogue, "--unknown-items", "keep")
    assert evalrec("prepare", *arguments, "--out", tmp_path / "a")[0] == 0
    assert named(tmp_path / "a") == {"u": ["i", "j", "k"]}
    raw = make_raw("ratings-2018")
    lines = raw.texts["meta_Beauty.json.gz"].splitlines(keepends=True)
    raw.write("meta_Beauty.json.gz", "".join(lines[1:7]).encode())
    arguments = ("amazon2018", raw.folder, "--unknown-items", "drop", "--k-core", 1)
    assert evalrec("prepare", *arguments, "--out", tmp_path / "b")[0] == 0
    assert not any("B000" in items for items in named(tmp_path / "b").values())
