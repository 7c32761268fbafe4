"""The checks of every request: its token, the limits of its body, and its count."""

from __future__ import annotations

import asyncio
import hmac
import time

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semrec.shared.serving.metrics import Metrics
from semrec.shared.serving.options import Limits
from semrec.shared.serving.refusals import RefusedError, refusal

PAGE_FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "page.svg": "image/svg+xml",
}
"""The files of the page for people, and their types."""

OPEN_PATHS = ("/health", "/ready", "/", *(f"/{name}" for name in PAGE_FILES))
"""The paths that need no token; they contain nothing of the run."""

_MOST_DISCARDED = 32
"""As many times `body_bytes` are read and discarded, so that a client receives the refusal."""


class Gate:
    """Checks the token, limits the body and counts each request.

    Args:
        app: The application that answers.
        token: The token that requests must have; None for no token.
        limits: The limits of bodies.
        metrics: Counts each request.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, limits: Limits, metrics: Metrics
    ) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._may_pass(scope):
                await self.app(scope, _BoundedBody(receive, self.limits), noting)
            else:
                await _unauthorized()(scope, receive, noting)
        finally:
            route = scope.get("route")
            path = "other" if route is None else route.path
            self.metrics.note(path, status, time.perf_counter() - start)

    def _may_pass(self, scope: Scope) -> bool:
        """Compares tokens in constant time."""
        if self._expected is None or scope["path"] in OPEN_PATHS:
            return True
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(shown) == 1 and hmac.compare_digest(shown[0], self._expected)


def _unauthorized() -> JSONResponse:
    words = "this service needs its token, in the header Authorization: Bearer TOKEN"
    response = refusal(RefusedError(401, words))
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


class _BoundedBody:
    """Receives a body that is neither too large nor too slow.

    Raises:
        RefusedError: The body is too large or too slow.
    """

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self.receive, self.limits = receive, limits
        self.size, self.is_whole = 0, False
        self.deadline = asyncio.get_running_loop().time() + limits.body_seconds

    async def __call__(self) -> Message:
        if self.is_whole:
            return await self.receive()
        message = await self._next()
        if self.size <= self.limits.body_bytes:
            return message
        while not self.is_whole and self.size <= _MOST_DISCARDED * self.limits.body_bytes:
            await self._next()
        raise RefusedError(413, f"the body must be at most {self.limits.body_bytes:,} bytes")

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self.deadline):
                message = await self.receive()
        except TimeoutError as error:
            seconds = f"{self.limits.body_seconds:g}"
            raise RefusedError(408, f"the body must arrive within {seconds} seconds") from error
        self.size += len(message.get("body", b""))
        self.is_whole = not message.get("more_body", False)
        return message
