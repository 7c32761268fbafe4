"""Complete runs, as a notebook opens them, and as `recommend --users` answers from them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from evalrec import leave_one_out, read_interactions

import semrec
from semrec.shared.errors import ExperimentError
from semrec.shared.files import read_json, write_sealed

Launch = Callable[..., subprocess.CompletedProcess[str]]
OfApp = Callable[[str], Path]

APPS = ["prorec", "cocorec", "tssr"]
FLOORS = ["popularity", "markov", "item-knn", "graph", "text", "graph + text"]
SYSTEMS = {
    "prorec": [
        "PRORec",
        "PRORec, joined",
        "stage I (SASRec, ids and text)",
        "SASRec, ids alone",
    ],
    "cocorec": ["CoCoRec", "SASRec, ids", "SASRec, text"],
    "tssr": ["TSSR", "SASRec, ids", "SASRec, content", "SASRec, ids and content"],
}


@pytest.fixture(params=APPS)
def name(request: pytest.FixtureRequest) -> str:
    app: str = request.param
    return app


def users_of(path: Path) -> dict[str, list[str]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["user"]: [item["item_id"] for item in line["items"]] for line in lines}


def test_rankings_rank_as_they_were_tested(name: str, completed: OfApp, data: Path) -> None:
    """Each row of the tables answers the test's users with the lists that were tested."""
    run = semrec.load_run(completed(name), device="cpu")
    assert list(run.rankings) == list(run.reports)
    assert sorted(run.rankings) == sorted(SYSTEMS[name] + FLOORS)
    items = run.item_ids
    table = read_interactions(data / "interactions.parquet", item_ids=items)
    queries = leave_one_out(table).test
    histories = [[items[row] for row in history] for history in queries.histories]
    for ranking in run.rankings:
        answers = run.recommender(ranking).recommend(histories, top_k=10)
        hits = [
            items[target] in [item.item_id for item in answer.items]
            for answer, target in zip(answers, queries.targets, strict=True)
        ]
        tested = run.reports[ranking].per_user("recall@10", "unfiltered")
        # Floors score many items alike: which of them is the tenth is another rule's.
        share = 0.9 if ranking in FLOORS else 0.99
        assert (np.array(hits) == np.asarray(tested, dtype=bool)).mean() >= share, ranking


@pytest.mark.parametrize("backend", ["polars", "pandas", "pyarrow"])
def test_a_loaded_run_answers_frames_by_frames(backend: str, completed: OfApp) -> None:
    run = semrec.load_run(completed("tssr"), device="cpu")
    first, second, third, *_ = run.item_ids
    bought = pl.DataFrame(
        {
            "customer": ["B", "A", "B", "A"],
            "sku": [third, second, "unknown", first],
            "day": [1, 2, 2, 1],
        }
    )
    as_asked = {"pandas": bought.to_pandas, "pyarrow": bought.to_arrow}.get(backend, bought.lazy)
    frame = run.recommend_frame(
        as_asked(), user="customer", item="sku", time="day", top_k=4, backend=backend
    )
    assert type(frame).__module__.startswith(backend)
    answers = run.recommender().recommend(
        [[third, "unknown"], [first, second]], top_k=4, exclude_seen=True
    )
    expected = [
        (user, best.item_id, rank, best.score)
        for user, answer in zip("BA", answers, strict=True)
        for rank, best in enumerate(answer.items, start=1)
    ]
    assert len(expected) == 8
    table = (
        pl.DataFrame(frame)
        if backend == "pandas"
        else pl.from_arrow(frame)
        if backend == "pyarrow"
        else frame
    )
    assert table.columns == ["user", "item", "rank", "score"]
    assert table.rows() == expected


def test_a_loaded_run_has_what_it_was_made_of(name: str, completed: OfApp, data: Path) -> None:
    run = semrec.load_run(completed(name), device="cpu")
    assert run.app == name
    assert repr(run).startswith(f"LoadedRun('{completed(name)}', app='{name}', rankings=[")
    lines = [json.loads(line) for line in (data / "items.jsonl").read_text().splitlines()]
    assert run.item_ids == [line["item_id"] for line in lines]
    assert run.titles[run.item_ids[3]] == lines[3]["title"]
    assert "items" in run.vectors
    assert all(len(vectors) == 100 for vectors in run.vectors.values())
    assert all(np.isfinite(vectors).all() for vectors in run.vectors.values())
    assert (run.codes is None) == (name == "tssr")
    if run.codes is not None:
        assert run.codes.codes.shape[0] == 100
    assert run.config.seed == 0
    table = pl.read_parquet(data / "interactions.parquet")
    histories = dict(run.histories())
    assert len(histories) == 300
    assert sum(map(len, histories.values())) == table.height
    first = table["user_id"][0]
    had = table.filter(pl.col("user_id") == first).sort("timestamp")["item_id"].to_list()
    assert histories[first] == had
    with pytest.raises(ExperimentError, match=r"name must be one of .*'graph', .*got 'best'"):
        run.recommender("best")


