"""Times beam search at the paper's sizes with random weights, against the limit of matrix products.

One user, and batches of 32 and 256: 1 + 4 layers of width 128, histories of 20 items, beam 100, top
10, 12,101 items with codes of 3 levels as hierarchical k-means makes them at K = 256 (most clusters
split once, a few twice).

    python benchmarks/decoding.py                       # this machine's CPU, torch's threads
    python benchmarks/decoding.py --device cuda --runs 50

The limit is the time that the matrix products of a call would take at the rate that a plain product
of the same machine reaches ([25600, 128] times [128, 512], fp32). Medians, with the fastest and
slowest run; a busy machine shows in their distance, and in CPU seconds that fall short of the wall
time times the threads.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date

import torch
from genrec.decoding import beam_search
from genrec.seq2seq import Seq2Seq, Seq2SeqConfig
from genrec.trie import Trie
from torch.utils.flop_counter import FlopCounterMode

NUM_ITEMS = 12_101
CODEBOOK_SIZE = 256
KINDS = {
    "codes, level, masked": Seq2SeqConfig(),
    "vectors, level, renormalized": Seq2SeqConfig(history_input="vectors", scoring="renormalized"),
    "vectors, node, renormalized": Seq2SeqConfig(
        history_input="vectors", output_vocabulary="node", scoring="renormalized"
    ),
}


def clustered_codes(generator: torch.Generator) -> torch.Tensor:
    """Returns codes [items, 3]: uneven clusters, those of more than 256 items split twice."""
    weights = torch.rand(CODEBOOK_SIZE, generator=generator).exp().square()
    first = torch.multinomial(weights, NUM_ITEMS, replacement=True, generator=generator)
    first[:3000] %= 8  # eight large clusters
    first = first.sort().values
    place = torch.arange(NUM_ITEMS) - torch.searchsorted(first, first)
    large = first.bincount(minlength=CODEBOOK_SIZE)[first] > CODEBOOK_SIZE
    second = torch.where(large, place % CODEBOOK_SIZE, place)
    third = torch.where(large, place // CODEBOOK_SIZE, 0)
    return torch.stack([first, second, third], dim=1)


def timed(call: Callable[[], object], runs: int, cuda: bool) -> tuple[list[float], float]:
    """Returns the wall seconds of each run and the CPU seconds of one, after a warm-up."""
    call()
    walls = []
    if cuda:
        torch.cuda.synchronize()
    cpu = time.process_time()
    for _ in range(runs):
        start = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - start)
    return walls, (time.process_time() - cpu) / runs


def main() -> None:
    """Prints one line for each kind of model and batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32, 256])
    arguments = parser.parse_args()
    device, cuda = torch.device(arguments.device), arguments.device.startswith("cuda")
    torch.manual_seed(0)
    trie = Trie.build(clustered_codes(torch.Generator().manual_seed(0)), [CODEBOOK_SIZE] * 3)
    left, right = torch.randn(25_600, 128, device=device), torch.randn(128, 512, device=device)
    walls, _ = timed(lambda: left @ right, arguments.runs, cuda)
    rate = 2 * 25_600 * 128 * 512 / statistics.median(walls)
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    print(f"{date.today()}  torch {torch.__version__}  {name}  {threads} threads")
    print(f"nodes a level {trie.level_sizes}; plain products {rate / 1e9:.0f} GFLOP/s")
    print(f"{'model':30} {'batch':>5} {'ms':>8} {'min':>8} {'max':>8} {'ms/user':>8} "
          f"{'CPU ms':>8} {'GFLOP':>6} {'of limit':>8}")  # fmt: skip
    for kind, config in KINDS.items():
        model = Seq2Seq(config, trie).to(device).eval()
        tables = model.tables()
        for batch_size in arguments.batch_sizes:
            history = torch.randint(0, NUM_ITEMS, (batch_size, 20), device=device)

            def call(model=model, history=history, tables=tables) -> object:  # type: ignore[no-untyped-def]
                return beam_search(model, model.trie, history, tables=tables)

            with FlopCounterMode(display=False) as counter:
                call()
            flops = counter.get_total_flops()
            walls, cpu = timed(call, arguments.runs, cuda)
            median = statistics.median(walls)
            print(f"{kind:30} {batch_size:5} {median * 1e3:8.1f} {min(walls) * 1e3:8.1f} "
                  f"{max(walls) * 1e3:8.1f} {median * 1e3 / batch_size:8.2f} {cpu * 1e3:8.1f} "
                  f"{flops / 1e9:6.1f} {flops / rate / median:8.0%}")  # fmt: skip


if __name__ == "__main__":
    main()
