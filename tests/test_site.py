"""The site builds strictly, names all that is public, fetches nothing foreign; drawings are new."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    *("semtok", "semtok.hf", "fusion", "genrec", "genrec.hf"),
    *("evalrec", "evalrec.page", "semrec"),
)
# What a browser fetches by itself for a page; links are followed by people alone.
FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}
MOST_BYTES = 1_500_000

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page fetches, its anchors, and its images without a text in their place."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.silent_images: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.anchors |= {attributes["id"] or ""} if "id" in attributes else set()
        if address := attributes.get(FETCHED.get(tag, "")):
            self.fetched.append(address)
        if tag == "img" and not attributes.get("alt"):
            self.silent_images.append(attributes.get("src") or "")


@cache
def parsed(path: Path) -> Page:
    return Page(path)


def mkdocs(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--config-file",
            config,
            "--site-dir",
            site,
        ],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = mkdocs(ROOT / "mkdocs.yml", folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_in_the_reference(name: str, site: Path) -> None:
    anchors = parsed(site / "api" / f"{name.partition('.')[0]}.html").anchors
    public = importlib.import_module(name).__all__
    # A function and its module of one name: the reference has the function by both.
    missing = [each for each in public if not {f"{name}.{each}", f"{name}.{each}.{each}"} & anchors]
    assert public
    assert missing == []


def test_pages_fetch_nothing_foreign_and_are_light(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for path in pages:
        page, name = parsed(path), str(path.relative_to(site))
        assert page.fetched, name
        foreign = [address for address in page.fetched if re.match(r"(?:\w+:)?//", address)]
        assert foreign == [], name
        assert page.silent_images == [], name
        assert path.stat().st_size < MOST_BYTES, name
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"url\(\s*[\"']?(?:https?:)?//[^)]*\)|@import", text) == [], path


def test_a_broken_link_or_anchor_fails(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nplugins: []\nhooks: []\nextra_css: []\n"
        "nav:\n  - Start: index.md\n"
    )
    for text, words in (
        ("# A\n\n[a](#a)\n", ""),
        ("# A\n\n[b](#b)\n", "#b"),
        ("# A\n\n[c](c.md)\n", "c.md"),
    ):
        (tmp_path / "docs/index.md").write_text(text)
        result = mkdocs(config, tmp_path / "built")
        assert (result.returncode == 0) == (words == ""), result.stderr
        assert words in result.stderr


def test_drawings_are_those_that_the_script_makes() -> None:
    path = ROOT / "docs" / "drawings.py"
    spec = importlib.util.spec_from_file_location("drawings", path)
    assert spec is not None
    assert spec.loader is not None
    drawings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawings)
    assert set(drawings.readme_figures()) == set(drawings.BARS)
    for name, draw in drawings.DRAWINGS.items():
        picture = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
        assert picture == draw().svg(), f"{name}: python docs/drawings.py draws it anew"
