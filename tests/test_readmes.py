"""What the READMEs show runs: each library's alone in a fresh environment, the root's here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("semtok", "fusion", "genrec", "evalrec")
# A console block whose first line is "```console run" is typed in, line by line after its "$ ".
BLOCK = re.compile(r"^```(python|console run)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(*command: str | Path, cwd: Path, shell_path: Path | None = None) -> str:
    environment = dict(os.environ)
    if shell_path is not None:
        environment["PATH"] = f"{shell_path}{os.pathsep}{environment['PATH']}"
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    shown = " ".join(str(part) for part in command)
    assert result.returncode == 0, f"{shown}\n{result.stdout}{result.stderr}"
    return result.stdout


def run_blocks(readme: Path, python: Path, folder: Path) -> int:
    """Runs the blocks of a README in order in one empty folder; returns how many were Python."""
    blocks = BLOCK.findall(readme.read_text(encoding="utf-8"))
    for kind, text in blocks:
        if kind == "python":
            run(python, "-I", "-c", text, cwd=folder)
        else:
            lines = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
            assert lines, f"a console block of {readme} has no line that starts with '$ '"
            for line in lines:
                run("sh", "-c", line, cwd=folder, shell_path=python.parent)
    return sum(kind == "python" for kind, _ in blocks)


def requirement(readme: Path, name: str, wheel: Path) -> str:
    """The wheel, with the extras that the README's own install line asks for."""
    line = re.search(rf"pip install [\"']?{name}(\[[\w,]+\])?", readme.read_text(encoding="utf-8"))
    assert line, f"{readme} must say 'pip install {name}', with the extras that its example needs"
    return f"{wheel}{line.group(1) or ''}"


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_a_library_installs_and_works_alone(name: str, tmp_path: Path) -> None:
    source, readme = ROOT / "packages" / name, ROOT / "packages" / name / "README.md"
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", source)
    run(sys.executable, *build, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").iterdir()
    assert f"{name}/py.typed" in zipfile.ZipFile(wheel).namelist()

    # The environment has no pip of its own, which saves its making: ours installs into it.
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile")
    constraints = ("--constraint", ROOT / "constraints.txt")
    run(*pip, *constraints, requirement(readme, name, wheel), cwd=tmp_path)

    empty = tmp_path / "empty"
    empty.mkdir()
    find = f"from importlib.util import find_spec; print([n for n in {PACKAGES} if find_spec(n)])"
    assert run(python, "-I", "-c", find, cwd=empty).strip() == f"['{name}']"
    imported = (
        f"import {name}; [getattr({name}, n) for n in {name}.__all__]; print({name}.__file__)"
    )
    assert run(python, "-I", "-c", imported, cwd=empty).startswith(str(tmp_path / "venv"))
    assert run_blocks(readme, python, empty) > 0, f"{readme} has no python block"


def test_the_quickstart_of_the_root_readme_runs(tmp_path: Path) -> None:
    count = run_blocks(ROOT / "README.md", Path(sys.executable), tmp_path)
    assert count > 0, "README.md has no python block"


def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "```python\nopen('made', 'w').close()\n```\n\n```console run\n$ test -e made\nout\n```\n"
    )
    assert run_blocks(readme, Path(sys.executable), tmp_path) == 1
    readme.write_text("```console run\n$ test -e missing\n```\n")
    with pytest.raises(AssertionError, match="test -e missing"):
        run_blocks(readme, Path(sys.executable), tmp_path)
    readme.write_text("```python\nraise SystemExit(3)\n```\n")
    with pytest.raises(AssertionError, match="SystemExit"):
        run_blocks(readme, Path(sys.executable), tmp_path)
