"""The pictures of the READMEs, taken anew: the page of `serve`, over the run of the demo.

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

import typer
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

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
    path = IMAGES / "serve.png"
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)
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
    with serving(run) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take_serve(browser, address)
        browser.close()


if __name__ == "__main__":
    typer.run(main)
