"""Why items stand where they stand, by the service, held against `recommend` and the model."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from genrec import Request, exact_scores, load_model

import semrec
from semrec.shared.serving.models import ExplainAnswer, ExplainedItem, RunAnswer

OfApp = Callable[[str], Path]
Talking = Callable[..., Any]

NUM_BEAMS = 30  # of the small run, of 100 items


def ask(
    talking: Talking, run: Path, *requests: dict[str, Any], name: str = "prorec"
) -> list[httpx.Response]:
    async def post() -> list[httpx.Response]:
        async with talking(run, name=name) as (client, _):
            return [await client.post("/explain", json=request) for request in requests]

    return asyncio.run(post())


def content(response: httpx.Response) -> ExplainAnswer:
    assert response.status_code == 200, response.text
    return ExplainAnswer.model_validate(response.json(), strict=True)


def histories(item_ids: list[str], count: int) -> list[list[str]]:
    draw = random.Random(5)
    return [draw.sample(item_ids, draw.randint(1, 8)) for _ in range(count)]


@pytest.mark.parametrize("name", ["prorec", "cocorec", "tssr"])
def test_the_first_are_those_of_recommend_in_every_ranking(
    name: str, completed: OfApp, talking: Talking
) -> None:
    loaded = semrec.load_run(completed(name), device="cpu")
    history = histories(loaded.item_ids, 1)[0]
    deny = loaded.item_ids[:10]
    rankings = (None, *loaded.rankings)
    requests = [
        {"history": history, "deny": deny, "exclude_seen": is_filtered, "ranking": ranking}
        for ranking in rankings
        for is_filtered in (True, False)
    ]
    for request, response in zip(
        requests, ask(talking, completed(name), *requests, name=name), strict=True
    ):
        explained = content(response)
        recommender = loaded.recommender(request["ranking"])
        (answer,) = recommender.recommend(
            [history], deny=deny, exclude_seen=request["exclude_seen"]
        )
        assert [item.id for item in explained.items] == [item.item_id for item in answer.items]
        scores = [item.score for item in answer.items]
        assert [item.score for item in explained.items] == pytest.approx(scores, abs=1e-4)
        assert [item.rank for item in explained.items] == list(range(1, 11))
        generates = name == "prorec" and request["ranking"] in (None, *loaded.rankings[:2])
        assert all((item.path is not None) == generates for item in explained.items)
        assert all(item.struck is None for item in explained.items)
        assert not explained.popular


def test_a_path_holds_the_probabilities_of_generation(completed: OfApp, talking: Talking) -> None:
    """Of every item, its codes' probabilities are those that exact scores add up to."""
    run = completed("prorec")
    loaded = semrec.load_run(run, device="cpu")
    ids, codes = loaded.item_ids, loaded.codes
    assert codes is not None
    model = load_model(run / "stage_two/model").model.eval()
    history = histories(ids, 1)[0]
    rows = torch.tensor([[ids.index(item_id) for item_id in history]])
    shares = exact_scores(model, model.trie, rows)[0].exp()  # [items]
    requests = [{"history": history, "items": ids, "ranking": name} for name in ("PRORec", None)]
    alone, joined = map(content, ask(talking, run, *requests))
    for explained in (alone, joined):
        for row, item in enumerate(explained.items):
            assert item.path is not None
            assert [step.code for step in item.path] == codes.codes[row].tolist()
            above = 1.0
            for level, step in enumerate(item.path):
                prefix = codes.codes[:, : level + 1] == codes.codes[row, : level + 1]
                share = float(shares[torch.from_numpy(prefix.all(axis=1))].sum())
                assert step.probability == pytest.approx(share / above, rel=1e-3, abs=1e-7)
                siblings = codes.codes[:, :level] == codes.codes[row, :level]
                following = codes.codes[siblings.all(axis=1), level]
                assert step.choices == len(set(following.tolist()))
                above = share
    assert all(item.parts is None for item in alone.items)
    for item, other in zip(joined.items, alone.items, strict=True):
        assert item.parts is not None
        if item.score is not None:
            assert sum(item.parts.values()) == pytest.approx(item.score, abs=1e-3)
        if "generation" in item.parts and other.score is not None:
            assert item.parts["generation"] == pytest.approx(other.score, abs=1e-3)


@pytest.mark.parametrize("ranking", ["PRORec", None, "graph + text"])
def test_every_item_is_ranked_or_struck_out(
    ranking: str | None, completed: OfApp, talking: Talking
) -> None:
    loaded = semrec.load_run(completed("prorec"), device="cpu")
    ids, recommender = loaded.item_ids, loaded.recommender(ranking)
    history, *_ = histories(ids, 1)
    deny, allow = [*ids[:15], "no such item"], ids[5:]
    request = {
        "history": [*history, "unheard of"],
        "deny": deny,
        "allow": allow,
        "exclude_seen": True,
        "items": ids,
        "ranking": ranking,
    }
    explained = content(*ask(talking, completed("prorec"), request))
    depth = len(ids) if ranking == "graph + text" else NUM_BEAMS
    (whole,) = recommender.recommend(
        [Request(history=history, allow=allow, deny=deny)], top_k=depth, exclude_seen=True
    )
    places = {item.item_id: place for place, item in enumerate(whole.items, start=1)}
    for item in explained.items:
        if item.id in history:
            assert item.struck == "seen"
        elif item.id in deny:
            assert item.struck == "denied"
        elif item.id not in allow:
            assert item.struck == "not_allowed"
        elif ranking is None:  # others than the beams' are candidates, too
            assert places.get(item.id, item.rank) == item.rank
            assert item.struck == (None if item.rank else "not_generated")
        else:
            assert item.rank == places.get(item.id)
            assert item.struck == (None if item.rank else "not_generated")
        assert (item.rank is None) == (item.score is None) == (item.struck is not None)
        check_beams(item, ranking)
    (free,) = recommender.recommend([history])
    expected = [
        (item.item_id, place)
        for place, item in enumerate(free.items, start=1)
        if item.item_id in {*history, *deny} or item.item_id not in allow
    ]
    assert [(item.id, item.free_rank) for item in explained.left_out] == expected
    assert expected
    assert explained.unknown == ["unheard of", "no such item"]


