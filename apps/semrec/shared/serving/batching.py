"""Answers requests that arrive together in one batch: a queue, and one thread for the model."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import TypeVar

from genrec import Answer, Request

from semrec.shared.serving.metrics import Metrics
from semrec.shared.serving.options import Limits
from semrec.shared.serving.refusals import RefusedError
from semrec.shared.serving.served_run import ServedRun

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Way:
    """How histories are answered; a batch holds histories of one way only.

    Attributes:
        run: The run, the same from a request's first check to its answer.
        ranking: One of the run's rankings; None for the one that `recommend` uses.
        top_k: Items per answer.
        num_beams: The number of beams; None for the run's own.
        exclude_seen: Whether items of the history are left out.
    """

    run: ServedRun
    ranking: str | None
    top_k: int
    num_beams: int | None
    exclude_seen: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    way: Way
    requests: Sequence[Request]
    arrived: float
    answers: asyncio.Future[list[Answer]]


class Batcher:
    """Answers requests in batches; the way with the oldest request is next.

    It works within `async with`. All work of a model happens in one thread, so that no two requests
    use a model at once and the event loop stays free.

    Args:
        limits: The limits of batches and of the queue.
        metrics: Records both.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self.num_waiting = 0  # unanswered histories and calls
        self._jobs: dict[Way, deque[_Job]] = {}  # only ways with jobs
        self._num_queued = 0  # histories of these jobs
        self._has_some, self._is_full = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Batcher:
        """Starts the batcher."""
        self._thread = ThreadPoolExecutor(1, "model")
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the batcher and refuses the waiting requests."""
        self._worker.cancel()
        with suppress(asyncio.CancelledError):
            await self._worker
        for job in chain.from_iterable(self._jobs.values()):
            job.answers.cancel()
        self._thread.shutdown()

    @property
    def is_full(self) -> bool:
        """Whether the queue has no room for another history."""
        return self.num_waiting >= self.limits.queue

    async def answers(self, way: Way, requests: Sequence[Request]) -> list[Answer]:
        """Answers histories, together with others that arrive within `limits.patience`.

        Raises:
            RefusedError: The queue is full, or the way is wrong.
        """
        loop = asyncio.get_running_loop()
        job = _Job(way=way, requests=requests, arrived=loop.time(), answers=loop.create_future())
        self._take_place(len(requests))
        try:
            self._jobs.setdefault(way, deque()).append(job)
            self._num_queued += len(requests)
            self._has_some.set()
            if self._num_queued >= self.limits.batch:
                self._is_full.set()
            return await job.answers
        finally:
            self._leave_place(len(requests))

    async def call(self, function: Callable[[], T]) -> T:
        """Calls a function in the model's thread and returns its result.

        Raises:
            RefusedError: The queue is full.
        """
        self._take_place(1)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        finally:
            self._leave_place(1)

    def _take_place(self, count: int) -> None:
        if self.num_waiting + count > self.limits.queue:
            words = f"{self.num_waiting:,} histories are waiting: try again in a second"
            raise RefusedError(503, words, retry_after=1)
        self.num_waiting += count
        self.metrics.queue.set(self.num_waiting)

    def _leave_place(self, count: int) -> None:
        self.num_waiting -= count
        self.metrics.queue.set(self.num_waiting)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._has_some.wait()
            way = min(self._jobs, key=lambda way: self._jobs[way][0].arrived)
            rest = self._jobs[way][0].arrived + self.limits.patience - loop.time()
            if rest > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._is_full.wait(), rest)
            await self._answer(way, self._batch(way))

    def _batch(self, way: Way) -> list[_Job]:
        """The next jobs of a way that fill a batch; a single job may be larger.

        All waiting jobs are considered, so that jobs of many ways in turn still make batches.
        """
        waiting = self._jobs[way]
        jobs = [waiting.popleft()]
        count = len(jobs[0].requests)
        while waiting and count + len(waiting[0].requests) <= self.limits.batch:
            jobs.append(waiting.popleft())
            count += len(jobs[-1].requests)
        self._num_queued -= count
        if not waiting:
            del self._jobs[way]
        if not self._jobs:
            self._has_some.clear()
        if self._num_queued < self.limits.batch:
            self._is_full.clear()
        return jobs

    async def _answer(self, way: Way, jobs: list[_Job]) -> None:
        """Answers jobs of one way; after an error each alone, so that none fails for another."""
        jobs = [job for job in jobs if not job.answers.done()]  # whose client still waits
        requests = [request for job in jobs for request in job.requests]
        if not jobs:
            return
        loop = asyncio.get_running_loop()
        try:
            answers = iter(await loop.run_in_executor(self._thread, self._computed, way, requests))
        except Exception as error:
            for job in jobs:
                if len(jobs) > 1:
                    await self._answer(way, [job])
                elif not job.answers.done():
                    job.answers.set_exception(error)
            return
        for job in jobs:
            part = [next(answers) for _ in job.requests]
            if not job.answers.done():
                job.answers.set_result(part)

    def _computed(self, way: Way, requests: list[Request]) -> list[Answer]:
        """Computes the answers, in the model's thread."""
        recommender = way.run.recommender(way.ranking)
        if way.num_beams is not None:
            try:
                recommender = recommender.with_beams(way.num_beams)
            except ValueError as error:
                raise RefusedError(422, str(error)) from error
        seconds, cpu_seconds = time.perf_counter(), time.thread_time()
        answers = recommender.recommend(
            requests,
            top_k=way.top_k,
            exclude_seen=way.exclude_seen,
            batch_size=self.limits.batch,
        )
        self.metrics.model_seconds.inc(time.perf_counter() - seconds)
        self.metrics.model_cpu_seconds.inc(time.thread_time() - cpu_seconds)
        self.metrics.batch.observe(len(requests))
        return answers
