"""Times the HTTP service of a complete run: latency, requests per second, memory, start.

    python benchmarks/serving.py --run RUN
    python benchmarks/serving.py --run RUN --requests 200 --memory-requests 2000   # a short look

The service runs in its own process with `--threads` threads of torch; the clients run in this
process, on the loopback. Each client sends a history of the run's users, waits for the response and
sends the next. The service is also timed without batches (one history at a time, without waiting
for more). "CPU that is no model time" is the CPU time of the process minus that of the thread which
runs the model; it is exact with one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from semrec.loading import load_run
from semrec.shared.run import Run
from semrec.shared.screen import Screen
from semrec.shared.serving.options import Limits, ServeOptions

MOST_HISTORIES = 5000
TARGETS = {
    "share of CPU that is no model time": 0.15,
    "memory after all requests, over that after the first 1,000": 1.05,
    "seconds from start to the first answer": 5.0,
}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running service.

    Attributes:
        url: Its address.
        start: The time of its start, by `time.perf_counter`.
    """

    url: str
    start: float


@contextmanager
def served(options: argparse.Namespace, *, batches: bool) -> Iterator[Served]:
    """Starts a service, and ends it after the block.

    Args:
        options: The run, the device and the threads.
        batches: Whether requests are answered in batches.
    """
    command = [sys.executable, __file__, "--run", options.run, "--device", options.device]
    threads = {"OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "passive"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [*map(str, command), "--serve", "batches" if batches else "singly"],
        env={**os.environ, **threads},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        match = re.search(r"http://\S+", line)
        if match is None:
            raise SystemExit(f"the service did not start: {line}{process.stderr.read()}")
        yield Served(url=match[0], start=start)
    finally:
        process.terminate()
        process.communicate()


def serve_here(options: argparse.Namespace) -> None:
    """Serves in this process, until it is ended."""
    from semrec.shared.serving.server import serve

    app = import_module(f"semrec.{Run.reopen(options.run, Screen()).app}.app").APP
    limits = Limits() if options.serve == "batches" else Limits(batch=1, patience=0.0)
    serve(app, ServeOptions(run=options.run, port=0, device=options.device), limits)


async def post(session: aiohttp.ClientSession, url: str, history: list[str]) -> float:
    """Sends a request; returns the seconds until the response."""
    start = time.perf_counter()
    async with session.post(f"{url}/recommend", json={"history": history}) as response:
        content = await response.json()
        if response.status != 200 or len(content["answers"]) != 1:
            raise SystemExit(f"a request was not answered: {content}")
    return time.perf_counter() - start


async def load(url: str, histories: list[list[str]], clients: int, count: int) -> dict[str, float]:
    """Latencies and the rate of `count` requests by `clients` clients."""
    draw, latencies = random.Random(0), []
    left = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:

        async def client() -> None:
            latencies.extend([await post(session, url, draw.choice(histories)) for _ in left])

        before, start = await numbers(session, url), time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        seconds = time.perf_counter() - start
        after = await numbers(session, url)
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]) * 1000
    spent = {key: after[key] - before[key] for key in after}
    return {
        "clients": clients,
        "requests/s": count / seconds,
        "p50 ms": p50,
        "p95 ms": p95,
        "p99 ms": p99,
        "a batch": spent["semrec_batch_histories_sum"] / spent["semrec_batch_histories_count"],
        "CPU ms a request": spent["process_cpu_seconds_total"] / count * 1000,
        "no model time": 1
        - spent["semrec_model_cpu_seconds_total"] / spent["process_cpu_seconds_total"],
        "MiB": after["process_resident_memory_bytes"] / 2**20,
    }


async def numbers(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """The values of `/metrics` that have no labels."""
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines if "{" not in name}


async def first_answer(service: Served, history: list[str]) -> float:
    """Seconds from the start of the process to its first response."""
    async with aiohttp.ClientSession() as session:
        await post(session, service.url, history)
    return time.perf_counter() - service.start


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    run = load_run(options.run, device="cpu")
    histories = [history for _, history in islice(run.histories(), MOST_HISTORIES)]
    rows: dict[str, list[dict[str, float]]] = {}
    for name in ("batches", "singly"):
        with served(options, batches=name == "batches") as service:
            seconds = asyncio.run(first_answer(service, histories[0]))
            if name == "batches":
                start = seconds
            rows[name] = [
                asyncio.run(load(service.url, histories, clients, options.requests))
                for clients in options.clients
            ]
    with served(options, batches=True) as service:
        warm = asyncio.run(load(service.url, histories, 8, 1000))
        rest = max(options.memory_requests - 1000, 1)
        end = asyncio.run(load(service.url, histories, 8, rest))
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads",
        "date": date.today().isoformat(),
        "run": f"{run.app}, {len(run.item_ids):,} items",
        "loads": rows,
        "MiB after 1,000 requests": warm["MiB"],
        "MiB after all requests": end["MiB"],
        "share of CPU that is no model time": max(row["no model time"] for row in rows["batches"]),
        "memory after all requests, over that after the first 1,000": end["MiB"] / warm["MiB"],
        "seconds from start to the first answer": start,
    }


def show(result: dict[str, Any]) -> None:
    """Prints a table, and whether the targets are reached."""
    columns = list(result["loads"]["batches"][0])
    print("|", " | ".join(["", *columns]), "|")
    print("|---" * (len(columns) + 1) + "|")
    for name, rows in result["loads"].items():
        for row in rows:
            print("|", " | ".join([name, *(f"{row[column]:.3g}" for column in columns)]), "|")
    for name, target in TARGETS.items():
        print(f"{name}: {result[name]:.3f}; the target is at most {target}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a complete run")
    parser.add_argument("--requests", type=int, default=3000, help="requests per load")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--memory-requests", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads in the service")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    parser.add_argument("--serve", choices=("batches", "singly"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve_here(options)
        return
    result = measure(options)
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=2) + "\n")
    show(result)


if __name__ == "__main__":
    main()