def test_the_command_answers_all_users_as_the_loaded_run(
    name: str, launch: Launch, completed: OfApp, tmp_path: Path
) -> None:
    output = tmp_path / "recs.jsonl"
    done = launch(
        *(name, "recommend", "--run", completed(name), "--users", "all", "-o", output),
        *("--per-user", 7, "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    assert "recs.jsonl: 300 users" in done.stdout
    run = semrec.load_run(completed(name), device="cpu")
    histories = dict(run.histories())
    answers = run.recommender().recommend(histories.values(), top_k=7)
    expected = {
        user: [item.item_id for item in answer.items]
        for user, answer in zip(histories, answers, strict=True)
    }
    assert users_of(output) == expected


def test_answers_are_diverse_by_codes_and_by_categories(
    name: str, launch: Launch, completed: OfApp, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "recs.jsonl"
    command = (name, "recommend", "--run", completed(name), "--users", "all", "-o", output)
    lines = [json.loads(line) for line in (data / "items.jsonl").read_text().splitlines()]
    groups = {line["item_id"]: str(line["categories"]) for line in lines}
    by_category = (*command, "--diversify", "categories", "--per-group", 1, "--top-k", 3)
    done = launch(*by_category, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    for items in users_of(output).values():
        assert max(Counter(groups[item] for item in items).values()) == 1
    done = launch(*command, "--diversify", "codes", "--force", "--device", "cpu")
    if name == "tssr":
        assert "--diversify must be categories: a run of tssr has no codes" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    codes = semrec.load_run(completed(name), device="cpu").codes
    assert codes is not None
    first = dict(zip(codes.item_ids, codes.codes[:, 0].tolist(), strict=True))
    for items in users_of(output).values():
        assert max(Counter(first[item] for item in items).values()) <= 2


def test_a_run_that_keeps_no_users_is_refused_and_completed(
    name: str, launch: Launch, completed: OfApp, data: Path, small: OfApp, tmp_path: Path
) -> None:
    run, output = tmp_path / "run", tmp_path / "recs.csv"
    shutil.copytree(completed(name), run)
    shutil.rmtree(run / "users")  # as an older version leaves it
    command = (name, "recommend", "--run", run, "--users", "all", "-o", output, "--device", "cpu")
    done = launch(*command)
    assert done.returncode == 1
    assert "keeps nothing of its users, since an older version made it: repeat" in done.stderr
    again = ("run", "--data", data, "--out", run, "--config", small(name), "--device", "cpu")
    assert launch(name, *again).returncode == 0
    assert launch(*command).returncode == 0
    assert pl.read_csv(output)["user"].n_unique() == 300


def test_only_runs_are_loaded(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"run\.json is missing: is this the folder of a run"):
        semrec.load_run(tmp_path)


def test_a_run_of_a_version_without_a_key_is_the_run_with_its_default(
    completed: OfApp,
    data: Path,
    small: OfApp,
    launch: Launch,
    digests: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    """An upgrade trains nothing anew, and leaves no run behind that cannot answer."""
    path = tmp_path / "run"
    shutil.copytree(completed("prorec"), path)
    identity = read_json(path / "run.json", sealed=True)
    del identity["config"]["stage_one"]["alignment_among"]
    write_sealed(path / "run.json", identity)
    before = digests(path)
    loaded, original = (semrec.load_run(run, device="cpu") for run in (path, completed("prorec")))
    histories = [loaded.item_ids[:2], loaded.item_ids[5:8]]
    assert loaded.recommender().recommend(histories) == original.recommender().recommend(histories)
    begun = ["prorec", "run", "--data", data, "--out", path, "--device", "cpu", "--config"]
    done = launch(*begun, small("prorec"))
    assert done.returncode == 0, done.stderr
    assert {name: digest for name, digest in digests(path).items() if "stage" in name} == {
        name: digest for name, digest in before.items() if "stage" in name
    }
    other = tmp_path / "other.toml"
    settings = small("prorec").read_text()
    assert settings.count("[stage_one]\n") == 1
    other.write_text(settings.replace("[stage_one]\n", '[stage_one]\nalignment_among = "batch"\n'))
    refused = launch(*begun, other)
    assert refused.returncode == 1
    assert "stage_one.alignment_among is 'drawn' there and 'batch' now" in refused.stderr
