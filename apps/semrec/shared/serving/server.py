"""From the command line to a process that listens: sockets, signals, workers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import typer
import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from semrec.shared.app import App
from semrec.shared.screen import Screen
from semrec.shared.serving import pages
from semrec.shared.serving.application import application
from semrec.shared.serving.options import Limits, ServeOptions
from semrec.shared.serving.served_run import LOAD_ERRORS, ServedRun
from semrec.shared.serving.service import Service

_LOADING_SECONDS = 600
"""That a worker has to load a run before the one that it is to replace stays instead."""


def serve(app: App[Any, Any], options: ServeOptions, limits: Limits | None = None) -> None:
    """Serves a complete run until a signal ends it; what is under way is answered first.

    Args:
        app: Whose run it is.
        options: Those that `check` has passed.
        limits: What the service bounds; None for the defaults.

    Raises:
        ExperimentError: The run cannot be loaded, or the address cannot be listened at.
    """
    limits = limits or Limits()
    with options.listening() as listener:
        if options.workers == 1:
            service, answering = _application(app, options, limits, fixed=None)
            say_where = partial(_say_where, options, listener)
            _Server(_config(answering, limits), service, say_where).run(sockets=[listener])
        else:
            _say_where(options, listener)
            _serve_by_workers(app, options, limits, listener)


def _serve_by_workers(
    app: App[Any, Any], options: ServeOptions, limits: Limits, listener: socket.socket
) -> None:
    """Lets uvicorn keep processes that serve, and replace them one by one when SIGHUP comes.

    One that cannot load the run leaves the one that it was to replace.
    """
    fixed = f"with several workers a run is replaced by SIGHUP to process {os.getpid()}"
    factory = _Worker(app=app, options=options, limits=limits, fixed=fixed)
    config = _config(factory, limits, workers=options.workers, factory=True)
    supervisor = Multiprocess(config, sockets=[listener])
    supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise typer.Exit(1)  # the worker has said why


def _application(
    app: App[Any, Any], options: ServeOptions, limits: Limits, fixed: str | None
) -> tuple[Service, FastAPI]:
    load = partial(ServedRun.load, app, device=options.device)
    service = Service(options.run, load, limits=limits, fixed=fixed)
    title = f"{app.title}: {service.run.name}"
    return service, application(
        service, title=title, token=options.token, limits=limits, pages=(pages.router,)
    )


def _config(answering: Any, limits: Limits, **settings: Any) -> uvicorn.Config:
    return uvicorn.Config(
        answering,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=limits.shutdown_seconds,
        timeout_worker_healthcheck=_LOADING_SECONDS,
        **settings,
    )


def _say_where(options: ServeOptions, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    Screen().say(f"serving {options.run} at http://{host}:{port} (/docs tells how); Ctrl-C ends")


class _Server(uvicorn.Server):
    """A server that reads its run again when SIGHUP comes.

    Args:
        config: Uvicorn's.
        service: What answers.
        started: Called once it listens.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.service, self._say_started = service, started
        self._rereading: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, to SIGHUP too."""
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        self._say_started()

    def _hang_up(self) -> None:
        task = asyncio.create_task(self._reread())
        self._rereading.add(task)
        task.add_done_callback(self._rereading.discard)

    async def _reread(self) -> None:
        screen = Screen()
        try:
            run = await self.service.reread()
        except LOAD_ERRORS as error:
            screen.say(f"refused: {error}; {self.service.run.name} answers on as it was")
        else:
            screen.say(f"took over {run.path}: {len(run.item_ids):,} items")


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """Makes the application in a process of its own, where uvicorn has brought it."""

    app: App[Any, Any]
    options: ServeOptions
    limits: Limits
    fixed: str

    def __call__(self) -> FastAPI:
        try:
            return _application(self.app, self.options, self.limits, self.fixed)[1]
        except LOAD_ERRORS as error:
            Screen().say(f"error: {' '.join(str(error).split())}")
            sys.exit(STARTUP_FAILURE)
