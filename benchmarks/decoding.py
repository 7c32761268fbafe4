"""Times constrained beam search: compared with Hugging Face T5, with a limit, and over catalogues.

    python benchmarks/decoding.py                    # T5's generate, and each kind of model
    python benchmarks/decoding.py --no-peers         # only kinds of models; needs no transformers
    python benchmarks/decoding.py --catalog-sizes 10000 100000 1000000 10000000
    python benchmarks/decoding.py --two-codes        # PRORec, figure 2
    python benchmarks/decoding.py --no-peers --device cuda --precision bf16 --runs 50

Sizes are PRORec's: 1 + 4 layers of width 128, 4 heads, histories of 20 items, 12,101 items, beam
100, top 10; weights are random. Peers take turns (A B A B), one warm-up each. Times are medians
with the fastest and the slowest run, wall time and CPU time. On a busy machine the fastest and the
slowest run are far apart.

In the comparison with T5, codes are TIGER's: three levels of 256 and one that distinguishes equal
codes, so a history is 80 tokens. T5's weights are loaded into our layers too. With scores
renormalised over legal tokens, both compute the same log-probabilities, and the run checks that
they return the same items in the same order. With masked scores, T5's softmax includes the other
levels' tokens and ours does not, so only the times are compared.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import torch
from genrec import Seq2Seq, Seq2SeqConfig, Trie, beam_search
from genrec.decoding import beam_recall
from genrec.streams import Streams
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

NUM_ITEMS = 12_101
CODEBOOK_SIZE = 256
KINDS = {
    "codes, level, masked": Seq2SeqConfig(),
    "vectors, level, renormalized": Seq2SeqConfig(history_input="vectors", scoring="renormalized"),
    "vectors, node, renormalized": Seq2SeqConfig(
        history_input="vectors", output_vocabulary="node", scoring="renormalized"
    ),
    "TIGER (4 + 4 layers)": Seq2SeqConfig.tiger(),
}
# Targets: how many times faster than T5's generate, by batch size.
TARGETS = {
    ("callback", 32): 30,
    ("processor", 32): 20,
    ("callback", 1): 8,
    ("processor", 1): 8,
}
PRODUCTS = ("mm", "bmm", "scaled_dot_product", "sampled_addmm")


def clustered_codes(generator: torch.Generator) -> torch.Tensor:
    """Returns codes [items, 3]: uneven clusters; those of more than 256 items are split twice."""
    weights = torch.rand(CODEBOOK_SIZE, generator=generator).exp().square()
    first = torch.multinomial(weights, NUM_ITEMS, replacement=True, generator=generator)
    first[:3000] %= 8  # eight large clusters
    first = first.sort().values
    place = torch.arange(NUM_ITEMS) - torch.searchsorted(first, first)
    large = first.bincount(minlength=CODEBOOK_SIZE)[first] > CODEBOOK_SIZE
    second = torch.where(large, place % CODEBOOK_SIZE, place)
    third = torch.where(large, place // CODEBOOK_SIZE, 0)
    return torch.stack([first, second, third], dim=1)


def tiger_codes(generator: torch.Generator) -> torch.Tensor:
    """Returns codes [items, 4]: three uneven levels, and a fourth that numbers equal ones."""
    weights = torch.rand(3, CODEBOOK_SIZE, generator=generator).exp().square()
    codes = torch.multinomial(weights, NUM_ITEMS, replacement=True, generator=generator)
    key = (codes[0] * CODEBOOK_SIZE + codes[1]) * CODEBOOK_SIZE + codes[2]
    ordered, order = key.sort(stable=True)
    suffix = torch.empty_like(key)
    suffix[order] = torch.arange(NUM_ITEMS) - torch.searchsorted(ordered, ordered)
    return torch.stack([*codes, suffix], dim=1)


def random_codes(num_items: int, generator: torch.Generator) -> torch.Tensor:
    """Returns different codes [items, 3], drawn uniformly."""
    key = torch.randperm(CODEBOOK_SIZE**3, generator=generator)[:num_items]
    parts = [key // CODEBOOK_SIZE**2, key // CODEBOOK_SIZE % CODEBOOK_SIZE, key % CODEBOOK_SIZE]
    return torch.stack(parts, dim=1)


class Timing:
    """Wall and CPU seconds of the runs of one contender."""

    def __init__(self) -> None:
        self.walls: list[float] = []
        self.cpus: list[float] = []

    @property
    def wall(self) -> float:
        """Median wall seconds."""
        return statistics.median(self.walls)

    @property
    def cpu(self) -> float:
        """Median CPU seconds."""
        return statistics.median(self.cpus)

    def __str__(self) -> str:
        spread = f"({min(self.walls) * 1e3:.1f}-{max(self.walls) * 1e3:.1f})"
        return f"{self.wall * 1e3:9.1f} {spread:>19} {self.cpu * 1e3:9.1f}"


def take_turns(
    calls: Mapping[str, Callable[[], object]], runs: int, device: torch.device
) -> dict[str, Timing]:
    """Times several calls, A B A B, after one warm-up each."""
    timings = {name: Timing() for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if run:
                timings[name].walls.append(time.perf_counter() - wall)
                timings[name].cpus.append(time.process_time() - cpu)
    return timings


class Limit:
    """The speed of plain operations on this machine, and how close a call is to it."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        left = torch.randn(25_600, 128, device=device, dtype=dtype)
        right = torch.randn(128, 512, device=device, dtype=dtype)
        big = torch.randn(32 * 2**20, device=device, dtype=dtype)
        copy = torch.empty_like(big)
        calls = {"product": lambda: left @ right, "copy": lambda: copy.copy_(big)}
        timings = take_turns(calls, 20, device)
        self.device = device
        self.flops = 2 * 25_600 * 128 * 512 / timings["product"].wall
        self.bandwidth = 2 * big.numel() * big.element_size() / timings["copy"].wall

    def of(self, call: Callable[[], object], seconds: float) -> str:
        """Returns achieved FLOP/s, its share of the limit, and the products' share of the time."""
        with FlopCounterMode(display=False) as counter:
            call()
        flops = counter.get_total_flops()
        cuda = self.device.type == "cuda"
        activities = [ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]
        with profile(activities=activities) as profiler:
            call()
        total = products = 0.0
        for event in profiler.key_averages():
            took = event.self_device_time_total if cuda else event.self_cpu_time_total
            total += took
            names = ("gemm", "cutlass", "flash", "fmha") if cuda else PRODUCTS
            products += took * any(name in event.key for name in names)
        return (
            f"{flops / seconds / 1e9:8.1f} {flops / self.flops / seconds:8.0%} "
            f"{products / max(total, 1e-9):8.0%}"
        )


