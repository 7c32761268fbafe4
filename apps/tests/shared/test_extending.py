"""What all apps promise between two updates: a run that makes room for new items."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from evalrec import Interactions
from semtok import Catalog

from semrec.loading import load_run
from semrec.shared.catalogue import catalogue_stage, contents
from semrec.shared.data import Columns, read_data
from semrec.shared.errors import ExperimentError
from semrec.shared.extending import kept_and_new, with_new
from semrec.shared.screen import Screen

APPS = ["prorec", "cocorec", "tssr"]
GENERATES = (None, "PRORec", "PRORec, joined")
"""Rankings of PRORec in whose tree a new item takes a share of what its siblings had."""

RANKS = {
    "prorec": "generation ranks them by codes and content, stage I by content",
    "cocorec": "CoCoRec ranks them by codes and content",
    "tssr": "TSSR ranks them by content, from which their rows of the id table start",
}

Launch = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True, kw_only=True)
class Extended:
    """A run with new items.

    Attributes:
        run: The run that it goes on from.
        out: Its folder.
        printed: What the command printed.
        left_alone: Whether the run stayed as it was.
    """

    run: Path
    out: Path
    printed: str
    left_alone: bool


@pytest.fixture(params=APPS)
def name(request: pytest.FixtureRequest) -> str:
    app: str = request.param
    return app


@pytest.fixture(scope="module")
def new_items(week: Any, read: Any) -> list[dict[str, Any]]:
    """The week's new items."""
    return [item for item in read(week.folder)[0] if item["item_id"] in week.new]


@pytest.fixture(scope="module")
def write_items() -> Callable[[Path, list[dict[str, Any]]], Path]:
    """Writes items as JSONL."""

    def write_items(path: Path, items: list[dict[str, Any]]) -> Path:
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        return path

    return write_items


