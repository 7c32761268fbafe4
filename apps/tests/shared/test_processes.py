"""Runs on two processes, which `torchrun` starts, beside the same runs on one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evalrec import write_synthetic
from genrec import TrainingConfig, TrainingRecipe

Launch = Callable[..., subprocess.CompletedProcess[str]]
OfApp = Callable[[str], Path]

WORKER = """
import os, sys
from importlib import import_module
from pathlib import Path

name, folder = sys.argv[1:3]
del sys.argv[1:3]
Path(folder, os.environ["RANK"]).write_text(str(os.getpid()))
import_module(f"semrec.{name}.app").main()
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 items, 120 users."""
    folder = tmp_path_factory.mktemp("few") / "data"
    return write_synthetic(folder, num_items=60, num_users=120, seed=3)


@pytest.fixture
def on_two(tmp_path: Path, few: Path, small: OfApp) -> Callable[[str, Path], Any]:
    """Starts a run of an app on two processes, which write their ids into "0" and "1"."""
    (tmp_path / "worker.py").write_text(WORKER)

    def on_two(name: str, out: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", "2", tmp_path / "worker.py", name, tmp_path),
                *("run", "--data", few, "--config", small(name), "--out", out),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        )

    return on_two


@pytest.fixture
def on_one(
    launch: Launch, few: Path, small: OfApp, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Path], None]:
    """Runs an app on one process, whose trainings take two batches a step."""
    plain = TrainingRecipe.settings

    def settings(self: TrainingRecipe, seed: int, *, monitor: str | None) -> TrainingConfig:
        return dataclasses.replace(plain(self, seed, monitor=monitor), accumulate=2)

    def on_one(name: str, out: Path) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(TrainingRecipe, "settings", settings)
            done = launch(name, "run", "--data", few, "--config", small(name), "--out", out)
        assert done.returncode == 0, done.stderr

    return on_one


def finished(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def assert_near(run: Path, expected: Path) -> None:
    """Metrics are the same but for rounding, and the steps of trainings are as many."""
    metrics, expected_metrics = (
        json.loads((folder / "metrics.json").read_text()) for folder in (run, expected)
    )
    same(metrics, expected_metrics)
    logs = sorted(path.relative_to(expected) for path in expected.glob("*/log.jsonl"))
    assert logs
    for log in logs:
        steps, expected_steps = (
            [json.loads(line)["step"] for line in (folder / log).read_text().splitlines()]
            for folder in (run, expected)
        )
        assert steps == expected_steps


def same(value: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert value.keys() == expected.keys()
        for key in expected:
            same(value[key], expected[key])
    elif isinstance(expected, list):
        for part, expected_part in zip(value, expected, strict=True):
            same(part, expected_part)
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, rel=0.02, abs=0.02)
    else:
        assert value == expected


@pytest.mark.parametrize("name", ["prorec", "cocorec"])
def test_two_processes_equal_one_that_accumulates_two_batches(
    name: str,
    on_two: Callable[[str, Path], subprocess.Popen[str]],
    on_one: Callable[[str, Path], None],
    tmp_path: Path,
) -> None:
    said = finished(on_two(name, tmp_path / "two"))
    on_one(name, tmp_path / "one")
    assert_near(tmp_path / "two", tmp_path / "one")
    assert said.count("floors: done") == 1  # one process speaks
    assert (tmp_path / "two/report.html").exists()


def test_a_process_that_dies_ends_all_and_the_same_command_goes_on(
    on_two: Callable[[str, Path], subprocess.Popen[str]],
    on_one: Callable[[str, Path], None],
    tmp_path: Path,
) -> None:
    out = tmp_path / "two"
    begun = on_two("tssr", out)
    deadline = time.monotonic() + 300
    while not (out / "tssr/checkpoint.json").exists() and time.monotonic() < deadline:
        assert begun.poll() is None
        time.sleep(0.02)
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    said, _ = begun.communicate(timeout=300)
    assert begun.returncode != 0
    assert said.count("repeat the command to continue") == 1, said
    assert "[rank0]" not in said  # no traceback but torchrun's own
    assert not (out / "metrics.json").exists()
    assert "floors: complete, kept" in finished(on_two("tssr", out))
    on_one("tssr", tmp_path / "one")
    assert_near(out, tmp_path / "one")
