"""What an app says before it imports torch and the like, each time in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "pydantic",
    "torch",
    "sklearn",
    "scipy",
    "matplotlib",
    "transformers",
    "sentence_transformers",
}

PROGRAM = """
import sys
from importlib import import_module
try:
    import_module(f"semrec.{sys.argv.pop(1)}.app").main()
finally:
    print("imported:", *sys.modules)
"""


def started(name: str, *arguments: object) -> tuple[str, set[str], int]:
    """What an app prints, whatever heavy it has imported, and its exit status."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    shown, _, imported = done.stdout.rpartition("imported: ")
    return shown + done.stderr, HEAVY & set(imported.split()), done.returncode


@pytest.mark.parametrize("name", ["prorec", "cocorec", "tssr", "llm"])
def test_help_and_refusals_import_nothing_heavy(name: str, data: Path, tmp_path: Path) -> None:
    shown, imported, code = started(name, "--help")
    assert ("recommend" in shown, imported, code) == (True, set(), 0)
    for content, words in (
        ("seed = -1\n", "seed must be at least 0"),
        ("[evaluation]\nusers = 3\n", "unknown key 'users'"),
        ('[columns]\nuser = "buyer"\n', "'buyer'"),
    ):
        config = tmp_path / "bad.toml"
        config.write_text(content)
        arguments = ("run", "--data", data, "--out", tmp_path / "run", "--config", config)
        shown, imported, code = started(name, *arguments)
        assert words in shown
        assert shown.count("\n") == 1
        assert (imported - {"pydantic"}, code) == (set(), 1)
    assert not (tmp_path / "run").exists()


def test_the_help_of_study_lists_the_studies_of_the_app() -> None:
    shown, _, code = started("tssr", "study", "--help")
    assert code == 0
    assert "temperature:" in shown
