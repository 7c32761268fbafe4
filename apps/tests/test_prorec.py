"""PRORec as its user runs it, on synthetic data. What all apps promise is in test_frame.py."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def complete(completed: Callable[[str], Path]) -> Path:
    return completed("prorec")


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


@pytest.mark.slow
def test_the_demo_beats_the_floors_without_text(launch: Launch, tmp_path: Path) -> None:
    done = launch("prorec", "demo", "--out", tmp_path / "demo", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    test = metrics(tmp_path / "demo")["test"]
    reached = {n: r["metrics"]["unfiltered"]["recall@10"]["mean"] for n, r in test.items()}
    for floor in ("popularity", "markov", "graph"):
        assert reached["PRORec"] > reached[floor], reached