@pytest.fixture(scope="module")
def news(
    data: Path,
    read: Any,
    new_items: list[dict[str, Any]],
    write_items: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A file of the new items, and of two that the runs have."""
    path = tmp_path_factory.mktemp("news") / "new.jsonl"
    return write_items(path, [*read(data)[0][3:5], *new_items])


@pytest.fixture(scope="module")
def extend(launch: Launch) -> Launch:
    """The command `extend` of an app."""

    def extend(name: str, run: Path, items: Path, out: Path) -> subprocess.CompletedProcess[str]:
        same = ["--run", run, "--items", items, "--out", out, "--device", "cpu"]
        return launch(name, "extend", *same)

    return extend


@pytest.fixture(scope="module")
def extended(
    extend: Launch,
    completed: Callable[[str], Path],
    news: Path,
    digests: Callable[[Path], dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Extended]:
    """An app's complete run with the new items."""

    @cache
    def extended(name: str) -> Extended:
        run, out = completed(name), tmp_path_factory.mktemp("extended") / "run"
        before = digests(run)
        done = extend(name, run, news, out)
        assert done.returncode == 0, done.stderr
        assert "items: 8 new, 2 that the run has already, skipped" in done.stderr
        return Extended(run=run, out=out, printed=done.stdout, left_alone=digests(run) == before)

    return extended


def test_it_says_what_ranks_new_items_and_leaves_the_run_alone(name: str, extended: Any) -> None:
    assert extended(name).left_alone
    line = extended(name).printed.splitlines()[0]
    assert line.startswith("8 new items; ")
    assert f"until the next update {RANKS[name]}; the floors text and graph + text by" in line
    assert "popularity, markov, item-knn and graph know no purchase of them and rank them l" in line
    assert ("drift: " in line) == (name != "tssr")
    assert ("recommend answers by " in line) == (name != "prorec")


def test_new_items_are_recommended_at_once(
    name: str, extended: Any, week: Any, launch: Launch, tmp_path: Path
) -> None:
    """To everybody where they alone are allowed; by the model to some in any case."""
    (tmp_path / "allow.txt").write_text(week.new[0])
    output, options = tmp_path / "recs.csv", ["--users", "all", "--allow", tmp_path / "allow.txt"]
    done = launch(name, "recommend", "--run", extended(name).out, *options, "-o", output)
    assert done.returncode == 0, done.stderr
    table = pl.read_csv(output)
    assert len(table) == 300
    assert set(table["item"]) == {week.new[0]}
    loaded = load_run(extended(name).out, device="cpu")
    histories = [items for _, items in list(loaded.histories())[:100]]
    answers = loaded.recommender(loaded.rankings[0]).recommend(histories, top_k=10)
    assert {item.item_id for answer in answers for item in answer.items} & {*week.new}


def test_old_items_are_ranked_as_they_were(name: str, extended: Any, week: Any) -> None:
    """By all that ranks, but for what generates: there a node's children are one more."""
    old, new = (load_run(run, device="cpu") for run in (extended(name).run, extended(name).out))
    assert new.item_ids == [*old.item_ids, *week.new]
    if name != "tssr":
        assert old.codes is not None
        assert new.codes is not None
        assert np.array_equal(new.codes.codes[:100], old.codes.codes)
    histories = [items[:-1] for _, items in list(old.histories())[:60]]
    for ranking in (None, *new.rankings):
        before = old.recommender(ranking).recommend(histories, top_k=10)
        now = new.recommender(ranking).recommend(histories, top_k=10, deny=week.new)
        lists = [[[item.item_id for item in a.items] for a in both] for both in (before, now)]
        if name == "prorec" and ranking in GENERATES:
            shares = [len({*a} & {*b}) / 10 for a, b in zip(*lists, strict=True)]
            assert np.mean(shares) > 0.9
        else:
            assert lists[0] == lists[1]


def test_what_a_run_keeps_is_what_it_read(
    extended: Any,
    data: Path,
    read: Any,
    write: Any,
    news: Path,
    new_items: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    """As if the new items had been appended to the file of items."""
    items, interactions = read(data)
    folder = write(tmp_path / "both", [*items, *new_items], interactions)
    expected = read_data(folder, Columns(), Screen())
    pipeline = load_run(extended("tssr").run, device="cpu").pipeline
    rebuilt = kept_and_new(pipeline, news, Screen())
    assert rebuilt.catalog == expected.catalog
    assert rebuilt.counts == expected.counts
    for name in ("users", "items", "timestamps", "user_ids", "item_ids"):
        both = (getattr(table, name) for table in (rebuilt.interactions, expected.interactions))
        assert np.array_equal(*both)
    assert isinstance(rebuilt.interactions, Interactions)


def test_the_next_monday_reads_all_data(
    name: str, extended: Any, week: Any, update: Launch, tmp_path: Path
) -> None:
    """Codes that the week has published stay."""
    done = update(name, extended(name).out, week.folder, tmp_path / "monday")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("107 items, 0 new, 1 gone; overlap of top 10: ")
    before, now = (load_run(run).codes for run in (extended(name).out, tmp_path / "monday"))
    if name == "tssr":
        assert before is now is None
        return
    assert before is not None
    assert now is not None
    rows = [{item_id: row for row, item_id in enumerate(codes.item_ids)} for codes in (before, now)]
    for item_id in week.new:
        codes = [c.codes[r[item_id]].tolist() for c, r in zip((before, now), rows, strict=True)]
        assert codes[0] == codes[1]


def test_the_same_command_keeps_what_is_complete_and_another_is_refused(
    name: str,
    extended: Any,
    extend: Launch,
    news: Path,
    new_items: list[dict[str, Any]],
    write_items: Callable[..., Path],
    tmp_path: Path,
) -> None:
    run, out = extended(name).run, extended(name).out
    again = extend(name, run, news, out)
    assert (again.returncode, again.stdout) == (0, extended(name).printed)
    assert "floors: complete, kept" in again.stderr
    other = extend(name, run, write_items(tmp_path / "other.jsonl", new_items[:1]), out)
    assert other.returncode == 1
    assert "holds another run (its input files had other contents)" in other.stderr


def test_what_is_no_new_item_is_refused(
    completed: Callable[[str], Path],
    extend: Launch,
    data: Path,
    read: Any,
    write_items: Callable[..., Path],
    tmp_path: Path,
) -> None:
    run, out, items = completed("tssr"), tmp_path / "out", read(data)[0]
    changed = write_items(tmp_path / "changed.jsonl", [{**items[4], "title": "Another"}])
    known = write_items(tmp_path / "known.jsonl", items[:2])
    for path, words in (
        (changed, f"must hold new items, got '{items[4]['item_id']}', which {run} has with other"),
        (known, f"must hold new items, got 2 that {run} has"),
        (tmp_path / "missing.jsonl", f"--items must be a file, got {tmp_path / 'missing.jsonl'}"),
    ):
        done = extend("tssr", run, path, out)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr.splitlines()[-1]
    assert not out.exists()


def test_a_run_of_an_older_version_is_refused_and_completed(
    completed: Callable[[str], Path],
    extend: Launch,
    launch: Launch,
    news: Path,
    data: Path,
    small: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    run = shutil.copytree(completed("tssr"), tmp_path / "old")
    shutil.rmtree(run / "catalogue")
    done = extend("tssr", run, news, tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{run} keeps no catalogue, since an older version made it: repeat" in done.stderr
    again = ("run", "--data", data, "--out", run, "--config", small("tssr"), "--device", "cpu")
    assert launch("tssr", *again).returncode == 0
    assert extend("tssr", run, news, tmp_path / "out").returncode == 0


def test_a_catalogue_is_kept_as_it_is_read(tmp_path: Path) -> None:
    fields = {
        "title": ["a \ud800", None],
        "since": [date(2026, 9, 1), None],
        "price": [Decimal("1.50"), float("nan")],
        "tags": [["x", {"y": 1}], []],
        "blob": [b"\x00", None],
    }
    catalog = Catalog(item_ids=["7", "b\u2028c"], fields=fields, folder=tmp_path)
    setting: Any = SimpleNamespace(
        config=SimpleNamespace(columns=Columns(catalog_item="sku")),
        data=SimpleNamespace(catalog=catalog),
        stage=lambda name, **parts: SimpleNamespace(**parts),
    )
    stage = catalogue_stage(setting)
    facts = stage.fill(tmp_path)
    (tmp_path / "stage.json").write_text(json.dumps(dict(facts)))
    kept = stage.load(tmp_path)
    assert (kept.item_ids, kept.folder, list(kept.fields)) == (
        catalog.item_ids,
        catalog.folder,
        list(fields),
    )
    names = ("title", "since", "price", "tags")
    assert kept.texts(names) == catalog.texts(names)
    assert contents(kept) == contents(catalog)
    digest = (tmp_path / "items.jsonl.gz").read_bytes()
    stage.fill(tmp_path)
    assert (tmp_path / "items.jsonl.gz").read_bytes() == digest


def test_new_items_may_have_other_fields() -> None:
    kept = Catalog(item_ids=["a", "b"], fields={"title": ["A", "B"], "brand": ["x", None]})
    read = Catalog(item_ids=["b", "c"], fields={"colour": [None, "red"], "title": ["B", "C"]})
    both, num_known = with_new(kept, read, "--items new.csv", Path("run"))
    assert num_known == 1
    assert both.item_ids == ["a", "b", "c"]
    assert both.fields == {
        "title": ["A", "B", "C"],
        "brand": ["x", None, None],
        "colour": [None, None, "red"],
    }
    with pytest.raises(ExperimentError, match=r"--items new\.csv must hold new items, got 'a', wh"):
        with_new(kept, Catalog(item_ids=["a"], fields={}), "--items new.csv", Path("run"))
