"""Times training of our SASRec and encoder-decoder, RecBole's SASRec and Hugging Face's T5.

    python benchmarks/training.py --data FOLDER --recbole-python ENV/bin/python
    python benchmarks/training.py --device cuda --precision bf16
    python benchmarks/training.py --softmax-items 1000000  # the memory of a full softmax, alone

The samples of each row:
- pairs: one prefix of a history with its next item, the state of its last position, softmax over
  all items. RecBole has the same samples, so these two rows can be compared directly. RecBole pads
  each prefix to the full length; ours are bucketed by length and cut to the longest of their batch,
  which does not change the loss (this is checked before the timing).
- sequences: one window of a history, a target at every position, softmax over all items. The table
  has its targets per second too, but its step is different: one window has all targets of a user.
- codes: one prefix with the codes of its next item; the history is the codes of its items, 4 each,
  so 80 tokens. T5 reads the same tokens, padded to the longest history of its shuffled batch.
- vectors: the same, with one learned vector per item instead of its codes: 20 positions.

Peers take turns (A B A B) for `--rounds` rounds of `--steps` steps each; the table has medians,
with the slowest and the fastest round. Our times include Fabric, logging and the making of batches,
since `fit` runs; RecBole and T5 run in plain loops. FLOP/s are those of matrix products, counted on
some steps of the run. They are compared with a plain product that is timed in the same round.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from genrec import (
    Batch,
    PairBatches,
    SASRec,
    Seq2Seq,
    Seq2SeqConfig,
    SequenceBatches,
    TrainingConfig,
    Trie,
    fit,
    full_cross_entropy,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

SASREC = {"dim": 64, "num_layers": 2, "num_heads": 2, "feedforward_dim": 256, "dropout": 0.5}
HISTORY_LENGTH, NUM_LEVELS, CODEBOOK_SIZE = 20, 4, 256
MIB = 2**20


@dataclass
class Contestant:
    """A model that trains for some steps and measures the time."""

    name: str
    run: Callable[[int], dict[str, float]]
    flops: float | None = None
    rounds: list[dict[str, float]] = field(default_factory=list)


class Endless:
    """A source whose only epoch is the next `steps` batches, after those of the last call."""

    def __init__(self, source: Any) -> None:
        self.source, self.steps, self.batches = source, 0, self._all()

    def _all(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from self.source(epoch)
            epoch += 1

    def __len__(self) -> int:
        return self.steps

    def __call__(
        self, epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """Returns the next batches; it has no shares, since there is only one process."""
        return islice(self.batches, self.steps)


def read_histories(folder: Path | None) -> tuple[list[np.ndarray], int]:
    """Returns the training histories (all but the last two items) and the number of items."""
    if folder is None:  # as long and as many as Beauty's
        generator = np.random.default_rng(0)
        lengths = 3 + generator.geometric(0.26, 22_363)
        ranks = generator.zipf(1.15, lengths.sum() * 4)
        ranks = np.resize(ranks[ranks <= 12_101] - 1, lengths.sum())
        return np.split(ranks, np.cumsum(lengths)[:-1]), 12_101
    from evalrec import find_interactions, leave_one_out, read_interactions

    split = leave_one_out(read_interactions(find_interactions(folder)))
    return [np.asarray(history) for history in split.train], split.num_items


def by_last_state(model: SASRec, batch: Batch) -> dict[str, Tensor]:
    """The loss of pairs."""
    vectors = model.item_vectors()
    state = model.last_state(batch.history, vectors)
    return {"next": full_cross_entropy(state, vectors, batch.targets)}


def by_position(model: SASRec, batch: Batch) -> dict[str, Tensor]:
    """The loss of sequences."""
    vectors = model.item_vectors()
    return {"next": full_cross_entropy(model(batch.history, vectors), vectors, batch.targets)}


def by_codes(model: Seq2Seq, batch: Batch) -> dict[str, Tensor]:
    """The loss of the encoder-decoder."""
    return {"codes": model(batch.history, batch.targets).loss}


def ours(
    name: str, model: nn.Module, source: Any, loss: Any, options: argparse.Namespace
) -> Contestant:
    """Trains by `genrec.fit`."""
    endless = Endless(source)
    num_items = source.num_items
    config = TrainingConfig(epochs=1, precision=options.precision)

    def run(steps: int) -> dict[str, float]:
        endless.steps = steps
        targets = 0

        def counted(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
            nonlocal targets
            targets += int((batch.targets != num_items).sum()) if options.device == "cpu" else 0
            return dict(loss(module, batch))

        wall, cpu = time.perf_counter(), time.process_time()
        result = fit(model, endless, counted, config)
        took = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        log = result.log[0]
        samples = round(log["samples_per_second"] * log["seconds"])
        took |= {"samples": samples, "targets": targets or samples}
        return took | {"loss": sum(log["losses"].values())}

    model.train()
    with FlopCounterMode(display=False) as counter:
        for batch in islice(source(0), 20):
            sum(loss(model, batch.to(options.device)).values()).backward()
    model.zero_grad()
    return Contestant(name, run, flops=counter.get_total_flops() / 20)


def t5_model() -> Any:
    """A T5 with the encoder-decoder's sizes and random weights from seed 0."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = Seq2SeqConfig()
    config = T5Config(
        vocab_size=2 + NUM_LEVELS * CODEBOOK_SIZE,
        d_model=sizes.dim,
        d_kv=sizes.dim // sizes.num_heads,
        d_ff=sizes.feedforward_dim,
        num_layers=sizes.num_encoder_layers,
        num_decoder_layers=sizes.num_decoder_layers,
        num_heads=sizes.num_heads,
        dropout_rate=sizes.dropout,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    return T5ForConditionalGeneration(config)


def t5_peer(source: PairBatches, codes: Tensor, options: argparse.Namespace) -> Contestant:
    """Hugging Face's T5 with the encoder-decoder's sizes, in a plain loop."""
    model = t5_model().to(options.device).train()
    tokens = codes + 2 + CODEBOOK_SIZE * torch.arange(NUM_LEVELS)
    tokens = torch.cat([tokens, torch.zeros(1, NUM_LEVELS, dtype=torch.long)]).to(options.device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    endless = Endless(source)
    bf16 = options.precision == "bf16"

    def step(batch: Batch) -> Tensor:
        batch = batch.to(options.device)
        history = tokens[batch.history].flatten(1)
        with torch.autocast(options.device.partition(":")[0], torch.bfloat16, enabled=bf16):
            loss: Tensor = model(
                input_ids=history, attention_mask=history != 0, labels=tokens[batch.targets]
            ).loss
        loss.backward()
        return loss.detach()

    def run(steps: int) -> dict[str, float]:
        endless.steps = steps
        samples, loss = 0, torch.zeros(())
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in endless(0):
            loss = step(batch)
            optimizer.step()
            optimizer.zero_grad()
            samples += len(batch)
        last = loss.item()  # waits for the device
        took = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        return took | {"samples": samples, "targets": samples, "loss": last}

    with FlopCounterMode(display=False) as counter:
        for batch in islice(source(0), 2):
            step(batch)
    optimizer.zero_grad()
    return Contestant("T5, Hugging Face: codes", run, flops=counter.get_total_flops() / 2)


class RecBole:
    """RecBole's SASRec in the environment of another Python."""

    def __init__(self, python: Path, histories: list[np.ndarray], batch_size: int) -> None:
        script = Path(__file__).with_name("training_recbole.py")
        self.process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        lists = [history.tolist() for history in histories]
        settings = {"histories": lists, "history_length": HISTORY_LENGTH, "batch_size": batch_size}
        self.about = self._ask(json.dumps(SASREC | settings))

    def _ask(self, line: str) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.process.args[0]} cannot run RecBole: see training_recbole.py")  # type: ignore[index]
        return dict(json.loads(answer))

    def run(self, steps: int) -> dict[str, float]:
        """Trains some steps."""
        took = self._ask(str(steps))
        return took | {"targets": took["samples"]}


def check_padding(model: nn.Module, source: PairBatches, loss: Any, device: str) -> float:
    """Returns how much the loss changes if each batch is padded to the full length; must be 0."""
    model.eval()
    furthest = 0.0
    with torch.no_grad():
        for batch in islice(source(0), 5):
            padding = HISTORY_LENGTH - batch.history.shape[1]
            history = nn.functional.pad(batch.history, (0, padding), value=source.num_items)
            long = Batch(history=history, targets=batch.targets, users=batch.users)
            short, whole = (sum(loss(model, b.to(device)).values()) for b in (batch, long))
            furthest = max(furthest, float((short - whole).abs() / whole.abs()))
    assert furthest < 1e-5, f"padding changes the loss by {furthest:.1e}"
    return furthest


def contestants(
    histories: list[np.ndarray], num_items: int, options: argparse.Namespace
) -> list[Contestant]:
    """Builds all models and sources."""
    basics = {"num_items": num_items, "history_length": HISTORY_LENGTH}
    pairs = partial(PairBatches, histories, **basics, batch_size=options.batch_size)
    torch.manual_seed(0)
    sasrec = [
        SASRec(num_items, history_length=HISTORY_LENGTH, **SASREC).to(options.device)  # type: ignore[arg-type]
        for _ in range(2)
    ]
    windows = SequenceBatches(
        histories, **basics, stride=10, batch_size=options.batch_size, bucket=options.bucket
    )
    bucketed = pairs(bucket=options.bucket)
    print(f"{bucketed.num_pairs} pairs; padding moves the loss by at most "
          f"{check_padding(sasrec[0], bucketed, by_last_state, options.device):.0e}")  # fmt: skip
    result = [ours("SASRec, ours: pairs", sasrec[0], bucketed, by_last_state, options)]
    if options.recbole_python is None:
        print("RecBole skipped: no --recbole-python")
    else:
        peer = RecBole(options.recbole_python, histories, options.batch_size)
        print(f"RecBole: {peer.about['samples']:.0f} pairs of {peer.about['items']:.0f} items, "
              f"{peer.about['threads']:.0f} threads")  # fmt: skip
        result.append(Contestant("SASRec, RecBole: pairs", peer.run, flops=None))
    result.append(ours("SASRec, ours: sequences", sasrec[1], windows, by_position, options))
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(CODEBOOK_SIZE, (num_items, NUM_LEVELS), generator=generator)
    for history_input in ("codes", "vectors"):
        config = Seq2SeqConfig(history_input=history_input)  # type: ignore[arg-type]
        model = Seq2Seq(config, Trie.build(codes, [CODEBOOK_SIZE] * NUM_LEVELS))
        model = model.to(options.device)
        check_padding(model, bucketed, by_codes, options.device)
        name = f"encoder-decoder, ours: {history_input}"
        result.append(ours(name, model, pairs(bucket=options.bucket), by_codes, options))
    try:
        result.append(t5_peer(pairs(), codes, options))
    except ImportError as error:
        print(f"T5 skipped: {error}")
    return result


def product_rate(device: str, precision: str) -> float:
    """Returns FLOP/s of a plain product, [25600, 128] times [128, 512]: the best of several."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.randn(25_600, 128, device=device, dtype=dtype)
    right = torch.randn(128, 512, device=device, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        (left @ right)[0, 0].item()
        times.append(time.perf_counter() - start)
    return 2 * 25_600 * 128 * 512 / min(times)


def report(entered: list[Contestant], rate: float) -> None:
    """Prints one line per contestant, and the ratios of their speeds."""
    print(f"{'model':34} {'samples/s':>9} {'min':>7} {'max':>7} {'targets/s':>9} "
          f"{'CPU ms/sample':>13} {'GFLOP/s':>8} {'of product':>10}")  # fmt: skip
    speeds = {}
    for contestant in entered:
        each = [took["samples"] / took["seconds"] for took in contestant.rounds]
        speed = speeds[contestant.name] = statistics.median(each)
        targets = statistics.median(took["targets"] / took["samples"] for took in contestant.rounds)
        cpu = statistics.median(took["cpu_seconds"] / took["samples"] for took in contestant.rounds)
        flops = ["", ""]
        if contestant.flops is not None:
            total = contestant.flops * contestant.rounds[0]["steps"]
            reached = statistics.median(total / took["seconds"] for took in contestant.rounds)
            flops = [f"{reached / 1e9:.1f}", f"{reached / rate:.0%}"]
        print(f"{contestant.name:34} {speed:9.0f} {min(each):7.0f} {max(each):7.0f} "
              f"{speed * targets:9.0f} {cpu * 1e3:13.3f} {flops[0]:>8} {flops[1]:>10}")  # fmt: skip
    for mine, theirs in (
        ("SASRec, ours: pairs", "SASRec, RecBole: pairs"),
        ("encoder-decoder, ours: codes", "T5, Hugging Face: codes"),
        ("encoder-decoder, ours: vectors", "T5, Hugging Face: codes"),
    ):
        if mine in speeds and theirs in speeds:
            print(f"{mine} / {theirs}: {speeds[mine] / speeds[theirs]:.1f}")


def softmax_memory(num_items: int, options: argparse.Namespace) -> None:
    """Trains on a large catalogue with the full softmax, and prints its memory without the table's.

    The table's memory is its weights, its gradient and Adam's two averages.
    """
    from genrec.process import peak_memory_mib

    generator = np.random.default_rng(0)
    histories = list(generator.integers(num_items, size=(options.batch_size, 8)))
    sizes = SASREC | {"dim": options.softmax_dim}
    source = PairBatches(
        [history[-5:] for history in histories], num_items=num_items, batch_size=options.batch_size
    )
    before = peak_memory_mib(torch.device(options.device))
    model = SASRec(num_items, history_length=HISTORY_LENGTH, **sizes).to(options.device)  # type: ignore[arg-type]
    result = fit(
        model, source, by_last_state, TrainingConfig(epochs=1, precision=options.precision)
    )
    after = peak_memory_mib(torch.device(options.device))
    table = 4 * 4 * num_items * options.softmax_dim / MIB
    print(f"full softmax over {num_items} items of width {options.softmax_dim}, batches of "
          f"{options.batch_size}: peak {after - before:.0f} MiB above the start, of which table, "
          f"gradient and Adam {table:.0f}; beside them {after - before - table:.0f} MiB; "
          f"{result.log[0]['samples_per_second']:.0f} samples/s")  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="native folder; default: synthetic data")
    parser.add_argument("--recbole-python", type=Path, help="the Python that has RecBole")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--bucket", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help="steps per round")
    parser.add_argument("--softmax-items", type=int, help="measure the full softmax's memory")
    parser.add_argument("--softmax-dim", type=int, default=128)
    options = parser.parse_args()
    name = platform.processor() or platform.machine()
    if options.device.startswith("cuda"):
        name = torch.cuda.get_device_name(options.device)
    print(f"{date.today()}  torch {torch.__version__}  {name}  {torch.get_num_threads()} threads")
    if options.softmax_items is not None:
        softmax_memory(options.softmax_items, options)
        return
    histories, num_items = read_histories(options.data)
    entered = contestants(histories, num_items, options)
    for contestant in entered:
        contestant.run(3)
    rates = []
    for _ in range(options.rounds):
        rates.append(product_rate(options.device, options.precision))
        for contestant in entered:
            contestant.rounds.append(contestant.run(options.steps) | {"steps": options.steps})
    rate = statistics.median(rates)
    print(f"plain products {rate / 1e9:.0f} GFLOP/s, {options.precision}")
    report(entered, rate)


if __name__ == "__main__":
    main()
