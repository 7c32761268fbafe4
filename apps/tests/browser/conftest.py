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
