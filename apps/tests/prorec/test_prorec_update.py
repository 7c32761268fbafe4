"""PRORec's update, beside what all apps promise of theirs, which is in test_updating.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from semtok import load_tokenizer

from semrec.loading import load_run
from semrec.prorec.app import APP
from semrec.shared.errors import ExperimentError
from semrec.shared.files import load_tensors
from semrec.shared.update_config import Update

Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(completed: Callable[[str], Path]) -> Path:
    return completed("prorec")


def facts(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return document


def test_published_codes_stay_byte_for_byte(run: Path, updated: Any, week: Any, read: Any) -> None:
    out = updated("prorec").out
    old, new = (load_tokenizer(f / "tokenizer/tokenizer").semantic_ids for f in (run, out))
    assert new.item_ids[: len(old.item_ids)] == old.item_ids  # what is gone is remembered
    assert new.codes[: len(old.codes)].tobytes() == old.codes.tobytes()
    assert {*new.item_ids[len(old.item_ids) :]} == {*week.new}
    assert len({tuple(path) for path in new.codes.tolist()}) == len(new.codes)
    items, _ = read(week.folder)
    loaded = load_run(out)
    assert loaded.codes is not None
    assert loaded.codes.item_ids == [item["item_id"] for item in items]


def test_growing_alone_answers_new_items_by_their_content(
    update: Launch, run: Path, now: Path, tmp_path: Path
) -> None:
    out = tmp_path / "grown"
    done = update("prorec", run, now, out, "--no-train")
    assert done.returncode == 0, done.stderr
    assert not (out / "stage_two/log.jsonl").exists()
    assert not facts(out)["update"]["trained"]
    kept = json.loads((run / "joined/stage.json").read_text())
    grown = json.loads((out / "joined/stage.json").read_text())
    assert (grown["base"], grown["weights"]) == (kept["base"], kept["weights"])
    assert facts(out)["update"]["new_items_recommended"] > 0
    before, after = (load_tensors(f / "stage_one/items.safetensors") for f in (run, out))
    rows = {item_id: row for row, item_id in enumerate(load_run(run).item_ids)}
    for row, item_id in enumerate(load_run(out).item_ids):
        if item_id in rows:
            assert torch.equal(after["collaborative"][row], before["collaborative"][rows[item_id]])
        else:
            assert not after["collaborative"][row].any()
            assert after["adapted"][row].any()
    assert "Old and new" in (out / "report.html").read_text()


def refusal(command: Launch, name: str, *arguments: object) -> str:
    done = command(name, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.splitlines()[-1]


def test_data_that_are_not_those_of_now_are_refused(
    update: Launch, run: Path, now: Path, read: Any, write: Any, tmp_path: Path
) -> None:
    items, interactions = read(now)
    strangers = [{**item, "item_id": f"x{item['item_id']}"} for item in items]
    renamed = interactions.with_columns(item_id="x" + pl.col("item_id"))
    other = write(tmp_path / "other", strangers, renamed)
    said = refusal(update, "prorec", run, other, tmp_path / "out")
    assert f"--data {other} shares no item with {run}: begin a new run" in said
    newest = interactions.group_by("user_id", maintain_order=True).tail(3)
    week = write(tmp_path / "week", items, newest)
    said = refusal(update, "prorec", run, week, tmp_path / "out")
    assert f"--data {week} must hold all current interactions, old and new: " in said
    assert "of 300 users have fewer than in" in said
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_something_else_are_refused(
    launch: Launch,
    update: Launch,
    run: Path,
    data: Path,
    now: Path,
    updated: Any,
    small: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    said = refusal(update, "prorec", run, now, run)
    assert "--out must not be --run, which stays as it is: choose another" in said
    out = shutil.copytree(run, tmp_path / "run")
    assert "it is not an update" in refusal(update, "prorec", run, now, out)
    same = ["--data", now, "--out", updated("prorec").out, "--config", small("prorec")]
    for words in (["run"], ["study", "ablation"]):
        said = refusal(launch, "prorec", *words, *same)
        assert f"it is an update of {run.name}, which only the command update continues" in said
    said = refusal(update, "prorec", run, data, updated("prorec").out)
    assert "its input files had other contents" in said
    (out / "stage_two/stage.json").write_text((run / "stage_one/stage.json").read_text())
    said = refusal(update, "prorec", out, now, updated("prorec").out)
    assert "the run that it updates had other contents" in said
    (out / "metrics.json").unlink()
    said = refusal(update, "prorec", out, now, tmp_path / "out")
    assert "the run is not complete" in said


@pytest.mark.slow
def test_stored_embeddings_are_read_for_new_items_alone(
    launch: Launch,
    update: Launch,
    data: Path,
    week: Any,
    small: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    stored, draw = tmp_path / "vectors.npy", np.random.default_rng(0)
    np.save(stored, draw.normal(size=(100, 24)).astype(np.float32))
    old, out = tmp_path / "old", tmp_path / "out"
    device = ["--device", "cpu"]
    words = ["--config", small("prorec"), "--embedding", stored, *device]
    done = launch("prorec", "run", "--data", data, "--out", old, *words)
    assert done.returncode == 0, done.stderr
    latest = draw.normal(size=(99 + len(week.new), 24)).astype(np.float32)
    np.save(stored, latest)
    done = update("prorec", old, week.folder, out, "--no-train")
    assert done.returncode == 0, done.stderr
    before, after = (np.load(folder / "text/embeddings.npy") for folder in (old, out))
    rows = {item_id: row for row, item_id in enumerate(load_run(old).item_ids)}
    for row, item_id in enumerate(load_run(out).item_ids):
        expected = before[rows[item_id]] if item_id in rows else latest[row]
        assert np.array_equal(after[row], expected)


def test_settings_that_cannot_be_are_refused(
    update: Launch, run: Path, now: Path, updated: Any, tmp_path: Path
) -> None:
    config = tmp_path / "update.toml"
    for text, words in (
        ("[update]\nepochs_one = 0\n", "epochs_one must be at least 1, got 0"),
        ("[update]\nrate = 2.0\n", "rate must be in (0, 1], got 2.0"),
        ("[stage_one]\nepochs = 2\n", "unknown key 'stage_one'; known keys are update"),
    ):
        config.write_text(text)
        said = refusal(update, "prorec", run, now, tmp_path / "out", "--config", config)
        assert words in said
    config.write_text("[update]\nepochs_two = 2\n")
    said = refusal(update, "prorec", run, now, updated("prorec").out, "--config", config)
    assert "update.epochs_two is 1 there and 2 now" in said
    with pytest.raises(ValueError, match="refit_above must be above 0"):
        Update(refit_above=0.0)


@pytest.mark.parametrize(
    ("part", "values", "words"),
    [
        ("codes", {"source": "collaborative"}, "codes.source is 'collaborative', and new items"),
        ("stage_one", {"item_input": "collaborative"}, "stage I knows its items by ids alone"),
        ("stage_two", {"node_start": "random"}, 'stage_two.node_start is "random"'),
    ],
)
def test_runs_that_cannot_grow_are_refused(
    part: str, values: dict[str, str], words: str, run: Path, tmp_path: Path
) -> None:
    from semrec.prorec.update import updated_config

    config = APP.reopen(run, "cpu").varied(**{part: values}).config
    with pytest.raises(ExperimentError) as refused:
        updated_config(config, run)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"{run} cannot be updated: ")
    assert str(refused.value).endswith("begin a new run with the command run")


def test_training_goes_over_what_is_new_and_as_much_that_is_old(
    run: Path, week: Any, updated: Any, read: Any
) -> None:
    """By a plain loop over users: targets past what the old run trained on, seen or not."""
    pipeline = APP.open_update(run, week.folder, updated("prorec").out, Update(), "cpu")
    items, before = read(week.folder)
    old = {user: len(ids) for user, ids in load_run(run).histories()}
    gone = {item for _, ids in load_run(run).histories() for item in ids} - {
        item["item_id"] for item in items
    }
    known = {user: sum(item not in gone for item in ids) for user, ids in load_run(run).histories()}
    assert any(known[user] < old[user] for user in old)
    pairs, is_new, users = [], [], []
    ids = pipeline.data.interactions.user_ids
    for owner, history in zip(pipeline.data.split.users, pipeline.data.split.train, strict=True):
        user = ids[owner]
        total = before.filter(pl.col("user_id") == user).height
        for place in range(1, len(history)):
            pairs.append((user, place))
            is_new.append(total > known[user] and place >= max(known[user] - 2, 0))
            users.append(user)
    drawn = pipeline.samples.pairs.tolist()
    new = [number for number, flag in enumerate(is_new) if flag]
    assert set(new) <= set(drawn)
    assert len(drawn) == 2 * len(new) == len(set(drawn))
    assert sum(len(batch) for batch in pipeline.generator_batches()(0)) == len(drawn)
    buyers = {users[number] for number in new}
    names = {ids[pipeline.data.split.users[user]] for user in pipeline.samples.users.tolist()}
    assert buyers <= names
    assert len(names) == 2 * len(buyers)
    assert len(buyers) == week.num_buyers
