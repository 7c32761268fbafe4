"""The three apps as their users run them, small, on one synthetic catalogue."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from unittest import mock

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
}

Launch = Callable[..., subprocess.CompletedProcess[str]]


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
