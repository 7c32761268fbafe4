"""The apps as their users run them, small, on one synthetic catalogue."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest
from evalrec import write_synthetic

SMALL = {
    "prorec": """
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
""",
    "cocorec": """
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
""",
    "tssr": """
[content]
embedding = "lsa"
streams = ["title", "brand+categories"]
dim = 16
[model]
dim = 16
num_heads = 2
feedforward_dim = 32
epochs = 3
batch_size = 64
warmup_steps = 10
[evaluation]
validation_users = 100
""",
    "llm": """
[text]
embedding = "lsa"
dim = 16
[codes]
num_levels = 2
codebook_size = 8
[model]
model = "tiny-llama"
prompt = "{history} next:"
history_length = 5
learning_rate = 3e-3
epochs = 2
batch_size = 64
warmup_steps = 10
[evaluation]
validation_users = 50
validation_beams = 10
num_beams = 20
answer = "model"
""",
}

UPDATE = {
    "prorec": "",
    "cocorec": "[update]\nepochs_one = 8\nrate = 1.0\n",
    "tssr": "[update]\nepochs_one = 8\nrate = 1.0\n",
}
"""Small models learn little in the epochs of an update."""

Launch = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True, kw_only=True)
class Week:
    """The data a week later: items in another order, one gone, one renamed, new ones bought.

    Attributes:
        folder: The data.
        gone: Id of the item that is there no more.
        renamed: Id of the item with another title.
        new: Ids of the new items.
        num_buyers: Users who bought three of them each, one after the other.
    """

    folder: Path
    gone: str
    renamed: str
    new: list[str]
    num_buyers: int


@dataclass(frozen=True, kw_only=True)
class Updated:
    """An update.

    Attributes:
        run: The run that it goes on from.
        out: Its folder.
        printed: What its command printed.
        left_alone: Whether the run stayed as it was.
    """

    run: Path
    out: Path
    printed: str
    left_alone: bool


@pytest.fixture(scope="session")
def launch() -> Launch:
    """An app's command line, in this process: importing torch takes longer than most tests."""

    def launch(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            mock.patch.object(sys, "argv", [f"{name}.py", *map(str, arguments)]),
        ):
            try:
                importlib.import_module(f"semrec.{name}.app").main()
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 0
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    return launch


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 items, 300 users."""
    return write_synthetic(
        tmp_path_factory.mktemp("data") / "data", num_items=100, num_users=300, seed=3
    )


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """Writes items and interactions into a new folder."""

    def write(folder: Path, items: Sequence[dict[str, Any]], interactions: pl.DataFrame) -> Path:
        folder.mkdir()
        (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        interactions.write_parquet(folder / "interactions.parquet")
        return folder

    return write


@pytest.fixture(scope="session")
def read() -> Callable[[Path], tuple[list[dict[str, Any]], pl.DataFrame]]:
    """The items and the interactions of a folder."""

    def read(folder: Path) -> tuple[list[dict[str, Any]], pl.DataFrame]:
        items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
        return items, pl.read_parquet(folder / "interactions.parquet")

    return read


@pytest.fixture(scope="session")
def week(
    data: Path, read: Any, write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Week:
    """The data of `data`, a week later."""
    items, interactions = read(data)
    gone, renamed, num_buyers = items[7]["item_id"], items[11]["item_id"], 60
    later = [dict(item) for item in items if item["item_id"] != gone]
    for item in later:
        if item["item_id"] == renamed:
            item["title"] = "Something else altogether"
    new = [{**items[10 * row], "item_id": f"new-{row}"} for row in range(8)]
    ids = [item["item_id"] for item in new]
    latest = interactions["timestamp"].max()
    users = interactions["user_id"].unique(maintain_order=True).to_list()[:num_buyers]
    bought = pl.DataFrame(
        {
            "user_id": [user for user in users for _ in range(3)],
            "item_id": [
                ids[(place + step) % len(ids)] for place in range(num_buyers) for step in range(3)
            ],
            "timestamp": [latest + 1 + step for _ in users for step in range(3)],
        },
        schema=interactions.schema,
    )
    stays = interactions.filter(pl.col("item_id") != gone)
    folder = tmp_path_factory.mktemp("now") / "data"
    write(folder, [*new, *reversed(later)], pl.concat([stays, bought]))
    return Week(folder=folder, gone=gone, renamed=renamed, new=ids, num_buyers=num_buyers)


@pytest.fixture(scope="session")
def now(week: Week) -> Path:
    """The folder of the data a week later."""
    return week.folder


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """The digest of each file of a folder."""

    def digests(folder: Path) -> dict[str, str]:
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return digests


@pytest.fixture(scope="session")
def budget(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The TOML file of an app's updates."""

    @cache
    def budget(name: str) -> Path:
        path = tmp_path_factory.mktemp("budget") / f"{name}.toml"
        path.write_text(UPDATE[name])
        return path

    return budget


@pytest.fixture(scope="session")
def update(launch: Launch, budget: Callable[[str], Path]) -> Launch:
    """The command `update` of an app."""

    def update(
        name: str, run: Path, data: Path, out: Path, *further: object
    ) -> subprocess.CompletedProcess[str]:
        same = ["--run", run, "--data", data, "--out", out, "--device", "cpu"]
        return launch(name, "update", *same, "--config", budget(name), *further)

    return update


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """An app's configuration in a size that trains in seconds."""

    @cache
    def small(name: str) -> Path:
        path = tmp_path_factory.mktemp("config") / f"{name}.toml"
        path.write_text(SMALL[name])
        return path

    return small


@pytest.fixture(scope="session")
def completed(
    launch: Launch,
    data: Path,
    small: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """An app's complete run."""

    @cache
    def completed(name: str) -> Path:
        out = tmp_path_factory.mktemp("runs") / name
        done = launch(
            name, "run", "--data", data, "--out", out, "--config", small(name), "--device", "cpu"
        )
        assert done.returncode == 0, done.stderr
        assert "report.html" in done.stdout
        return out

    return completed


@pytest.fixture(scope="session")
def updated(
    update: Launch,
    completed: Callable[[str], Path],
    now: Path,
    digests: Callable[[Path], dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Updated]:
    """The update of an app's complete run with the data of now."""

    @cache
    def updated(name: str) -> Updated:
        run, out = completed(name), tmp_path_factory.mktemp("updated") / "run"
        before = digests(run)
        done = update(name, run, now, out)
        assert done.returncode == 0, done.stderr
        left_alone = digests(run) == before
        return Updated(run=run, out=out, printed=done.stdout, left_alone=left_alone)

    return updated


@pytest.fixture(scope="session")
def exported(
    launch: Launch, completed: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The export of an app's complete run."""

    @cache
    def exported(name: str) -> Path:
        out = tmp_path_factory.mktemp("exports") / name
        done = launch(name, "export", "--run", completed(name), "--out", out)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{out}: ")
        return out

    return exported
