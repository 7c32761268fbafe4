"""The queue of a service, with a model that answers when it is told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from genrec import Answer, Recommendation, Request

from semrec.shared.serving.batching import Batcher, Way
from semrec.shared.serving.metrics import Metrics
from semrec.shared.serving.options import Limits
from semrec.shared.serving.refusals import RefusedError


class Echo:
    """A run, and what answers by it: the items of a history, and the way it was asked."""

    num_beams = 7

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def recommender(self, ranking: str | None) -> Echo:
        return self

    def with_beams(self, num_beams: int) -> Echo:
        raise ValueError("no beams")

    def recommend(self, requests: Sequence[Request], **options: Any) -> list[Answer]:
        assert self.may_answer.wait(timeout=30)
        names = [request.history[0] for request in requests]
        self.batches.append(names)
        if "bad" in names:
            raise KeyError("bad")
        score = options["top_k"] + 0.5 * options["exclude_seen"]
        return [
            Answer(items=[Recommendation(name, score)], unknown=0, popular=False) for name in names
        ]


def way(echo: Echo, top_k: int = 1, **changes: Any) -> Way:
    settings = {"ranking": None, "num_beams": None, "exclude_seen": False, **changes}
    return Way(run=echo, top_k=top_k, **settings)  # type: ignore[arg-type]


def histories(*names: str) -> list[Request]:
    return [Request(history=[name]) for name in names]


async def until_queued(batcher: Batcher, count: int) -> None:
    async with asyncio.timeout(10):
        while batcher.num_waiting < count:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.005)  # for the first to be with the model


def test_each_gets_what_it_asked_for_and_ways_are_not_mixed() -> None:
    async def ask() -> None:
        echo = Echo()
        async with Batcher(Limits(batch=8, patience=0.05), Metrics()) as batcher:
            wishes = [(f"{number}", 1 + number % 3, number % 2 == 0) for number in range(60)]
            answers = await asyncio.gather(
                *(
                    batcher.answers(way(echo, top_k, exclude_seen=seen), histories(name))
                    for name, top_k, seen in wishes
                )
            )
        for (name, top_k, seen), (answer,) in zip(wishes, answers, strict=True):
            assert answer.items == [Recommendation(name, top_k + 0.5 * seen)]
        # Six ways of ten histories each: each way a full batch and the rest.
        assert sorted(map(len, echo.batches)) == [2] * 6 + [8] * 6
        for batch in echo.batches:
            assert len({(int(name) % 3, int(name) % 2) for name in batch}) == 1

    asyncio.run(ask())


def test_the_oldest_is_answered_first_and_a_large_job_alone() -> None:
    async def ask() -> None:
        echo = Echo()
        echo.may_answer.clear()
        async with Batcher(Limits(batch=3, patience=0), Metrics()) as batcher:
            tasks, count = [], 0
            for top_k, names in ((1, "a"), (2, "b"), (3, "cdefg"), (2, "h"), (2, "ijk"), (1, "l")):
                work = batcher.answers(way(echo, top_k), histories(*names))
                tasks.append(asyncio.create_task(work))
                count += len(names)
                await until_queued(batcher, count)
            echo.may_answer.set()
            await asyncio.gather(*tasks)
        expected = ["a", "bh", "cdefg", "ijk", "l"]
        assert ["".join(batch) for batch in echo.batches] == expected

    asyncio.run(ask())


def test_none_fails_for_another() -> None:
    async def ask() -> None:
        echo = Echo()
        async with Batcher(Limits(batch=3, patience=0.05), Metrics()) as batcher:
            work = (batcher.answers(way(echo), histories(name)) for name in ("a", "bad", "c"))
            first, second, third = await asyncio.gather(*work, return_exceptions=True)
            assert isinstance(second, KeyError)
            for answers, name in ((first, "a"), (third, "c")):
                assert isinstance(answers, list)
                assert answers[0].items[0].item_id == name
            with pytest.raises(RefusedError, match="no beams"):
                await batcher.answers(way(echo, num_beams=3), histories("a"))
            (answer,) = await batcher.answers(way(echo), histories("d"))
            assert answer.items[0].item_id == "d"
            assert batcher.num_waiting == 0

    asyncio.run(ask())


def test_a_full_queue_refuses_and_takes_on_again() -> None:
    async def ask() -> None:
        echo, metrics = Echo(), Metrics()
        echo.may_answer.clear()
        async with Batcher(Limits(batch=2, queue=4, patience=0), metrics) as batcher:
            tasks: list[asyncio.Task[Any]] = []
            tasks.append(asyncio.create_task(batcher.answers(way(echo), histories("a", "b"))))
            await until_queued(batcher, 2)
            tasks.append(asyncio.create_task(batcher.call(lambda: "called")))
            await until_queued(batcher, 3)
            with pytest.raises(RefusedError, match="3 histories are waiting") as refused:
                await batcher.answers(way(echo), histories("c", "d"))
            assert refused.value.status_code == 503
            assert refused.value.headers == {"Retry-After": "1"}
            assert not batcher.is_full
            tasks.append(asyncio.create_task(batcher.answers(way(echo), histories("e"))))
            await until_queued(batcher, 4)
            assert batcher.is_full
            with pytest.raises(RefusedError):
                await batcher.call(lambda: "called")
            assert metrics.registry.get_sample_value("semrec_queue_histories") == 4
            echo.may_answer.set()
            assert (await asyncio.gather(*tasks))[1] == "called"
            assert metrics.registry.get_sample_value("semrec_queue_histories") == 0
            await batcher.answers(way(echo), histories("c", "d"))
        assert echo.batches == [["a", "b"], ["e"], ["c", "d"]]

    asyncio.run(ask())


def test_who_went_away_is_not_answered() -> None:
    async def ask() -> None:
        echo = Echo()
        echo.may_answer.clear()
        async with Batcher(Limits(batch=2, patience=0), Metrics()) as batcher:
            names = ("a", "b", "c")
            tasks = [
                asyncio.create_task(batcher.answers(way(echo), histories(name, name)))
                for name in names
            ]
            await until_queued(batcher, 6)
            tasks[1].cancel()
            echo.may_answer.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(results[1], asyncio.CancelledError)
            assert batcher.num_waiting == 0
        assert echo.batches == [["a", "a"], ["c", "c"]]

    asyncio.run(ask())


def test_who_still_waits_at_the_end_is_told() -> None:
    async def ask() -> None:
        echo = Echo()
        async with Batcher(Limits(batch=2, patience=60), Metrics()) as batcher:
            task = asyncio.create_task(batcher.answers(way(echo), histories("a")))
            await until_queued(batcher, 1)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
