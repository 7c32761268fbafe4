"""What resolving collisions costs, by policy: up to ten million items of three codes.

    python benchmarks/collisions.py
    python benchmarks/collisions.py --items 100000 --sizes 256

Codes are drawn at random, low ones more often than high ones, so that some prefixes have more items
than codes. Each case runs in a process of its own; its peak of memory is the resident set's highest
point, the codes themselves and the imports included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scale import peak

LEVELS, SKEW = 3, 1.5


def measure(num_items: int, size: int, policy: str) -> None:
    """Resolves the collisions of one case in this process, and prints what it took as JSON."""
    from semtok import resolve_collisions

    generator = np.random.default_rng(0)
    codes = np.empty((num_items, LEVELS), dtype=np.int64)
    for start in range(0, num_items, 1 << 16):
        part = codes[start : start + (1 << 16)]
        part[:] = size * generator.random(part.shape) ** SKEW
    started, cpu = time.perf_counter(), time.process_time()
    _, _, collisions = resolve_collisions(codes, (size,) * LEVELS, policy=policy)
    took = {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "peak": peak(),
        "moved": collisions.num_moved,
    }
    print(json.dumps(took))


def main() -> None:
    """Reads the options, measures each case, and prints a line of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--policies", nargs="+", default=["suffix", "reassign"])
    parser.add_argument("--case", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        measure(options.items[0], options.sizes[0], options.policies[0])
        return
    for num_items in options.items:
        for size in options.sizes:
            for policy in options.policies:
                command = [sys.executable, str(Path(__file__).resolve()), "--case"]
                command += ["--items", str(num_items), "--sizes", str(size), "--policies", policy]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                took = json.loads(done.stdout)
                print(
                    f"{num_items:,} items, {LEVELS} x {size}, {policy}: {took['moved']:,} moved, "
                    f"{took['seconds']:.2f} s, {took['cpu']:.2f} CPU s, "
                    f"peak {took['peak']:,.0f} MiB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
