"""Compares all quantizers of semtok with one another, and their speed and memory with peers.

    .venv/bin/python benchmarks/quantizers.py --data ../shared/data/amazon14_beauty
    .venv/bin/python benchmarks/quantizers.py --items 1000000 --dim 128
    .venv/bin/python benchmarks/quantizers.py --items 10000000 --dim 128

Without --items: a table of all quantizers with 256 codes per level on a catalogue's embeddings
(MiniLM of --data, or --embeddings FILE.npy, or a synthetic catalogue if neither is passed).

With --items: vectors from a mixture, in a memory-mapped file. Every method runs in its own process,
in turns (A B A B with --repeats 2), and the table has medians. Peak memory is the growth of a
process after its start, pages of the mapped file included, as a share of the vectors' size. Targets
are printed with the measured values; the exit status is 0 if all are reached. "Of limit" is the
time that the distances alone would take at the rate of a matrix product measured in the same run.
From 5 million items on, only hierarchical k-means and PQ run, within 16 GiB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from quantizers_methods import OURS, PEERS
from rich.console import Console
from rich.table import Table
from semtok import QUANTIZERS
from semtok.catalog import CatalogError, find_catalog, read_catalog
from semtok.collisions import measure_collisions

CONSOLE = Console(width=None if sys.stdout.isatty() else 150)
LARGE = 5_000_000
TARGETS = (
    ("hierarchical, time of faiss recursion", "at most", 1.1),
    ("scikit-learn recursion, time of hierarchical", "at least", 4.0),
    ("balanced, time of hierarchical", "at most", 2.0),
    ("rq, encoding rate of vqp RQ", "at least", 5.0),
)


def mixture(path: Path, items: int, dim: int, seed: int) -> None:
    """Writes vectors around 2,000 centres of unequal weight; these lie around 50 others."""
    generator = np.random.default_rng(seed)
    outer = generator.normal(size=(50, dim))
    centres = outer[generator.integers(50, size=2000)] + generator.normal(size=(2000, dim)) * 0.7
    weights = generator.lognormal(size=2000)
    x = np.lib.format.open_memmap(path, "w+", np.float32, (items, dim))
    for start in range(0, items, 65_536):
        part = x[start : start + 65_536]
        rows = generator.choice(2000, len(part), p=weights / weights.sum())
        noise = generator.standard_normal(part.shape, dtype=np.float32)
        part[:] = centres[rows] + noise * np.float32(0.6)
    x.flush()


def embeddings(arguments: argparse.Namespace) -> tuple[np.ndarray, str]:
    """The vectors of the table, and their source."""
    if arguments.embeddings is not None:
        return np.load(arguments.embeddings, allow_pickle=False), str(arguments.embeddings)
    if arguments.data is not None:
        from semtok.embedding.text import TextEmbedding

        catalog = read_catalog(find_catalog(arguments.data))
        with CONSOLE.status("embedding"):
            return TextEmbedding().embed(catalog), f"{arguments.data.name}, MiniLM"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        mixture(path, 12_000, 384, 0)
        return np.load(path), "a mixture of 12,000 x 384"


def quality(x: np.ndarray) -> list[dict[str, Any]]:
    """The quality of each quantizer's codes on these vectors."""
    from semtok.neighbours import neighbour_overlap

    rows = []
    variance = float(x.var(axis=0, dtype=np.float64).sum())
    # Views are not a separate method: any of the other methods fits them.
    names = [(name, name, {}) for name in QUANTIZERS if name != "views"]
    names.insert(1, ("hierarchical, balanced", "hierarchical", {"balanced": True}))
    names.insert(5, ("rq, 8 beams", "rq", {"num_beams": 8}))
    for name, kind, options in names:
        with CONSOLE.status(name):
            start = time.perf_counter()
            quantizer = QUANTIZERS[kind].fit(x, **options)
            fitted = time.perf_counter()
            codes = quantizer.encode(x)
            encoded = time.perf_counter()
            collisions = measure_collisions(codes)
            row = {
                "quantizer": name,
                "levels": quantizer.num_levels,
                "distortion": [value / variance for value in quantizer.distortion(x)],
                "utilisation": [
                    len(np.unique(codes[:, level])) / size
                    for level, size in enumerate(quantizer.codebook_sizes)
                ],
                "collisions": collisions.rate,
                "largest": collisions.largest_bucket,
                "overlap": neighbour_overlap(
                    x, codes, space="hamming" if kind in ("pq", "opq") else "prefix"
                ),
                "fit": fitted - start,
                "encode": encoded - fitted,
            }
        CONSOLE.print(json.dumps(row), soft_wrap=True, highlight=False)
        rows.append(row)
    return rows


def quality_table(rows: list[dict[str, Any]], title: str) -> Table:
    """A table with one row per quantizer."""
    table = Table(title=title, caption="distortion: mean squared error over the variance, a level")
    for name in ("quantizer", "distortion", "utilisation", "collisions", "largest bucket"):
        table.add_column(name)
    for name in ("neighbour overlap@10", "fit, s", "encode, s"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["quantizer"],
            " ".join(f"{value:.3f}" for value in row["distortion"]),
            " ".join(f"{value:.0%}" for value in row["utilisation"]),
            f"{row['collisions']:.1%}",
            str(row["largest"]),
            f"{row['overlap']:.1%}",
            f"{row['fit']:.1f}",
            f"{row['encode']:.2f}",
        )
    return table


def product_rate() -> float:
    """Floating-point operations per second of a large float32 product: the best of five."""
    a, b = np.ones((8192, 128), dtype=np.float32), np.ones((128, 2048), dtype=np.float32)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * a.size * b.shape[1] / min(seconds)


