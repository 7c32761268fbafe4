"""No library's modules import one another in a circle, not even from inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def modules_of(folder: Path) -> dict[str, Path]:
    """The modules of a package by their dotted names."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [folder.name, *path.relative_to(folder).with_suffix("").parts]
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def is_for_types(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`, whose imports never run."""
    if not isinstance(node, ast.If):
        return False
    names = [getattr(node.test, "id", None), getattr(node.test, "attr", None)]
    return "TYPE_CHECKING" in names


def imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that runs, at the top of a module or inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and is_for_types(child):
            for branch in child.orelse:
                yield from imports(ast.Module(body=[branch], type_ignores=[]))
        else:
            yield from imports(child)


def imported(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of the same package that a module imports."""
    targets = set()
    for node in imports(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
            continue
        module = node.module or ""
        if node.level:
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*base, *([module] if module else [])])
        for alias in node.names:
            inner = f"{module}.{alias.name}"
            targets.add(inner if inner in modules else module)
    return targets & modules.keys()


def circle_of(folder: Path) -> list[str]:
    """The modules of one circle of imports in a package, the first also last; [] without any."""
    modules = modules_of(folder)
    graph = {name: imported(name, path, modules) for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


@pytest.mark.parametrize("name", ["semtok", "fusion", "genrec", "evalrec"])
def test_a_library_has_no_import_circle(name: str) -> None:
    folder = ROOT / "packages" / name / "src" / name
    assert folder.is_dir()
    assert circle_of(folder) == []


@pytest.mark.parametrize(
    ("first", "second", "has_circle"),
    [
        ("from toy.second import b", "from toy.first import a", True),
        ("from toy import second", "def late():\n    from toy.first import a", True),
        ("from .second import b", "from . import first", True),
        ("import toy.second", "class A:\n    def a(self):\n        import toy.first", True),
        ("import toy.first", "", True),
        ("from toy.second import b", "", False),
        (
            "from toy.second import b",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy.first import a",
            False,
        ),
        (
            "from toy.second import b",
            "import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    import toy.first",
            True,
        ),
    ],
)
def test_circles_are_seen(tmp_path: Path, first: str, second: str, has_circle: bool) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    for name, text in (("__init__", ""), ("first", first), ("second", second)):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    assert bool(circle_of(folder)) == has_circle
