"""Memory and time of TSSR with trained content encoders or stored embeddings, on real titles.

    python benchmarks/tssr_content.py                # 10,000 items on a CPU: must stay in 8 GiB
    python benchmarks/tssr_content.py --quick        # a few steps of three modes
    python benchmarks/tssr_content.py --device cuda --precision bf16 --batch-size 256 --items 0

Every mode trains in its own process, which has its own peak of memory: on a CPU the peak of the
process, Python and torch included; on a GPU the peak of torch's allocations. Modes take turns
(A B A B) for `--rounds` rounds of `--steps` steps each; the first two steps are not counted. The
table has medians, with the fastest and the slowest step (batches are bucketed by length, so steps
differ). A step reads `--batch-size` sequences of at most 20 items and encodes each distinct item
and target once. "tables" is the time for the vectors of all items, as for each validation and for
the saved model, in the first round. Titles are those of `--data`; by default those of
../shared/data/amazon14_beauty if this folder exists, otherwise synthetic ones.

- stored: embeddings of 128 dimensions and a projection. Their values change neither memory nor
  time, so they are drawn at random.
- all layers, all layers + checkpointing, last 2 layers, LoRA: `[content.encoder]` of apps/tssr.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEAUTY = ROOT.parent / "shared" / "data" / "amazon14_beauty"
MODES: dict[str, dict[str, Any] | None] = {
    "stored": None,
    "all layers": {"trained": "all", "checkpointing": False},
    "all layers + checkpointing": {"trained": "all", "checkpointing": True},
    "last 2 layers": {"trained": "layers", "trained_layers": 2, "checkpointing": False},
    "LoRA": {"trained": "lora", "checkpointing": False},
}
LIMIT_GIB = 8
WARM_UP = 2


def measure(mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """Trains one mode in this process and returns its times and memory."""
    import torch
    from fusion import encoder_counts, precomputed

    catalog, histories = read_data(options)
    num_items = len(catalog)
    device = torch.device(options.device)
    if MODES[mode] is not None:
        importlib.import_module("sentence_transformers")
    torch.manual_seed(0)
    before = held(device)
    config, model = make_model(mode, catalog, options)
    source = config.sequences(histories, num_items, seed=0)
    batches = [batch for batch, _ in zip(source(0), range(options.steps + WARM_UP), strict=False)]
    distinct = [len(config.loss.rows(num_items, b.history, b.targets)) for b in batches]
    wall, cpu = train(config, model.to(device), batches, device)
    trained_peak = peak(device)
    seconds = None
    if options.tables:
        started = time.perf_counter()
        tables = precomputed(model)
        seconds = time.perf_counter() - started
        with torch.no_grad():
            assert tables.score(batches[0].history[:2].to(device)).isfinite().all()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "machine": f"torch {torch.__version__}  {name}  {torch.get_num_threads()} threads",
        "items": num_items,
        "data": options.data.name,
        "before": before,
        "peak": peak(device),
        "training_peak": trained_peak,
        "steps": wall[WARM_UP:],
        "cpu": cpu[WARM_UP:],
        "distinct": distinct[WARM_UP:],
        "tables": seconds,
        **encoder_counts(model),
    }


def read_data(options: argparse.Namespace) -> tuple[Any, list[Any]]:
    """The first `--items` items of the catalogue, and histories of two items or more."""
    import numpy as np
    from evalrec import find_interactions, leave_one_out, read_interactions
    from semtok import find_catalog, read_catalog

    catalog = read_catalog(find_catalog(options.data))
    table = read_interactions(find_interactions(options.data), item_ids=catalog.item_ids)
    histories = [np.asarray(history) for history in leave_one_out(table).train]
    if 0 < options.items < len(catalog):
        catalog = catalog.take(range(options.items))
        histories = [history[history < options.items] for history in histories]
    return catalog, [history for history in histories if len(history) > 1]


def make_model(mode: str, catalog: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    """The settings and the model of a mode."""
    import torch

    from semrec.tssr.config import Content, Encoder, Model
    from semrec.tssr.encoders import content_encoders
    from semrec.tssr.model import TwoStream

    config = Model(head="ids", batch_size=options.batch_size)
    encoder = MODES[mode]
    if encoder is None:
        contents: list[Any] = [torch.randn(len(catalog), 128)]
    else:
        settings = Encoder(**encoder, precision=options.precision, batch_items=options.batch_items)
        content = Content(mode="end-to-end", streams=("title",), encoder=settings)
        contents = list(content_encoders(content, catalog, config.dim))
    return config, TwoStream(config, contents)


class Prepared:
    """A source whose only epoch is a list of batches."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __call__(self, epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0) -> Any:
        """The batches, the same for every epoch."""
        return islice(self.batches, start + (shard - start) % shards, None, shards)


