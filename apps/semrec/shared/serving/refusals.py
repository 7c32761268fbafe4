"""The refusals of a service, one sentence each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import fastapi
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from semrec.shared.text import visible

_LONGEST_NAME = 60
_INPUT = re.compile(r"^(?:Input|List|String|Value) should (be|have) ")
_BY_STATUS = {404: "there is nothing at this path", 405: "this path does not accept this method"}


def guide_of(*, has_token: bool) -> str:
    """The path that documents the requests of a service.

    A browser sends no token and cannot open `/docs` if one is needed. A client with the token can
    read the document from which `/docs` is made.
    """
    return "/openapi.json" if has_token else "/docs"


class RefusedError(fastapi.HTTPException):
    """A request that is refused.

    Args:
        status: The HTTP status.
        sentence: The reason.
        retry_after: Seconds after which the client may try again.
    """

    def __init__(self, status: int, sentence: str, *, retry_after: int | None = None) -> None:
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, visible(sentence), headers)


def refusal(error: HTTPException) -> JSONResponse:
    """The response with the reason of a refusal."""
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


class JsonRequest(Request):
    """A request whose body is standard JSON in UTF-8."""

    async def json(self) -> Any:
        """The body's value.

        Raises:
            RefusedError: The body is not JSON.
        """
        body = await self.body()
        try:
            return json.loads(
                body.decode(), parse_constant=_finite, parse_float=_finite, parse_int=_whole
            )
        except RecursionError as error:
            raise RefusedError(422, "the body must be JSON with few levels") from error
        except UnicodeDecodeError as error:
            raise RefusedError(422, "the body must be JSON in UTF-8") from error
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise RefusedError(422, f"the body must be JSON: {reason}") from error


def _finite(text: str) -> float:
    """A number in JSON, which has no infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("it contains a number that is not finite")
    return value


def _whole(text: str) -> int:
    """A whole number with at most as many digits as Python reads."""
    try:
        return int(text)
    except ValueError as error:
        raise ValueError("it contains a number with too many digits") from error


class JsonRoute(APIRoute):
    """A route whose requests are `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function that answers a request."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            return await handler(JsonRequest(request.scope, request.receive))

        return answer


def add_refusals(app: FastAPI) -> None:
    """Turns every error of an app into one sentence."""

    async def of_model(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return refusal(RefusedError(422, _sentence(error.errors(), _guide(request))))

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error, RefusedError):
            return refusal(error)
        detail = error.detail
        if error.status_code in _BY_STATUS:
            detail = f"{_BY_STATUS[error.status_code]}: {_guide(request)} lists all paths"
        return refusal(HTTPException(error.status_code, detail, error.headers))

    async def of_ours(_: Request, __: Exception) -> Response:
        words = "the service failed to answer this request; its log has the error"
        return refusal(RefusedError(500, words))

    app.add_exception_handler(RequestValidationError, of_model)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, of_ours)


def _guide(request: Request) -> str:
    return guide_of(has_token=request.app.state.has_token)


def _sentence(errors: Sequence[Any], guide: str) -> str:
    """The first of the errors that pydantic reports, as a sentence."""
    first = errors[0]
    _, *parts = first["loc"]
    kind, message = str(first["type"]), str(first["msg"])
    if not parts:
        if kind == "value_error":
            return message.removeprefix("Value error, ")
        if kind == "string_unicode":
            return "the body must name no field with half a surrogate pair"
        if isinstance(first.get("input"), bytes):
            return "the body must be JSON, with the header Content-Type: application/json"
        return "the body must be a JSON object"
    name = ".".join(str(part)[:_LONGEST_NAME] for part in parts)
    match kind:
        case "missing":
            return f"{name} is missing"
        case "extra_forbidden":
            return f"{name!r} is not a field of this request: {guide} lists the fields"
        case "string_unicode":
            return f"{name} must be text without half a surrogate pair"
    rule = _INPUT.sub(r"must \1 ", message).replace(" after validation", "")
    return f"{name} {rule}"
