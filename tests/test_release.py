"""What is published: one version everywhere, wheels with licence and metadata, checked tags."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("packages/semtok", "packages/fusion", "packages/genrec", "packages/evalrec", "apps")
RELEASE = ROOT / ".ci" / "release.py"


def release(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, RELEASE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def version(folder: Path) -> str:
    text: str = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    return text


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that name a version, as they are here."""
    for name in (*(f"{folder}/pyproject.toml" for folder in FOLDERS), "CITATION.cff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- News.\n"
    )
    return tmp_path


def test_all_distributions_are_of_one_version_and_have_the_licence() -> None:
    versions = {version(ROOT / folder) for folder in FOLDERS}
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)
    assert versions == {cited}
    licence = (ROOT / "LICENSE").read_bytes()
    assert all((ROOT / folder / "LICENSE").read_bytes() == licence for folder in FOLDERS)


def test_a_release_sets_every_version_and_its_tag_is_checked(tree: Path) -> None:
    assert "no section [0.1.0]" in release("--check", "v0.1.0", "--root", tree).stderr
    result = release("2.3.4", "--root", tree)
    assert result.returncode == 0, result.stderr
    assert {version(tree / folder) for folder in FOLDERS} == {"2.3.4"}
    assert "\nversion: 2.3.4\n" in (tree / "CITATION.cff").read_text("utf-8")
    changelog = (tree / "CHANGELOG.md").read_text("utf-8")
    assert re.search(
        r"## \[Unreleased\]\n\n## \[2\.3\.4\] - \d{4}-\d\d-\d\d\n\n### Added", changelog
    )
    assert release("--check", "v2.3.4", "--root", tree).returncode == 0
    for tag in ("v2.3.5", "2.3.4"):
        wrong = release("--check", tag, "--root", tree)
        assert wrong.returncode == 1
        assert f"the tag is {tag}, the distributions are of version 2.3.4" in wrong.stderr


def test_a_release_of_nothing_changes_nothing(tree: Path) -> None:
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert "like 0.2.0" in release("v1", "--root", tree).stderr
    (tree / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [0.1.0] - 2026-01-01\n\n- Old.\n")
    before[tree / "CHANGELOG.md"] = (tree / "CHANGELOG.md").read_bytes()
    assert "something under [Unreleased]" in release("2.3.4", "--root", tree).stderr
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_built_says_what_it_is(folder: str, tmp_path: Path) -> None:
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT / folder)
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        fields = email.message_from_bytes(archive.read(metadata))
        licence = archive.read(metadata.replace("METADATA", "licenses/LICENSE"))
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert fields["Version"] == version(ROOT / folder)
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Author"]
    assert fields["Keywords"]
    assert "Programming Language :: Python :: 3.14" in fields.get_all("Classifier", [])
    assert not [name for name in names if "test" in Path(name).parts[0]]
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())
    check = (sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
