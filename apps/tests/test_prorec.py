"""PRORec as its user runs it, on synthetic data; in processes of its own where they are ended."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pytest
from evalrec import DataError, write_synthetic
from experiment import guarded
from genrec import ArtifactError
from prorec import APP as PRORec
from prorec import app
from prorec_model import Config
from semtok import CatalogError

APP = Path(__file__).resolve().parents[1] / "prorec.py"
SMALL = """
[text]
embedding = "lsa"
dim = 16
[stage_one]
dim = 16
num_heads = 2
epochs = 4
batch_size = 64
[codes]
codebook_size = 8
[stage_two]
dim = 16
num_heads = 2
feedforward_dim = 32
num_decoder_layers = 1
epochs = 4
warmup_steps = 10
[evaluation]
num_beams = 30
validation_users = 100
"""


def prorec(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line, in this process: importing torch takes longer than most of the tests."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        mock.patch.object(sys, "argv", [str(APP), *map(str, arguments)]),
    ):
        try:
            guarded(app, (ArtifactError, CatalogError, DataError))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(
        tmp_path_factory.mktemp("prorec") / "data", num_items=100, num_users=300, seed=3
    )


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def complete(data: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "complete"
    done = prorec("run", "--data", data, "--out", out, "--config", config, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    assert "PRORec" in done.stdout
    return out


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


def test_a_complete_run_is_not_run_again(complete: Path, data: Path, config: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in complete.glob("*/stage.json")}
    again = prorec("run", "--data", data, "--out", complete, "--config", config, "--device", "cpu")
    assert again.returncode == 0, again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in complete.glob("*/stage.json")}
    assert again.stderr.count("complete, kept") == len(before)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage_one", "stage_two"])
def test_a_killed_run_continues_to_the_same_result(
    stage: str, complete: Path, data: Path, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    arguments = ["run", "--data", data, "--out", out, "--config", config, "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, str(APP), *map(str, arguments)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        wait_for(out / stage / "log.jsonl", process)
        process.send_signal(signal.SIGKILL)
    assert not (out / "metrics.json").exists()
    again = prorec(*arguments)
    assert again.returncode == 0, again.stderr
    assert metrics(out) == metrics(complete)


def test_ctrl_c_says_how_to_go_on(data: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    arguments = ["run", "--data", data, "--out", out, "--config", config, "--device", "cpu"]
    # A shell that runs the tests in the background has them, and so this, ignore SIGINT.
    code = (
        "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"sys.path.insert(0, {str(APP.parent)!r}); runpy.run_path({str(APP)!r}, None, '__main__')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        wait_for(out / "stage_one", process)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        shown = process.stderr.read()
    assert process.returncode == 130
    assert "goes on from here" in shown
    assert "Traceback" not in shown


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not (path.exists() and (path.is_dir() or path.read_text().strip())):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def item_ids(data: Path) -> list[str]:
    lines = (data / "items.jsonl").read_text().splitlines()
    return [json.loads(line)["item_id"] for line in lines]


def test_recommend_answers_one_history(complete: Path, data: Path) -> None:
    ids = item_ids(data)
    done = prorec("recommend", "--run", complete, "--history", ",".join(ids[:3]), "--top-k", 5)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if any(item in line for item in ids)]
    assert len(rows) == 5


def test_recommend_answers_a_file(complete: Path, data: Path, tmp_path: Path) -> None:
    ids = item_ids(data)
    source, target = tmp_path / "histories.jsonl", tmp_path / "recs.jsonl"
    histories = [ids[:4], [ids[7]], []]
    lines = [json.dumps({"user": n, "history": h}) for n, h in enumerate(histories)]
    source.write_text("\n".join(lines) + "\n")
    command = ["recommend", "--run", complete, "--input", source, "--output", target]
    done = prorec(*command, "--top-k", 7, "--exclude-seen")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [answer["user"] for answer in answers] == [0, 1, 2]
    for history, answer in zip(histories, answers, strict=True):
        found = [item["item_id"] for item in answer["items"]]
        assert len(set(found)) == 7
        assert set(found) <= set(ids) - set(history)
        assert all(item["title"] for item in answer["items"])
    again = prorec(*command)
    assert again.returncode == 1
    assert "--force" in again.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"history": ["nobody"]}', "line 1.*nobody"),
        ('{"history": 3}', "line 1.*list"),
        ("{", "line 1.*JSON"),
    ],
)
def test_recommend_refuses(complete: Path, tmp_path: Path, line: str, words: str) -> None:
    source, target = tmp_path / "histories.jsonl", tmp_path / "recs.jsonl"
    source.write_text(line + "\n")
    done = prorec("recommend", "--run", complete, "--input", source, "--output", target)
    refused(done, words)
    assert not target.exists()


def test_recommend_needs_a_run(tmp_path: Path) -> None:
    refused(prorec("recommend", "--run", tmp_path, "--history", "a"), "run.json")


def refused(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 1, done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if not line.startswith("data: ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert re.search(words, lines[0]), lines[0]


def break_data(name: str, folder: Path) -> list[str]:
    """Breaks a copy of the data in one way; returns further arguments."""
    items, interactions = folder / "items.jsonl", folder / "interactions.parquet"
    lines = items.read_text().splitlines()
    table = pl.read_parquet(interactions)
    stored = folder / "vectors.npy"
    vectors = np.random.default_rng(0).normal(size=(len(lines), 8)).astype(np.float32)
    match name:
        case "missing column":
            table.rename({"user_id": "customer"}).write_parquet(interactions)
        case "column named wrong":
            (folder / "c.toml").write_text('[columns]\nuser = "buyer"\n')
            return ["--config", str(folder / "c.toml")]
        case "malformed JSON":
            items.write_text("\n".join([*lines[:4], "{", *lines[5:]]))
        case "empty file":
            items.write_text("")
        case "unknown item":
            table.with_columns(item_id=pl.lit("nobody")).write_parquet(interactions)
        case "duplicate ids":
            items.write_text("\n".join([*lines, lines[0]]))
        case "short users":
            table.group_by("user_id", maintain_order=True).head(2).write_parquet(interactions)
        case "NaN embeddings":
            vectors[7, 3] = np.nan
            np.save(stored, vectors)
            return ["--embedding", str(stored)]
        case "embeddings too short":
            np.save(stored, vectors[:-1])
            return ["--embedding", str(stored)]
        case "unknown key":
            (folder / "c.toml").write_text("[stage_one]\nlayers = 3\n")
            return ["--config", str(folder / "c.toml")]
        case "wrong type":
            (folder / "c.toml").write_text('[stage_two]\nepochs = "many"\n')
            return ["--config", str(folder / "c.toml")]
        case "wrong value":
            (folder / "c.toml").write_text("[stage_two]\ndropout = 2.0\n")
            return ["--config", str(folder / "c.toml")]
    return []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing column", "interactions.parquet.*user_id.*customer"),
        ("column named wrong", "interactions.parquet.*buyer.*user_id"),
        ("malformed JSON", "items.jsonl.*line 5"),
        ("empty file", "items.jsonl.*no items"),
        ("unknown item", "interactions.parquet.*nobody"),
        ("duplicate ids", "items.jsonl, line 101.*line 1"),
        ("short users", "3 interactions"),
        ("NaN embeddings", "vectors.npy.*(7|8)"),
        ("embeddings too short", "vectors.npy.*100"),
        ("unknown key", "layers.*num_layers"),
        ("wrong type", "epochs.*int.*many"),
        ("wrong value", "dropout"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    name: str, words: str, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for path in data.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    more = break_data(name, folder)
    out = tmp_path / "out"
    refused(prorec("run", "--data", folder, "--out", out, *more), words)
    assert not out.exists()


def test_the_folder_of_another_run_is_refused(complete: Path, data: Path, config: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in complete.rglob("*")}
    command = ["run", "--data", data, "--out", complete, "--config", config]
    refused(prorec(*command, "--seed", 1), "another run.*seed is 0 there and 1 now")
    assert before == {path: path.stat().st_mtime_ns for path in complete.rglob("*")}


def test_a_folder_of_something_else_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    refused(prorec("run", "--data", data, "--out", tmp_path), "not empty and no run")
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_run_killed_at_its_first_file_can_begin_again(data: Path, tmp_path: Path) -> None:
    (tmp_path / ".run.json.unfinished").write_text('{"form')
    assert PRORec.open(data, tmp_path, Config(), "cpu").run.path == tmp_path
    assert json.loads((tmp_path / "run.json").read_text())["app"] == "prorec"


@pytest.mark.slow
def test_the_demo_beats_the_floors_without_text(tmp_path: Path) -> None:
    done = prorec("demo", "--out", tmp_path / "demo", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    test = metrics(tmp_path / "demo")["test"]
    reached = {n: r["metrics"]["unfiltered"]["recall@10"]["mean"] for n, r in test.items()}
    for floor in ("popularity", "markov", "graph"):
        assert reached["PRORec"] > reached[floor], reached
