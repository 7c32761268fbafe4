"""The options of `serve`, their checks before a model is loaded, and the limits of the service."""

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

HostOption = Annotated[str, typer.Option(help="Address to listen on")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free")]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with the token that requests must send")
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Accept other machines without a token")
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes, each of which loads the run")]

SHORTEST_TOKEN = 16
"""Fewest characters of a token."""

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "jinja2")
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of the service; those of a single request are in its model.

    Attributes:
        batch: Most histories of a batch.
        patience: Seconds that the first history of a batch waits for others.
        queue: Most histories that wait or are being answered; further ones are refused.
        body_bytes: Most bytes of a request's body.
        body_seconds: Most seconds until a request's body has arrived.
        shutdown_seconds: Seconds that running requests have to finish when the service ends.
    """

    batch: int = 64
    patience: float = 0.003
    queue: int = 1024
    body_bytes: int = 2**20
    body_seconds: float = 10.0
    shutdown_seconds: int = 30


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `serve`, named as on the command line."""

    run: Path
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    insecure: bool = False
    workers: int = 1
    device: str = "auto"
    trust: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuses options with which a run cannot be served, or not safely.

        Raises:
            ExperimentError: The extra is not installed, the token's file cannot be used, or other
                machines could connect without a token.
        """
        for package in _PACKAGES:
            if importlib.util.find_spec(package) is None:
                raise ExperimentError(
                    f"serve needs an extra (no module {package}): pip install 'semrec[serve]'"
                )
        if self.token is None and not self.insecure and not _is_loopback(self.host):
            raise ExperimentError(
                f"--host {self.host} accepts other machines: add --token-file, or --insecure"
            )

    @cached_property
    def token(self) -> str | None:
        """The token that requests must have; None for no token.

        Raises:
            ExperimentError: The file holds no token.
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
        """A socket that listens on the address.

        Raises:
            ExperimentError: This machine has no such address, or it is in use.
        """
        family, kind, protocol, _, address = _addresses(self.host, self.port)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            listener.close()
            raise ExperimentError(
                f"--host {self.host} --port {self.port} cannot be used: {error.strerror}"
            ) from error
        listener.set_inheritable(True)
        return listener


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    """The addresses of a host name.

    Raises:
        ExperimentError: The name has no address.
    """
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError) as error:
        raise ExperimentError(f"--host {host!r} is not an address: {error}") from error
    if not known:
        raise ExperimentError("--host must be an address or a host name, got nothing")
    return known  # type: ignore[return-value]


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    hosts = [address[0].partition("%")[0] for *_, address in _addresses(host, 0)]
    return all(ipaddress.ip_address(each).is_loopback for each in hosts)
