"""The rules between the parts, read from the sources: who imports what, and what nobody does."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("semtok", "fusion", "genrec", "evalrec")
APPS = sorted((ROOT / "apps" / "semrec").rglob("*.py"))
SOURCES = sorted(
    [
        *(path for name in PACKAGES for path in (ROOT / "packages" / name / "src").rglob("*.py")),
        *APPS,
        *(ROOT / "benchmarks").rglob("*.py"),
    ]
)
UNSAFE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def imports(tree: ast.AST) -> Iterator[tuple[str, str | None, int]]:
    """(module, name or None, line) of each absolute import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                yield node.module, alias.name, node.lineno


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def foreign(tree: ast.AST) -> list[str]:
    """Imports of a package's names that are not public."""
    wrong = []
    for module, name, line in imports(tree):
        package = module.split(".")[0]
        if package not in PACKAGES:
            continue
        if any(part.startswith("_") for part in [*module.split("."), *([name] if name else [])]):
            wrong.append(f"line {line}: {module}.{name} is private")
        elif name and module == package:
            public = getattr(importlib.import_module(package), "__all__", ())
            if name not in public:
                wrong.append(f"line {line}: {name} is not in {package}.__all__")
    return wrong


def unsafe(tree: ast.AST) -> list[str]:
    """Ways to write or read a pickle."""
    wrong = [f"line {n}: {m}" for m, _, n in imports(tree) if m.split(".")[0] in UNSAFE]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.save", "torch.load"):
            wrong.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            refused = isinstance(node.value, ast.Constant) and node.value.value is False
            wrong += [] if refused else [f"line {node.value.lineno}: allow_pickle"]
    for module, name, line in imports(tree):
        if module == "torch" and name in ("save", "load"):
            wrong.append(f"line {line}: torch.{name}")
    return wrong


def test_the_rules_find_what_they_look_for() -> None:
    private = "import fusion._x\nfrom genrec.trie import _row\nfrom fusion import nothing, info_nce"
    assert foreign(ast.parse(private)) == [
        "line 1: fusion._x.None is private",
        "line 2: genrec.trie._row is private",
        "line 3: nothing is not in fusion.__all__",
    ]
    pickles = "import pickle\nfrom torch import load\ntorch.save(x)\nnp.load(f, allow_pickle=True)"
    assert len(unsafe(ast.parse(pickles))) == 4
    assert unsafe(ast.parse("np.load(f, allow_pickle=False)\nimport torch")) == []
    assert SOURCES


@pytest.mark.parametrize("path", APPS, ids=lambda path: str(path.relative_to(ROOT)))
def test_apps_import_public_names_only(path: Path) -> None:
    assert foreign(parse(path)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle(path: Path) -> None:
    assert unsafe(parse(path)) == []


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME"]) + r")\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("packages", "apps", "benchmarks", "tests")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".md", ".toml", ".css")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if marks.search(line)
    ]
    assert found == []


def test_the_contracts_between_the_parts_are_kept() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 kept, 0 broken" in result.stdout
