"""Chromium for the tests of pages: where it cannot be installed, one sentence says so, at once."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "chromium"
TOOLS = ("bash", "timeout")


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        ({}, "this system has no apt-get to install it by"),
        ({"apt-get": "exit 0", "id": "echo 1000"}, "only root may install it"),
        ({"apt-get": "exit 100", "id": "echo 0"}, "apt-get update failed"),
        (
            {"apt-get": 'case "$*" in *install*) exit 100;; esac', "id": "echo 0"},
            "apt-get install failed",
        ),
        ({"apt-get": "exit 0", "id": "echo 0"}, "apt-get did not bring it"),
    ],
)
def test_a_system_without_chromium_is_told_why(
    commands: dict[str, str], reason: str, tmp_path: Path
) -> None:
    for name in TOOLS:
        tool = shutil.which(name)
        assert tool is not None
        (tmp_path / name).symlink_to(tool)
    for name, line in commands.items():
        (tmp_path / name).write_text(f"#!{shutil.which('bash')}\n{line}\n")
        (tmp_path / name).chmod(0o755)
    result = subprocess.run(
        [tmp_path / "bash", SCRIPT],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    sentence = (
        f"chromium is missing, and {reason}: install Debian's package chromium, then try again"
    )
    assert result.stderr.strip() == sentence
    assert result.returncode == 1


def test_where_it_is_nothing_is_installed(tmp_path: Path) -> None:
    (tmp_path / "chromium").write_text("")
    (tmp_path / "chromium").chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None
    result = subprocess.run([bash, SCRIPT], env={"PATH": str(tmp_path)}, check=False)
    assert result.returncode == 0
