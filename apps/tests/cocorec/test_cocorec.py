"""CoCoRec: the app as its user runs it. What all apps promise is in test_frame.py."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evalrec import evaluate
from genrec import dense_scorer

from semrec.cocorec import app, studies
from semrec.cocorec.system import padded, reduction
from semrec.shared.configuration import load_config

Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def complete(completed: Callable[[str], Path]) -> Path:
    return completed("cocorec")


@pytest.fixture
def config(small: Callable[[str], Path]) -> Path:
    return small("cocorec")


def metrics(run: Path) -> dict[str, object]:
    return json.loads((run / "metrics.json").read_text())


def test_a_run_leaves_what_it_promises(complete: Path) -> None:
    document = metrics(complete)
    models = {"CoCoRec", "SASRec, ids", "SASRec, text"}
    assert models | {"popularity", "graph + text"} <= set(document["test"])
    assert all(report["counts"]["users"] == 300 for report in document["test"].values())
    assert document["codes"]["codebook_sizes"] == [8] * 6
    page = (complete / "report.html").read_text()
    assert "categories 2" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_studies_go_into_the_report(
    complete: Path, data: Path, config: Path, launch: Launch
) -> None:
    same = ["--data", data, "--out", complete, "--config", config]
    done = launch("cocorec", "study", "code-type", *same)
    assert done.returncode == 0, done.stderr
    kept = {path.name for path in (complete / "variants").iterdir()}
    sources = {
        f"{stage},codes.source={name}"
        for stage in ("tokenizer", "cocorec")
        for name in ("random", "sasrec", "mixed")
    }
    assert kept == sources
    for name, texts in {"random": 0, "sasrec": 0, "mixed": 3}.items():
        folders = list((complete / f"variants/tokenizer,codes.source={name}").glob("*/"))
        assert ("text" in {folder.name for folder in folders}) == bool(texts)

    done = launch("cocorec", "study", "ablation", *same)
    assert done.returncode == 0, done.stderr
    added = {path.name for path in (complete / "variants").iterdir()} - kept
    assert added == {
        f"cocorec,model.{change}" for change in ("alpha=0.0", "beta=0.0", "read_views=False")
    }
    page = (complete / "report.html").read_text()
    assert "Study: ablation" in page
    assert "Study: source of the codes" in page


def test_random_codes_stand_beside_those_of_any_quantizer(
    complete: Path, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(studies, "tested", lambda variants, *_: variants)
    config = load_config(app.APP.config, None)
    config = replace(config, codes=replace(config.codes, quantizer="rq"))
    pipeline = app.APP.open(data, tmp_path / "run", config, "cpu")
    for study, name in (("ablation", "random codes"), ("code-type", "random codes")):
        variants: Any = studies.STUDIES[study](pipeline, [0]).systems
        assert variants[name].config.codes.source == "random"


def test_other_models_read_what_they_can_read(
    data: Path, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipeline = app.APP.open(data, tmp_path / "run", load_config(app.APP.config, config), "cpu")
    monkeypatch.setattr(studies, "tested", lambda variants, *_: variants)
    rows: Any = studies.backbones(pipeline, [0]).systems
    text = {f"{name}, ids and text" for name in ("FDSA", "UniSRec", "S3Rec", "TedRec")}
    assert text | {"S3Rec, ids", "UniSRec, text", "VQRec, codes of the text"} <= set(rows)
    # Its codes are those of the text, whatever the run's own are made of.
    random_codes = pipeline.varied(codes={"source": "random"})
    rows = studies.backbones(random_codes, [0]).systems
    assert rows["VQRec, codes of the text"].config.codes.source == "text"
    assert rows["TedRec, ids and text"].config.codes.source == "random"

    report = pipeline.baseline("content", "vqrec").result()
    model: Any = pipeline.trained_baseline("content", "vqrec")
    assert model.item_encoder.codes.tolist() == pipeline.codes().codes.tolist()
    score = dense_scorer(model, pipeline.config.model.history_length)
    again = evaluate(pipeline.data.split.test, score, ks=pipeline.config.evaluation.ks)
    assert again.metrics == report.metrics


def test_what_is_deployed_answers_as_the_whole_model(
    complete: Path, data: Path, config: Path, launch: Launch
) -> None:
    same = ["--data", data, "--out", complete, "--config", config]
    done = launch("cocorec", "study", "deploy", *same)
    assert done.returncode == 0, done.stderr
    study = json.loads((complete / "studies/deploy.json").read_text())
    gap = float(study["note"].rsplit(" ", 1)[1].rstrip("."))
    assert gap < 1e-4
    assert set(study["facts"]) == {"CoCoRec, deployed", "SASRec, ids"}
    assert study["facts"]["SASRec, ids"]["times SASRec"] == 1
    assert "CoCoRec, fusing the items for each batch: " in study["note"]


def test_a_narrow_view_is_filled_up_with_zeros() -> None:
    x = np.random.default_rng(0).normal(size=(20, 5))
    components = padded(reduction(x, 8, whiten=True).transform(x), 8)
    assert components.shape == (20, 8)
    assert not components[:, 5:].any()
    np.testing.assert_allclose(components[:, :5].std(axis=0, ddof=1), 1, rtol=1e-4)
