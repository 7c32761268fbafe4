"""Full ranking by evalrec, torch, numpy, torchmetrics and ranx on the same embeddings.

    .venv/bin/python benchmarks/full_ranking.py --ranx-python /path/to/venv/bin/python
    .venv/bin/python benchmarks/full_ranking.py --sizes beauty --users 2000     # a quick look

Two sizes at width 128, random fp32: 22,363 users x 12,101 items (Amazon Beauty's) and 10,000 users
x 1,000,000 items. evalrec does the whole evaluation: products, ranks with and without seen items,
Recall, NDCG and MRR at 5, 10 and 20 with intervals, NaN checks, the report. "torch product + top-k"
is only the product of batches with torch.topk of 20; the other peers rank and compute metrics,
without the filter of seen items. Peers that take minutes get fewer users (column "users"), and
their times are scaled to all users ("at all users"). Before the timing, all must agree on Recall@10
and NDCG@10.

evalrec and the plain product take turns on the same users, and the ratio is that of their medians.
"Of the limit" is the time of the products alone, in the blocks that evalrec uses, divided by the
whole time. Memory is the growth of the resident set without the embeddings.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from evalrec import EmbeddingScorer, Queries, evaluate
from evalrec.tiles import BLOCK_ITEMS
from rich.console import Console
from rich.table import Table

DIM, K, HISTORY = 128, 20, 8
BATCH_CELLS = 2**22
RANX = Path(__file__).with_name("full_ranking_ranx.py")


@dataclass(frozen=True)
class Size:
    """A size, and how many users each peer gets."""

    users: int
    items: int
    bare: int
    numpy: int
    slow: int


SIZES = {
    "beauty": Size(users=22_363, items=12_101, bare=22_363, numpy=1_000, slow=500),
    "million": Size(users=10_000, items=1_000_000, bare=1_000, numpy=32, slow=4),
}


@dataclass(frozen=True)
class Problem:
    """Embeddings and queries."""

    users: torch.Tensor
    items: torch.Tensor
    queries: Queries

    def part(self, users: int, items: int | None = None) -> Problem:
        """The first users, and the first items."""
        num_items = items or self.queries.num_items
        queries = Queries(
            histories=[history % num_items for history in self.queries.histories[:users]],
            targets=self.queries.targets[:users] % num_items,
            num_items=num_items,
            cold=self.queries.cold[:users],
        )
        return Problem(self.users[:users], self.items[:num_items], queries)


def make_problem(size: Size) -> Problem:
    """Random embeddings; targets are moved towards their users, so that some are found."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    users = torch.randn(size.users, DIM, generator=generator)
    items = torch.randn(size.items, DIM, generator=generator)
    targets = rng.integers(size.items, size=size.users)
    users += 0.25 * items[targets]
    queries = Queries(
        histories=list(rng.integers(size.items, size=(size.users, HISTORY))),
        targets=targets,
        num_items=size.items,
        cold=np.zeros(size.users, dtype=bool),
    )
    return Problem(users, items, queries)


def batches(problem: Problem) -> list[slice]:
    """Number of users that have about four million scores together."""
    step = max(16, BATCH_CELLS // len(problem.items))
    return [slice(start, start + step) for start in range(0, len(problem.users), step)]


def evalrec_embeddings(problem: Problem) -> dict[str, float]:
    """The whole evaluation."""
    report = evaluate(
        problem.queries, EmbeddingScorer(queries=problem.users, items=problem.items), ks=(5, 10, K)
    )
    means = report.metrics["unfiltered"]
    return {name: means[name].mean for name in ("recall@10", "ndcg@10")}


def evalrec_function(problem: Problem) -> dict[str, float]:
    """The whole evaluation, with scores from a function."""
    starts = iter(range(0, len(problem.users)))

    def score(histories: list[np.ndarray]) -> torch.Tensor:
        rows = [next(starts) for _ in histories]
        return problem.users[rows[0] : rows[-1] + 1] @ problem.items.T

    means = evaluate(problem.queries, score, ks=(5, 10, K)).metrics["unfiltered"]
    return {name: means[name].mean for name in ("recall@10", "ndcg@10")}


def torch_topk(problem: Problem) -> None:
    """The plain product and top-k."""
    for part in batches(problem):
        (problem.users[part] @ problem.items.T).topk(K, dim=1)


def product_alone(problem: Problem) -> None:
    """The products in evalrec's blocks: the limit."""
    batch = 1024
    held = torch.empty(batch * BLOCK_ITEMS)
    for start in range(0, len(problem.users), batch):
        users = problem.users[start : start + batch]
        for first in range(0, len(problem.items), BLOCK_ITEMS):
            block = problem.items[first : first + BLOCK_ITEMS]
            out = held[: len(users) * len(block)].view(len(users), len(block))
            torch.mm(users, block.T, out=out)


def from_ranks(ranks: np.ndarray) -> dict[str, float]:
    """Metrics of ranks that start at 1."""
    gains = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)
    return {"recall@10": float((ranks <= 10).mean()), "ndcg@10": float(gains.mean())}