def train(
    config: Any, model: Any, batches: list[Any], device: Any
) -> tuple[list[float], list[float]]:
    """Trains on each batch once; returns wall and CPU seconds of each step."""
    import torch
    from genrec import TrainingConfig, fit

    from semrec.tssr.model import tssr_loss

    wall, cpu = [time.perf_counter()], [time.process_time()]

    def note(event: Any) -> None:
        if event.kind == "step":
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            wall.append(time.perf_counter())
            cpu.append(time.process_time())

    settings = TrainingConfig(epochs=1, learning_rate=1e-4, gradient_clip=1.0)
    fit(model, Prepared(batches), lambda m, b: tssr_loss(config, m, b), settings, callback=note)
    return [b - a for a, b in pairwise(wall)], [b - a for a, b in pairwise(cpu)]


def held(device: Any) -> float:
    """GiB in use now."""
    import torch

    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**30
    return status("VmRSS")


def peak(device: Any) -> float:
    """The most GiB in use so far.

    Not from getrusage, since a process starts with the value of its parent.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return status("VmHWM")


def status(name: str) -> float:
    """A value of /proc/self/status, in GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 2**20
    raise OSError(f"/proc/self/status lacks {name}: memory is measured on Linux")


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def apart(mode: str, options: argparse.Namespace, *, tables: bool) -> dict[str, Any]:
    """Measures one mode in its own process."""
    command = [sys.executable, __file__, "--mode", mode, "--data", str(options.data)]
    for name in ("device", "precision", "items", "batch_size", "batch_items", "steps"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command += ["--tables"] if tables else []
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{mode}: {done.stderr.strip() or done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def report(rounds: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Prints one line per mode, and whether all are within the limit."""
    first = next(iter(rounds.values()))[0]
    print(f"{date.today()}  {first['machine']}")
    distinct = statistics.median(first["distinct"])
    print(f"{first['data']}: {first['items']} items; batches of {options.batch_size}, of which "
          f"{distinct:.0f} distinct items a step; chunks of {options.batch_items}; "
          f"{options.precision}; {options.rounds} rounds of {options.steps} steps")  # fmt: skip
    print(f"{'content':27} {'trained':>10} {'frozen':>10} {'s/step':>7} {'min':>7} {'max':>7} "
          f"{'CPU s':>7} {'items/s':>8} {'peak GiB':>8} {'grown':>8} {'tables s':>8}")  # fmt: skip
    for mode, runs in rounds.items():
        steps = [seconds for run in runs for seconds in run["steps"]]
        cpu = [seconds for run in runs for seconds in run["cpu"]]
        speeds = [items / s for run in runs
                  for items, s in zip(run["distinct"], run["steps"], strict=True)]  # fmt: skip
        peaks = max(run["peak"] for run in runs)
        grown = max(run["training_peak"] - run["before"] for run in runs)
        print(f"{mode:27} {runs[0]['trained']:10,} {runs[0]['frozen']:10,} "
              f"{statistics.median(steps):7.3f} {min(steps):7.3f} {max(steps):7.3f} "
              f"{statistics.median(cpu):7.3f} {statistics.median(speeds):8.0f} {peaks:8.2f} "
              f"{grown:8.2f} {runs[0]['tables']:8.1f}")  # fmt: skip
    print("peak: of the whole process; grown: by which the model and its training have raised it")
    if options.device == "cpu":
        most = {mode: max(run["peak"] for run in runs) for mode, runs in rounds.items()}
        beyond = [mode for mode, value in most.items() if value > LIMIT_GIB]
        verdict = "all modes" if not beyond else f"all modes but {', '.join(beyond)}"
        print(f"within {LIMIT_GIB} GiB with {first['items']} items: {verdict}")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a native folder with titles")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--items", type=int, default=10_000, help="0 for the whole catalogue")
    parser.add_argument("--batch-size", type=int, default=32, help="sequences per step")
    parser.add_argument("--batch-items", type=int, default=64, help="items encoded together")
    parser.add_argument("--steps", type=int, default=8, help="steps per round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="quick test: one round of three small steps"
    )
    parser.add_argument("--tables", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=list(MODES), help="measure one mode in this process")
    options = parser.parse_args()
    if options.quick:
        options.items, options.batch_size, options.steps, options.rounds = 400, 8, 3, 1
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            options.data = BEAUTY if BEAUTY.is_dir() else synthetic(Path(folder))
        if options.mode is not None:
            print(json.dumps(measure(options.mode, options)))
            return
        modes = list(MODES)[::2] if options.quick else list(MODES)
        rounds: dict[str, list[dict[str, Any]]] = {mode: [] for mode in modes}
        for number in range(options.rounds):
            for mode, runs in rounds.items():
                runs.append(apart(mode, options, tables=number == 0))
    report(rounds, options)


def synthetic(folder: Path) -> Path:
    """Writes a catalogue of 10,000 items with texts, and users."""
    from evalrec import write_synthetic

    return Path(write_synthetic(folder / "synthetic", num_items=10_000, num_users=20_000, seed=0))


if __name__ == "__main__":
    main()
