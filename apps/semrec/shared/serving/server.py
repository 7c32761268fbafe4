"""Starts a service: sockets, signals, workers."""

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
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from semrec.shared.app import App
from semrec.shared.screen import Screen
from semrec.shared.serving import pages
from semrec.shared.serving.application import application
from semrec.shared.serving.options import Limits, ServeOptions
from semrec.shared.serving.refusals import guide_of
from semrec.shared.serving.served_run import LOAD_ERRORS, ServedRun, check_files
from semrec.shared.serving.service import Service

_LOADING_SECONDS = 600
"""Seconds that a new worker has to load a run; after that the old worker stays."""

_PING_SECONDS = 0.1
"""Seconds that the supervisor waits for a worker's reply before it asks again."""


def serve(app: App[Any, Any], options: ServeOptions, limits: Limits | None = None) -> None:
    """Serves a complete run until a signal ends it; running requests are answered first.

    Args:
        app: The app of the run.
        options: The options, after `check`.
        limits: The limits of the service; None for the defaults.

    Raises:
        ExperimentError: The run cannot be loaded, or the address cannot be used.
    """
    limits = limits or Limits()
    with options.listening() as listener:
        if options.workers == 1:
            service, answering = _application(app, options, limits, fixed=None)
            say_where = partial(_say_where, options, listener)
            _Server(_config(answering, limits), service, say_where).run(sockets=[listener])
        else:
            check_files(app.reopen(options.run, options.device, options.trust).run)
            _serve_by_workers(app, options, limits, listener)


def _serve_by_workers(
    app: App[Any, Any], options: ServeOptions, limits: Limits, listener: socket.socket
) -> None:
    """Serves with processes of uvicorn, which SIGHUP replaces one by one.

    If a new process cannot load the run, the old one stays.
    """
    fixed = f"with several workers, send SIGHUP to process {os.getpid()} to replace the run"
    factory = _Worker(app=app, options=options, limits=limits, fixed=fixed)
    config = _config(factory, limits, workers=options.workers, factory=True)
    supervisor = _Supervisor(config, listener, partial(_say_where, options, listener))
    supervisor.run()
    if supervisor.has_failed:
        raise typer.Exit(1)


def _application(
    app: App[Any, Any], options: ServeOptions, limits: Limits, fixed: str | None
) -> tuple[Service, FastAPI]:
    load = partial(ServedRun.load, app, device=options.device, trust=options.trust)
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
    guide = guide_of(has_token=options.token is not None)
    Screen().say(f"serving {options.run} at http://{host}:{port} (requests: {guide}); Ctrl-C ends")


class _Server(uvicorn.Server):
    """A server that loads its run again after SIGHUP.

    Args:
        config: The configuration of uvicorn.
        service: The service.
        started: Called once the server listens.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.service, self._say_started = service, started
        self._rereading: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen for requests and for SIGHUP."""
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        self._say_started()

    def _hang_up(self) -> None:
        task = asyncio.create_task(self._reread())
        self._rereading.add(task)
        task.add_done_callback(self._rereading.discard)

    async def _reread(self) -> None:
        try:
            await self.service.reread()
        except LOAD_ERRORS as error:
            Screen().say(f"refused: {error}; {self.service.run.name} continues to answer")


class _Supervisor(Multiprocess):
    """Uvicorn's supervisor, which never waits for a worker that loads or has ended.

    The supervisor of uvicorn waits up to `timeout_worker_healthcheck` seconds for a worker's reply
    and handles no signal meanwhile.

    Args:
        config: The configuration of uvicorn.
        listener: The socket on which the workers listen.
        started: Called once, when all workers answer requests.

    Attributes:
        has_failed: Whether a worker could not start to answer, so that all were ended.
    """

    def __init__(
        self, config: uvicorn.Config, listener: socket.socket, started: Callable[[], None]
    ) -> None:
        super().__init__(config, sockets=[listener])
        self._say_started, self._has_started = started, False
        self.has_failed = False

    def init_processes(self) -> None:
        """Starts the workers."""
        self.processes = [self._begun() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Replaces each worker that has ended; ends all workers if one cannot start to answer."""
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set() or worker.process.is_alive():
                continue
            if self.signal_queue:  # Ctrl-C also ends workers, so signals are handled first
                return
            worker.kill()
            worker.join()
            if worker.exitcode == STARTUP_FAILURE or not self._has_started:
                if (
                    worker.exitcode != STARTUP_FAILURE
                ):  # otherwise the worker has printed the reason
                    Screen().say(
                        f"error: a worker ended with status {worker.exitcode} while it started"
                    )
                self.has_failed = True
                self.should_exit.set()
            else:
                self.processes[place] = self._begun()
        if not self._has_started and not self.should_exit.is_set():
            self._has_started = all(worker.is_ready(_PING_SECONDS) for worker in self.processes)
            if self._has_started:
                self._say_started()

    def _begun(self) -> Process:
        """A worker that Ctrl-C does not end during its imports."""
        worker = Process(self.config, self.sockets)
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            worker.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        return worker


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """Makes the application in the worker process that uvicorn has started."""

    app: App[Any, Any]
    options: ServeOptions
    limits: Limits
    fixed: str

    def __call__(self) -> FastAPI:
        # The handlers of uvicorn wait until all is loaded; with these a signal ends a worker
        # before.
        handlers = {
            number: signal.signal(number, signal.SIG_DFL)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            return _application(self.app, self.options, self.limits, self.fixed)[1]
        except LOAD_ERRORS as error:
            Screen().say(f"error: {' '.join(str(error).split())}")
            sys.exit(STARTUP_FAILURE)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
