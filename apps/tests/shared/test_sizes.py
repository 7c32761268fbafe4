"""Sizes that follow the data: the rules, what a TOML sets, and the runs that they make."""

from __future__ import annotations

import dataclasses
import gzip
import importlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from evalrec import write_synthetic
from genrec.optimization import learning_rate_at
from hypothesis import given
from hypothesis import strategies as st

from semrec.prorec.config import StageTwo
from semrec.shared.configuration import load_config, set_keys
from semrec.shared.data import Data, read_data
from semrec.shared.screen import Screen
from semrec.shared.sizes import (
    batch_size,
    codebook_size,
    num_epochs,
    size_lines,
    sized,
    training_sizes,
)

APPS = ("prorec", "cocorec", "tssr")
REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "apps/semrec"
PUBLIC = [
    REPOSITORY.parent / f"shared/data/{name}" for name in ("amazon14_beauty", "amazon18_games")
]

Launch = Callable[..., subprocess.CompletedProcess[str]]


def config_of(name: str, path: Path | None = None) -> Any:
    return load_config(importlib.import_module(f"semrec.{name}.app").APP.config, path)


def read(folder: Path) -> Data:
    return read_data(folder, config_of("tssr").columns, Screen())


@pytest.fixture(scope="module")
def like_beauty(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """As many items and users as Amazon Beauty, histories nearly as long."""
    folder = tmp_path_factory.mktemp("beauty")
    rng, num_items, num_users, length = np.random.default_rng(0), 12_101, 22_363, 9
    ids = [f"i{row}" for row in range(num_items)]
    lines = (json.dumps({"item_id": name, "title": f"thing {name}"}) for name in ids)
    with gzip.open(folder / "items.jsonl.gz", "wt", compresslevel=1) as file:
        file.write("\n".join(lines))
    rows = rng.integers(num_items, size=num_users * length)
    pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(num_users), length),
            "item_id": np.array(ids)[rows],
            "timestamp": np.tile(np.arange(length), num_users),
        }
    ).write_parquet(folder / "interactions.parquet")
    return read(folder)


@pytest.mark.parametrize(
    ("name", "toml"),
    [
        *((name, None) for name in APPS),
        ("cocorec", "beauty.toml"),
        ("cocorec", "small.toml"),
        ("tssr", "end_to_end.toml"),
    ],
)
def test_data_of_the_papers_size_have_the_defaults(
    name: str, toml: str | None, like_beauty: Data
) -> None:
    path = None if toml is None else FOLDER / name / toml
    config = config_of(name, path)
    assert sized(config, set_keys(path), like_beauty) == config


@pytest.mark.slow
@pytest.mark.parametrize("folder", PUBLIC, ids=lambda folder: folder.name)
def test_the_public_data_have_the_defaults(folder: Path) -> None:
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    data = read(folder)
    for name in APPS:
        assert sized(config_of(name), (), data) == config_of(name)


def test_the_warm_up_of_small_data_ends_long_before_the_training() -> None:
    sizes = training_sizes(StageTwo(), 4_000, ())
    stage = dataclasses.replace(StageTwo(), **sizes)
    steps = -(-4_000 // stage.batch_size) * stage.epochs
    rates = [learning_rate_at(stage.settings(0, monitor="x"), step, steps) for step in range(steps)]
    assert max(rates) == stage.learning_rate
    assert rates.index(max(rates)) < 0.2 * steps
    before = [
        learning_rate_at(StageTwo().settings(0, monitor="x"), step, 128) for step in range(128)
    ]
    assert max(before) < 0.5 * stage.learning_rate  # what the cap is for


@given(st.integers(1, 10**7))
def test_sizes_are_within_their_bounds(samples: int) -> None:
    batch = batch_size(samples, most=256)
    assert 32 <= batch <= 256
    assert batch % 8 == 0
    assert batch_size(samples + 1, most=256) >= batch
    epochs = num_epochs(-(-samples // batch), least=8)
    assert 8 <= epochs <= 50
    sizes = training_sizes(StageTwo(), samples, ())
    steps = -(-samples // sizes["batch_size"]) * sizes["epochs"]
    assert sizes["warmup_steps"] <= 0.2 * steps
    assert sizes["patience"] >= StageTwo().patience


@pytest.mark.parametrize(
    ("num_items", "size"),
    [(10, 4), (100, 16), (300, 32), (600, 32), (1500, 64), (3000, 128), (5000, 256), (10**6, 256)],
)
def test_codes_are_as_many_as_items_fill(num_items: int, size: int) -> None:
    assert codebook_size(num_items, 256) == size
    assert size == 256 or size**2 >= num_items


def test_what_a_toml_sets_stays(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "set.toml"
    path.write_text(
        "[stage_two]\nwarmup_steps = 500\nbatch_size = 256\n[codes]\ncodebook_size = 256\n"
    )
    table, keys = read(data), set_keys(path)
    config = sized(config_of("prorec", path), keys, table)
    assert config.stage_two.warmup_steps == 500
    assert config.stage_two.batch_size == 256
    assert config.codes.codebook_size == 256
    assert config.stage_two.epochs > StageTwo().epochs  # nobody set these
    assert config.stage_one.warmup_steps < 200
    shown = "\n".join(size_lines(config, keys, table))
    assert "stage_two: batch 256 (set) of 2,798 samples" in shown
    assert "warm-up 500 (set) of " in shown
    assert "codes: 256 (set) per level (for 100 items)" in shown
    assert "validation: all 300 users" in shown


def test_keys_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("seed = 3\n[content]\ndim = 8\n[content.encoder]\ntrained = 'layers'\n")
    assert set_keys(path) == {"seed", "content.dim", "content.encoder.trained"}
    assert set_keys(None) == frozenset()


def test_a_run_keeps_its_sizes_and_goes_on_with_them(launch: Launch, tmp_path: Path) -> None:
    data = write_synthetic(tmp_path / "data", num_items=60, num_users=40, max_length=6, seed=1)
    config, out = tmp_path / "config.toml", tmp_path / "run"
    config.write_text(
        '[content]\nembedding = "lsa"\n[model]\ndim = 8\nepochs = 2\n'
        "[evaluation]\nbaselines = false\n"
    )
    arguments = ["run", "--data", data, "--out", out, "--config", config, "--device", "cpu"]
    done = launch("tssr", *arguments)
    assert done.returncode == 0, done.stderr
    assert "sizes: model: batch 32 of 40 samples, epochs 2 (set), patience 13" in done.stderr
    model = json.loads((out / "run.json").read_text())["config"]["model"]
    assert (model["batch_size"], model["epochs"], model["warmup_steps"]) == (32, 2, 0)
    again = launch("tssr", *arguments)
    assert again.returncode == 0, again.stderr
    assert "tssr: complete, kept" in again.stderr
    answers = launch("tssr", "recommend", "--run", out, "--history", "i0", "--device", "cpu")
    assert "sizes" not in answers.stderr
    config.write_text(config.read_text().replace("epochs = 2", "epochs = 3"))
    other = launch("tssr", *arguments)
    assert other.returncode == 1
    assert "model.epochs is 2 there and 3 now" in " ".join(other.stderr.split())
