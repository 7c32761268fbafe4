"""The frame of studies: what a variant's stages are called, and what a study leaves."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from evalrec import Queries, Report, evaluate

from semrec.shared import studies
from semrec.shared.errors import ExperimentError
from semrec.shared.run import Run
from semrec.shared.screen import Screen
from semrec.shared.studies import Outcome, keep_study, study_sections
from semrec.shared.study_options import choose_study, parse_seeds, studies_help, with_values

CONFIG = {
    "seed": 0,
    "text": {"embedding": "lsa", "dim": 8},
    "model": {"dim": 4, "dropout": 0.1, "streams": ("title", "brand")},
}


def run(path: Path) -> Run:
    return Run.begin(path, app="any", config=CONFIG, data="0", screen=Screen())


def changed(**changes: dict[str, object]) -> dict[str, object]:
    return {
        key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value
        for key, value in CONFIG.items()
    }


def test_a_stage_is_named_after_what_it_depends_on_and_differs_in(tmp_path: Path) -> None:
    small = run(tmp_path / "run")
    assert small.stage_name("train", CONFIG, ["seed", "model"]) == "train"
    other = changed(model={"dim": 8, "dropout": 0.2})
    assert small.stage_name("text", other, ["text"]) == "text"
    assert small.stage_name("train", other, ["model.dim"]) == "variants/train,model.dim=8"
    assert (
        small.stage_name("train", {**other, "seed": 3}, ["seed", "model"])
        == "variants/train,seed=3,model.dim=8,model.dropout=0.2"
    )


def test_names_that_a_file_system_would_not_take_stay_apart(tmp_path: Path) -> None:
    small = run(tmp_path / "run")
    names = {
        small.stage_name("text", changed(text={"embedding": name}), ["text"])
        for name in ("/a/b.npy", "/a?b.npy", "/a/" + 300 * "b", "/a/" + 300 * "b" + "c")
    }
    assert len(names) == 4
    assert all(len(name) < 150 and name.count("/") == 1 for name in names)
    streams = changed(model={"streams": ("title",)})
    name = small.stage_name("train", streams, ["model"])
    assert name == small.stage_name("train", streams, ["model"])


def test_a_stage_that_another_process_has_is_waited_for(tmp_path: Path) -> None:
    """Two runs of one folder stand for two processes: each opens the lock for itself."""
    first, second = run(tmp_path / "run"), run(tmp_path / "run")
    built: list[str] = []

    def slow(_: Path) -> dict[str, str]:
        built.append("first")
        time.sleep(0.5)
        return {"by": "first"}

    def other(_: Path) -> dict[str, str]:
        built.append("second")
        return {"by": "second"}

    thread = threading.Thread(target=lambda: first.stage("train", slow))
    thread.start()
    while not built:
        time.sleep(0.01)
    assert second.stage("train", other)["by"] == "first"
    thread.join()
    assert built == ["first"]


def report(seed: int, gain: float) -> Report:
    generator = np.random.default_rng(seed)
    targets = np.arange(40) % 10
    scores = generator.normal(size=(40, 10)).astype(np.float32)
    scores[np.arange(40), targets] += gain
    queries = Queries(
        histories=[np.array([(target + 1) % 10]) for target in targets],
        targets=targets,
        num_items=10,
        cold=np.zeros(40, dtype=bool),
    )
    return evaluate(
        queries, lambda histories: torch.from_numpy(scores[: len(histories)]), ks=(1, 3)
    )


def outcome(**more: object) -> Outcome:
    systems = {"whole": [report(0, 3.0), report(1, 3.0)], "half": [report(2, 0.0)]}
    options = {"title": "a question", "note": "Table 0.", "systems": systems, **more}
    return Outcome(**options)  # type: ignore[arg-type]


def test_a_study_leaves_a_table_and_a_figure_in_the_run(tmp_path: Path) -> None:
    small = run(tmp_path / "run")
    assert study_sections(small) == []
    keep_study(small, "question", outcome(facts={"half": {"seconds": 2.123456}}))
    (section,) = study_sections(small)
    assert section.title == "Study: a question"
    table, chart = section.body
    for words in ("Recall@3, filtered", "whole", "±", "seconds", ">2.123<", ".002"):
        assert words in table
    title, _, note, _, header, rule, whole, half = (
        (small.path / "studies/question.md").read_text(encoding="utf-8").splitlines()
    )
    assert (title, note) == ("# a question", "Table 0.")
    assert header.startswith("| system | seeds | Recall@3, unfiltered | p |")
    assert rule.count("---") == header.count("|") - 1 == whole.count("|") - 1
    assert whole.startswith("| whole | 2 | ")
    assert half.endswith(" | 2.123 |")
    kept = json.loads((small.path / "studies/question.json").read_text(encoding="utf-8"))
    assert kept["facts"] == {"half": {"seconds": 2.123456}}
    assert chart.count("<svg") == 2
    keep_study(small, "question", outcome(places={"whole": 1.0, "half": 0.5}, axis="share"))
    (section,) = study_sections(small)
    assert section.body[1].count("<svg") == 1
    assert "share" in section.body[1]


def test_what_a_command_line_says_is_checked() -> None:
    def ask(_: object, __: object) -> Outcome:
        """Whether it works."""
        return outcome()

    assert choose_study({"ask": ask}, "ask") is ask
    assert "ask: Whether it works." in studies_help({"ask": ask})
    with pytest.raises(typer.BadParameter, match="--values must be unset for ask: no study"):
        with_values({"ask": ask}, "ask", "1")
    with pytest.raises(typer.BadParameter, match="NAME must be one of ask, got 'tell'"):
        choose_study({"ask": ask}, "tell")
    assert parse_seeds(None, 7) == [7]
    assert parse_seeds("3,1", 7) == [3, 1]
    with pytest.raises(typer.BadParameter, match="whole numbers"):
        parse_seeds("1,a", 7)
    with pytest.raises(typer.BadParameter, match="at least 0"):
        parse_seeds("1,-1", 7)
    with pytest.raises(typer.BadParameter, match="different"):
        parse_seeds("1,1", 7)


def test_variants_are_checked_before_the_first_is_trained() -> None:
    trained: list[str] = []

    def variant(name: str, *, suits: bool) -> Any:
        def check(data: str) -> None:
            if not suits:
                raise ValueError(f"{name} must suit {data}")

        stage = SimpleNamespace(result=lambda: trained.append(name))
        return SimpleNamespace(
            config=SimpleNamespace(check=check),
            data="the data",
            run=SimpleNamespace(screen=Screen()),
            varied=lambda seed: stage,
        )

    first, second = variant("first", suits=True), variant("second", suits=False)
    with pytest.raises(ValueError, match="second must suit the data"):
        studies.tested({"first": first, "second": second}, [0], lambda stage: stage)
    assert trained == []
    studies.tested({"first": first}, [0, 1], lambda stage: stage)
    assert trained == ["first", "first"]


def test_a_damaged_study_is_not_shown(tmp_path: Path) -> None:
    small = run(tmp_path / "run")
    keep_study(small, "sizes", outcome())
    path = small.path / "studies/sizes.json"
    for content in (path.read_text().replace("Table 0", "Table 1"), "{}", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(ExperimentError, match=r"studies/sizes\.json"):
            study_sections(small)
