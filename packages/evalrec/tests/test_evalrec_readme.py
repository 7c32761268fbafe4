from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import evalrec
from evalrec import page

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_readmes_examples_run_as_they_are(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    printed = []
    for block in blocks:  # in one folder, one after the other
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "100"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    floors, frames, metrics = printed
    assert "graph + text" in floors
    assert "ndcg@20" in frames
    assert "Miscalibration@10" in metrics
    assert "\npassed\n" in metrics
    assert (tmp_path / "metrics.json").exists()
    assert "<svg" in (tmp_path / "floors.html").read_text(encoding="utf-8")


def test_the_readme_names_every_public_name():
    table = README.read_text()
    names = [*evalrec.__all__, *page.__all__]
    assert [name for name in names if f"`{name}" not in table] == []
