"""What a training spends on its batches: milliseconds per batch, and bytes of memory per pair.

    python benchmarks/data_feed.py
    python benchmarks/data_feed.py --users 20000 --shards 1 8          # a quick look

Random histories, `PairBatches` of 256 in buckets of 50, histories of 20. For each number of
processes the benchmark makes the batches of one process in an epoch (process 1, or 0 if there is
only one). "share" requests only this share from the source; "all, and skip" makes every batch and
keeps each n-th, as with a source without shares. Milliseconds are CPU time divided by the batches
of the share, shuffling included; the rounds take turns, and the table has the median (least to
most). Bytes are numpy's memory in addition to the input histories, divided by the number of pairs:
the peak while the source is made, the rest afterwards, and the peak at the start of an epoch. With
`folder`, arrays in files are not counted, since all processes of a machine share them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import islice

import genrec.mapped
import numpy as np
from genrec import PairBatches
from rich.console import Console
from rich.table import Table

NUM_ITEMS = 50_000


def random_histories(users: int) -> list[np.ndarray]:
    """Histories of 2 to 40 items."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(2, 41, users)
    items = generator.integers(0, NUM_ITEMS, sizes.sum())
    return np.split(items, np.cumsum(sizes)[:-1])


def source_of(histories: list[np.ndarray], folder: str | None = None) -> PairBatches:
    """The batches of a training."""
    return PairBatches(histories, num_items=NUM_ITEMS, batch_size=256, bucket=50, folder=folder)


def milliseconds(batches: Iterable[object]) -> float:
    """Mean CPU time of a batch."""
    start, count = time.process_time(), 0
    for _ in batches:
        count += 1
    return 1000 * (time.process_time() - start) / count


def peak_bytes(make: Callable[[], object]) -> tuple[int, int]:
    """Numpy's largest memory while something is made, and its memory afterwards."""
    tracemalloc.start()
    made = make()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del made
    return peak, kept


def shown(times: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(times):.3f} ({min(times):.3f}-{max(times):.3f})"


def main() -> None:
    """Measures and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    histories = random_histories(options.users)
    source = source_of(histories)

    table = Table(title=f"CPU ms a batch, {source.num_pairs:,} pairs, {len(source):,} batches")
    for heading in ("processes", "share", "all, and skip"):
        table.add_column(heading)
    for shards in options.shards:
        shares: list[float] = []
        skips: list[float] = []
        for epoch in range(options.rounds):
            shard = 1 % shards
            shares.append(milliseconds(source(epoch, shard=shard, shards=shards)))
            skips.append(milliseconds(islice(source(epoch), shard, None, shards)))
        table.add_row(str(shards), shown(shares), shown(skips))
    Console().print(table)

    genrec.mapped.MAPPED_ABOVE = 0  # so that small sizes show it as well
    table = Table(title="bytes a pair, at most")
    for heading in ("", "while it is made", "kept", "while an epoch begins"):
        table.add_column(heading)
    with tempfile.TemporaryDirectory() as folder:
        source_of(histories, folder)  # another process has written the files
        for title, place in (("in memory", None), ("folder", folder)):
            made, kept = peak_bytes(lambda place=place: source_of(histories, place))
            ready = source_of(histories, place)
            epoch, _ = peak_bytes(lambda ready=ready: next(iter(ready(0))))
            table.add_row(title, *(f"{size / ready.num_pairs:.1f}" for size in (made, kept, epoch)))
    Console().print(table)


if __name__ == "__main__":
    main()
