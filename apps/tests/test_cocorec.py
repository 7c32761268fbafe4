"""CoCoRec: the app as its user runs it. The model's own tests are in test_cocorec_model.py."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cocorec_stages import reduced
from evalrec import write_synthetic

APP = Path(__file__).resolve().parents[1] / "cocorec.py"
SMALL = """
[views]
embedding = "lsa"
dim = 16
[codes]
codes_per_view = 2
codebook_size = 8
[model]
dim = 16
feedforward_dim = 32
fusion_layers = 1
num_layers = 1
batch_size = 64
epochs = 3
warmup_steps = 10
[item_ids]
epochs = 2
[evaluation]
validation_users = 100
"""


def cocorec(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(APP), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(
        tmp_path_factory.mktemp("cocorec") / "data", num_items=100, num_users=300, seed=3
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cocorec_config") / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def complete(data: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cocorec_run") / "run"
    done = cocorec("run", "--data", data, "--out", out, "--config", config)
    assert done.returncode == 0, done.stderr
    assert "CoCoRec" in done.stdout
    return out


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


def test_recommend_answers_from_the_run_alone(complete: Path, data: Path, tmp_path: Path) -> None:
    lines = (data / "items.jsonl").read_text().splitlines()
    ids = [json.loads(line)["item_id"] for line in lines]
    source, target = tmp_path / "histories.jsonl", tmp_path / "recs.jsonl"
    histories = [ids[:4], [ids[7]], []]
    source.write_text("".join(json.dumps({"history": h}) + "\n" for h in histories))
    command = ["recommend", "--run", complete, "--input", source, "--output", target]
    done = cocorec(*command, "--top-k", 7, "--exclude-seen")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [answer["popular"] for answer in answers] == [False, False, True]
    for history, answer in zip(histories, answers, strict=True):
        found = [item["item_id"] for item in answer["items"]]
        assert len(set(found)) == 7
        assert set(found) <= set(ids) - set(history)


def test_studies_go_into_the_report(complete: Path, data: Path, config: Path) -> None:
    same = ["--data", data, "--out", complete, "--config", config]
    done = cocorec("study", "code-type", *same)
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

    done = cocorec("study", "ablation", *same)
    assert done.returncode == 0, done.stderr
    added = {path.name for path in (complete / "variants").iterdir()} - kept
    assert added == {
        f"cocorec,model.{change}" for change in ("alpha=0.0", "beta=0.0", "read_views=False")
    }
    page = (complete / "report.html").read_text()
    assert "Study: ablation" in page
    assert "Study: what the codes are made of" in page


def test_what_is_deployed_answers_as_the_whole_model(
    complete: Path, data: Path, config: Path
) -> None:
    same = ["--data", data, "--out", complete, "--config", config]
    done = cocorec("study", "deploy", *same)
    assert done.returncode == 0, done.stderr
    found = json.loads((complete / "studies/deploy.json").read_text())
    gap = float(found["note"].rsplit(" ", 1)[1].rstrip("."))
    assert gap < 1e-4
    assert set(found["facts"]) >= {"CoCoRec, deployed", "SASRec, ids"}


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_result(
    complete: Path, data: Path, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    arguments = ["run", "--data", data, "--out", out, "--config", config]
    log = out / "cocorec/log.jsonl"
    with subprocess.Popen(
        [sys.executable, str(APP), *map(str, arguments)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 600
        while not (log.exists() and log.read_text().strip()):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (out / "metrics.json").exists()
    again = cocorec(*arguments)
    assert again.returncode == 0, again.stderr
    assert metrics(out) == metrics(complete)


def test_bad_configurations_get_one_sentence(data: Path, tmp_path: Path) -> None:
    for text, words in {
        "[views]\ndim = 64\n": "views.dim must be model.dim",
        '[views]\nviews = ["title", "title"]\n': "views must be different",
        '[codes]\nquantizer = "opq"\n': "quantizer must be",
        "[model]\nmask_ratio = 0.0\n": "mask_ratio must be in",
    }.items():
        path = tmp_path / "wrong.toml"
        path.write_text(text)
        done = cocorec("run", "--data", data, "--out", tmp_path / "run", "--config", path)
        assert done.returncode == 1
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_narrow_view_is_filled_up_with_zeros() -> None:
    x = np.random.default_rng(0).normal(size=(20, 5))
    found = reduced(x, 8, whiten=True)
    assert found.shape == (20, 8)
    assert not found[:, 5:].any()
    np.testing.assert_allclose(found[:, :5].std(axis=0, ddof=1), 1, rtol=1e-4)
