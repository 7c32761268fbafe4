"""Services of complete runs, in this process and without a network."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from semrec.shared.files import read_json, write_sealed
from semrec.shared.seals import seal
from semrec.shared.serving import pages
from semrec.shared.serving.application import application
from semrec.shared.serving.options import Limits
from semrec.shared.serving.served_run import ServedRun
from semrec.shared.serving.service import Service


class Talk(NamedTuple):
    """A service, and a client of it."""

    client: httpx.AsyncClient
    service: Service


Talking = Callable[..., AbstractAsyncContextManager[Talk]]


@pytest.fixture(scope="session")
def talking() -> Talking:
    """Serves a run of an app and talks to it; the client bears the token, if there is one."""

    @asynccontextmanager
    async def talking(
        run: Path,
        *,
        name: str = "prorec",
        token: str | None = None,
        limits: Limits | None = None,
        fixed: str | None = None,
    ) -> AsyncIterator[Talk]:
        limits = limits or Limits()
        app = importlib.import_module(f"semrec.{name}.app").APP
        load = partial(ServedRun.load, app, device="cpu")
        service = Service(run, load, limits=limits, fixed=fixed)
        answering = application(
            service, title="a run", token=token, limits=limits, pages=(pages.router,)
        )
        transport = httpx.ASGITransport(app=answering, raise_app_exceptions=False)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        client = httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)
        async with service, client:
            yield Talk(client, service)

    return talking


@pytest.fixture
def two_runs(completed: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """A run of PRORec, and one beside it that ranks the items otherwise and calls them new."""
    runs = tmp_path / "first", tmp_path / "second"
    for run in runs:
        shutil.copytree(completed("prorec"), run)
    data, joined = runs[1] / "data", runs[1] / "joined/stage.json"
    facts = read_json(joined)
    write_sealed(joined, {**facts, "weights": dict.fromkeys(facts["weights"], -3.0)})
    items = [json.loads(line) for line in (data / "items.jsonl").read_text().splitlines()]
    lines = (json.dumps({**item, "title": f"new {item['title']}"}) for item in items)
    (data / "items.jsonl").write_text("\n".join(lines) + "\n")
    record = read_json(data / "stage.json")
    write_sealed(data / "stage.json", {**record, "files": seal(data)})
    return runs
