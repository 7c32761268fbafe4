"""`make reproduce-beauty`: missing files are named, other data is told from the right one."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "reproduce.py"
USERS, ITEMS = 6, 7


@pytest.fixture
def reproduce() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Raw files of six users who had items 0 to 6 in this order, in a file sorted by item."""
    folder = tmp_path / "raw"
    folder.mkdir()
    reviews = [
        {"reviewerID": f"U{user}", "asin": f"A{item}", "unixReviewTime": 100 - user + 86400 * item}
        for item in range(ITEMS)
        for user in range(USERS)
    ]
    items = [{"asin": f"A{item}", "title": f"Soap {item}"} for item in range(ITEMS)]
    for name, lines in (("reviews_Beauty_5", reviews), ("meta_Beauty", items)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.json.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def test_a_missing_file_is_named(raw: Path, tmp_path: Path) -> None:
    (raw / "meta_Beauty.json.gz").unlink()
    command = [sys.executable, SCRIPT, raw, "--out", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{raw} lacks meta_Beauty.json.gz; docs/papers/reproduce.md")
    assert not (tmp_path / "out").exists()
    assert (ROOT / "docs/papers/reproduce.md").is_file()


def test_other_data_is_refused(reproduce: ModuleType, raw: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"12,101 items .* this data has 6, 7 and 42"):
        reproduce.main(raw, tmp_path / "out", prepare_only=True)


def test_the_sequences_are_compared(
    reproduce: ModuleType,
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(reproduce, "COUNTS", (USERS, ITEMS, USERS * ITEMS))
    reproduce.main(raw, tmp_path / "out", prepare_only=True)
    printed = capsys.readouterr().out
    assert "not those of the published figures" in printed
    assert f"next: {ROOT / 'apps/prorec.py'} run --data {tmp_path / 'out/data'}" in printed
    lines = "".join(f"{user} 1 2 3 4 5 6 7\n" for user in range(1, USERS + 1))
    sha256 = hashlib.sha256(lines.encode()).hexdigest()
    monkeypatch.setattr(reproduce, "SEQUENCES_SHA256", sha256)
    reproduce.main(raw, tmp_path / "out", prepare_only=True)  # what is prepared already is taken
    printed = capsys.readouterr().out
    assert "wrote" not in printed
    assert printed.startswith("the sequences are those of the published figures\n")
