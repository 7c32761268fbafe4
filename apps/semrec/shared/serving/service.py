"""The answers of a service, for any protocol: checks requests against the run."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from genrec import Answer, Request

from semrec.shared.explaining import ItemReasons, Question, explain
from semrec.shared.screen import Screen
from semrec.shared.serving.batching import Batcher, Way
from semrec.shared.serving.metrics import Metrics
from semrec.shared.serving.models import AnsweredRequest, ExplainRequest, RecommendRequest
from semrec.shared.serving.options import Limits
from semrec.shared.serving.refusals import RefusedError
from semrec.shared.serving.served_run import LOAD_ERRORS, ServedRun

LoadRun = Callable[[Path], ServedRun]


class Service:
    """A run that answers, until another run replaces it.

    It works within `async with`.

    Args:
        path: The folder of the run.
        load: Opens the folder of a run.
        limits: The limits of batches and of the queue.
        fixed: Why `/reload` may not replace the run; None if it may.

    Attributes:
        run: The run. Code that answers a request keeps it in a variable, because it may be replaced
            meanwhile.
        root: The folder under which the runs are that may replace it.

    Raises:
        ExperimentError: The folder holds no complete run, or a file is damaged.
    """

    def __init__(
        self, path: Path, load: LoadRun, *, limits: Limits, fixed: str | None = None
    ) -> None:
        self._load, self._fixed = load, fixed
        self._path = path.absolute()
        self.root = self._path.parent
        self.run = load(self._path)
        self.metrics = Metrics()
        self.batcher = Batcher(limits, self.metrics)
        self._loading = asyncio.Lock()

    async def __aenter__(self) -> Service:
        """Starts the service."""
        await self.batcher.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the service."""
        await self.batcher.__aexit__(kind, error, trace)

    async def recommend(self, request: RecommendRequest) -> dict[str, Any]:
        """Answers histories with the fields of `RecommendAnswer`.

        Raises:
            RefusedError: The run does not know a ranking or an id, or the queue is full.
        """
        run = self.run
        histories = request.histories or [request.history or []]
        unknown_by_history = [_unknown(run, history) for history in histories]
        allowed, denied, unknown = _wishes(run, request, unknown_by_history)
        answers = await self.batcher.answers(
            Way(
                run=run,
                ranking=request.ranking,
                top_k=request.top_k,
                num_beams=request.num_beams,
                exclude_seen=request.exclude_seen,
            ),
            [Request(history=history, allow=allowed, deny=denied) for history in histories],
        )
        return {
            "run": run.name,
            "ranking": request.ranking,
            "answers": [
                _answered(run, answer, ids)
                for answer, ids in zip(answers, unknown_by_history, strict=True)
            ],
            "unknown": unknown,
        }

    async def explain(self, request: ExplainRequest) -> dict[str, Any]:
        """Explains the ranks of items after a history with the fields of `ExplainAnswer`.

        Raises:
            RefusedError: The run does not know a ranking or an id, or the queue is full.
        """
        run, history = self.run, request.history
        unknown_of_history = _unknown(run, history)
        allowed, denied, unknown = _wishes(run, request, [unknown_of_history])
        for item_id in request.items or ():
            _row(run, item_id)
        question = Question(
            request=Request(history=history, allow=allowed, deny=denied),
            top_k=request.top_k,
            exclude_seen=request.exclude_seen,
        )
        explanation = await self.batcher.call(
            lambda: explain(run.recommender(request.ranking), question, request.items)
        )
        return {
            "run": run.name,
            "ranking": request.ranking,
            "items": [_explained(run, item) for item in explanation.items],
            "left_out": [_explained(run, item) for item in explanation.left_out],
            "unknown": list(dict.fromkeys([*unknown_of_history, *unknown])),
            "popular": explanation.popular,
        }

    async def similar(self, item_id: str, top_k: int) -> dict[str, Any]:
        """The nearest items of an item with the fields of `SimilarAnswer`.

        Raises:
            RefusedError: The run knows no such item, or the queue is full.
        """
        run = self.run
        row = _row(run, item_id)
        return await self.batcher.call(lambda: run.similar(row, top_k))

    async def search(self, query: str, limit: int) -> dict[str, Any]:
        """Finds items by the first characters of their ids or by words of their titles.

        Returns:
            The fields of `SearchAnswer`.

        Raises:
            RefusedError: The query is empty, or the queue is full.
        """
        run = self.run
        if not query.strip():
            raise RefusedError(422, "query must contain an id or a word of a title")
        items, total = await self.batcher.call(lambda: run.search(query, limit))
        return {"items": items, "total": total}

    def item(self, item_id: str) -> dict[str, Any]:
        """An item with the fields of `Item`.

        Raises:
            RefusedError: The run knows no such item.
        """
        run = self.run
        return run.item(_row(run, item_id))

    async def replace(self, name: str | None) -> ServedRun:
        """Replaces the run by another one, or loads its folder again.

        Args:
            name: A folder under `root`; None for the served folder.

        Raises:
            RefusedError: There is no such folder, or it holds no complete run; the old run
                continues to answer.
        """
        if self._fixed is not None:
            raise RefusedError(409, self._fixed)
        path = None if name is None else self._place(name)
        try:
            return await self.reread(path)
        except LOAD_ERRORS as error:
            raise RefusedError(422, f"{' '.join(str(error).split())}; {self._stays}") from error

    async def reread(self, path: Path | None = None) -> ServedRun:
        """Loads a folder while the old run answers, then replaces the old run and prints a line.

        Args:
            path: The folder; None for the served folder.

        Raises:
            ExperimentError: The folder holds no complete run of the app, or is damaged. After any
                error the old run continues to answer.
        """
        async with self._loading:
            path = self._path if path is None else path
            try:
                run = await asyncio.to_thread(self._load, path)
            except Exception:
                self.metrics.reloads.labels("refused").inc()
                raise
            self.metrics.reloads.labels("taken over").inc()
            self._path, self.run = path, run
            Screen().say(f"took over {run.path}: {len(run.item_ids):,} items")
            return run

    @property
    def _stays(self) -> str:
        return f"{self.run.name} continues to answer"

    def _place(self, name: str) -> Path:
        """The folder of a name, which must be under `root` after following links."""
        root = os.path.realpath(self.root)
        place = None if "\0" in name else Path(os.path.realpath(self.root / name))
        if place is None or Path(root) not in place.parents:
            raise RefusedError(
                422,
                "run must be a folder under the one that contains the run of serve, also after "
                "following links",
            )
        return place


