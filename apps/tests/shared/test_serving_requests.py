"""Wrong requests to a service: each is refused in one sentence, and the next is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from semrec.shared.serving.options import Limits

OfApp = Callable[[str], Path]
Talking = Callable[..., Any]

JSON = {"Content-Type": "application/json"}
GOOD: dict[str, Any] = {"history": ["item-00001", "item-00002"], "top_k": 3}
LIMITS = Limits(body_bytes=200_000, body_seconds=0.3)

WRONG_VALUES: dict[str, list[Any]] = {
    "history": [
        "item-00001",
        7,
        True,
        {},
        {"0": "item-00001"},
        [7],
        [True],
        [None],
        [[]],
        [["item-00001"]],
        [1.5],
        ["\ud800"],
        ["a\udfffb"],
        ["x" * 1025],
        ["x"] * 4097,
        None,
    ],
    "histories": [[], "a", [7], ["item-00001"], [[7]], [["\ud83d"]], [[]] * 101, [None], {}, [{}]],
    "top_k": [0, -1, 501, 10**30, 10**4000, 1.0, 1.5, "3", None, True, [], {}, -(10**100)],
    "num_beams": [0, -1, 501, 10**30, 2.0, "3", True, [], {}],
    "allow": ["item-00001", 7, True, {}, [7], [None], [["a"]], ["\ud800"], ["x" * 2000]],
    "deny": ["item-00001", 7, None, {}, [7], [None], [["a"]], ["\ud800"]],
    "exclude_seen": [0, 1, "true", "yes", None, [], 1.0],
    "unknown": ["ignore", "", None, True, 1, ["skip"], "SKIP"],
    "ranking": ["", "best", "prorec", 7, ["graph"], {}, "\ud800", "graph\0", "x" * 100_000],
    "top": [3],
    "": [1],
    "\ud800": [1],
    "\u202e\x1b[2J": [1],
    "x" * 50_000: [1],
    "Top_k": [3],
}

WRONG_BODIES: list[bytes] = [
    b"",
    b" ",
    b"null",
    b"true",
    b"7",
    b'"history"',
    b"[]",
    b'["item-00001"]',
    b"[{}]",
    b"{}",
    b"{",
    b"}",
    b'{"history": ["item-00001"]',
    b'{"history": ["item-00001"',
    b'{"history": ["item-0',
    b'{"history": ["item-00001"],}',
    b'{"history": ["item-00001"]} {}',
    b"{'history': ['item-00001']}",
    b'{history: ["item-00001"]}',
    b'{"history": [], "top_k": NaN}',
    b'{"history": [], "top_k": Infinity}',
    b'{"history": [], "top_k": -Infinity}',
    b'{"history": [], "top_k": 1e999}',
    b'{"history": [NaN]}',
    b'{"history": [], "top_k": 0x10}',
    b'{"history": [], "top_k": 01}',
    b'{"history": [], "top_k": 1_0}',
    b'{"history": [], "top_k": ' + b"9" * 5000 + b"}",
    b"[" * 100_000,
    b"[" * 50_000 + b"]" * 50_000,
    b'{"a":' * 30_000 + b"1" + b"}" * 30_000,
    b'{"history": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b'{"history": ["\xff"]}',
    b'{"history": ["\xed\xa0\x80"]}',
    b'{"history": ["\xc0\xaf"]}',
    '{"history": []}'.encode("utf-16"),
    '{"history": []}'.encode("utf-32"),
    b'{"history": ["\x00"]}',
    b'{"history": ["a\nb"]}',
    b"\x00" * 1000,
    b"\x1f\x8b\x08\x00garbage",
    b"history=item-00001",
    b'{"history": [], "histories": [[]]}',
    b"<history/>",
    b"x" * 200_001,
    b'{"history": [], "deny": ["' + b"x" * 10_000_000 + b'"]}',
]


def as_sentence(response: httpx.Response) -> str:
    """What a refusal says, which must be one sentence that any terminal can show."""
    assert 400 <= response.status_code < 500, (response.status_code, response.text[:200])
    assert set(response.json()) == {"detail"}
    sentence: str = response.json()["detail"]
    assert sentence == sentence.strip() != ""
    assert sentence.isprintable()
    assert len(sentence) < 400
    return sentence


@pytest.fixture
def run(completed: OfApp) -> Path:
    return completed("prorec")


def test_every_wrong_body_is_one_sentence_and_the_next_is_answered(
    run: Path, talking: Talking
) -> None:
    bodies = [
        json.dumps({**GOOD, name: value}).encode()
        for name, values in WRONG_VALUES.items()
        for value in values
    ]
    bodies += WRONG_BODIES
    assert len(bodies) > 130

    async def ask() -> None:
        async with talking(run, limits=LIMITS) as (client, _):
            good = (await client.post("/recommend", json=GOOD)).json()
            assert len(good["answers"][0]["items"]) == 3
            for body in bodies:
                response = await client.post("/recommend", content=body, headers=JSON)
                sentence = as_sentence(response)
                is_large = len(body) > LIMITS.body_bytes
                assert response.status_code == (413 if is_large else 422), (body[:80], sentence)
                response = await client.post("/recommend", json=GOOD)
                assert response.status_code == 200
                assert response.json() == good
            numbers = (await client.get("/metrics")).text
            large = sum(len(body) > LIMITS.body_bytes for body in bodies)
            for status, count in (("413", large), ("422", len(bodies) - large)):
                line = f'semrec_errors_total{{path="/recommend",status="{status}"}} {count}.0'
                assert line in numbers

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"history": [], "top_k": 501}, "top_k must be less than or equal to 500"),
        ({"history": [], "top_k": "3"}, "top_k must be a valid integer"),
        ({"history": ["a", 7]}, "history.1 must be a valid string"),
        ({"history": ["\ud800"]}, "history.0 must be text without half a surrogate pair"),
        ({"history": [], "top": 3}, "'top' is not a field of this request: /docs lists the fields"),
        ({"history": [], "unknown": "no"}, "unknown must be 'skip' or 'error'"),
        ({"histories": []}, "histories must have at least 1 item, not 0"),
        ({"history": [], "histories": [[]]}, "give one of history and histories"),
        ({"top_k": 3}, "give one of history and histories"),
        ([], "the body must be a JSON object"),
        ("[" * 100_000, "the body must be JSON with few levels"),
        (b"\xff", "the body must be JSON in UTF-8"),
        ('{"history": [1e999]}', "the body must be JSON: it contains a number that is not finite"),
        (
            '{"history": [], "top_k": NaN}',
            "the body must be JSON: it contains a number that is not f",
        ),
        ("9" * 5000, "the body must be JSON: it contains a number with too many digits"),
        ({"history": [], "\ud800": 1}, "the body must name no field with half a surrogate pair"),
        ("{", "the body must be JSON: Expecting property name enclosed in double quotes: line 1"),
    ],
)
def test_a_refusal_says_what_is_wrong(body: Any, words: str, run: Path, talking: Talking) -> None:
    content = body if isinstance(body, str | bytes) else json.dumps(body)

    async def ask() -> str:
        async with talking(run) as (client, _):
            return as_sentence(await client.post("/recommend", content=content, headers=JSON))

    assert asyncio.run(ask()).startswith(words)


def test_wrong_paths_methods_and_headers(run: Path, talking: Talking) -> None:
    body = json.dumps(GOOD).encode()
    requests: list[tuple[str, str, dict[str, Any], int]] = [
        ("GET", "/recommend", {}, 405),
        ("DELETE", "/items/item-00001", {}, 405),
        ("GET", "/nowhere", {}, 404),
        ("GET", "/../../etc/passwd", {}, 404),
        ("GET", "/items/../../etc/passwd", {}, 404),
        ("GET", "/items/" + "x" * 5000, {}, 404),
        ("GET", "/items/", {}, 404),
        ("GET", "/items/%ff%00%0a", {}, 404),
        ("GET", "/items", {}, 422),
        ("GET", "/items?query=", {}, 422),
        ("GET", "/items?query=%20%09", {}, 422),
        ("GET", "/items?query=" + "x" * 201, {}, 422),
        ("GET", "/items?query=a&limit=0", {}, 422),
        ("GET", "/items?query=a&limit=101", {}, 422),
        ("GET", "/items?query=a&limit=" + "9" * 5000, {}, 422),
        ("GET", "/items?query=a&limit=1e1", {}, 422),
        ("POST", "/recommend", {"content": body}, 422),
        ("POST", "/recommend", {"content": body, "headers": {"Content-Type": "text/plain"}}, 422),
        ("POST", "/recommend", {"content": body, "headers": {"Content-Type": "/;;="}}, 422),
        ("POST", "/recommend", {"data": {"history": "item-00001"}}, 422),
        ("POST", "/recommend", {"files": {"history": b"item-00001"}}, 422),
        ("POST", "/similar", {"json": {}}, 422),
        ("POST", "/similar", {"json": {"item": "x"}}, 404),
        ("POST", "/similar", {"json": {"item": "item-00001", "top_k": 0}}, 422),
        ("POST", "/similar", {"json": {"item": ["item-00001"]}}, 422),
        ("POST", "/reload", {"json": {"run": 7}}, 422),
        ("POST", "/reload", {"content": b""}, 422),
    ]

    async def ask() -> None:
        async with talking(run, token="t" * 20) as (client, _):
            sentences = [
                as_sentence(await client.get("/nowhere")),
                as_sentence(await client.get("/recommend")),
                as_sentence(await client.post("/recommend", json={**GOOD, "top": 3})),
            ]
            # A browser cannot open /docs, for it bears no token.
            assert all(": /openapi.json lists" in sentence for sentence in sentences)
            for method, path, settings, status in requests:
                response = await client.request(method, path, **settings)
                sentence = as_sentence(response)
                assert response.status_code == status, (method, path, sentence)
                assert (await client.get("/items/item-00001")).status_code == 200
            typed = {"Content-Type": "application/json; charset=utf-8"}
            response = await client.post("/recommend", content=body, headers=typed)
            assert response.status_code == 200
            # Text that a query cannot hold as it is, and an id that is a path: no failure.
            for query in ("%ff%fe", "%00", "%ed%a0%80", "a%2Fb"):
                response = await client.get(f"/items?query={query}")
                assert response.json() == {"items": [], "total": 0}

    asyncio.run(ask())


def test_bodies_that_come_slowly_or_without_a_length(run: Path, talking: Talking) -> None:
    body = json.dumps(GOOD).encode()

    async def parts(count: int, seconds: float, part: bytes) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield part
            await asyncio.sleep(seconds)

    async def whole() -> AsyncIterator[bytes]:
        for byte in body:
            yield bytes([byte])

    async def ask() -> None:
        async with talking(run, limits=LIMITS) as (client, _):
            response = await client.post("/recommend", content=whole(), headers=JSON)
            assert len(response.json()["answers"][0]["items"]) == 3
            slow = parts(100, 0.05, b" ")
            response = await client.post("/recommend", content=slow, headers=JSON)
            assert response.status_code == 408
            assert as_sentence(response) == "the body must arrive within 0.3 seconds"
            # More than is discarded for the client to hear why.
            huge = parts(100, 0, b" " * 100_000)
            response = await client.post("/recommend", content=huge, headers=JSON)
            assert response.status_code == 413
            assert as_sentence(response) == "the body must be at most 200,000 bytes"
            assert (await client.post("/recommend", json=GOOD)).status_code == 200

    asyncio.run(ask())


def test_a_failure_of_ours_is_one_sentence_too(
    run: Path, talking: Talking, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> None:
        async with talking(run) as (client, service):
            with monkeypatch.context() as patch:
                patch.delattr(type(service.run), "search")
                response = await client.get("/items?query=a")
            assert response.status_code == 500
            words = "the service failed to answer this request; its log has the error"
            assert response.json() == {"detail": words}
            numbers = (await client.get("/metrics")).text
            assert 'semrec_errors_total{path="/items",status="500"} 1.0' in numbers
            assert (await client.get("/items?query=a")).status_code == 200

    asyncio.run(ask())


def test_the_documentation_has_models_with_examples(run: Path, talking: Talking) -> None:
    async def ask() -> dict[str, Any]:
        async with talking(run) as (client, _):
            assert "swagger" in (await client.get("/docs")).text
            document: dict[str, Any] = (await client.get("/openapi.json")).json()
            schema = document["components"]["schemas"]["RecommendRequest"]
            for example in schema["examples"]:
                response = await client.post("/recommend", json={**example, "unknown": "skip"})
                assert response.status_code == 200
            return document

    document = asyncio.run(ask())
    assert set(document["paths"]) == {
        "/recommend",
        "/explain",
        "/similar",
        "/run",
        "/items",
        "/items/{item_id}",
        "/reload",
        "/health",
        "/ready",
        "/metrics",
    }
    content = document["paths"]["/recommend"]["post"]["responses"]
    assert content["200"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "RecommendAnswer"
    )
    assert content["422"]["content"]["application/json"]["schema"]["$ref"].endswith("Refusal")
