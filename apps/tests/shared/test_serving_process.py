"""`serve` as its users start it: options that are refused, a socket, signals."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import semrec
from semrec.shared.errors import ExperimentError
from semrec.shared.files import read_json, write_sealed
from semrec.shared.seals import seal
from semrec.shared.serving.options import ServeOptions

Launch = Callable[..., subprocess.CompletedProcess[str]]
OfApp = Callable[[str], Path]

APPS = Path(__file__).resolve().parents[2]
BODY = json.dumps({"history": ["item-00001", "item-00002"], "top_k": 3}).encode()
HEAD = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that is going to serve; what it says goes through a pipe."""
    command = [sys.executable, APPS / "prorec.py", "serve", "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        [*map(str, command), *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@contextmanager
def served(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that serves, once it listens, and its port."""
    with started(*arguments) as process:
        yield process, int(re.search(r":(\d+) ", line(process))[1])  # type: ignore[index]


def line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


def sent(port: int, content: bytes) -> socket.socket:
    """A connection on which something was sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(content)
    return connection


def received(connection: socket.socket) -> tuple[int, bytes]:
    """The status and the body of what comes until the other side closes."""
    content = b""
    while part := connection.recv(65536):
        content += part
    connection.close()
    head, _, body = content.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_a_process_answers_reads_its_run_again_and_finishes_what_is_under_way(
    two_runs: tuple[Path, Path],
) -> None:
    first, second = two_runs
    loaded = [semrec.load_run(run, device="cpu") for run in two_runs]
    answers = [
        [
            item.item_id
            for item in run.recommender().recommend([json.loads(BODY)["history"]])[0].items
        ]
        for run in loaded
    ]
    assert answers[0][:3] != answers[1][:3]

    def ids(content: bytes) -> list[str]:
        return [item["id"] for item in json.loads(content)["answers"][0]["items"]]

    with served("--run", first) as (process, port):
        url = f"http://127.0.0.1:{port}"
        typed = {"Content-Type": "application/json"}
        response = httpx.post(f"{url}/recommend", content=BODY, headers=typed)
        assert ids(response.content) == answers[0][:3]

        # What is no HTTP, or ends before its end, is refused or left; the next is answered.
        length = f"Content-Length: {len(BODY)}\r\n\r\n".encode()
        status, content = received(sent(port, b"\x16\x03\x01\x02\x00\x01\xfc\r\n\r\n"))
        assert (status, content) == (400, b"Invalid HTTP request received.")
        half = sent(port, HEAD + length + BODY[:10])
        half.shutdown(socket.SHUT_WR)
        half.close()
        sent(port, HEAD[:20]).close()
        large = HEAD + b"Content-Length: 10000000\r\nConnection: close\r\n\r\n" + b" " * 10_000_000
        status, content = received(sent(port, large))
        assert (status, json.loads(content)["detail"][:12]) == (413, "the body mus")
        response = httpx.post(f"{url}/recommend", content=BODY, headers=typed)
        assert ids(response.content) == answers[0][:3]

        os.rename(first, first.with_name("old"))
        process.send_signal(signal.SIGHUP)
        assert "is this the folder of a run?; first continues to answer" in line(process)
        os.rename(second, first)
        process.send_signal(signal.SIGHUP)
        assert "first: 100 items" in line(process)
        response = httpx.post(f"{url}/recommend", content=BODY, headers=typed)
        assert ids(response.content) == answers[1][:3]

        under_way = sent(port, HEAD + length + BODY[:10])
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(OSError, match="refused"):
            sent(port, b"")
        under_way.sendall(BODY[10:])
        status, content = received(under_way)
        assert (status, ids(content)) == (200, answers[1][:3])
        assert process.wait(timeout=30) == -signal.SIGTERM


def test_workers_begin_together_and_end_at_once(completed: OfApp) -> None:
    arguments = ("--run", completed("prorec"), "--workers", 2)
    with served(*arguments) as (process, port):
        # The line that holds the port is said when both answer.
        assert httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    with started(*arguments) as process:
        assert process.stderr is not None
        time.sleep(5)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does, which reaches the workers too
        process.wait(timeout=20)
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("is_sealed", [False, True])
def test_workers_that_cannot_load_the_run_end_the_command(
    two_runs: tuple[Path, Path], is_sealed: bool
) -> None:
    """A digest shows a fault to the command; one that has a digest shows only to the workers."""
    data = two_runs[0] / "data"
    (data / "items.jsonl").write_text("{")
    if is_sealed:
        write_sealed(data / "stage.json", {**read_json(data / "stage.json"), "files": seal(data)})
    with started("--run", two_runs[0], "--workers", 2) as process:
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "serving" not in said
    lines = set(said.splitlines())
    assert len(lines) == 1, said
    assert ("items.jsonl is damaged" in lines.pop()) != is_sealed


def test_what_cannot_be_served_safely_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    for host in ("0.0.0.0", "::", "192.0.2.7"):
        with pytest.raises(ExperimentError, match=r"accepts other machines: add --token-file, or"):
            ServeOptions(run=tmp_path, host=host).check()
        ServeOptions(run=tmp_path, host=host, insecure=True).check()
    for host in ("127.0.0.1", "localhost", "127.8.8.8", "::1"):
        ServeOptions(run=tmp_path, host=host).check()
    for host in ("", "no such host", "\ud800", "x" * 300):
        with pytest.raises(ExperimentError, match="--host"):
            ServeOptions(run=tmp_path, host=host).check()
    for content in (
        b"",
        b" \n",
        b"short",
        b"two words of a token",
        b"\xff" * 20,
        "ä".encode() * 20,
    ):
        token.write_bytes(content)
        with pytest.raises(ExperimentError, match=r"must hold one token of at least 16 ASCII"):
            ServeOptions(run=tmp_path, token_file=token).check()
    with pytest.raises(FileNotFoundError):
        ServeOptions(run=tmp_path, token_file=tmp_path / "nowhere").check()
    token.write_bytes(b"a-token-of-the-tests\r\n")
    options = ServeOptions(run=tmp_path, host="0.0.0.0", token_file=token)
    options.check()
    assert options.token == "a-token-of-the-tests"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ExperimentError, match=f"--port {port} cannot be used: Address"):
            ServeOptions(run=tmp_path, port=port).listening()
    with pytest.raises(ExperimentError, match="cannot be used"):
        ServeOptions(run=tmp_path, host="192.0.2.7").listening()

    def find_spec(name: str, *arguments: Any) -> Any:
        return None if name == "uvicorn" else find(name, *arguments)

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    words = r"^serve needs an extra \(no module uvicorn\): pip install 'semrec\[serve\]'$"
    with pytest.raises(ExperimentError, match=words):
        ServeOptions(run=tmp_path).check()


def test_what_is_no_run_ends_the_command_in_one_line(
    launch: Launch, completed: OfApp, tmp_path: Path
) -> None:
    for name, run, words in (
        ("prorec", tmp_path, "run.json is missing: is this the folder of a run?"),
        ("tssr", completed("prorec"), "holds a run of prorec, not of tssr"),
    ):
        done = launch(name, "serve", "--run", run, "--port", 0, "--device", "cpu")
        assert done.returncode == 1
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
