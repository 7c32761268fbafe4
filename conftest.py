"""Shapes and types in the libraries' signatures are checked while the tests run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest

# Not by jaxtyping's own pytest option, which cannot read a checker's name with parentheses.
jaxtyping.install_import_hook(
    ["semtok", "fusion", "genrec", "evalrec"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switches the checks off, so that a refusal is met as a user meets it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def page_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Makes a module of docs/own_parts.md, such as "mypackage.lsh", importable during a test."""
    page = (Path(__file__).parent / "docs/own_parts.md").read_text(encoding="utf-8")

    def page_module(name: str) -> ModuleType:
        fence = f"```python {name.replace('.', '/')}.py\n"
        source = page.split(fence)[1].split("\n```")[0]
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, name, "exec"), module.__dict__)
        return module

    return page_module