def histories(batch_size: int, num_items: int, device: torch.device) -> torch.Tensor:
    """Returns random histories of 20 items."""
    return torch.randint(0, num_items, (batch_size, 20), device=device)


def by_kind(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """Prints one line for each kind of model and batch size."""
    limit = Limit(device, dtype)
    clustered = Trie.build(clustered_codes(torch.Generator().manual_seed(0)), [CODEBOOK_SIZE] * 3)
    tiger = Trie.build(tiger_codes(torch.Generator().manual_seed(0)), [CODEBOOK_SIZE] * 4)
    print(
        f"\nplain products {limit.flops / 1e9:.0f} GFLOP/s, copies {limit.bandwidth / 1e9:.1f} GB/s"
    )
    print(f"{'model':30} {'batch':>5} {'ms':>9} {'fastest-slowest':>19} {'CPU ms':>9} "
          f"{'GFLOP/s':>8} {'of limit':>8} {'products':>8}")  # fmt: skip
    for kind, config in KINDS.items():
        trie = tiger if "TIGER" in kind else clustered
        model = Seq2Seq(config, trie).to(device, dtype).eval()
        tables = model.tables()
        for batch_size in arguments.batch_sizes:
            history = histories(batch_size, NUM_ITEMS, device)

            def call(model=model, history=history, tables=tables) -> object:  # type: ignore[no-untyped-def]
                return beam_search(model, model.trie, history, tables=tables)

            timing = take_turns({"ours": call}, arguments.runs, device)["ours"]
            print(f"{kind:30} {batch_size:5} {timing} {limit.of(call, timing.wall)}")
        recall = beam_recall(model, model.trie, histories(4, NUM_ITEMS, device), tables=tables)
        print(f"{'':30} recall of the beam against exact scores: {float(recall.mean()):.3f}")


def beside_t5(arguments: argparse.Namespace, device: torch.device) -> bool:
    """Compares ours with `generate`; returns whether all targets are reached and lists agree."""
    from decoding_peers import Peer, load_t5, make_t5

    sizes = (CODEBOOK_SIZE,) * 4
    trie = Trie.build(tiger_codes(torch.Generator().manual_seed(0)), sizes).to(device)
    fine = True
    print(f"\n{'beside T5':28} {'batch':>5} {'ms':>9} {'fastest-slowest':>19} {'CPU ms':>9} "
          f"{'ms/user':>8} {'ours is':>8} {'target':>7}  same items, same order")  # fmt: skip
    for scoring in ("renormalized", "masked"):
        config = Seq2SeqConfig(scoring=scoring)  # type: ignore[arg-type]
        t5 = make_t5(config, sizes).to(device)
        model = load_t5(t5, Seq2Seq(config, trie))
        tables = model.tables()
        same = scoring == "renormalized"
        peer = Peer(t5, trie, num_beams=100, top_k=10, renormalize=same)
        for batch_size in arguments.peer_batch_sizes:
            history = histories(batch_size, NUM_ITEMS, device)
            calls: dict[str, Callable[[], object]] = {
                "ours": lambda: beam_search(model, trie, history, tables=tables),  # noqa: B023
                "callback": lambda: peer.with_callback(history),  # noqa: B023
                "processor": lambda: peer.with_processor(history),  # noqa: B023
            }
            timings = take_turns(calls, arguments.peer_runs, device)
            ours = beam_search(model, trie, history, tables=tables).items
            for name, timing in timings.items():
                line = f"{scoring + ', ' + name:28} {batch_size:5} {timing} "
                line += f"{timing.wall * 1e3 / batch_size:8.1f}"
                if name != "ours":
                    ratio, target = timing.wall / timings["ours"].wall, TARGETS[name, batch_size]
                    line += f" {ratio:7.1f}x {target:6}x  "
                    if same:
                        theirs = calls[name]()
                        equal = (theirs == ours).all(dim=1)  # type: ignore[operator]
                        line += f"{int(equal.sum())} of {batch_size} lists"
                        fine &= ratio >= target and bool(equal.all())
                print(line, flush=True)
    return fine


def by_catalogue(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> bool:
    """Prints trie and beam times by number of items; returns whether the targets are met."""
    print(f"\n{'items':>10} {'build s':>8} {'MiB':>8} {'peak MiB':>8}   beam, 32 users: "
          f"{'ms':>9} {'fastest-slowest':>19} {'CPU ms':>9}")  # fmt: skip
    tries = {}
    for num_items in arguments.catalog_sizes:
        codes = random_codes(num_items, torch.Generator().manual_seed(0))
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        start = time.perf_counter()
        trie = Trie.build(codes, [CODEBOOK_SIZE] * 3)
        took, peak = time.perf_counter() - start, _memory("VmHWM") - before
        tries[num_items] = (trie.to(device), took, peak)
        del codes
    small = next(iter(tries.values()))[0]
    model = Seq2Seq(Seq2SeqConfig(), small).to(device, dtype).eval()
    # The model always reads the same histories, items of the smallest catalogue; only the trie
    # differs.
    tables, history = model.tables(), histories(32, small.num_items, device)
    calls = {}
    for num_items, (trie, _, _) in tries.items():

        def call(trie=trie) -> object:  # type: ignore[no-untyped-def]
            return beam_search(model, trie, history, tables=tables)

        calls[str(num_items)] = call
    timings = take_turns(calls, arguments.runs, device)
    for num_items, (trie, took, peak) in tries.items():
        timing, mib = timings[str(num_items)], trie.num_bytes / 2**20
        print(f"{num_items:10} {took:8.2f} {mib:8.1f} {peak:8.0f} {'':>19} {timing}")
    walls = [timing.wall for timing in timings.values()]
    growth = walls[-1] / walls[0]
    print(f"beam time grows {growth:.2f} times from the first to the last (target: below 1.5)")
    return growth < 1.5 and all(t[0].num_bytes <= 2**30 and t[1] <= 60 for t in tries.values())


def two_codes(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """Prints the times of one code table and of two (PRORec, figure 2)."""
    config = Seq2SeqConfig(
        history_input="vectors", output_vocabulary="node", scoring="renormalized"
    )
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    order = torch.randperm(NUM_ITEMS)
    tables_of_codes = [clustered_codes(seeds[0]), clustered_codes(seeds[1])[order]]
    tries = [Trie.build(codes, [CODEBOOK_SIZE] * 3) for codes in tables_of_codes]
    streams = Streams(config, tries).to(device, dtype).eval()
    first, both = streams.streams[0], streams.tables()
    print(f"\n{'beam 100, top 5':28} {'batch':>5} {'ms':>9} {'fastest-slowest':>19} {'CPU ms':>9}")
    for batch_size in arguments.batch_sizes:
        history = histories(batch_size, NUM_ITEMS, device)

        def two(candidates: int, history: torch.Tensor = history) -> object:
            return streams.beam_search(history, top_k=5, candidates=candidates, tables=both)

        calls: dict[str, Callable[[], object]] = {
            "one code": lambda: beam_search(first, first.trie, history, top_k=5, tables=both[0]),  # noqa: B023
            "two, 5 of each re-scored": lambda: two(5),
            "two, 100 of each re-scored": lambda: two(100),
        }
        timings = take_turns(calls, arguments.runs, device)
        for name, timing in timings.items():
            ratio = timing.wall / timings["one code"].wall
            print(f"{name:28} {batch_size:5} {timing}  {ratio:.2f}x (paper: 2.8x)")


def _memory(name: str) -> float:
    """Returns a number about this process's memory from Linux, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def main() -> int:
    """Reads the options and runs the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--peer-runs", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--peer-batch-sizes", type=int, nargs="+", default=[1, 32], choices=[1, 32])
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--catalog-sizes", type=int, nargs="+")
    parser.add_argument("--two-codes", action="store_true")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    torch.manual_seed(0)
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    load = os.getloadavg()[0]
    busy = "" if load < 0.5 else "  THE MACHINE IS BUSY: do not trust wall times"
    print(f"{date.today()}  torch {torch.__version__}  {name}  {torch.get_num_threads()} threads  "
          f"{arguments.precision}  load {load:.1f}{busy}")  # fmt: skip
    if arguments.catalog_sizes:
        return int(not by_catalogue(arguments, device, dtype))
    if arguments.two_codes:
        two_codes(arguments, device, dtype)
        return 0
    fine = arguments.no_peers or beside_t5(arguments, device)
    by_kind(arguments, device, dtype)
    return int(not fine)


if __name__ == "__main__":
    raise SystemExit(main())
