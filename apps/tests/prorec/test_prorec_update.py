"""A run that goes on from another, with items and interactions that came since."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from semtok import load_tokenizer

from semrec.loading import load_run
from semrec.prorec.app import APP
from semrec.shared import comparing
from semrec.shared.errors import ExperimentError
from semrec.shared.files import load_tensors, read_json, write_sealed
from semrec.shared.update_config import Update

APPS = Path(__file__).resolve().parents[2]
REMOVED, RENAMED, NUM_NEW, NUM_BUYERS = 7, 11, 8, 60

Launch = Callable[..., subprocess.CompletedProcess[str]]


def read(folder: Path) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    return items, pl.read_parquet(folder / "interactions.parquet")


def write(folder: Path, items: Sequence[dict[str, Any]], interactions: pl.DataFrame) -> Path:
    folder.mkdir()
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    interactions.write_parquet(folder / "interactions.parquet")
    return folder


@pytest.fixture(scope="module")
def now(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A week later: items in another order, one is gone, one renamed, new ones bought by some."""
    items, interactions = read(data)
    gone = items[REMOVED]["item_id"]
    later = [dict(item) for item in items if item["item_id"] != gone]
    for item in later:
        if item["item_id"] == items[RENAMED]["item_id"]:
            item["title"] = "Something else altogether"
    new = [{**items[10 * row], "item_id": f"new-{row}"} for row in range(NUM_NEW)]
    latest = interactions["timestamp"].max()
    users = interactions["user_id"].unique(maintain_order=True).to_list()[:NUM_BUYERS]
    bought = pl.DataFrame(
        {
            "user_id": [user for user in users for _ in range(3)],
            "item_id": [
                f"new-{(place + step) % NUM_NEW}"
                for place in range(NUM_BUYERS)
                for step in range(3)
            ],
            "timestamp": [latest + 1 + step for _ in users for step in range(3)],
        },
        schema=interactions.schema,
    )
    stays = interactions.filter(pl.col("item_id") != gone)
    folder = tmp_path_factory.mktemp("now") / "data"
    return write(folder, [*new, *reversed(later)], pl.concat([stays, bought]))


@pytest.fixture(scope="module")
def run(completed: Callable[[str], Path]) -> Path:
    return completed("prorec")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def updated(
    launch: Launch, run: Path, now: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, bool]:
    """The update, what its command printed, and whether the old run stayed as it was."""
    out, before = tmp_path_factory.mktemp("updated") / "run", digests(run)
    done = launch("prorec", *command(run, now, out))
    assert done.returncode == 0, done.stderr
    return out, done.stdout, digests(run) == before


def command(run: Path, data: Path, out: Path, *further: object) -> list[object]:
    return ["update", "--run", run, "--data", data, "--out", out, "--device", "cpu", *further]


