from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import evalrec
from evalrec import page

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_readmes_example_runs_as_it_is(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks[0]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "graph + text" in done.stdout
    assert (tmp_path / "metrics.json").exists()
    assert "<svg" in (tmp_path / "floors.html").read_text(encoding="utf-8")


def unlike(expected: str, printed: str) -> str:
    """The first line of what is shown that was not printed; "..." stands for any lines.

    Lines are compared without the spaces at their ends, and none that is blank.
    """
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    skips = False
    for line in filter(None, map(str.strip, expected.splitlines())):
        if line == "...":
            skips = True
            continue
        if skips and line in lines:
            lines = lines[lines.index(line) :]
        if not lines or lines.pop(0) != line:
            return line
        skips = False
    return "" if skips or not lines else f"nothing, but got {lines[0]}"


def test_the_readmes_commands_print_what_it_shows(tmp_path):
    (block,) = re.findall(r"```console run\n(.*?)```", README.read_text(), flags=re.DOTALL)
    evalrec.write_synthetic(tmp_path / "data", num_items=300, num_users=600)
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)
    assert len(commands) == block.count("$ ")
    for command, expected in commands:
        done = subprocess.run(
            [
                *(sys.executable, "-c", "from evalrec.cli import main; main()"),
                *shlex.split(command.removeprefix("evalrec ")),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert unlike(expected, done.stdout) == "", command


def test_output_that_differs_is_noticed():
    assert unlike("a\n...\nd\n", "a  \n\nb\nc\nd\n") == ""
    assert unlike("...\n", "a\nb\n") == unlike("", "") == unlike("...", "") == ""
    assert unlike("a\nc\n", "a\nb\n") == "c"
    assert unlike("a\n...\nx\n", "a\nb\n") == "x"
    assert unlike("a\n", "a\nb\n") == "nothing, but got b"
    assert unlike("a\n", "") == "a"


def test_the_readme_names_every_public_name():
    table = README.read_text()
    names = [*evalrec.__all__, *page.__all__]
    assert [name for name in names if f"`{name}" not in table] == []