def check_beams(item: ExplainedItem, ranking: str | None) -> None:
    """Kept up to a code and none after it; to the end where, and only where, it is generated."""
    if ranking == "graph + text":
        assert item.path is None
        return
    assert item.path is not None
    kept = [step.kept for step in item.path]
    assert kept == sorted(kept, key=lambda is_kept: not is_kept)
    if ranking == "PRORec":
        assert all(kept) == (item.rank is not None)
    if item.struck == "not_generated":
        assert not all(kept)


def test_popular_items_answer_who_has_no_history(completed: OfApp, talking: Talking) -> None:
    run = completed("prorec")
    loaded = semrec.load_run(run, device="cpu")
    ids = loaded.item_ids
    requests = [{"history": []}, {"history": ["unheard of"], "items": ids, "deny": [ids[3]]}]
    first, every = map(content, ask(talking, run, *requests))
    (answer,) = loaded.recommender().recommend([[]])
    assert first.popular
    assert [item.id for item in first.items] == [item.item_id for item in answer.items]
    assert every.items[3].struck == "denied"
    counts = loaded.pipeline.item_counts.tolist()
    for item, count in zip(every.items, counts, strict=True):
        assert item.path is None
        if item.struck != "denied":
            assert (item.struck == "never_had") == (count == 0)
            assert (item.rank is None) == (count == 0)


def test_what_is_not_known_is_refused(completed: OfApp, talking: Talking) -> None:
    run = completed("prorec")
    requests: dict[str, tuple[int, dict[str, Any]]] = {
        "the run knows no item 'x'": (404, {"history": [], "items": ["x"]}),
        "the run knows no item 'y'": (422, {"history": ["y"], "unknown": "error"}),
        "ranking must be one of 'PRORec', ": (422, {"history": [], "ranking": "best"}),
        "history is missing": (422, {"items": ["x"]}),
        "items must have at least 1 item": (422, {"history": [], "items": []}),
        "items must have at most 500 items": (422, {"history": [], "items": ["x"] * 501}),
        "items.0 must be a valid string": (422, {"history": [], "items": [7]}),
        "top_k must be less than or equal to 500": (422, {"history": [], "top_k": 501}),
        "'num_beams' is not a field": (422, {"history": [], "num_beams": 5}),
    }
    responses = ask(talking, run, *(request for _, request in requests.values()))
    for (words, (status, _)), response in zip(requests.items(), responses, strict=True):
        assert response.status_code == status
        assert response.json()["detail"].startswith(words)


@pytest.mark.parametrize(
    ("name", "answers_by"), [("prorec", "PRORec, joined"), ("tssr", None), ("cocorec", None)]
)
def test_a_run_is_described(
    name: str, answers_by: str | None, completed: OfApp, talking: Talking
) -> None:
    loaded = semrec.load_run(completed(name), device="cpu")

    async def get() -> httpx.Response:
        async with talking(completed(name), name=name) as (client, _):
            response: httpx.Response = await client.get("/run")
            return response

    run = RunAnswer.model_validate(asyncio.run(get()).json(), strict=True)
    assert (run.app, run.items) == (name, 100)
    assert tuple(ranking.name for ranking in run.rankings) == loaded.rankings
    assert run.rankings[-1].is_floor
    assert not run.rankings[0].is_floor
    assert run.levels == (None if loaded.codes is None else loaded.codes.num_levels)
    if answers_by is not None:
        assert run.answers_by == answers_by
    elif run.answers_by is not None:  # a small model may lose to a floor in both modes
        assert set(loaded.pipeline.answering().values()) == {run.answers_by}


def test_the_page_is_given_to_anybody_and_holds_nothing_of_the_run(
    completed: OfApp, talking: Talking
) -> None:
    run = completed("prorec")
    paths = {
        "/": "text/html; charset=utf-8",
        "/page.css": "text/css; charset=utf-8",
        "/page.js": "text/javascript; charset=utf-8",
        "/page.svg": "image/svg+xml",
    }

    async def get() -> list[httpx.Response]:
        async with talking(run, token="a-token-of-the-tests") as (client, _):
            client.headers.clear()
            return [await client.get(path) for path in paths]

    responses = asyncio.run(get())
    ids = semrec.load_run(run, device="cpu").item_ids
    for response, kind in zip(responses, paths.values(), strict=True):
        assert response.status_code == 200
        assert response.headers["Content-Type"] == kind
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert not any(item_id in response.text for item_id in ids)
        assert "a-token" not in response.text
        assert "innerHTML" not in response.text
    assert 'data-needs-token="yes"' in responses[0].text
