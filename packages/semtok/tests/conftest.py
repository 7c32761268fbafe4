"""Commands of semtok, run in the process of the tests."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from semtok.cli import main


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


Semtok = Callable[..., Done]


@pytest.fixture
def semtok(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Semtok:
    """Runs a command in this process, in the test's own folder unless told otherwise."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object, cwd: Path = tmp_path, stdin: str = "") -> Done:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["semtok", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        before = signal.getsignal(signal.SIGTERM)
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            signal.signal(signal.SIGTERM, before)
        shown = capsys.readouterr()
        return Done(code, shown.out, shown.err)

    return run
