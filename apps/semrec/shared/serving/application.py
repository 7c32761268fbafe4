"""The paths of a service and the application that serves them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi.requests import Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from semrec.shared.serving.gate import Gate
from semrec.shared.serving.models import (
    ExplainAnswer,
    ExplainRequest,
    Item,
    RecommendAnswer,
    RecommendRequest,
    Refusal,
    ReloadAnswer,
    ReloadRequest,
    RunAnswer,
    SearchAnswer,
    SimilarAnswer,
    SimilarRequest,
    Status,
)
from semrec.shared.serving.options import Limits
from semrec.shared.serving.refusals import JsonRoute, RefusedError, add_refusals
from semrec.shared.serving.service import Service

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": words}
    for status, words in {
        401: "The token is missing or wrong",
        413: "The body is too large",
        422: "The request is wrong",
        503: "Too many histories are waiting: try again after the seconds in Retry-After",
    }.items()
}

router = APIRouter(route_class=JsonRoute, responses=_REFUSALS)


def application(
    service: Service,
    *,
    title: str,
    token: str | None,
    limits: Limits,
    pages: Sequence[APIRouter] = (),
) -> FastAPI:
    """The application; the service works during its lifespan.

    Args:
        service: The service that answers.
        title: The title of the documentation.
        token: The token that requests must have; None for no token.
        limits: The limits of request bodies.
        pages: Further paths with pages for people.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(title=title, lifespan=lifespan, redirect_slashes=False)
    app.state.service, app.state.has_token = service, token is not None
    add_refusals(app)
    app.add_middleware(Gate, token=token, limits=limits, metrics=service.metrics)
    for each in (router, *pages):
        app.include_router(each)
    return app


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOfApp = Annotated[Service, Depends(_service)]


# Answers consist of values of the run, so they are not validated again. Their models are for
# `/docs`, and the tests compare answers with them.


@router.post("/recommend", response_model=RecommendAnswer)
async def recommend(request: RecommendRequest, service: ServiceOfApp) -> Response:
    """Recommended items for one or several histories, as the command `recommend` returns them."""
    return JSONResponse(await service.recommend(request))


@router.post("/explain", response_model=ExplainAnswer)
async def explain(request: ExplainRequest, service: ServiceOfApp) -> Response:
    """The reasons for each item's rank: codes, probabilities, and why an item is excluded."""
    return JSONResponse(await service.explain(request))


@router.post("/similar", response_model=SimilarAnswer)
async def similar(request: SimilarRequest, service: ServiceOfApp) -> Response:
    """The nearest items of an item, by embeddings and by codes."""
    return JSONResponse(await service.similar(request.item, request.top_k))


@router.get("/run", response_model=RunAnswer)
async def run(service: ServiceOfApp) -> Response:
    """The run that is served, and its rankings."""
    return JSONResponse(service.run.described())


@router.get("/items", response_model=SearchAnswer)
async def search(
    query: Annotated[str, Query(max_length=200, examples=["red lamp"])],
    service: ServiceOfApp,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Items whose ids begin with the query, then items whose titles contain all of its words.

    Upper and lower case are the same.
    """
    return JSONResponse(await service.search(query, limit))


@router.get("/items/{item_id:path}", response_model=Item)
async def item(item_id: str, service: ServiceOfApp) -> Response:
    """An item by its id."""
    return JSONResponse(service.item(item_id))


@router.post("/reload", response_model=ReloadAnswer)
async def reload(body: ReloadRequest, request: Request, service: ServiceOfApp) -> Response:
    """Replaces the run by another one without interrupting requests."""
    if not request.app.state.has_token:
        words = "to replace a run, send SIGHUP, or start the service with --token-file"
        raise RefusedError(403, words)
    run = await service.replace(body.run)
    return JSONResponse({"run": run.name, "items": len(run.item_ids)})


@router.get("/health", response_model=Status)
async def health() -> Response:
    """Whether the process is running."""
    return JSONResponse({"status": "alive"})


@router.get("/ready", response_model=Status)
async def ready(service: ServiceOfApp) -> Response:
    """Whether the queue has room for a history."""
    if service.batcher.is_full:
        raise RefusedError(503, "the queue is full", retry_after=1)
    return JSONResponse({"status": "ready"})


@router.get("/metrics", response_class=Response)
async def metrics(service: ServiceOfApp) -> Response:
    """Numbers for Prometheus; with several processes, those of this process."""
    content = generate_latest(service.metrics.registry)
    return Response(content, media_type=CONTENT_TYPE_LATEST)
