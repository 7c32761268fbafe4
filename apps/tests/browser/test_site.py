"""The site that `make docs` builds, in a browser: nothing foreign, narrow and dark, by keyboard."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

Visit = Callable[..., "Page"]
Contrasts = Callable[["Page"], list[tuple[float, str]]]

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("index.html", "concepts/trie.html", "guides/evaluate.html", "decisions.html")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that says nothing of each."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a test's output is of what failed."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site, built anew."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "mkdocs", "build", "-q", "-f", ROOT / "mkdocs.yml", "-d", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run([sys.executable, *command], env=environment, check=True)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_pages_fit_and_can_be_read(
    width: int, scheme: str, site: str, visit: Visit, contrasts: Contrasts
) -> None:
    for name in PAGES:
        page = visit(site, fragment=name, width=width, color_scheme=scheme, reduced_motion="reduce")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        measured = contrasts(page)
        assert len(measured) > 20
        assert [each for each in measured if each[0] < 4.5] == [], name
        for image in page.locator("article img").all():
            assert image.get_attribute("alt")
            assert image.evaluate("image => image.complete && image.naturalWidth > 0")


def test_the_reference_can_be_read_on_a_phone(site: str, visit: Visit) -> None:
    page = visit(site, fragment="api/genrec.html#genrec.beam_search", width=375)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_search_answers_by_keyboard(site: str, visit: Visit) -> None:
    page = visit(site, fragment="index.html")
    page.wait_for_load_state("networkidle")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText").strip() == "Skip to content"
    page.keyboard.press("/")
    page.keyboard.type("collision")
    page.wait_for_selector(".md-search-result__link")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/*.html*")
    assert "ollision" in page.inner_text("article")
