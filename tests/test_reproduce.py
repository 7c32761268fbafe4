"""`make reproduce-beauty` and `-games`: missing files are named, other data is told apart."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "reproduce.py"
USERS, ITEMS = 6, 7


@pytest.fixture
def reproduce(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look their module up
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


def change(reproduce: ModuleType, name: str, **values: Any) -> None:
    reproduce.SETS[name] = replace(reproduce.SETS[name], **values)


def test_the_sequences_are_compared(
    reproduce: ModuleType,
    raw: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(reproduce, "beauty", counts=(USERS, ITEMS, USERS * ITEMS))
    reproduce.main(raw, tmp_path / "out", prepare_only=True)
    printed = capsys.readouterr().out
    assert "not those of the published figures" in printed
    assert f"next: {ROOT / 'apps/prorec.py'} run --data {tmp_path / 'out/data'}" in printed
    lines = "".join(f"{user} 1 2 3 4 5 6 7\n" for user in range(1, USERS + 1))
    sha256 = hashlib.sha256(lines.encode()).hexdigest()
    change(reproduce, "beauty", sha256=sha256)
    reproduce.main(raw, tmp_path / "out", prepare_only=True)  # what is prepared already is taken
    printed = capsys.readouterr().out
    assert "wrote" not in printed
    assert printed.startswith("the sequences are those of the published figures\n")


def test_games_are_made_as_lc_rec_makes_them(
    reproduce: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pair counts once, by its earliest rating, and only items of the metadata count."""
    raw = tmp_path / "raw"
    raw.mkdir()
    ratings = [
        f"{item},U{user},5.0,{86400 * (place + 1)}\n"
        for user in range(USERS)
        for place, item in enumerate(("A0", "A1", "A2", "A3", "no metadata", "A4", "A0"))
    ]
    (raw / "Video_Games.csv").write_text("".join(sorted(ratings)))
    items = [{"asin": f"A{item}", "title": f"Game {item}"} for item in range(5)]
    text = "".join(json.dumps(item) + "\n" for item in items)
    (raw / "meta_Video_Games.json.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(SystemExit, match=r"452,989 interactions, this data has 6, 5 and 30"):
        reproduce.main(raw, tmp_path / "out", prepare_only=True, data_set="games")
    pairs = "".join(f"U{user} A{item}\n" for user in range(USERS) for item in range(5))
    change(reproduce, "games", counts=(USERS, 5, USERS * 5))
    change(reproduce, "games", sha256=hashlib.sha256(pairs.encode()).hexdigest())
    reproduce.main(raw, tmp_path / "out", prepare_only=True, data_set="games")
    printed = capsys.readouterr().out
    assert "the pairs of a user and an item are those of the published figures\n" in printed
    assert f"run --data {tmp_path / 'out/games-data'} --out {tmp_path / 'out/games'}" in printed
