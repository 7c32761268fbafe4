"""What the command lines of all three apps promise; in processes of their own where these end."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from semtok import CatalogError

from semrec.shared import data as data_module
from semrec.shared import stages
from semrec.shared.configuration import load_config, set_keys
from semrec.shared.environment import choose_device
from semrec.shared.errors import ExperimentError
from semrec.shared.files import load_array, load_tensors

APPS = Path(__file__).resolve().parents[2]
TITLES = {"prorec": "PRORec", "cocorec": "CoCoRec", "tssr": "TSSR"}
STAGES = [
    ("prorec", "stage_one"),
    ("prorec", "stage_two"),
    ("cocorec", "cocorec"),
    ("tssr", "tssr"),
    ("llm", "tuned"),
]

Launch = Callable[..., subprocess.CompletedProcess[str]]
OfApp = Callable[[str], Path]


@pytest.fixture(params=TITLES)
def name(request: pytest.FixtureRequest) -> str:
    app_name: str = request.param
    return app_name


def metrics(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return document


def same(run: Path, data: Path, config: Path) -> list[object]:
    return ["run", "--data", data, "--out", run, "--config", config, "--device", "cpu"]


def pipeline_of(name: str, data: Path, run: Path, config: Path) -> Any:
    """A run as the command line opens it, its sizes included."""
    app = app_of(name)
    return app.open(data, run, load_config(app.config, config), "cpu", set_keys(config))


def test_the_version_is_the_distributions(name: str, launch: Launch) -> None:
    result = launch(name, "--version")
    assert (result.returncode, result.stdout) == (0, f"semrec {metadata.version('semrec')}\n")


def test_a_complete_run_is_not_run_again(
    name: str, launch: Launch, completed: OfApp, small: OfApp, data: Path
) -> None:
    run = completed(name)
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/stage.json")}
    again = launch(name, *same(run, data, small(name)))
    assert again.returncode == 0, again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in run.glob("*/stage.json")}
    assert again.stderr.count("complete, kept") >= len(before)
    assert TITLES[name] in again.stdout


def test_a_run_goes_through_the_stages_that_its_configuration_asks_for(
    name: str, completed: OfApp, small: OfApp, data: Path
) -> None:
    pipeline = pipeline_of(name, data, completed(name), small(name))
    stages = pipeline.stages()
    assert stages
    assert all(stage.is_complete and stage.folder_name == stage.name for stage in stages)
    option = {"prorec": "reference"}.get(name, "baselines")
    plain = pipeline.varied(evaluation={option: False})
    fewer = [stage.folder_name for stage in plain.stages()]
    assert fewer == [stage.name for stage in stages if stage.name in fewer]
    left_out = {stage.name for stage in stages} - set(fewer)
    assert left_out
    assert all(stage == "reference" or stage.startswith("sasrec_") for stage in left_out)


def test_metrics_list_the_stages_in_order(
    name: str, completed: OfApp, small: OfApp, data: Path
) -> None:
    run = completed(name)
    pipeline = pipeline_of(name, data, run, small(name))
    listed = metrics(run)["stages"]
    assert list(listed) == [stage.folder_name for stage in pipeline.stages()]
    for stage in pipeline.stages():
        facts = json.loads((run / stage.folder_name / "stage.json").read_text())
        noted = listed[stage.folder_name]
        assert {key: facts[key] for key in noted} == noted
        assert set(facts) - set(noted) == {"seconds", "files", "sha256"}
        assert "report.json" not in noted
    assert set(metrics(run)["test"]) == set(pipeline.reports())


def test_every_stage_comes_after_those_that_it_takes(
    name: str, completed: OfApp, small: OfApp, data: Path
) -> None:
    pipeline = pipeline_of(name, data, completed(name), small(name))
    names = [stage.name for stage in pipeline.stages()]
    for place, stage in enumerate(pipeline.stages()):
        assert {before.name for before in stage.before} <= set(names[:place])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_a_killed_run_continues_to_the_same_result(
    name: str,
    stage: str,
    launch: Launch,
    completed: OfApp,
    small: OfApp,
    data: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "killed"
    arguments = same(out, data, small(name))
    with subprocess.Popen(
        [sys.executable, str(APPS / f"{name}.py"), *map(str, arguments)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        wait_for(out / stage / "log.jsonl", process)
        process.send_signal(signal.SIGKILL)
    assert not (out / "metrics.json").exists()
    again = launch(name, *arguments)
    assert again.returncode == 0, again.stderr
    assert metrics(out) == metrics(completed(name))


def test_ctrl_c_says_how_to_go_on(name: str, data: Path, small: OfApp, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    # A shell that runs the tests in the background has them, and so this, ignore SIGINT.
    code = (
        f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from semrec.{name}.app import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, same(out, data, small(name)))],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        wait_for(out / dict(reversed(STAGES))[name], process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        shown = process.stderr.read()
    assert process.returncode == 130
    assert "repeat the command to continue" in shown
    assert "Traceback" not in shown


def app_of(name: str) -> Any:
    return importlib.import_module(f"semrec.{name}.app").APP


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not (path.exists() and (path.is_dir() or path.read_text().strip())):
        assert process.poll() is None, "the run ended before it could be ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def item_ids(data: Path) -> list[str]:
    lines = (data / "items.jsonl").read_text().splitlines()
    return [json.loads(line)["item_id"] for line in lines]


def test_recommend_answers_one_history(
    name: str, launch: Launch, completed: OfApp, data: Path
) -> None:
    ids = item_ids(data)
    history = ",".join(ids[:3])
    done = launch(name, "recommend", "--run", completed(name), "--history", history, "--top-k", 5)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if any(item in line for item in ids)]
    assert len(rows) == 5


def test_recommend_reads_the_items_once(
    name: str, launch: Launch, completed: OfApp, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, read = completed(name), []
    read_lines = stages.read_json_lines
    monkeypatch.setattr(
        stages, "read_json_lines", lambda path: (read.append(path), read_lines(path))[1]
    )
    history = item_ids(data)[0]
    done = launch(name, "recommend", "--run", run, "--history", history)
    assert done.returncode == 0, done.stderr
    assert read == [run / "data/items.jsonl"]


def test_recommend_answers_a_file(
    name: str, launch: Launch, completed: OfApp, data: Path, tmp_path: Path
) -> None:
    ids = item_ids(data)
    source, target = tmp_path / "histories.jsonl", tmp_path / "recs.jsonl"
    histories = [ids[:4], [ids[7]], []]
    lines = [json.dumps({"user": n, "history": h}) for n, h in enumerate(histories)]
    source.write_text("\n".join(lines) + "\n")
    command = ["recommend", "--run", completed(name), "--input", source, "--output", target]
    done = launch(name, *command, "--top-k", 7, "--exclude-seen")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [answer["user"] for answer in answers] == [0, 1, 2]
    assert [answer["popular"] for answer in answers] == [False, False, True]
    for history, answer in zip(histories, answers, strict=True):
        answered = [item["item_id"] for item in answer["items"]]
        assert len(set(answered)) == 7
        assert set(answered) <= set(ids) - set(history)
        assert all(item["title"] for item in answer["items"])
    again = launch(name, *command)
    assert again.returncode == 1
    assert "--force" in again.stderr

    allowed, denied = tmp_path / "stock.txt", tmp_path / "denied.txt"
    allowed.write_text("\n".join([*ids[:9], "gone", ""]))
    denied.write_text("\n".join(ids[7:12]))
    command = [*command, "--force", "--deny", denied]
    done = launch(name, *command, "--allow", allowed)
    assert "stock.txt: the run does not know 1 of 10 item ids" in done.stderr
    for line in target.read_text().splitlines():
        answered = [item["item_id"] for item in json.loads(line)["items"]]
        assert answered
        assert set(answered) <= set(ids[:7])
    denied.write_text("\n".join(ids))
    done = launch(name, *command)
    assert done.returncode == 0
    assert "nothing is left to recommend for 3 of 3 histories" in done.stderr
    denied.write_bytes(b"\xff")
    refused(launch(name, *command), "denied.txt.*UTF-8")


def test_damage_to_a_run_is_seen_before_it_answers(
    name: str, launch: Launch, completed: OfApp, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(completed(name), run)
    kept = run / "data/items.jsonl"
    kept.write_text(re.sub('"title": "', '"title": "x', kept.read_text()))
    refused(
        launch(name, "recommend", "--run", run, "--history", "a"),
        "items.jsonl is damaged: remove the folder .*run/data and repeat the command that began",
    )
    other = {"prorec": "tssr"}.get(name, "prorec")
    refused(
        launch(other, "recommend", "--run", run, "--history", "a"),
        f"holds a run of {name}, not of {other}",
    )


@pytest.mark.parametrize("content", [b"", b"half of it", None])
def test_what_a_stage_left_may_be_damaged(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "stage" / "file"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    for load in (load_tensors, load_array):
        with pytest.raises(ExperimentError, match=r"stage/file is .*: remove the folder .*/stage"):
            load(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"history": ["nobody"]}', "line 1.*nobody"),
        ('{"history": 3}', "line 1.*list"),
        ("{", "line 1.*JSON"),
        ('{"history": ["\udcff"]}', "line 1.*JSON.*utf-8"),
    ],
)
def test_recommend_refuses(
    name: str, launch: Launch, completed: OfApp, tmp_path: Path, line: str, words: str
) -> None:
    source, target = tmp_path / "histories.jsonl", tmp_path / "recs.jsonl"
    source.write_bytes((line + "\n").encode(errors="surrogateescape"))
    command = ["recommend", "--run", completed(name), "--input", source, "--output", target]
    refused(launch(name, *command), words)
    assert not target.exists()


def test_recommend_needs_a_run(name: str, launch: Launch, tmp_path: Path) -> None:
    refused(launch(name, "recommend", "--run", tmp_path, "--history", "a"), "run.json")


def refused(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 1, done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if not line.startswith("data: ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert re.search(words, lines[0]), lines[0]


def break_data(way: str, folder: Path) -> list[str]:
    """Breaks a copy of the data in one way; returns further arguments."""
    items, interactions = folder / "items.jsonl", folder / "interactions.parquet"
    lines = items.read_text().splitlines()
    table = pl.read_parquet(interactions)
    stored = folder / "vectors.npy"
    vectors = np.random.default_rng(0).normal(size=(len(lines), 8)).astype(np.float32)
    match way:
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
    return []


@pytest.mark.parametrize(
    ("way", "words"),
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
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    name: str, way: str, words: str, launch: Launch, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for path in data.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    more = break_data(way, folder)
    out = tmp_path / "out"
    refused(launch(name, "run", "--data", folder, "--out", out, *more), words)
    assert not out.exists()


FEW = {
    "items below 10": (7, 5, "title", "the items must be at least 10.*NDCG@10, got 7"),
    "a cut-off": (15, 5, "title", "evaluation.ks must be at most 15, the number of items"),
    "nothing to train on": (25, 3, "title", "the users must have 4 interactions or more"),
    "no field": (
        25,
        5,
        "name",
        "fields must name at least one field of the catalogue .name., got title",
    ),
    "no word": (25, 5, "title", "fields must hold words for at least one item, got none"),
}


@pytest.mark.parametrize("way", FEW)
def test_data_that_do_not_suit_are_refused_before_a_folder_is_made(
    name: str, way: str, launch: Launch, small: OfApp, tmp_path: Path
) -> None:
    num_items, length, field, words = FEW[way]
    config = tmp_path / "config.toml"
    config.write_text(small(name).read_text())
    if name == "prorec":
        config.write_text(config.read_text() + "[joining]\ngraph_text = false\n")
    text = "?!" if way == "no word" else "a thing"
    data = few(tmp_path / "data", num_items, length, {field: text})
    refused(launch(name, *same(tmp_path / "run", data, config)), words)
    assert not (tmp_path / "run").exists()


def few(folder: Path, num_items: int, length: int, fields: dict[str, str]) -> Path:
    """A catalogue of so many items, and as many users of so many interactions."""
    folder.mkdir()
    lines = [json.dumps({"item_id": str(row), **fields}) for row in range(num_items)]
    (folder / "items.jsonl").write_text("\n".join(lines))
    rows = [
        {"user_id": user, "item_id": str((user + time) % num_items), "timestamp": time}
        for user in range(num_items)
        for time in range(length)
    ]
    pl.DataFrame(rows).write_parquet(folder / "interactions.parquet")
    return folder


def test_codes_that_cannot_be_enough_are_refused_before_a_folder_is_made(
    launch: Launch, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[text]\nembedding = "lsa"\n[codes]\nquantizer = "pq"\nnum_levels = 2\ncodebook_size = 4\n'
    )
    data = few(tmp_path / "data", 20, 5, {"title": "a thing"})
    done = launch("prorec", *same(tmp_path / "run", data, config))
    refused(done, "codebook_size must make a code for each of 20 items, got 4 with 2 levels")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", [{}, {"name": "a thing"}, {"title": ""}])
def test_items_without_texts_may_have_stored_embeddings(
    name: str,
    field: dict[str, str],
    launch: Launch,
    small: OfApp,
    data: Path,
    tmp_path: Path,
) -> None:
    folder, stored, out = tmp_path / "data", tmp_path / "vectors.npy", tmp_path / "run"
    folder.mkdir()
    ids = item_ids(data)
    (folder / "items.jsonl").write_text("\n".join(json.dumps({"item_id": i, **field}) for i in ids))
    (folder / "interactions.parquet").write_bytes((data / "interactions.parquet").read_bytes())
    np.save(stored, np.random.default_rng(0).normal(size=(len(ids), 8)).astype(np.float32))
    config = tmp_path / "config.toml"
    config.write_text(small(name).read_text())
    if name == "prorec":  # which joins texts unless it is told not to
        done = launch(name, *same(out, folder, config), "--embedding", stored)
        words = "joining.graph_text must be false and stage_two.tree_scores must lack 'text'"
        refused(done, f"{words}: the items have no texts")
        assert not out.exists()
        scores = '[stage_two]\ntree_scores = ["graph"]\n'
        text = config.read_text().replace("[stage_two]\n", scores)
        config.write_text(text + "[joining]\ngraph_text = false\n")
    app = app_of(name)
    pipeline = app.open(folder, out, app.configured(config, str(stored), None), "cpu")
    floors = pipeline.floors.result()
    assert list(floors) == ["popularity", "markov", "item-knn", "graph"]


def test_what_the_command_line_says_replaces_what_the_file_says(name: str, small: OfApp) -> None:
    app = app_of(name)
    plain = load_config(app.config, small(name))
    assert app.configured(small(name), None, None) == plain
    changed = app.configured(small(name), "minilm", 7)
    table = dataclasses.replace(getattr(plain, app.embedding), embedding="minilm")
    assert changed == dataclasses.replace(plain, seed=7, **{app.embedding: table})


def test_stored_embeddings_are_read_once_for_all_variants(
    name: str, small: OfApp, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, read = tmp_path / "vectors.npy", []
    np.save(stored, np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32))
    read_embeddings = data_module.read_embeddings
    monkeypatch.setattr(
        data_module,
        "read_embeddings",
        lambda path, ids: (read.append(path), read_embeddings(path, ids)),
    )
    app = app_of(name)
    config = app.configured(small(name), str(stored), None)
    pipeline = app.open(data, tmp_path / "run", config, "cpu")
    for seed in (1, 2):
        variant = pipeline.varied(seed=seed)
        assert variant.config.check(variant.data) == [stored]
    assert read == [str(stored)]


def test_a_device_that_there_is_not_is_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ExperimentError, match="--device abacus cannot be used here: ") as refusal:
        choose_device("abacus")
    assert "\n" not in str(refusal.value)


def test_every_file_of_embeddings_is_an_input(small: OfApp, data: Path, tmp_path: Path) -> None:
    config, out, further = tmp_path / "config.toml", tmp_path / "run", tmp_path / "further.npy"
    table = f'[text]\nfurther = ["{further}"]'
    config.write_text(small("prorec").read_text().replace("[text]", table))

    def begin(seed: int, count: int) -> None:
        vectors = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
        np.save(further, vectors)
        app = app_of("prorec")
        app.open(data, out, load_config(app.config, config), "cpu")

    with pytest.raises(CatalogError, match=r"further\.npy.*100"):
        begin(0, 99)
    assert not out.exists()
    begin(0, 100)
    begin(0, 100)
    with pytest.raises(ExperimentError, match="input files had other contents"):
        begin(1, 100)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("prorec", "[stage_one]\nlayers = 3\n", "layers.*num_layers"),
        ("prorec", '[stage_two]\nepochs = "many"\n', "epochs.*int.*many"),
        ("prorec", "[stage_two]\ndropout = 2.0\n", "dropout"),
        ("prorec", "[stage_one]\nbatch_size = 0\n", "stage_one.*batch_size must be at least 1"),
        ("prorec", "[stage_two]\nbatch_size = 0\n", "stage_two.*batch_size must be at least 1"),
        ("prorec", "[stage_two]\ndistillation_negatives = 0\n", "distillation_negatives must be"),
        ("prorec", "[text]\ndim = 0\n", "text.*dim must be at least 1"),
        ("prorec", "[evaluation]\nnum_beams = 10\n", "num_beams must be.*greatest of ks, 20"),
        ("prorec", "[evaluation]\nvalidation_beams = 5\n", "validation_beams must be at least 10"),
        ("prorec", "[evaluation]\nvalidation_users = 0\n", "validation_users must be at least 1"),
        ("prorec", "seed = -1\n", "seed must be at least 0.*, got -1"),
        ("cocorec", "[model]\nbatch_size = 0\n", "model.*batch_size must be at least 1"),
        ("cocorec", "[item_ids]\nbatch_size = 0\n", "item_ids.*batch_size must be at least 1"),
        ("cocorec", "[evaluation]\nks = []\n", "ks must be cut-offs of at least 1"),
        ("cocorec", "seed = -1\n", "seed must be at least 0.*, got -1"),
        ("tssr", "[model]\nhistory_length = 0\n", "model.*history_length must be at least 1"),
        ("tssr", "[content]\ndim = 0\n", "content.*dim must be at least 1"),
        ("tssr", "[evaluation]\nvalidation_users = 0\n", "validation_users must be at least 1"),
        ("tssr", "seed = -1\n", "seed must be at least 0.*, got -1"),
        ("cocorec", "[views]\ndim = 64\n", "views.dim must be model.dim"),
        ("cocorec", '[views]\nviews = ["title", "title"]\n', "views must be different"),
        ("cocorec", '[codes]\nquantizer = "opq"\n', "quantizer must be"),
        ("cocorec", "[model]\nmask_ratio = 0.0\n", "mask_ratio must be in"),
        ("tssr", "[model]\nlayers = 3\n", "layers.*num_layers"),
        ("tssr", '[content]\nstreams = ["title", "colour"]\n', "colour"),
        ("tssr", '[content]\nmode = "end-to-end"\n', "head must be 'ids'"),
        ("tssr", "[model]\nitem_temperature = 0.0\n", "item_temperature must be positive"),
        ("tssr", "seed = 4294967296\n", "seed must be at least 0 and below 2..32, got 4294967296"),
        ("tssr", "[model]\nlearning_rate = inf\n", "learning_rate must be float, got inf"),
        ("tssr", f"[model]\ndim = {10**400}\n", "dim must be int"),
        ("tssr", f"dim = {'9' * 5000}\n", "wrong.toml: not TOML"),
        ("tssr", f"dim = {'[' * 100_000}\n", "wrong.toml: not TOML"),
        ("prorec", '[codes]\nquantizer = "pq"\nnum_levels = 200\n', "num_levels must be.* 128$"),
        (
            "cocorec",
            '[codes]\nsource = "sasrec"\ncodes_per_view = 50\n',
            "codes_per_view must leave.* 150 codes and 128 dimensions",
        ),
    ],
)
def test_bad_configurations_get_one_sentence_and_train_nothing(
    name: str, text: str, words: str, launch: Launch, data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    refused(launch(name, "run", "--data", data, "--out", tmp_path / "run", "--config", path), words)
    assert not list(tmp_path.glob("run/*/stage.json"))


def test_the_folder_of_another_run_is_refused(
    name: str, launch: Launch, completed: OfApp, small: OfApp, data: Path
) -> None:
    run = completed(name)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = launch(name, *same(run, data, small(name)), "--seed", 1)
    refused(done, "another run.*seed is 0 there and 1 now")
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_the_folder_of_another_app_is_refused(
    launch: Launch, completed: OfApp, small: OfApp, data: Path
) -> None:
    refused(launch("tssr", *same(completed("prorec"), data, small("tssr"))), "prorec")


def test_a_folder_of_something_else_is_refused(
    name: str, launch: Launch, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    refused(launch(name, "run", "--data", data, "--out", tmp_path), "not empty and not a run")
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_run_killed_at_its_first_file_can_begin_again(
    name: str, data: Path, tmp_path: Path
) -> None:
    unfinished = tmp_path / f".run.json.{'0' * 16}.evalrec-part"
    unfinished.mkdir()
    (unfinished / "content").write_text('{"form')
    app = app_of(name)
    assert app.open(data, tmp_path, app.config(), "cpu").run.path == tmp_path
    assert json.loads((tmp_path / "run.json").read_text())["app"] == name
    assert set(os.listdir(tmp_path)) == {"run.json", "environment.json"}


def test_what_does_not_train_is_one_process(
    name: str, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ("recommend", "--run", tmp_path, "--history", "a")
    for number in ("2", "16"):
        monkeypatch.setenv("WORLD_SIZE", number)
        done = launch(name, *answer)
        refused(done, f"WORLD_SIZE must be 1 or unset, got {number}: recommend is one process")
    monkeypatch.setenv("WORLD_SIZE", "1")
    refused(launch(name, *answer), "run.json")


def test_a_folder_that_cannot_be_is_refused_as_it_was_given(
    name: str, launch: Launch, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("precious")
    Path("link").symlink_to(tmp_path / "far/away")
    os.mkfifo("pipe")
    for out in ("file", "file/run", "pipe"):
        kind = "a pipe or a device of characters" if out == "pipe" else "a file"
        words = f"error: {out}.* is {kind}, not a folder: choose another --out"
        for command in (["run", "--data", data], ["demo"]):
            refused(launch(name, *command, "--out", out), words)
    refused(launch(name, "demo", "--out", "/"), "nothing beside it: choose another --out")
    assert sorted(os.listdir()) == ["file", "link", "pipe"]
    app = app_of(name)
    assert app.open(data, Path("link"), app.config(), "cpu").run.path == Path("link")
    assert set(os.listdir("far/away")) == {"run.json", "environment.json"}
