"""A service that listens, and Debian's chromium that looks at its page."""

from __future__ import annotations

import importlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn

from semrec.shared.serving import pages
from semrec.shared.serving.application import application
from semrec.shared.serving.options import Limits, ServeOptions
from semrec.shared.serving.served_run import ServedRun
from semrec.shared.serving.service import Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HEIGHT = 900
# Of every text that can be seen, its contrast with what is behind it, all blended as it is painted.
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => a * c + (1 - a) * under[i]);
  const behind = (node) => {
    if (!node) return rgba(getComputedStyle(document.body).backgroundColor).slice(0, 3);
    return over(rgba(getComputedStyle(node).backgroundColor), behind(node.parentElement));
  };
  const luminance = (color) => {
    const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = color.map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const measured = [];
  const measure = (node, text, pseudo) => {
    const style = getComputedStyle(node, pseudo), under = behind(node);
    const shades = [luminance(over(rgba(style.color), under)), luminance(under)];
    measured.push([(Math.max(...shades) + 0.05) / (Math.min(...shades) + 0.05), text]);
  };
  for (const node of document.querySelectorAll("body *")) {
    if (!node.checkVisibility() || node.matches("script, option")) continue;
    const texts = [...node.childNodes].filter((each) => each.nodeType === Node.TEXT_NODE);
    const text = texts.map((each) => each.data).join("").trim();
    if (text) measure(node, text);
    if (node.placeholder) measure(node, node.placeholder, "::placeholder");
    if (node.dataset.rank) measure(node, node.dataset.rank, "::before");
  }
  return measured;
}"""


@contextmanager
def serving(run: Path, name: str, token: str | None) -> Iterator[str]:
    """The address of a service of a run, which answers from a thread."""
    limits = Limits()
    app = importlib.import_module(f"semrec.{name}.app").APP
    service = Service(run, partial(ServedRun.load, app, device="cpu"), limits=limits)
    answering = application(
        service, title="a run", token=token, limits=limits, pages=(pages.router,)
    )
    listener = ServeOptions(run=run, port=0).listening()
    server = uvicorn.Server(uvicorn.Config(answering, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        listener.close()


@pytest.fixture(scope="session")
def served(completed: Callable[[str], Path]) -> Iterator[Callable[..., str]]:
    """The address of a service of an app's complete run."""
    with ExitStack() as stack:

        @cache
        def served(name: str = "prorec", token: str | None = None) -> str:
            return stack.enter_context(serving(completed(name), name, token))

        yield served


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path is not None, "chromium is missing: `make browser` says how to install it"
    with sync_playwright() as playwright:
        # As root, as in containers, chromium has no sandbox of its own.
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


Visit = Callable[..., "Page"]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens the page of a service; in the end, nothing foreign was asked for and nothing failed."""
    problems: list[str] = []
    with ExitStack() as stack:

        def visit(
            address: str,
            *,
            fragment: str = "",
            width: int = 1280,
            expected: str = "",
            **settings: Any,
        ) -> Page:
            viewport = {"width": width, "height": HEIGHT}
            context = browser.new_context(viewport=viewport, **settings)  # type: ignore[arg-type]
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(20_000)

            def note(problem: str) -> None:
                if not expected or expected not in problem:
                    problems.append(problem)

            page.on("console", lambda message: message.type == "error" and note(message.text))
            page.on("pageerror", lambda error: note(str(error)))
            page.on("dialog", lambda dialog: (note(dialog.message), dialog.dismiss()))
            page.on(
                "request",
                lambda request: request.url.startswith(f"{address}/") or note(request.url),
            )
            page.goto(f"{address}/{fragment}")
            return page

        yield visit
    assert problems == []


@pytest.fixture(scope="session")
def ask() -> Callable[..., list[dict[str, Any]]]:
    """The items that `POST /recommend` answers a history with."""

    def ask(address: str, history: list[str], **wishes: Any) -> list[dict[str, Any]]:
        response = httpx.post(
            f"{address}/recommend", json={"history": history, **wishes}, timeout=60
        )
        assert response.status_code == 200, response.text
        items: list[dict[str, Any]] = response.json()["answers"][0]["items"]
        return items

    return ask


@pytest.fixture(scope="session")
def contrasts() -> Callable[[Page], list[tuple[float, str]]]:
    """Each text of a page with its contrast to what is behind it."""

    def contrasts(page: Page) -> list[tuple[float, str]]:
        return [(contrast, text) for contrast, text in page.evaluate(CONTRASTS)]

    return contrasts