def numpy_argsort(problem: Problem) -> dict[str, float]:
    """A full sort of every user's scores."""
    users, items = problem.users.numpy(), problem.items.numpy()
    ranks = []
    for part in batches(problem):
        order = np.argsort(-(users[part] @ items.T), axis=1)
        ranks.append((order == problem.queries.targets[part][:, None]).argmax(axis=1) + 1)
    return from_ranks(np.concatenate(ranks))


def torchmetrics_retrieval(problem: Problem) -> dict[str, float]:
    """Retrieval metrics of torchmetrics at three cut-offs, as one collection."""
    from torchmetrics import MetricCollection
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG

    kinds = {"recall": RetrievalHitRate, "ndcg": RetrievalNormalizedDCG, "mrr": RetrievalMRR}
    metrics = MetricCollection(
        {f"{name}@{k}": kind(top_k=k) for name, kind in kinds.items() for k in (5, 10, K)},
        compute_groups=False,
    )
    for part in batches(problem):
        scores = problem.users[part] @ problem.items.T
        scores = scores - scores.min() + 1  # it ignores scores that are not above 0
        wanted = torch.zeros_like(scores, dtype=torch.bool)
        targets = torch.from_numpy(problem.queries.targets[part])
        wanted[torch.arange(len(scores)), targets] = True
        owners = torch.arange(part.start, part.start + len(scores)).unsqueeze(1)
        metrics.update(scores, wanted, indexes=owners.expand_as(scores).contiguous())
    values = metrics.compute()
    return {name: float(values[name]) for name in ("recall@10", "ndcg@10")}