def facts(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return document


def test_published_codes_stay_byte_for_byte(
    run: Path, updated: tuple[Path, str, bool], now: Path
) -> None:
    old, new = (load_tokenizer(f / "tokenizer/tokenizer").semantic_ids for f in (run, updated[0]))
    assert new.item_ids[: len(old.item_ids)] == old.item_ids  # what is gone is remembered
    assert new.codes[: len(old.codes)].tobytes() == old.codes.tobytes()
    assert {*new.item_ids[len(old.item_ids) :]} == {f"new-{row}" for row in range(NUM_NEW)}
    assert len({tuple(path) for path in new.codes.tolist()}) == len(new.codes)
    items, _ = read(now)
    loaded = load_run(updated[0])
    assert loaded.codes is not None
    assert loaded.codes.item_ids == [item["item_id"] for item in items]


def test_the_old_run_is_read_alone(updated: tuple[Path, str, bool]) -> None:
    assert updated[2]


def test_new_items_are_answered_and_those_that_are_gone_are_not(
    run: Path, updated: tuple[Path, str, bool], data: Path, launch: Launch
) -> None:
    gone = read(data)[0][REMOVED]["item_id"]
    histories = [["new-0", "new-1"], [gone], []]
    answers = load_run(updated[0]).recommender().recommend(histories, top_k=107)
    for answer in answers[:2]:
        ids = [item.item_id for item in answer.items]
        assert gone not in ids
        assert {f"new-{row}" for row in range(NUM_NEW)} <= set(ids)
    assert answers[1].unknown == 1
    assert all(load_run(updated[0]).rankings[i] for i in range(3))
    history = ["--history", "new-0,new-1", "--top-k", 107]
    done = launch("prorec", "recommend", "--run", updated[0], *history)
    assert done.returncode == 0, done.stderr
    assert "new-2" in done.stdout


def test_the_report_says_what_has_changed(updated: tuple[Path, str, bool]) -> None:
    out, shown, _ = updated
    changed = facts(out)["update"]
    assert changed["items"] == 99 + NUM_NEW
    assert (changed["new_items"], changed["removed_items"]) == (NUM_NEW, 1)
    assert (changed["new_interactions"], changed["users"]) == (3 * NUM_BUYERS, NUM_BUYERS)
    assert changed["targets_new_items"] == NUM_BUYERS
    assert changed["old"]["recall@10"] == 0  # it knows none of what they bought
    assert changed["new"]["recall@10"] == changed["hits_new_items"] / NUM_BUYERS > 0
    assert 0 < changed["overlap"] < 1
    assert 0 < changed["share_of_new_items"] < 1
    test = facts(out)["test"]["PRORec, joined"]
    assert test["counts"]["users"] == NUM_BUYERS
    assert test["metrics"]["unfiltered"]["ndcg@10"]["mean"] == pytest.approx(
        changed["new"]["ndcg@10"]
    )
    line = shown.splitlines()[0]
    assert line.startswith("107 items, 8 new; overlap of top 10: ")
    assert "NDCG@10 .0000 to ." in line
    page = (out / "report.html").read_text()
    assert "Old and new" in page
    assert line.split(";")[0] in page


def test_it_says_what_it_is_an_update_of(run: Path, updated: tuple[Path, str, bool]) -> None:
    identity = json.loads((updated[0] / "run.json").read_text())
    assert identity["update"]["run"] == run.name
    assert len(identity["update"]["digest"]) == 64
    assert identity["update"]["epochs_one"] == 2
    assert not identity["config"]["evaluation"]["reference"]


def test_texts_are_embedded_where_they_are_new_or_others(
    run: Path, updated: tuple[Path, str, bool], data: Path
) -> None:
    noted = json.loads((updated[0] / "text/stage.json").read_text())
    assert noted["embedded"] == NUM_NEW + 1
    old, new = (np.load(folder / "text/embeddings.npy") for folder in (run, updated[0]))
    items = read(data)[0]
    rows = {item_id: row for row, item_id in enumerate(load_run(updated[0]).item_ids)}
    for row, item in enumerate(items):
        if row != REMOVED:
            is_same = np.array_equal(old[row], new[rows[item["item_id"]]])
            assert is_same == (row != RENAMED)


def answers_of(run: Path, histories: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    answers = load_run(run, device="cpu").recommender().recommend(list(histories))
    return [{item.item_id: item.score for item in answer.items} for answer in answers]


def test_without_news_and_training_all_answers_stay(
    launch: Launch, run: Path, data: Path, tmp_path: Path
) -> None:
    """Items in another order; twice, so that an update of an update is the same, too."""
    items, interactions = read(data)
    same = write(tmp_path / "same", items[::-1], interactions)
    histories = interactions.group_by("user_id", maintain_order=True).agg("item_id")
    wanted = [ids[:-1] for ids in histories["item_id"].to_list()[:50]]
    expected, source = answers_of(run, wanted), run
    for number in (2, 3):
        out = tmp_path / f"run{number}"
        done = launch("prorec", *command(source, same, out, "--no-train"))
        assert done.returncode == 0, done.stderr
        assert "overlap of top 10: 100 %" in done.stdout
        assert "the last purchases (none is new)" in done.stdout
        for answer, before in zip(answers_of(out, wanted), expected, strict=True):
            # Items come in another order, in which neighbours in text that are equally near are
            # cut, and sums are added up.
            assert answer == pytest.approx(before, abs=2e-3)
        source = out


def test_growing_alone_answers_new_items_by_their_content(
    launch: Launch, run: Path, updated: tuple[Path, str, bool], now: Path, tmp_path: Path
) -> None:
    out = tmp_path / "grown"
    done = launch("prorec", *command(run, now, out, "--no-train"))
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


def test_what_was_stopped_goes_on_to_the_same_end(
    launch: Launch,
    run: Path,
    now: Path,
    updated: tuple[Path, str, bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "stopped"

    def stop(*_: object) -> None:
        raise ExperimentError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(comparing, "old_lists", stop)
        assert launch("prorec", *command(run, now, out)).returncode == 1
    assert not (out / "metrics.json").exists()
    done = launch("prorec", *command(run, now, out))
    assert done.returncode == 0, done.stderr
    assert "stage_two: complete, kept" in done.stderr
    assert facts(out) == facts(updated[0])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage_one", "stage_two"])
def test_a_killed_update_goes_on_to_the_same_end(
    stage: str,
    launch: Launch,
    run: Path,
    now: Path,
    updated: tuple[Path, str, bool],
    tmp_path: Path,
) -> None:
    out, before = tmp_path / "killed", digests(run)
    with subprocess.Popen(
        [sys.executable, str(APPS / "prorec.py"), *map(str, command(run, now, out))],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 600
        while not (out / stage).exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert digests(run) == before
    assert not (out / "metrics.json").exists()
    done = launch("prorec", *command(run, now, out))
    assert done.returncode == 0, done.stderr
    assert facts(out) == facts(updated[0])


def refusal(launch: Launch, name: str, *arguments: object) -> str:
    done = launch(name, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.splitlines()[-1]


def test_data_that_are_not_those_of_now_are_refused(
    launch: Launch, run: Path, now: Path, tmp_path: Path
) -> None:
    items, interactions = read(now)
    strangers = [{**item, "item_id": f"x{item['item_id']}"} for item in items]
    renamed = interactions.with_columns(item_id="x" + pl.col("item_id"))
    other = write(tmp_path / "other", strangers, renamed)
    said = refusal(launch, "prorec", *command(run, other, tmp_path / "out"))
    assert f"--data {other} shares no item with {run}: begin a new run" in said
    newest = interactions.group_by("user_id", maintain_order=True).tail(3)
    week = write(tmp_path / "week", items, newest)
    said = refusal(launch, "prorec", *command(run, week, tmp_path / "out"))
    assert f"--data {week} must hold all interactions of now, old and new: " in said
    assert "of 300 users have fewer than in" in said
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_something_else_are_refused(
    launch: Launch,
    run: Path,
    data: Path,
    now: Path,
    updated: tuple[Path, str, bool],
    small: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    said = refusal(launch, "prorec", *command(run, now, run))
    assert "--out must not be --run, which stays as it is: choose another" in said
    out = shutil.copytree(run, tmp_path / "run")
    assert "it is no update" in refusal(launch, "prorec", *command(run, now, out))
    same = ["--data", now, "--out", updated[0], "--config", small("prorec")]
    for words in (["run"], ["study", "ablation"]):
        said = refusal(launch, "prorec", *words, *same)
        assert f"it is an update of {run.name}, with which only the command update goes on" in said
    said = refusal(launch, "prorec", *command(run, data, updated[0]))
    assert "its input files had other contents" in said
    (out / "stage_two/stage.json").write_text((run / "stage_one/stage.json").read_text())
    said = refusal(launch, "prorec", *command(out, now, updated[0]))
    assert "the run that it is an update of had other contents" in said
    (out / "metrics.json").unlink()
    said = refusal(launch, "prorec", *command(out, now, tmp_path / "out"))
    assert "the run is not complete" in said


def test_a_run_of_an_older_version_without_its_words_is_refused(
    launch: Launch, run: Path, now: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(run, tmp_path / "old")
    shutil.rmtree(old / "text/source")
    (old / "text/contents.npy").unlink()
    record = read_json(old / "text/stage.json", sealed=True)
    record["files"] = {name: digest for name, digest in record["files"].items() if "emb" in name}
    write_sealed(old / "text/stage.json", record)
    said = refusal(launch, "prorec", *command(old, now, tmp_path / "out"))
    assert f"{old} keeps no words of its texts, since an older version made it: begin a new" in said


@pytest.mark.slow
def test_stored_embeddings_are_read_for_new_items_alone(
    launch: Launch, data: Path, now: Path, small: Callable[[str], Path], tmp_path: Path
) -> None:
    stored, draw = tmp_path / "vectors.npy", np.random.default_rng(0)
    np.save(stored, draw.normal(size=(100, 24)).astype(np.float32))
    old, out = tmp_path / "old", tmp_path / "out"
    device = ["--device", "cpu"]
    words = ["--config", small("prorec"), "--embedding", stored, *device]
    done = launch("prorec", "run", "--data", data, "--out", old, *words)
    assert done.returncode == 0, done.stderr
    latest = draw.normal(size=(99 + NUM_NEW, 24)).astype(np.float32)
    np.save(stored, latest)
    done = launch("prorec", *command(old, now, out, "--no-train"))
    assert done.returncode == 0, done.stderr
    before, after = (np.load(folder / "text/embeddings.npy") for folder in (old, out))
    rows = {item_id: row for row, item_id in enumerate(load_run(old).item_ids)}
    for row, item_id in enumerate(load_run(out).item_ids):
        expected = before[rows[item_id]] if item_id in rows else latest[row]
        assert np.array_equal(after[row], expected)


def test_settings_that_cannot_be_are_refused(
    launch: Launch, run: Path, now: Path, updated: tuple[Path, str, bool], tmp_path: Path
) -> None:
    config = tmp_path / "update.toml"
    for text, words in (
        ("[update]\nepochs_one = 0\n", "epochs_one must be at least 1, got 0"),
        ("[update]\nrate = 2.0\n", "rate must be in (0, 1], got 2.0"),
        ("[stage_one]\nepochs = 2\n", "unknown key 'stage_one'; known keys are update"),
    ):
        config.write_text(text)
        assert words in refusal(
            launch, "prorec", *command(run, now, tmp_path / "out", "--config", config)
        )
    config.write_text("[update]\nepochs_two = 2\n")
    said = refusal(launch, "prorec", *command(run, now, updated[0], "--config", config))
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


@pytest.mark.parametrize("name", ["cocorec", "tssr"])
def test_the_other_apps_say_what_to_do_instead(name: str, launch: Launch, tmp_path: Path) -> None:
    said = refusal(launch, name, *command(tmp_path, tmp_path, tmp_path / "out"))
    assert said.startswith(f"error: {tmp_path} cannot be updated: ")
    assert said.endswith("so begin a new run with the command run, which takes the same data")


def test_training_goes_over_what_is_new_and_as_much_that_is_old(
    run: Path, now: Path, updated: tuple[Path, str, bool]
) -> None:
    """By a plain loop over users: targets past what the old run trained on, seen or not."""
    pipeline = APP.open_update(run, now, updated[0], Update(), "cpu")
    _, before = read(now)
    old = {user: len(ids) for user, ids in load_run(run).histories()}
    gone = {item for _, ids in load_run(run).histories() for item in ids} - {
        item["item_id"] for item in read(now)[0]
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
    assert len(buyers) == NUM_BUYERS
