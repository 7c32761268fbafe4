from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "packages" / "evalrec.md"


def test_the_examples_of_the_page_run_as_they_are(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
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
