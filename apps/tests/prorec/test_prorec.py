"""PRORec as its user runs it, on synthetic data. What all apps promise is in test_frame.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def complete(completed: Callable[[str], Path]) -> Path:
    return completed("prorec")


def metrics(run: Path) -> dict[str, object]:
    return json.loads((run / "metrics.json").read_text())


def test_a_run_leaves_what_it_promises(complete: Path) -> None:
    test = metrics(complete)["test"]
    assert {"PRORec", "popularity", "markov", "graph", "graph + text"} <= set(test)
    for report in test.values():
        assert report["counts"]["users"] == 300
        for mode in ("unfiltered", "filtered"):
            assert 0 <= report["metrics"][mode]["recall@10"]["mean"] <= 1
    page = (complete / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("<svg") >= 5
    resolved = json.loads((complete / "run.json").read_text())["config"]
    assert resolved["stage_two"]["num_encoder_layers"] == 1
    assert resolved["codes"]["codebook_size"] == 8


@pytest.mark.slow
def test_recommend_answers_by_the_joined_scores_of_a_run_that_joins(
    launch: Launch, data: Path, small: Callable[[str], Path], tmp_path: Path
) -> None:
    config = tmp_path / "joining.toml"
    joining = "graph_text = true\nstage_one = true\nseen = true\ncandidates = 5\n"
    config.write_text(small("prorec").read_text() + "[joining]\n" + joining)
    out = tmp_path / "run"
    done = launch("prorec", "run", "--data", data, "--out", out, "--config", config)
    assert done.returncode == 0, done.stderr
    assert "PRORec, joined" in done.stdout
    assert any(json.loads((out / "joined/stage.json").read_text())["weights"].values())

    bought = pl.read_parquet(data / "interactions.parquet").sort("timestamp", maintain_order=True)
    users = bought.group_by("user_id", maintain_order=True).agg("item_id")["item_id"].to_list()
    source, target = tmp_path / "histories.jsonl", tmp_path / "recs.jsonl"
    source.write_text("".join(json.dumps({"history": items[:-1]}) + "\n" for items in users))
    done = launch("prorec", "recommend", "--run", out, "--input", source, "--output", target)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line)["items"] for line in target.read_text().splitlines()]
    hits = [
        items[-1] in {item["item_id"] for item in answer}
        for items, answer in zip(users, answers, strict=True)
    ]
    report = metrics(out)["test"]["PRORec, joined"]
    assert sum(hits) / len(hits) == pytest.approx(
        report["metrics"]["unfiltered"]["recall@10"]["mean"], abs=0.004
    )


@pytest.mark.parametrize("stage", ["data", "floors", "stage_one", "stage_two", "joined"])
def test_a_run_whose_stage_was_removed_does_not_answer(
    launch: Launch, complete: Path, tmp_path: Path, stage: str
) -> None:
    out = shutil.copytree(complete, tmp_path / "run")
    shutil.rmtree(out / stage)
    done = launch("prorec", "recommend", "--run", out, "--history", "", "--device", "cpu")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: {out / stage} is missing or damaged: repeat the command that began the run\n"
    )
    assert not (out / stage).exists()


@pytest.mark.slow
def test_the_demo_beats_the_floors_without_text(launch: Launch, tmp_path: Path) -> None:
    done = launch("prorec", "demo", "--out", tmp_path / "demo", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"\nserve it: prorec serve --run {tmp_path / 'demo'}\n")
    test = metrics(tmp_path / "demo")["test"]
    reached = {n: r["metrics"]["unfiltered"]["recall@10"]["mean"] for n, r in test.items()}
    for floor in ("popularity", "markov", "graph"):
        assert reached["PRORec"] > reached[floor], reached
