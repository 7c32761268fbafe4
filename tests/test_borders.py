"""The rules between the parts, read from the sources: who imports what, and what nobody does.

Which part may import which is import-linter's to say, by the contracts in pyproject.toml.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
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
        *(ROOT / "apps").glob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]
)
EVERYTHING = sorted(
    path
    for folder in ("packages", "apps", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
UNSAFE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Names that say nothing of what they hold.
EMPTY_NAMES = {"found", "own", "one", "given", "asked"}
# Also in the text of programs that tests run.
PATH_CHANGE = re.compile(
    r"sys\.path(?:\.(?:append|extend|insert|remove|clear|pop)\b|\[[^\]]*\]\s*=[^=]|\s*\+?=[^=])"
    r"|\bsite\.addsitedir\b|\bsyspath_prepend\b"
)


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


def bound_names(node: ast.AST) -> Iterator[str]:
    """The names to which a node of a syntax tree gives a value; an import keeps its author's."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            yield name
        case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            yield name


def empty_names(tree: ast.AST) -> list[str]:
    """Variables, parameters, functions and classes whose names say nothing."""
    return [
        f"line {getattr(node, 'lineno', '?')}: {name}"
        for node in ast.walk(tree)
        for name in bound_names(node)
        if name in EMPTY_NAMES
    ]


def path_changes(text: str) -> list[str]:
    """Where Python is told at run time to look for modules elsewhere."""
    return [
        f"line {number}: {match.group()}"
        for number, line in enumerate(text.splitlines(), start=1)
        for match in PATH_CHANGE.finditer(line)
    ]


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
    assert APPS


def test_every_way_to_bind_an_empty_name_is_noticed() -> None:
    binding = (
        "found = 1; own: int = 1; one += 1",
        "for given in []: pass\nwith f() as asked: pass",
        "[(found, own) for found, *own in x]; (one := 1)",
        "def given(asked, /, found, *own, one=1, **given): pass",
        "lambda asked: 0\nclass found: pass\nasync def own(): pass",
        "try: pass\nexcept E as one: pass",
        "match x:\n case [given, *asked]: pass\n case {'a': found, **own}: pass",
    )
    assert [len(empty_names(ast.parse(text))) for text in binding] == [3, 2, 3, 6, 3, 1, 4]
    good = "from hypothesis import given\n@given(x)\ndef f(founder, ones): return x.found(own)"
    assert empty_names(ast.parse(good)) == []


def test_every_change_of_the_path_is_noticed() -> None:
    path = "sys" + ".path"
    changes = (".insert(0, x)", ".append(x)", " = []", " += [x]", "[:0] = [x]", ".extend(x)")
    assert all(path_changes(path + change) for change in changes)
    assert path_changes("monkeypatch." + "syspath" + "_prepend(x)")
    assert path_changes(f"print({path}); {path} == [] or x in {path}[0]") == []


@pytest.mark.parametrize("path", APPS, ids=lambda path: str(path.relative_to(ROOT)))
def test_apps_import_public_names_only(path: Path) -> None:
    assert foreign(parse(path)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle(path: Path) -> None:
    assert unsafe(parse(path)) == []


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_what_they_hold_and_modules_are_installed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert empty_names(ast.parse(text, filename=str(path))) == []
    assert path_changes(text) == []


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME"]) + r")\b")
    places = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("packages", "apps", "benchmarks", "tests")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".md", ".toml", ".css")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if marks.search(line)
    ]
    assert places == []


@pytest.mark.parametrize("name", PACKAGES)
def test_a_library_names_the_version_of_its_distribution(name: str) -> None:
    project = tomllib.loads((ROOT / "packages" / name / "pyproject.toml").read_text("utf-8"))
    assert importlib.import_module(name).__version__ == project["project"]["version"]


def test_every_contract_of_imports_is_kept() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    independent = [set(c["modules"]) for c in contracts if c["type"] == "independence"]
    assert set(PACKAGES) in independent
    command = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(contracts)} kept, 0 broken" in result.stdout


@pytest.mark.parametrize("module", ["semtok.cli", "evalrec.cli", "semrec.prorec.app"])
@pytest.mark.parametrize("chosen", [None, "active"])
def test_threads_of_a_command_yield_unless_the_user_says_otherwise(
    module: str, chosen: str | None
) -> None:
    program = f"""
import os, sys
sys.argv = ["command", "--help"]
from {module} import main
heavy = {{"torch", "faiss", "sklearn"}} & set(sys.modules)
try:
    main()
except SystemExit:
    print(os.environ["OMP_WAIT_POLICY"], sorted(heavy))
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if chosen is not None:
        environment["OMP_WAIT_POLICY"] = chosen
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == f"{chosen or 'passive'} []"
