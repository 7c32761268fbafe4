"""The version is the distribution's, as a name and as an option."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest
import semtok
from semtok.cli import main


def test_the_version_is_the_distributions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert semtok.__version__ == metadata.version("semtok")
    monkeypatch.setattr(sys, "argv", ["semtok", "--version"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"semtok {semtok.__version__}\n"
