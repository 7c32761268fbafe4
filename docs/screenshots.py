"""The pictures of READMEs and site, taken anew of the demo's run: its report, tree and service.

    make demo
    .ci/chromium
    .venv/bin/python docs/screenshots.py

Chromium and the packages of requirements-dev.txt are needed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import typer
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
VIEWPORT = {"width": 1280, "height": 880}
MOST_BYTES = 200_000
HISTORY = ("item-00208", "item-00007", "item-00000")
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


@contextmanager
def serving(run: Path) -> Iterator[str]:
    """The address of the service of a run."""
    command = [sys.executable, ROOT / "apps" / "prorec.py", "serve", "--run", run, "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if match := ADDRESS.search(line):
                yield match.group()
                break
        else:
            raise SystemExit("".join(lines))
        process.terminate()


def take_serve(browser: Browser, address: str) -> None:
    """The page with a history of three items, one reason opened, and an item struck out."""
    page = browser.new_page(viewport=VIEWPORT, color_scheme="light", reduced_motion="reduce")  # type: ignore[arg-type]
    items = "&".join(f"item={item_id}" for item_id in HISTORY)
    page.goto(f"{address}/#{items}&seen=out")
    page.fill("#search", "camping lamp")
    page.wait_for_selector("#results li")
    page.locator("#items .open").nth(2).click()
    page.click("#items button:text-is('Never show it')")
    page.wait_for_selector("#left-out .item")
    page.locator("#left-out .open").click()
    page.locator("#items .open").first.click()
    page.wait_for_selector('#answer[aria-busy="false"]')
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    keep(page, "serve.png", height=2000)


def take_report(browser: Browser, path: Path) -> None:
    """What won, which a run's report begins with."""
    page = opened(browser, path)
    keep(page.locator("section").first, "report.png", height=520)


def take_tree(browser: Browser, path: Path) -> None:
    """The tree of a tokenizer's page, with a branch opened."""
    page = opened(browser, path)
    page.locator("#tree summary").first.click()
    keep(page.locator("section", has=page.locator("#tree")), "tree.png", height=640)


def opened(browser: Browser, path: Path) -> Page:
    """A page that lies in a file."""
    page = browser.new_page(viewport=VIEWPORT, color_scheme="light", reduced_motion="reduce")  # type: ignore[arg-type]
    page.goto(path.resolve().as_uri())
    return page


def keep(shown: Page | Locator, name: str, *, height: int) -> None:
    """Writes a picture of a page or of a part of it, with 256 colours, no higher than told.

    Raises:
        SystemExit: If it is too large for a README.
    """
    path = IMAGES / name
    if isinstance(shown, Page):
        shown.screenshot(path=path, full_page=True)
    else:
        shown.screenshot(path=path)
    with Image.open(path) as image:
        top = image.crop((0, 0, image.width, min(height, image.height)))
        top.convert("RGB").quantize(256).save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path} must be at most {MOST_BYTES:,} bytes")


def main(run: Path = ROOT / "runs" / "demo") -> None:
    """Takes all pictures.

    Args:
        run: The complete run of `make demo`.
    """
    IMAGES.mkdir(exist_ok=True)
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is missing: .ci/chromium installs it")
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        tree = Path(folder) / "tree.html"
        semtok = ("from semtok.cli import main", "main()")
        inspect = ("inspect", run / "tokenizer/tokenizer", "--html", tree)
        titles = ("--catalog", run / "data/items.jsonl")
        subprocess.run([sys.executable, "-c", ";".join(semtok), *inspect, *titles], check=True)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take_report(browser, run / "report.html")
        take_tree(browser, tree)
        with serving(run) as address:
            take_serve(browser, address)
        browser.close()


if __name__ == "__main__":
    typer.run(main)