def _row(run: ServedRun, item_id: str) -> int:
    if item_id not in run.rows:
        raise RefusedError(404, f"the run knows no item {item_id[:80]!r}")
    return run.rows[item_id]


def _unknown(run: ServedRun, item_ids: Iterable[str]) -> list[str]:
    """The ids that the run does not know, each once."""
    return list(dict.fromkeys(item_id for item_id in item_ids if item_id not in run.rows))


def _wishes(
    run: ServedRun, request: AnsweredRequest, unknown_by_history: Sequence[Sequence[str]]
) -> tuple[list[str] | None, list[str], list[str]]:
    """The allowed items, the denied items, and the unknown ids of both.

    Raises:
        RefusedError: There is no such ranking, or an id is unknown and the request forbids it.
    """
    if request.ranking is not None and request.ranking not in run.rankings:
        raise RefusedError(422, f"ranking must be one of {', '.join(map(repr, run.rankings))}")
    unknown = _unknown(run, [*(request.allow or ()), *request.deny])
    if request.unknown == "error":
        for item_id in (*unknown, *(each for ids in unknown_by_history for each in ids)):
            raise RefusedError(422, f"the run knows no item {item_id[:80]!r}")
    allowed = None if request.allow is None else list(dict.fromkeys(request.allow))
    return allowed, list(dict.fromkeys(request.deny)), unknown


def _explained(run: ServedRun, item: ItemReasons) -> dict[str, Any]:
    """An explained item with the fields of `ExplainedItem`."""
    reasons = dataclasses.asdict(item)
    return {**run.item(run.rows[reasons.pop("item_id")]), **reasons}


def _answered(run: ServedRun, answer: Answer, unknown: Sequence[str]) -> dict[str, Any]:
    """An answer with the fields of `HistoryAnswer`."""
    items = [{**run.item(run.rows[item.item_id]), "score": item.score} for item in answer.items]
    return {"items": items, "unknown": unknown, "popular": answer.popular}
