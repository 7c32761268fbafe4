"""Time and memory of each step for catalogues from ten thousand items to ten million.

    python benchmarks/scale.py --work FOLDER
    python benchmarks/scale.py --work FOLDER --items 10000 100000 1000000
    python benchmarks/scale.py --work FOLDER --only "resolve collisions" trie

Synthetic data, made in a stream: as many users as items, ten interactions each, drawn by Zipf's law
among all items; vectors of width 64 from a mixture of 2,000 clusters. Each step runs in its own
process, which reads its input from files and writes its output to files. So the peak of memory is
that of the step alone: the largest resident set, pages of mapped files and the imports included.
Seconds and CPU seconds are those of the step alone. The exponent is the slope of log(seconds) over
log(items) between the two largest sizes: 1 is linear. A step that was measured before is not
measured again without --again, so a stopped benchmark resumes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from quantizers import mixture
from rich.console import Console
from rich.table import Table

DIM, INTERACTIONS_A_USER, CHUNK = 64, 10, 1_000_000
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
MEBIBYTE = 2**20
STEPS: dict[str, Callable[[Path], Callable[[], object]]] = {}
"""The steps by name, in order: each reads its input, and returns the function to time."""


def step(name: str) -> Callable[[Any], Any]:
    """Registers a step under its name in the table."""

    def register(prepare: Callable[[Path], Callable[[], object]]) -> Any:
        STEPS[name] = prepare
        return prepare

    return register


def make_data(folder: Path, num_items: int) -> None:
    """Writes interactions.parquet and vectors.npy, a million rows at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "vectors.npy").exists():
        mixture(folder / "vectors.part.npy", num_items, DIM, 0)
        (folder / "vectors.part.npy").rename(folder / "vectors.npy")
    path = folder / "interactions.parquet"
    if path.exists():
        return
    generator = np.random.default_rng(0)
    schema = pa.schema(
        [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())]
    )
    with parquet.ParquetWriter(folder / "interactions.part", schema) as writer:
        for first in range(0, num_items, CHUNK // INTERACTIONS_A_USER):
            users = np.arange(first, min(first + CHUNK // INTERACTIONS_A_USER, num_items))
            # The inverse of Zipf's law with exponent 1: rank = num_items ** uniform.
            uniform = generator.random(len(users) * INTERACTIONS_A_USER)
            items = np.minimum(num_items**uniform, num_items).astype(np.int64) - 1
            table = pa.table(
                {
                    "user_id": np.repeat(users, INTERACTIONS_A_USER).astype(str),
                    "item_id": items.astype(str),
                    "timestamp": np.tile(np.arange(INTERACTIONS_A_USER), len(users)),
                },
                schema=schema,
            )
            writer.write_table(table)
    (folder / "interactions.part").rename(path)


def count(folder: Path) -> int:
    """The number of items."""
    return len(np.load(folder / "vectors.npy", mmap_mode="r"))


def keys(folder: Path) -> list[str]:
    """The ids of the items, in row order."""
    return [str(row) for row in range(count(folder))]


def histories(folder: Path) -> list[np.ndarray]:
    """The training histories, which the reading step has written."""
    items = np.load(folder / "train_items.npy", mmap_mode="r")
    offsets = np.load(folder / "train_offsets.npy")
    return np.split(items, offsets[1:-1])


@step("read interactions, split")
def read(folder: Path) -> Callable[[], object]:
    """Reads the file to histories of rows; the split is saved for later steps."""
    from evalrec import leave_one_out, read_interactions

    item_ids = keys(folder)

    def run() -> None:
        table = read_interactions(folder / "interactions.parquet", item_ids=item_ids)
        train = leave_one_out(table).train
        np.save(folder / "train_items.npy", np.concatenate(train).astype(np.int32))
        np.save(folder / "train_offsets.npy", np.cumsum([0, *(len(history) for history in train)]))

    return run


@step("embed (stored vectors)")
def embed(folder: Path) -> Callable[[], object]:
    """Reads and checks the vectors."""
    from semtok import read_embeddings

    return lambda: read_embeddings(folder / "vectors.npy", keys(folder))


@step("quantize (PQ, 4 x 256)")
def quantize(folder: Path) -> Callable[[], object]:
    """Fits a quantizer and encodes all items."""
    from semtok import ProductQuantizer

    x = np.load(folder / "vectors.npy", mmap_mode="r")

    def run() -> None:
        codes = ProductQuantizer.fit(x, num_levels=4, codebook_size=256).encode(x)
        np.save(folder / "codes.npy", codes.astype(np.int16))

    return run


@step("resolve collisions (suffix)")
def resolve(folder: Path) -> Callable[[], object]:
    """Distinguishes items with the same codes."""
    from semtok import resolve_collisions

    codes = np.load(folder / "codes.npy").astype(np.int64)

    def run() -> None:
        unique, sizes, _ = resolve_collisions(codes, (256,) * 4, policy="suffix")
        np.save(folder / "ids.npy", unique.astype(np.int16))
        (folder / "sizes.json").write_text(json.dumps(sizes), encoding="utf-8")

    return run


def built_trie(folder: Path) -> Any:
    """The trie of the semantic IDs."""
    import torch
    from genrec import Trie

    codes = torch.from_numpy(np.load(folder / "ids.npy"))
    return Trie.build(codes, json.loads((folder / "sizes.json").read_text(encoding="utf-8")))


@step("build the trie")
def trie(folder: Path) -> Callable[[], object]:
    """Builds the trie."""
    import genrec

    _ = genrec.Trie
    return lambda: built_trie(folder)


@step("batches of one epoch")
def batches(folder: Path) -> Callable[[], object]:
    """Makes the pairs of all histories, and every batch of an epoch."""
    from genrec import PairBatches

    train, num_items = histories(folder), count(folder)

    def run() -> int:
        source = PairBatches(train, num_items=num_items, batch_size=1024)
        return sum(len(batch) for batch in source(0))

    return run


@step("one training step (SASRec, 1,024 negatives)")
def train_step(folder: Path) -> Callable[[], object]:
    """Forward, backward and Adam; one step before makes Adam's state."""
    import torch
    from genrec import NextItemLoss, SASRec

    num_items = count(folder)
    model = SASRec(num_items, dim=DIM, history_length=20)
    optimizer, loss = torch.optim.Adam(model.parameters()), NextItemLoss(num_negatives=1024)
    history = torch.randint(num_items, (256, 20))
    targets = torch.randint(num_items, (256,))

    def run() -> None:
        negatives = loss.draw(num_items)
        vectors = model.item_vectors()  # [items, dim]
        state = model.last_state(history, vectors)  # [batch, dim]
        loss(state, vectors, targets, negatives).backward()
        optimizer.step()
        optimizer.zero_grad()

    run()
    return run


@step("decode 1,000 users (100 beams)")
def decode(folder: Path) -> Callable[[], object]:
    """Constrained beam search of an untrained encoder-decoder."""
    import torch
    from genrec import Seq2Seq, Seq2SeqConfig, beam_search

    tree = built_trie(folder)
    config = Seq2SeqConfig(dim=128, num_decoder_layers=4, scoring="renormalized")
    model = Seq2Seq(config, tree).eval()
    generator = torch.Generator().manual_seed(0)
    history = torch.randint(tree.num_items, (1000, 20), generator=generator)

    def run() -> None:
        with torch.inference_mode():
            for part in history.split(50):
                beam_search(model, tree, part, num_beams=100, top_k=10)

    return run


@step("evaluate 1,000 users")
def evaluate_users(folder: Path) -> Callable[[], object]:
    """Full ranking by vectors, with and without seen items, with intervals."""
    import torch
    from evalrec import EmbeddingScorer, Queries, evaluate

    items = torch.from_numpy(np.load(folder / "vectors.npy"))
    generator = np.random.default_rng(0)
    queries = Queries(
        histories=list(generator.integers(len(items), size=(1000, 8))),
        targets=generator.integers(len(items), size=1000),
        num_items=len(items),
        cold=np.zeros(1000, dtype=bool),
    )
    users = torch.randn(1000, DIM, generator=torch.Generator().manual_seed(0))
    return lambda: evaluate(queries, EmbeddingScorer(queries=users, items=items))


def peak() -> float:
    """The highest resident set of this process so far, in MiB."""
    if Path("/proc/self/status").exists():  # there getrusage may count the parent's memory
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    scale = MEBIBYTE if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def measure(name: str, folder: Path) -> None:
    """Runs one step in this process, and prints its times and memory as JSON."""
    run = STEPS[name](folder)
    started, cpu = time.perf_counter(), time.process_time()
    run()
    took = {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "peak": peak(),
    }
    print(json.dumps(took))


def measured(name: str, folder: Path, again: bool) -> dict[str, float]:
    """A step's times and memory, measured once in its own process and saved with the data."""
    path = folder / "measured.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if name not in known or again:
        command = [sys.executable, str(Path(__file__).resolve()), "--step", name]
        finished = subprocess.run(
            [*command, "--work", str(folder)], stdout=subprocess.PIPE, text=True, check=True
        )
        known[name] = json.loads(finished.stdout.splitlines()[-1])
        path.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return dict(known[name])


def exponent(sizes: list[int], results: list[dict[str, float]]) -> float:
    """The slope of log(seconds) over log(items) between the two largest sizes."""
    (before, last), (small, large) = results[-2:], sizes[-2:]
    return math.log(last["seconds"] / before["seconds"]) / math.log(large / small)


def main() -> None:
    """Reads the options, measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of data and results")
    parser.add_argument("--items", type=int, nargs="+", default=SIZES)
    parser.add_argument("--only", nargs="+", help="only steps whose names start so")
    parser.add_argument("--again", action="store_true", help="measure all steps again")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        measure(options.step, options.work)
        return
    sizes = sorted(options.items)
    names = [name for name in STEPS if not options.only or name.startswith(tuple(options.only))]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for size in sizes:
        folder = options.work / f"{size}"
        make_data(folder, size)
        for name in names:
            took = measured(name, folder, options.again)
            results[name].append(took)
            print(
                f"{size:,} items, {name}: {took['seconds']:.2f} s, {took['cpu']:.2f} CPU s, "
                f"peak {took['peak']:,.0f} MiB",
                flush=True,
            )
    print(f"{date.today()}, {os.cpu_count()} cores; interactions: {INTERACTIONS_A_USER} an item")
    table = Table("seconds (CPU), peak MiB", *(f"{size:,}" for size in sizes), "exponent")
    for name, rows in results.items():
        cells = [f"{row['seconds']:.2f} ({row['cpu']:.2f}), {row['peak']:,.0f}" for row in rows]
        growth = f"{exponent(sizes, rows):.2f}" if len(sizes) > 1 else ""
        table.add_row(name, *cells, growth)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
