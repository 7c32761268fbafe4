"""What a service answers: what `recommend` answers for the same run, id by id."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from genrec import Answer

import semrec
from semrec.shared.serving.models import RecommendAnswer, SearchAnswer, SimilarAnswer
from semrec.shared.serving.options import Limits

OfApp = Callable[[str], Path]
Talking = Callable[..., Any]

TOKEN = "a-token-of-the-tests"


@pytest.fixture
def run(completed: OfApp) -> Path:
    return completed("prorec")


def random_requests(
    item_ids: list[str], count: int, recommenders: dict[str | None, Any]
) -> Iterator[dict[str, Any]]:
    """Requests of many ways."""
    draw = random.Random(7)
    for _ in range(count):
        request: dict[str, Any] = {
            "histories": [
                draw.choices(item_ids, k=draw.randint(0, 12)) for _ in range(draw.randint(1, 3))
            ],
            "top_k": draw.choice([3, 150]),
            "exclude_seen": draw.random() < 0.5,
            "ranking": draw.choice([None, *recommenders]),
        }
        if draw.random() < 0.3:
            request["deny"] = draw.sample(item_ids, 20)
        if draw.random() < 0.3:
            request["allow"] = draw.sample(item_ids, draw.choice([0, 1, 30]))
        if recommenders[request["ranking"]].num_beams is not None and draw.random() < 0.5:
            request["num_beams"] = 25
        yield request


def expected(recommender: Any, request: dict[str, Any]) -> list[Answer]:
    """What a recommender answers to a request, one history at a time."""
    if "num_beams" in request:
        recommender = recommender.with_beams(request["num_beams"])
    return [
        recommender.recommend(
            [history],
            top_k=request["top_k"],
            exclude_seen=request["exclude_seen"],
            allow=request.get("allow"),
            deny=request.get("deny", ()),
        )[0]
        for history in request["histories"]
    ]


def assert_answers(response: httpx.Response, answers: list[Answer], loaded: Any) -> None:
    assert response.status_code == 200, response.text
    content = RecommendAnswer.model_validate(response.json(), strict=True)
    codes = loaded.codes
    for got, answer in zip(content.answers, answers, strict=True):
        assert [item.id for item in got.items] == [item.item_id for item in answer.items]
        scores = [item.score for item in answer.items]
        assert [item.score for item in got.items] == pytest.approx(scores, abs=1e-4)
        assert got.popular == answer.popular
        for item in got.items:
            assert item.title == loaded.titles[item.id]
            row = loaded.item_ids.index(item.id)
            assert item.codes == (None if codes is None else codes.codes[row].tolist())


@pytest.mark.parametrize("name", ["prorec", "tssr"])
def test_answers_are_those_of_recommend_in_batches_too(
    name: str, completed: OfApp, talking: Talking
) -> None:
    """Requests of many ways at once, each answered as it is alone by a run loaded anew."""
    loaded = semrec.load_run(completed(name), device="cpu")
    recommenders: dict[str | None, Any] = {None: loaded.recommender()}
    recommenders |= {ranking: loaded.recommender(ranking) for ranking in loaded.rankings}
    requests = list(random_requests(loaded.item_ids, 120, recommenders))

    async def ask() -> tuple[list[httpx.Response], str]:
        async with talking(completed(name), name=name) as (client, _):
            responses = await asyncio.gather(
                *(client.post("/recommend", json=request) for request in requests)
            )
            return responses, (await client.get("/metrics")).text

    responses, numbers = asyncio.run(ask())
    for request, response in zip(requests, responses, strict=True):
        answers = expected(recommenders[request["ranking"]], request)
        assert_answers(response, answers, loaded)
        assert response.json()["ranking"] == request["ranking"]
    histories = sum(len(request["histories"]) for request in requests)
    assert f"semrec_batch_histories_sum {histories:.1f}" in numbers
    count = next(
        float(line.split()[1])
        for line in numbers.splitlines()
        if line.startswith("semrec_batch_histories_count")
    )
    assert count < 0.7 * len(requests)  # they did go together


def test_histories_of_one_way_are_one_batch(run: Path, talking: Talking) -> None:
    async def ask() -> str:
        async with talking(run, limits=Limits(batch=40, patience=0.5)) as (client, _):
            await asyncio.gather(
                *(client.post("/recommend", json={"history": []}) for _ in range(40))
            )
            return str((await client.get("/metrics")).text)

    numbers = asyncio.run(ask())
    assert "semrec_batch_histories_count 1.0" in numbers
    assert 'semrec_requests_total{path="/recommend"} 40.0' in numbers
    assert "semrec_queue_histories 0.0" in numbers
    assert 'semrec_request_seconds_count{path="/recommend"} 40.0' in numbers


def test_unknown_ids_are_named_or_refused(run: Path, talking: Talking) -> None:
    known = semrec.load_run(run, device="cpu").item_ids
    request = {
        "history": ["x", known[0], "y", "x"],
        "deny": ["z", known[1]],
        "allow": [*known, "w"],
    }

    async def ask() -> list[httpx.Response]:
        async with talking(run) as (client, _):
            return [
                await client.post("/recommend", json=request),
                await client.post("/recommend", json={**request, "unknown": "error"}),
                await client.post("/recommend", json={"history": ["x"], "unknown": "error"}),
                await client.post("/recommend", json={"history": ["x"], "allow": []}),
            ]

    skipped, refused, refused_too, nothing = asyncio.run(ask())
    (answer,) = skipped.json()["answers"]
    assert answer["unknown"] == ["x", "y"]
    assert not answer["popular"]
    assert skipped.json()["unknown"] == ["w", "z"]
    assert refused.status_code == 422
    assert refused.json() == {"detail": "the run knows no item 'w'"}
    assert refused_too.json() == {"detail": "the run knows no item 'x'"}
    assert nothing.json()["answers"] == [{"items": [], "unknown": ["x"], "popular": False}]


def test_beams_and_rankings_are_those_of_the_run(run: Path, talking: Talking) -> None:
    async def ask() -> list[httpx.Response]:
        async with talking(run) as (client, _):
            return [
                await client.post("/recommend", json={"history": [], **more})
                for more in (
                    {"ranking": "graph", "num_beams": 5},
                    {"ranking": "best"},
                )
            ]

    beams, ranking = asyncio.run(ask())
    sentence = "num_beams must be left out: this ranking has no beam search"
    assert (beams.status_code, beams.json()) == (422, {"detail": sentence})
    assert ranking.status_code == 422
    assert ranking.json()["detail"].startswith(
        "ranking must be one of 'PRORec', 'PRORec, joined', "
    )


@pytest.mark.parametrize("name", ["prorec", "tssr"])
def test_similar_items_are_the_nearest(name: str, completed: OfApp, talking: Talking) -> None:
    loaded = semrec.load_run(completed(name), device="cpu")
    vectors, ids = loaded.vectors["items"], loaded.item_ids

    async def ask() -> list[httpx.Response]:
        async with talking(completed(name), name=name) as (client, _):
            posts = (
                client.post("/similar", json={"item": ids[row], "top_k": 99}) for row in (0, 7)
            )
            missing = client.post("/similar", json={"item": "x"})
            return list(await asyncio.gather(*posts, missing))

    *responses, missing = asyncio.run(ask())
    assert missing.json() == {"detail": "the run knows no item 'x'"}
    assert missing.status_code == 404
    for row, response in zip((0, 7), responses, strict=True):
        content = SimilarAnswer.model_validate(response.json(), strict=True)
        assert content.item.id == ids[row]
        cosines = {
            ids[other]: float(
                vectors[row]
                @ vectors[other]
                / np.linalg.norm(vectors[row])
                / np.linalg.norm(vectors[other])
            )
            for other in range(len(ids))
            if other != row
        }
        assert {item.id for item in content.by_vectors} == set(cosines)
        scores = [item.score for item in content.by_vectors]
        assert scores == sorted(scores, reverse=True)
        for item in content.by_vectors:
            assert item.score == pytest.approx(cosines[item.id], abs=1e-5)
        if loaded.codes is None:
            assert content.by_codes is None
            continue
        assert content.by_codes is not None
        codes = loaded.codes.codes.tolist()
        shared = {}
        for other in range(len(ids)):
            same = [a == b for a, b in zip(codes[row], codes[other], strict=True)]
            shared[ids[other]] = len(codes[row]) if all(same) else same.index(False)
        keys = [(shared[item.id], cosines[item.id]) for item in content.by_codes]
        assert [item.score for item in content.by_codes] == [key[0] for key in keys]
        assert len(keys) == 99
        for (before, cosine), (after, later) in pairwise(keys):
            assert before > after or (before == after and cosine >= later - 1e-5)


def test_items_by_id_and_by_words(run: Path, talking: Talking) -> None:
    loaded = semrec.load_run(run, device="cpu")
    titles = loaded.titles
    ids = loaded.item_ids
    word = titles[ids[5]].split()[1]

    async def ask() -> list[httpx.Response]:
        async with talking(run) as (client, _):
            return [
                await client.get(f"/items/{ids[5]}"),
                await client.get("/items/a%2Fb%3F"),
                await client.get("/items", params={"query": word.upper(), "limit": 2}),
                await client.get("/items", params={"query": f"e {word} O"}),
                await client.get("/items", params={"query": "[.*"}),
                await client.get("/items", params={"query": f" {ids[5].upper()} "}),
                await client.get("/items", params={"query": ids[15][:-1], "limit": 100}),
                await client.get("/items", params={"query": "i", "limit": 100}),
            ]

    item, missing, some, several, none, by_id, by_part, by_sign = asyncio.run(ask())
    assert loaded.codes is not None
    codes = loaded.codes.codes[5].tolist()
    assert item.json() == {"id": ids[5], "title": titles[ids[5]], "codes": codes}
    assert (missing.status_code, missing.json()["detail"]) == (404, "the run knows no item 'a/b?'")
    holding = [each for each in ids if word.lower() in titles[each].lower()]
    content = SearchAnswer.model_validate(some.json(), strict=True)
    assert content.total == len(holding) > 2
    assert [each.id for each in content.items] == holding[:2]
    holding = [
        each
        for each in ids
        if all(part in titles[each].lower() for part in ("e", word.lower(), "o"))
    ]
    assert [each["id"] for each in several.json()["items"]] == holding[:20]
    assert none.json() == {"items": [], "total": 0}
    assert by_id.json() == {"items": [item.json()], "total": 1}
    beginning = [each for each in ids if each.startswith(ids[15][:-1])]
    assert 1 < len(beginning) < 20
    assert [each["id"] for each in by_part.json()["items"]] == beginning
    # Ids that begin with it and titles that hold it: none is listed twice.
    assert sorted(each["id"] for each in by_sign.json()["items"]) == sorted(ids)


def test_a_token_opens_all_but_two_paths(run: Path, talking: Talking) -> None:
    async def ask() -> dict[str, list[int]]:
        statuses: dict[str, list[int]] = {}
        async with talking(run, token=TOKEN) as (client, _):
            for shown in (
                f"Bearer {TOKEN}",
                f"bearer {TOKEN}",
                TOKEN,
                f"Bearer {TOKEN}x",
                f"Bearer {TOKEN[:-1]}",
                "Bearer ",
                "Bearer \u00e4".encode("latin-1"),
            ):
                headers = {"Authorization": shown}
                for path in ("/health", "/ready", "/metrics", "/docs", "/items/x", "/nowhere"):
                    response = await client.get(path, headers=headers)
                    statuses.setdefault(path, []).append(response.status_code)
                    if response.status_code == 401:
                        assert response.headers["WWW-Authenticate"] == "Bearer"
                        assert response.json()["detail"].startswith("this service needs its token")
            doubled = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer x")]
            client.headers.clear()
            response = await client.get("/metrics", headers=doubled)
            assert response.status_code == 401
        return statuses

    assert asyncio.run(ask()) == {
        "/health": [200] * 7,
        "/ready": [200] * 7,
        "/metrics": [200] + [401] * 6,
        "/docs": [200] + [401] * 6,
        "/items/x": [404] + [401] * 6,
        "/nowhere": [404] + [401] * 6,
    }


def test_without_a_token_or_with_workers_nobody_reloads(run: Path, talking: Talking) -> None:
    async def ask(**settings: Any) -> httpx.Response:
        async with talking(run, **settings) as (client, _):
            response: httpx.Response = await client.post("/reload", json={})
            return response

    response = asyncio.run(ask())
    assert response.status_code == 403
    assert "send SIGHUP, or start the service with --token-file" in response.text
    response = asyncio.run(ask(token=TOKEN, fixed="SIGHUP to process 7"))
    assert (response.status_code, response.json()) == (409, {"detail": "SIGHUP to process 7"})


def test_a_run_is_taken_over_under_load(
    two_runs: tuple[Path, Path], talking: Talking, capsys: pytest.CaptureFixture[str]
) -> None:
    """No request is lost, and each is answered by one of the runs alone."""
    loaded = {run.name: semrec.load_run(run, device="cpu") for run in two_runs}
    ids = loaded["first"].item_ids
    draw = random.Random(3)
    histories = [draw.sample(ids, 6) for _ in range(20)]
    answers = {
        name: each.recommender().recommend(histories, top_k=5) for name, each in loaded.items()
    }
    assert all(a != b for a, b in zip(answers["first"], answers["second"], strict=True))

    async def ask() -> list[tuple[int, httpx.Response]]:
        responses: list[tuple[int, httpx.Response]] = []
        async with talking(two_runs[0], token=TOKEN) as (client, _):
            is_over = asyncio.Event()

            async def customer(seed: int) -> None:
                draw = random.Random(seed)
                while not is_over.is_set():
                    number = draw.randrange(len(histories))
                    request = {"history": histories[number], "top_k": 5}
                    responses.append((number, await client.post("/recommend", json=request)))

            customers = [asyncio.create_task(customer(seed)) for seed in range(8)]
            for name in ("second", "first", "second"):
                before = len(responses)
                taken = await client.post("/reload", json={"run": name})
                assert taken.json() == {"run": name, "items": 100}, taken.text
                assert len(responses) > before  # answered while the other was loaded
            reread = await client.post("/reload", json={})
            assert reread.json() == {"run": "second", "items": 100}
            is_over.set()
            await asyncio.gather(*customers)
        return responses

    responses = asyncio.run(ask())
    assert capsys.readouterr().err.splitlines() == [
        f"took over {two_runs[number].resolve()}: 100 items" for number in (1, 0, 1, 1)
    ]
    names = set()
    for number, response in responses:
        assert response.status_code == 200
        name = response.json()["run"]
        names.add(name)
        assert_answers(response, [answers[name][number]], loaded[name])
    assert names == {"first", "second"}


def test_no_other_folder_is_taken_over(
    two_runs: tuple[Path, Path], talking: Talking, completed: OfApp, tmp_path: Path
) -> None:
    """Neither a damaged one, nor another app's, nor one outside of the runs' folder."""
    first, second = two_runs
    outside = completed("prorec")
    (tmp_path / "link").symlink_to(outside)
    shutil.copytree(completed("tssr"), tmp_path / "other")
    (tmp_path / "empty").mkdir()
    matrix = second / "floors/graph/matrix.npz"
    content = bytearray(matrix.read_bytes())
    content[len(content) // 2] ^= 1
    matrix.write_bytes(content)
    beyond = (
        "run must be a folder under the one that contains the run of serve, also after "
        "following links"
    )
    sentences = {
        "second": "matrix.npz is damaged",
        "other": "other holds a run of tssr, not of prorec",
        "empty": "run.json is missing: is this the folder of a run?",
        "nowhere": "run.json is missing",
        "first/joined": "run.json is missing",
        "x" * 1000: "File name too long",
        "link": beyond,
        str(outside): beyond,
        "..": beyond,
        ".": beyond,
        "/": beyond,
        "": beyond,
        "first/../..": beyond,
        "a\0b": beyond,
        "/etc/passwd": beyond,
    }

    async def ask() -> None:
        async with talking(first, token=TOKEN) as (client, service):
            served = service.run
            for name, words in sentences.items():
                response = await client.post("/reload", json={"run": name})
                assert response.status_code == 422, name
                assert words in response.json()["detail"]
                assert (words == beyond) != (
                    "first continues to answer" in response.json()["detail"]
                )
                assert service.run is served
            numbers = (await client.get("/metrics")).text
            assert 'semrec_reloads_total{result="refused"} 6.0' in numbers

    asyncio.run(ask())


def test_what_replaced_the_folder_is_never_read_as_the_run(
    two_runs: tuple[Path, Path], talking: Talking
) -> None:
    """What is in memory still answers; what would have to be read is refused until a reload."""
    first, second = two_runs

    async def ask() -> None:
        async with talking(first, token=TOKEN) as (client, _):
            os.rename(first, first.with_name("old"))
            answers = [
                await client.post("/recommend", json={"history": [], "ranking": ranking})
                for ranking in (None, "graph")
            ]
            assert [answer.status_code for answer in answers] == [200, 503]
            os.rename(second, first)
            for path, body in (
                ("/recommend", {"history": [], "ranking": "graph"}),
                ("/similar", {"item": "item-00001"}),
            ):
                refused = await client.post(path, json=body)
                assert refused.status_code == 503
                assert refused.headers["Retry-After"] == "60"
                assert "the folder of first was replaced or damaged" in refused.json()["detail"]
                assert (await client.post("/reload", json={})).status_code == 200
                assert (await client.post(path, json=body)).status_code == 200
                os.rename(first, second)
                os.rename(first.with_name("old"), first)
                assert (await client.post("/reload", json={})).status_code == 200
                os.rename(first, first.with_name("old"))
                os.rename(second, first)

    asyncio.run(ask())
