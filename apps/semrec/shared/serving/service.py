"""What a service answers, whatever the protocol: requests are checked against the run here."""

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
    """A run that answers, until another takes its place.

    It works within `async with`.

    Args:
        path: The folder of the run.
        load: Opens such a folder.
        limits: Of batches and of the queue.
        fixed: Why the run is not to be replaced from within; None where it may be.

    Attributes:
        run: The run. Who answers a request keeps it in a variable: it may be replaced meanwhile.
        root: The folder under which runs are that may take its place.

    Raises:
        ExperimentError: The folder is not that of a complete run, or a file of it is damaged.
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
        """Begins to answer."""
        await self.batcher.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends."""
        await self.batcher.__aexit__(kind, error, trace)

    async def recommend(self, request: RecommendRequest) -> dict[str, Any]:
        """Answers histories, as `RecommendAnswer` has it.

        Raises:
            RefusedError: The run does not know what is named, or too many wait.
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
        """Where items stand after a history, and why, as `ExplainAnswer` has it.

        Raises:
            RefusedError: The run does not know what is named, or too many wait.
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
        """The nearest items of an item, as `SimilarAnswer` has them.

        Raises:
            RefusedError: The run knows no such item, or too many wait.
        """
        run = self.run
        row = _row(run, item_id)
        return await self.batcher.call(lambda: run.similar(row, top_k))

    async def search(self, query: str, limit: int) -> dict[str, Any]:
        """Items by the first characters of their ids or by words of their titles.

        They are as `SearchAnswer` has them.

        Raises:
            RefusedError: The query is empty, or too many wait.
        """
        run = self.run
        if not query.strip():
            raise RefusedError(422, "query must hold an id or a word of a title")
        items, total = await self.batcher.call(lambda: run.search(query, limit))
        return {"items": items, "total": total}

    def item(self, item_id: str) -> dict[str, Any]:
        """An item, as `Item` has it.

        Raises:
            RefusedError: The run knows no such item.
        """
        run = self.run
        return run.item(_row(run, item_id))

    async def replace(self, name: str | None) -> ServedRun:
        """Lets another run take the place of this one, or this one, read again.

        Args:
            name: A folder under `root`; None for the one that is served.

        Raises:
            RefusedError: It is no such folder, or no complete run; the run of before answers on.
        """
        if self._fixed is not None:
            raise RefusedError(409, self._fixed)
        path = None if name is None else self._place(name)
        try:
            return await self.reread(path)
        except LOAD_ERRORS as error:
            raise RefusedError(422, f"{' '.join(str(error).split())}; {self._stays}") from error

    async def reread(self, path: Path | None = None) -> ServedRun:
        """Reads a folder beside the run that answers, lets it take its place, and says so.

        Args:
            path: The folder; None for the one that is served.

        Raises:
            ExperimentError: It is not that of a complete run of the app, or is damaged. As with
                every other error, the run of before answers on.
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
        return f"{self.run.name} answers on"

    def _place(self, name: str) -> Path:
        """The folder of a name, which is nowhere but under `root`, links followed."""
        root = os.path.realpath(self.root)
        place = None if "\0" in name else Path(os.path.realpath(self.root / name))
        if place is None or Path(root) not in place.parents:
            raise RefusedError(
                422,
                "run must be a folder under the one that holds the run that serve was given, "
                "where links lead too",
            )
        return place


def _row(run: ServedRun, item_id: str) -> int:
    if item_id not in run.rows:
        raise RefusedError(404, f"the run knows no item {item_id[:80]!r}")
    return run.rows[item_id]


def _unknown(run: ServedRun, item_ids: Iterable[str]) -> list[str]:
    """Those ids that the run does not know, each once."""
    return list(dict.fromkeys(item_id for item_id in item_ids if item_id not in run.rows))


def _wishes(
    run: ServedRun, request: AnsweredRequest, unknown_by_history: Sequence[Sequence[str]]
) -> tuple[list[str] | None, list[str], list[str]]:
    """What alone may be recommended, what must not, and those of both that the run does not know.

    Raises:
        RefusedError: There is no such ranking; or an id is unknown, which the request forbids.
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
    """An explained item, as `ExplainedItem` has it."""
    reasons = dataclasses.asdict(item)
    return {**run.item(run.rows[reasons.pop("item_id")]), **reasons}


def _answered(run: ServedRun, answer: Answer, unknown: Sequence[str]) -> dict[str, Any]:
    """An answer, as `HistoryAnswer` has it."""
    items = [{**run.item(run.rows[item.item_id]), "score": item.score} for item in answer.items]
    return {"items": items, "unknown": unknown, "popular": answer.popular}
