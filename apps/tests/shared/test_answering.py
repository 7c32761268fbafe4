"""What answers, what is said of who won, and the card that a report begins with."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from evalrec import MODES, Estimate, Queries, Report, evaluate

from semrec.shared.configuration import build_config
from semrec.shared.findings import verdict_section
from semrec.shared.floor_recommender import FloorRecommender
from semrec.shared.stages import load_floor
from semrec.shared.verdict import Verdict, on_test, on_validation

Launch = Callable[..., subprocess.CompletedProcess[str]]
OfApp = Callable[[str], Path]

APPS = ("cocorec", "tssr")


def app_of(name: str) -> Any:
    return importlib.import_module(f"semrec.{name}.app").APP


def facts(run: Path, stage: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / stage / "stage.json").read_text())
    return document


@pytest.mark.parametrize("name", APPS)
def test_the_best_on_validation_answers(name: str, completed: OfApp) -> None:
    run = completed(name)
    answer, title = facts(run, "answer"), app_of(name).title
    for mode, key in (("unfiltered", "ndcg@10"), ("filtered", "ndcg@10 filtered")):
        figures = answer["validation"][mode]
        assert figures[title] == facts(run, name)["validation"][key]
        assert set(figures) == {title, *facts(run, "floors")["parameters"]}
        assert answer["answers"][mode] == max(figures, key=lambda row: figures[row])
    assert app_of(name).reopen(run, "cpu").answering() == answer["answers"]


@pytest.mark.parametrize(
    ("unfiltered", "filtered", "words"),
    [
        ("TSSR", "TSSR", "TSSR"),
        ("graph", "graph", "graph"),
        ("popularity", "TSSR", "popularity, and TSSR with --exclude-seen"),
        ("TSSR", "text", "TSSR, and text with --exclude-seen"),
    ],
)
def test_each_mode_has_its_recommender(
    unfiltered: str, filtered: str, words: str, completed: OfApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = app_of("tssr").reopen(completed("tssr"), "cpu")
    names = {"unfiltered": unfiltered, "filtered": filtered}
    monkeypatch.setattr(type(pipeline), "answering", lambda _: names)
    assert pipeline.answers_by == words
    recommender, histories = pipeline.recommender(), [pipeline.item_ids[:5]]
    for mode, row in names.items():
        alone: Any = pipeline.recommender_of(pipeline.model_stage)
        if row != "TSSR":
            floor = load_floor(pipeline, row)
            ids, counts = pipeline.item_ids, pipeline.item_counts
            alone = FloorRecommender(floor, ids, popularity=counts)
        options = {"exclude_seen": mode == "filtered", "deny": pipeline.item_ids[7:9], "top_k": 4}
        answers = recommender.recommend(histories, **options)
        assert answers == alone.recommend(histories, **options)


@pytest.mark.parametrize("name", APPS)
def test_floors_are_judged_on_the_users_that_stop_the_training(
    name: str, completed: OfApp, data: Path
) -> None:
    app, run = app_of(name), completed(name)
    config = build_config(app.config, json.loads((run / "run.json").read_text())["config"], "")
    pipeline = app.open(data, run, config, "cpu")
    assert len(pipeline.validation) == 100 < len(pipeline.data.split.validation)
    figures = facts(run, "answer")["validation"]
    for row in facts(run, "floors")["parameters"]:
        report = evaluate(pipeline.validation, load_floor(pipeline, row).score, ks=(10,))
        for mode in MODES:
            mean = float(report.per_user("ndcg@10", mode).mean())
            assert figures[mode][row] == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("name", APPS)
def test_the_model_answers_whatever_wins_where_that_is_set(
    name: str, completed: OfApp, data: Path, tmp_path: Path
) -> None:
    app, out = app_of(name), tmp_path / "run"
    shutil.copytree(completed(name), out)
    config = build_config(app.config, json.loads((out / "run.json").read_text())["config"], "")
    pipeline = app.open(data, out, config, "cpu").varied(evaluation={"answer": "model"})
    assert pipeline.answer.result() == {"unfiltered": app.title, "filtered": app.title}
    assert (out / "variants/answer,evaluation.answer=model/stage.json").exists()


@pytest.mark.parametrize("name", APPS)
def test_a_run_from_before_there_was_a_choice_answers_by_its_model(
    name: str, completed: OfApp, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(completed(name), out)
    document = json.loads((out / "run.json").read_text())
    del document["config"]["evaluation"]["answer"], document["sha256"]
    (out / "run.json").write_text(json.dumps(document | {"format": 1}))
    shutil.rmtree(out / "answer")
    pipeline = app_of(name).reopen(out, "cpu")
    assert pipeline.answers_by == app_of(name).title
    assert not isinstance(pipeline.recommender(), FloorRecommender)


def test_a_floor_answers_as_its_scores_say(
    completed: OfApp, launch: Launch, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(completed("tssr"), out)
    pipeline = app_of("tssr").reopen(out, "cpu")
    ids = pipeline.item_ids
    histories = [[ids[3], ids[7], ids[11]], [ids[0]]]
    for row in facts(out, "floors")["parameters"]:
        floor = load_floor(pipeline, row)
        recommender = FloorRecommender(floor, ids, popularity=pipeline.item_counts)
        scores = floor.score([np.array([3, 7, 11]), np.array([0])])
        for answer, score in zip(recommender.recommend(histories, top_k=20), scores, strict=True):
            order = sorted(
                range(len(ids)), key=lambda i: (-float(score[i]), -int(pipeline.item_counts[i]), i)
            )
            assert [item.item_id for item in answer.items] == [ids[i] for i in order[:20]]
        (unseen,) = recommender.recommend(histories[:1], top_k=100, exclude_seen=True)
        assert {item.item_id for item in unseen.items} == set(ids) - set(histories[0])
        (allowed,) = recommender.recommend(histories[:1], allow=ids[20:25], deny=[ids[22]])
        assert {item.item_id for item in allowed.items} == set(ids[20:25]) - {ids[22]}
        (cold,) = recommender.recommend([[]])
        assert cold.popular


@pytest.mark.parametrize("name", ["prorec", *APPS])
def test_the_first_line_says_what_won(
    name: str, completed: OfApp, small: OfApp, data: Path, launch: Launch
) -> None:
    run = completed(name)
    done = launch(
        name, "run", "--data", data, "--out", run, "--config", small(name), "--device", "cpu"
    )
    first = done.stdout.splitlines()[0]
    mode = "all items" if name == "prorec" else "seen items filtered"
    assert re.match(r"(a floor wins, best floor|.* \.\d{4}, best floor) \.\d{4}", first)
    assert f": NDCG@10 of 100 validation users, {mode}" in first
    if name != "prorec":
        answers = app_of(name).reopen(run, "cpu").answers_by
        assert first.endswith(f"; answers: {answers}")


def test_a_run_from_before_floors_were_validated_says_so() -> None:
    floors = SimpleNamespace(complete=lambda: {"parameters": {"graph": {}}})
    pipeline: Any = SimpleNamespace(floors=floors)
    assert on_validation(pipeline).endswith("and did not validate floors: see the test")


def report_of(ranks: list[int]) -> Report:
    users = len(ranks)
    queries = Queries(
        histories=[np.array([0])] * users,
        targets=np.full(users, 1),
        num_items=40,
        cold=np.zeros(users, dtype=bool),
    )
    lists = np.full((users, 20), -1)
    for user, rank in enumerate(ranks):
        if rank <= 20:
            lists[user] = np.delete(np.arange(2, 23), rank - 1)[:20]
            lists[user, rank - 1] = 1
    return evaluate(queries, lists, ks=(10, 20))


@pytest.mark.parametrize(
    ("model", "floor", "headline"),
    [
        ([1] * 40, [5] * 40, "ours wins"),
        ([5] * 40, [1] * 40, "A floor wins: graph"),
        ([1, 3] * 20, [3, 1] * 20, "No clear difference between ours and the floor graph"),
    ],
)
def test_the_verdict_says_plainly_who_won(
    model: list[int], floor: list[int], headline: str
) -> None:
    reports = {
        "worse": report_of([9] * 40),
        "ours": report_of(model),
        "popularity": report_of([8] * 40),
        "graph": report_of(floor),
    }
    pipeline: Any = SimpleNamespace(judged_mode="filtered", systems=lambda: ["worse", "ours"])
    verdict = on_test(pipeline, reports)
    assert (verdict.model, verdict.floor) == ("ours", "graph")
    assert verdict.headline == headline
    section = verdict_section(verdict, "graph")
    assert section.title == headline
    assert "recommend answers by graph" in section.note
    assert "NDCG@10 on the test, seen items filtered: ours " in section.body[0]
    marked = section.body[1]  # the winner's bar, and that one only, is in the first colour
    colours = re.findall(r"fill: var\(--(series-\d)\)", marked)
    assert colours == (
        ["series-0", "series-1"] if verdict.winner == "ours" else ["series-1", "series-0"]
    )


def test_of_equals_the_floor_wins_and_nothing_is_told_apart() -> None:
    same = Estimate(0.5, 0.4, 0.6)
    verdict = Verdict(
        model="ours",
        floor="graph",
        metric="ndcg@10",
        mode="filtered",
        figures={"ours": same, "graph": same},
        difference=Estimate(0.0, 0.0, 0.0),
    )
    assert verdict.winner == "graph"
    assert verdict.headline.startswith("No clear difference between ")


@pytest.mark.parametrize("name", ["prorec", *APPS])
def test_a_report_begins_with_the_verdict_and_says_what_made_it(
    name: str, completed: OfApp
) -> None:
    run = completed(name)
    page = (run / "report.html").read_text()
    opening = page[page.index("<section>") : page.index("</section>")]
    assert re.search(r"<h2>(A floor wins: |.* wins<|No clear difference between .*<)", opening)
    assert opening.count("<svg") == 1
    made = json.loads((run / "environment.json").read_text())["made_by"]
    assert made["command"].startswith(f"{name}.py run --data ")
    for value in made.values():
        assert value.replace("'", "&#x27;") in page
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", made["begun"])
    assert made["begun"] not in (run / "metrics.json").read_text()
    (marked,) = re.findall(r'<tr class="model"><th>([^<]*)</th>', page)
    means = {
        row: report["metrics"]["unfiltered" if name == "prorec" else "filtered"]["ndcg@10"]["mean"]
        for row, report in json.loads((run / "metrics.json").read_text())["test"].items()
    }
    assert means[marked] == max(means.values())


def test_popular_items_break_ties() -> None:
    class Flat:
        parameters: Mapping[str, float] = MappingProxyType({})

        def score(self, histories: Any) -> torch.Tensor:
            return torch.zeros(len(histories), 4)

    counts = torch.tensor([1, 5, 0, 5])
    recommender = FloorRecommender(Flat(), ["a", "b", "c", "d"], popularity=counts)
    (answer,) = recommender.recommend([["a"]], top_k=10)
    assert [item.item_id for item in answer.items] == ["b", "d", "a", "c"]