def scale(arguments: argparse.Namespace, methods: list[str]) -> list[dict[str, Any]]:
    """All runs of all methods."""
    runs = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "x.npy"
        with CONSOLE.status("drawing vectors"):
            mixture(path, arguments.items, arguments.dim, arguments.seed)
        script = Path(__file__).with_name("quantizers_methods.py")
        for repeat in range(arguments.repeats):
            for name in methods:
                with CONSOLE.status(f"{name}, run {repeat + 1} of {arguments.repeats}"):
                    done = subprocess.run(
                        [sys.executable, "-W", "ignore", script, name, path],
                        stdout=subprocess.PIPE,
                        text=True,
                        check=False,
                    )
                if done.returncode:
                    sys.exit(f"{name} ended with {done.returncode}")
                runs.append(json.loads(done.stdout.splitlines()[-1]))
                CONSOLE.print(json.dumps(runs[-1]), soft_wrap=True, highlight=False)
    return runs


def medians(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each method, the median of every number over its runs; of other values the last."""
    merged: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(run["method"] for run in runs):
        mine = [run for run in runs if run["method"] == name]
        merged[name] = {
            key: statistics.median(run[key] for run in mine) if isinstance(value, float) else value
            for key, value in mine[-1].items()
        }
    return merged


def scale_table(results: dict[str, dict[str, Any]], rate: float, items: int, title: str) -> Table:
    """A table with one row per method."""
    table = Table(title=title, caption=f"a product runs at {rate / 1e9:.0f} GFLOP/s here")
    for name in ("method", "fit, s", "CPU s", "encode, s", "CPU s", "items/s", "peak", "GiB"):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_column("distortion", justify="right")
    table.add_column("of limit", justify="right")
    for name, result in results.items():
        limit = ""
        for step in ("fit", "encode"):
            if result.get(f"{step}_flops"):
                limit = f"{step} {result[f'{step}_flops'] / rate / result[step]:.0%}"
        encode = result.get("encode")
        table.add_row(
            name,
            f"{result['fit']:.1f}",
            f"{result['fit_cpu']:.1f}",
            "" if encode is None else f"{encode:.2f}",
            "" if encode is None else f"{result['encode_cpu']:.1f}",
            "" if encode is None else f"{items / encode:,.0f}",
            f"{result['peak']:.2f} x",
            f"{result['peak_gib']:.2f}",
            f"{result['distortion']:.4g}" if "distortion" in result else "",
            limit,
        )
    return table


def check_targets(results: dict[str, dict[str, Any]], items: int) -> bool:
    """Prints each target that this run measured; returns whether all were reached."""
    steps = ("fit", "fit", "fit", "encode")
    pairs = (
        ("hierarchical", "faiss recursion"),
        ("scikit-learn recursion", "hierarchical"),
        ("balanced", "hierarchical"),
        ("vqp RQ", "rq"),
    )
    good = True
    for (what, way, target), step, (above, below) in zip(TARGETS, steps, pairs, strict=True):
        if above in results and below in results:
            ratio = results[above][step] / results[below][step]
            reached = ratio <= target if way == "at most" else ratio >= target
            good &= reached
            CONSOLE.print(f"{what}: {ratio:.2f}, {way} {target}: {'yes' if reached else 'NO'}")
    for name in OURS:
        if name in results:
            key, most = ("peak_gib", 16.0) if items >= LARGE else ("peak", 1.5)
            reached = results[name][key] <= most
            good &= reached
            unit = "GiB" if items >= LARGE else "x the vectors"
            CONSOLE.print(
                f"{name}, peak memory: {results[name][key]:.2f}, at most {most} {unit}: "
                f"{'yes' if reached else 'NO'}"
            )
    return good


def main() -> int:
    """Runs, prints and saves; returns 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder with a catalogue")
    parser.add_argument("--embeddings", type=Path, help=".npy file of its embeddings")
    parser.add_argument("--items", type=int, help="number of vectors for speed and memory")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--methods", help="methods to run, separated by ;")
    parser.add_argument("--folder", type=Path, help="folder for the file of vectors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help=".json file for the numbers")
    arguments = parser.parse_args()
    good, record = True, {"date": time.strftime("%Y-%m-%d")}
    if arguments.items is None:
        try:
            x, source = embeddings(arguments)
        except (CatalogError, OSError) as error:
            sys.exit(str(error))
        rows = quality(x)
        CONSOLE.print(
            quality_table(rows, f"{source}: {len(x):,} x {x.shape[1]}, 256 codes a level")
        )
        record |= {"source": source, "quantizers": rows}
        for row in rows:
            if row["quantizer"] == "rqvae":
                good = row["collisions"] < 0.05 and min(row["utilisation"]) > 0.95
                CONSOLE.print(
                    f"rqvae collides on {row['collisions']:.1%}, below 5 %, and uses "
                    f"{min(row['utilisation']):.0%}, above 95 %: {'yes' if good else 'NO'}"
                )
    else:
        wanted = [*OURS[:2], *PEERS[:2], *OURS[2:], *PEERS[2:]]
        if arguments.items >= LARGE:
            wanted = ["hierarchical", "pq"]
        if arguments.methods:
            wanted = arguments.methods.split(";")
            if unknown := set(wanted) - {*OURS, *PEERS}:
                sys.exit(f"unknown methods {sorted(unknown)}; known: {'; '.join((*OURS, *PEERS))}")
        rate = product_rate()
        runs = scale(arguments, wanted)
        results = medians(runs)
        title = f"{arguments.items:,} x {arguments.dim}, 256 codes a level"
        CONSOLE.print(scale_table(results, rate, arguments.items, title))
        good = check_targets(results, arguments.items)
        record |= {"items": arguments.items, "dim": arguments.dim, "rate": rate, "runs": runs}
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