def ranx_peer(problem: Problem, python: Path) -> tuple[dict[str, float], float]:
    """Runs ranx in its own environment; returns metrics, and seconds after a warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (
            ("users", problem.users.numpy()),
            ("items", problem.items.numpy()),
            ("targets", problem.queries.targets),
        ):
            np.save(Path(folder, f"{name}.npy"), array)
        done = subprocess.run(
            [str(python), str(RANX), folder], capture_output=True, text=True, check=False
        )
    if done.returncode:
        sys.exit(f"ranx failed:\n{done.stderr}")
    values = json.loads(done.stdout.splitlines()[-1])
    return {name: values[name] for name in ("recall@10", "ndcg@10")}, values["seconds"]


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_growth(call: Callable[[], object]) -> float:
    """Growth of the resident set, in MiB, while `call` runs; measured every 2 ms."""
    page = 4096 / 2**20

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    before, done = resident(), threading.Event()
    highest = [before]

    def watch() -> None:
        while not done.wait(0.002):
            highest[0] = max(highest[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return highest[0] - before


def agree(problem: Problem, users: int, ranx_python: Path | None) -> None:
    """Exits if a peer's metrics differ from evalrec's."""
    small = problem.part(users)
    ours = evalrec_embeddings(small)
    others = {
        "evalrec, function": evalrec_function(small),
        "numpy": numpy_argsort(small),
        "torchmetrics": torchmetrics_retrieval(small),
    }
    if ranx_python:
        others["ranx"] = ranx_peer(small, ranx_python)[0]
    for name, theirs in others.items():
        if any(abs(ours[metric] - theirs[metric]) > 1e-6 for metric in ours):
            sys.exit(f"{name} and evalrec disagree: {theirs} and {ours}")


def measure(name: str, size: Size, runs: int, ranx_python: Path | None) -> dict[str, object]:
    """All peers at one size."""
    problem = make_problem(size)
    agree(problem, size.slow, ranx_python)
    memory = peak_growth(lambda: evalrec_embeddings(problem))
    same = problem.part(size.bare)
    calls = {
        "evalrec, embeddings": lambda: evalrec_embeddings(same),
        "evalrec, function": lambda: evalrec_function(same),
        "torch product + top-k": lambda: torch_topk(same),
        "products alone": lambda: product_alone(same),
    }
    times: dict[str, list[tuple[float, float]]] = {peer: [] for peer in calls}
    for _ in range(runs):
        for peer, call in calls.items():
            times[peer].append(timed(call))
    rows = [row(peer, size.bare, size, pairs) for peer, pairs in times.items()]
    if size.bare != size.users:
        rows.insert(0, row("evalrec, all users", size.users, size,
                           [timed(lambda: evalrec_embeddings(problem))]))  # fmt: skip
    few = problem.part(size.numpy)
    rows.append(row("numpy argsort", size.numpy, size, [timed(lambda: numpy_argsort(few))]))
    few = problem.part(size.slow)
    rows.append(row("torchmetrics", size.slow, size, [timed(lambda: torchmetrics_retrieval(few))]))
    if ranx_python:
        seconds = ranx_peer(few, ranx_python)[1]
        rows.append(row("ranx", size.slow, size, [(seconds, float("nan"))]))
    median = {peer: statistics.median(wall for wall, _ in pairs) for peer, pairs in times.items()}
    return {
        "size": name,
        "users": size.users,
        "items": size.items,
        "dim": DIM,
        "memory_mib": memory,
        "ratio_to_bare": median["evalrec, embeddings"] / median["torch product + top-k"],
        "of_the_limit": median["products alone"] / median["evalrec, embeddings"],
        "gflop_per_s": 2 * size.bare * size.items * DIM / median["products alone"] / 1e9,
        "rows": rows,
        "growth": growth(problem),
    }


def row(peer: str, users: int, size: Size, pairs: list[tuple[float, float]]) -> dict[str, object]:
    """One line of the results, from pairs of wall and CPU seconds."""
    walls = sorted(wall for wall, _ in pairs)
    return {
        "peer": peer,
        "users": users,
        "seconds": statistics.median(walls),
        "fastest": walls[0],
        "slowest": walls[-1],
        "cpu_seconds": statistics.median(cpu for _, cpu in pairs),
        "seconds_at_all_users": statistics.median(walls) * size.users / users,
    }


def growth(problem: Problem) -> list[dict[str, float]]:
    """The times of evalrec for a quarter, a half and all of the users, then of the items."""
    users = min(len(problem.users), BATCH_CELLS * 250 // len(problem.items))
    items = len(problem.items)
    points = []
    for part_users, part_items in (
        *((users // 4, items), (users // 2, items), (users, items)),
        *((users, items // 4), (users, items // 2)),
    ):
        part = problem.part(part_users, part_items)
        wall = min(timed(lambda part=part: evalrec_embeddings(part))[0] for _ in range(2))
        per_cell = wall / part_users / part_items * 1e9
        points.append({"users": part_users, "items": part_items, "seconds": wall, "ns": per_cell})
    return points


def show(console: Console, result: dict[str, object]) -> None:
    """The results of one size."""
    table = Table(title=f"{result['users']:,} users x {result['items']:,} items x {DIM}")
    for name in ("", "users", "seconds (fastest to slowest)", "CPU seconds", "at all users"):
        table.add_column(name, justify="left" if not name else "right")
    for line in result["rows"]:
        spread = f"{line['seconds']:.2f} ({line['fastest']:.2f}-{line['slowest']:.2f})"
        cpu = "" if line["cpu_seconds"] != line["cpu_seconds"] else f"{line['cpu_seconds']:.2f}"
        table.add_row(
            line["peer"], f"{line['users']:,}", spread, cpu, f"{line['seconds_at_all_users']:,.2f}"
        )
    console.print(table)
    console.print(
        f"evalrec takes {result['ratio_to_bare']:.2f} of the bare product + top-k; "
        f"{result['of_the_limit']:.0%} of the limit, products at {result['gflop_per_s']:.0f} "
        f"GFLOP/s; {result['memory_mib']:.0f} MiB beside the embeddings"
    )
    for line in result["growth"]:
        console.print(
            f"  {line['users']:>7,} users x {line['items']:>9,} items: {line['seconds']:7.2f} s, "
            f"{line['ns']:.2f} ns a score"
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--users", type=int, help="fewer users, for a quick look")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ranx-python", type=Path, help="the Python of an environment with ranx")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    console = Console(width=110)
    machine = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))
    if arguments.ranx_python is None:
        console.print("ranx skipped: no --ranx-python")
    results = []
    for name in arguments.sizes:
        size = SIZES[name]
        if arguments.users:
            fewer = min(arguments.users, size.users)
            size = Size(
                fewer, size.items, *(min(fewer, n) for n in (size.bare, size.numpy, size.slow))
            )
        results.append(measure(name, size, arguments.runs, arguments.ranx_python))
        show(console, results[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps({**machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
