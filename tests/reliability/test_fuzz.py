"""Fuzz through every command line, with a fixed seed: an answer or one sentence, no traceback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("seconds", [15, pytest.param(600, marks=pytest.mark.reliability)])
def test_fuzz(environment, completed, tmp_path, seconds):
    for name in ("tssr",) if seconds < 60 else ("prorec", "cocorec", "tssr"):
        shutil.copytree(completed(name).place / "run", tmp_path / "runs" / name)
    script = Path(__file__).with_name("fuzz.py")
    done = subprocess.run(
        [sys.executable, script, "--seconds", str(seconds), "--runs", tmp_path / "runs"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
