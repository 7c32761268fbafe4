"""The options of `serve`, its bounds, and what is refused before a model is loaded."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import typer

from semrec.shared.errors import ExperimentError

HostOption = Annotated[str, typer.Option(help="Address to listen at")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free")]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File of the token that requests must bear")
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Listen for other machines without a token")
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes, each of which loads the run")]

SHORTEST_TOKEN = 16
"""Characters of a token, at least."""

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "jinja2")
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the service bounds; what a single request may hold is said by its model.

    Attributes:
        batch: Histories that are answered together.
        patience: Seconds that the first of a batch waits for others.
        queue: Histories that wait or are being answered; further ones are refused.
        body_bytes: Of a request.
        body_seconds: Until a request's body has arrived.
        shutdown_seconds: That requests under way have when the service ends.
    """

    batch: int = 64
    patience: float = 0.003
    queue: int = 1024
    body_bytes: int = 2**20
    body_seconds: float = 10.0
    shutdown_seconds: int = 30


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What `serve` is told; the names are those of the command line."""

    run: Path
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    insecure: bool = False
    workers: int = 1
    device: str = "auto"
    trust: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuses what cannot be served, or not safely.

        Raises:
            ExperimentError: The extra is not installed, the token's file cannot be used, or other
                machines would be answered without a token.
        """
        for package in _PACKAGES:
            if importlib.util.find_spec(package) is None:
                raise ExperimentError(
                    f"serve needs an extra (no module {package}): pip install 'semrec[serve]'"
                )
        if self.token is None and not self.insecure and not _is_loopback(self.host):
            raise ExperimentError(
                f"--host {self.host} answers other machines: add --token-file, or --insecure"
            )

    @cached_property
    def token(self) -> str | None:
        """What requests must bear; None where they need nothing.

        Raises:
            ExperimentError: The file does not hold one.
        """
        if self.token_file is None:
            return None
        token = self.token_file.read_bytes().decode("utf-8", errors="replace").strip()
        if len(token) < SHORTEST_TOKEN or not _TOKEN.fullmatch(token):
            raise ExperimentError(
                f"--token-file {self.token_file} must hold one token of at least {SHORTEST_TOKEN} "
                "ASCII characters without spaces"
            )
        return token

    def listening(self) -> socket.socket:
        """A socket at the address, which nobody else has.

        Raises:
            ExperimentError: There is no such address here, or it is taken.
        """
        family, kind, protocol, _, address = _addresses(self.host, self.port)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            listener.close()
            raise ExperimentError(
                f"--host {self.host} --port {self.port} cannot be listened at: {error.strerror}"
            ) from error
        listener.set_inheritable(True)
        return listener


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    """What a name stands for.

    Raises:
        ExperimentError: For nothing.
    """
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError) as error:
        raise ExperimentError(f"--host {host!r} is no address: {error}") from error
    if not known:
        raise ExperimentError("--host must be an address or the name of one, got nothing")
    return known  # type: ignore[return-value]


def _is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    hosts = [address[0].partition("%")[0] for *_, address in _addresses(host, 0)]
    return all(ipaddress.ip_address(each).is_loopback for each in hosts)
