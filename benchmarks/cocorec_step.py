"""Times CoCoRec's training step at the paper's sizes, and measures the accuracy of faster ways.

    python benchmarks/cocorec_step.py --data ../shared/data/amazon14_beauty
    python benchmarks/cocorec_step.py --quick

The first part times one step on a synthetic catalogue (24,587 items, 5 views of 4 codes of 256, as
many pairs as the paper's Instruments). The ways take turns:
- plain: 400 prefixes; every position of a history passes the semantic fusion twice (with and
  without masked codes), every target and each of 24,000 negatives once. The activations do not fit
  into most memories, so the step runs in portions: each portion has its backward pass at once, with
  ones as gradients. Every product of the step is computed exactly once. So this is the time of the
  plain way with unlimited memory, but the resulting weights are useless.
- once: every distinct item of the step passes once, and items of histories once more with masked
  codes. All items are negatives, in portions that the backward pass computes again; or 2,048 are
  sampled, with logQ correction. The batch has pairs, or windows with a target at every position; an
  epoch of either has the same targets.

The second part is small: it measures the NDCG@10 on validation after the same number of epochs on
the same data, and the time. Here the plain way really trains: masks and dropout are drawn for each
occurrence, and the same share of the items as above (24,000 of 24,587) are negatives, without
correction.

First of all, the plain step and the distinct one are compared: same loss, same gradients.

CPU seconds are those of all threads. FLOP/s are those of matrix products as counted by torch,
recomputed ones included. They are compared with a plain product that is timed in the same round.
Memory is the growth of the process during a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evalrec import (
    Queries,
    evaluate,
    find_interactions,
    leave_one_out,
    read_interactions,
    write_synthetic,
)
from fusion import FusedItems, MaskedCodes, masked_code_loss, masked_sequence_alignment
from genrec import Batch, candidate_cross_entropy, dense_scorer, fit, sample_negatives
from semtok import LsaEmbedding, Pca, ProductQuantizer, find_catalog, read_catalog
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from semrec.cocorec.config import Model
from semrec.cocorec.model import CoCoRec, cocorec_loss

PAPER_NEGATIVES, PAPER_ITEMS = 24_000, 24_587
PRODUCT, PRODUCTS = 2 * 25_600 * 128 * 512, 5
STEPS = 4  # steps per round, for the ways whose steps depend on the contents of the batch
MIB = 2**20


@dataclass
class Way:
    """A way to train: its settings, a loss, and the times of its steps."""

    name: str
    config: Model
    loss: Callable[[Model, CoCoRec, Batch], dict[str, Tensor]]
    rounds: list[dict[str, float]] = field(default_factory=list)


def plain_loss(
    config: Model,
    model: CoCoRec,
    batch: Batch,
    *,
    share: float = PAPER_NEGATIVES / PAPER_ITEMS,
    portion: int | None = None,
    mask: Callable[[FusedItems, Tensor], MaskedCodes] = FusedItems.mask,
) -> dict[str, Tensor]:
    """Eq. 9, where each occurrence of an item passes the semantic fusion separately.

    Args:
        config: Settings.
        model: The model.
        batch: Pairs.
        share: Share of the items that are negatives, drawn uniformly, without correction.
        portion: Largest number of occurrences in one pass. Each portion has its backward pass at
            once, with ones as gradients, and is detached from the loss. None is a single pass.
        mask: Whether to draw masks for each occurrence.
    """
    items, num_items = model.item_encoder, model.num_items
    held = batch.history < num_items
    read, count = batch.history[held], int(held.sum())
    negatives = sample_negatives(num_items, round(share * num_items), device=batch.history.device)
    passing = torch.cat([read, batch.targets, negatives])
    vectors, _ = _cut(portion, lambda rows: (items(rows)[0], rows.new_zeros(())), passing)
    table, positives, others = vectors.split([count, len(batch), len(negatives)])
    places = torch.full_like(batch.history, count)
    places[held] = torch.arange(count, device=places.device)
    states = model.last_state(places, table)
    scores = _cosines(states, positives, others) / config.temperature
    candidates = torch.cat([batch.targets[:, None], negatives.expand(len(batch), -1)], dim=1)
    losses = {"next_item": candidate_cross_entropy(scores, candidates)}

    masked = mask(items, read)
    total = masked.chosen.sum()

    def guess(rows: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        names = ("codes", "hidden", "chosen")
        guesses = items.guess(rows, MaskedCodes(**dict(zip(names, parts, strict=True))))
        term = masked_code_loss(
            guesses.states,
            guesses.targets,
            items.fusion.code_vectors.weight,
            temperature=config.temperature,
        )
        return guesses.inputs, config.alpha * term * len(guesses.targets) / total

    masked_table, losses["masked_codes"] = _cut(
        portion, guess, read, masked.codes, masked.hidden, masked.chosen
    )
    losses["alignment"] = config.beta * masked_sequence_alignment(
        model.last_state(places, masked_table),
        states,
        temperature=config.temperature,
        user_rows=batch.users,
    )
    return losses


def _cosines(states: Tensor, positives: Tensor, others: Tensor) -> Tensor:
    """Cosines [batch, 1 + negatives] of each state with its positive, then with the negatives."""
    unit = partial(torch.nn.functional.normalize, dim=-1)
    positive = (unit(states) * unit(positives)).sum(1, keepdim=True)
    return torch.cat([positive, unit(states) @ unit(others).T], 1)


def _cut(
    portion: int | None, function: Callable[..., tuple[Tensor, Tensor]], *rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors and a loss of all rows; or portion by portion, each with its backward pass."""
    if portion is None:
        return function(*rows)
    parts, terms = [], []
    for start in range(0, len(rows[0]), portion):
        vectors, term = function(*(row[start : start + portion] for row in rows))
        (vectors.sum() + term).backward()
        parts.append(vectors.detach())
        terms.append(term.detach())
    return torch.cat(parts).requires_grad_(), torch.stack(terms).sum()


def random_model(config: Model, num_items: int, num_codes: int, num_views: int) -> CoCoRec:
    """The model on a random catalogue."""
    torch.manual_seed(0)
    codes = torch.randint(256, (num_items, num_codes))
    return CoCoRec(config, codes, [256] * num_codes, torch.randn(num_items, num_views, config.dim))


def random_histories(num_users: int, num_items: int) -> list[np.ndarray]:
    """Training histories as long as the paper's on average, popular items more often."""
    generator = np.random.default_rng(0)
    lengths = 2 + generator.geometric(1 / 4.9, num_users)
    weights = (np.arange(num_items) + 50.0) ** -0.8
    drawn = generator.choice(num_items, lengths.sum(), p=weights / weights.sum())
    return np.split(drawn, np.cumsum(lengths)[:-1])


def check_equal() -> None:
    """Checks that the plain step and the distinct one have the same loss and gradients.

    There is no dropout in this check.
    """
    config = Model(
        dim=16,
        feedforward_dim=32,
        dropout=0.0,
        fusion_dropout=0.0,
        checkpoint_items=16,
        samples="pairs",
        batch_size=24,
    )
    model = random_model(config, 60, 4, 2).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batch = next(iter(config.batches(random_histories(30, 60), 60, 0)(0)))

    def as_distinct(items: FusedItems, rows: Tensor) -> MaskedCodes:
        distinct, where = rows.unique(return_inverse=True)
        torch.manual_seed(1)
        masked = items.mask(distinct)
        return MaskedCodes(**{name: value[where] for name, value in vars(masked).items()})

    results = []
    for loss in (cocorec_loss, partial(plain_loss, share=1.0, mask=as_distinct)):
        torch.manual_seed(1)
        losses = loss(config, model, batch)
        model.zero_grad()
        sum(losses.values(), torch.tensor(0.0)).backward()
        results.append((losses, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*results)
    print("plain and distinct: same loss and gradients, as the passes through the module fall from "
          f"{60 + len(batch) + 2 * int((batch.history < 60).sum())} to "
          f"{60 + len(batch.history.unique()) - 1}")  # fmt: skip


class Products(TorchDispatchMode):
    """Counts the FLOPs of matrix products by torch's formulas.

    Torch's own FlopCounterMode also follows modules through the backward pass. So it keeps all
    activations that would be computed again: 21 GiB here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and counts it, if it is a product."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=out)
        return out


class Watch:
    """The largest growth of the process's memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> Watch:
        self.most = 0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start = torch.cuda.memory_allocated(self.device)
            return self
        self.start = _resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.done.wait(0.01):
            self.most = max(self.most, _resident() - self.start)

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.most = torch.cuda.max_memory_allocated(self.device) - self.start
            return
        self.done.set()
        self.thread.join()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def step_ways(base: Model, sizes: tuple[int, int, int], drawn: int, portion: int) -> list[Way]:
    """The ways of the first part.

    Args:
        base: Settings that all ways share.
        sizes: Pairs of a batch; windows with as many targets; more windows.
        drawn: Number of sampled negatives, for the ways without all items.
        portion: Items whose activations are held at a time, for the ways with all items.
    """
    pairs, windows, more = sizes
    plan = [(0, "pairs", pairs), (0, "sequences", more)]
    plan += [(drawn, "pairs", pairs), (drawn, "sequences", windows), (drawn, "sequences", more)]
    by_pairs = dataclasses.replace(
        base, samples="pairs", batch_size=pairs, checkpoint_items=portion
    )
    ways = [Way(f"plain, {pairs} pairs", by_pairs, partial(plain_loss, portion=portion))]
    for negatives, samples, size in plan:
        config = dataclasses.replace(
            base,
            num_negatives=negatives,
            samples=samples,
            batch_size=size,
            checkpoint_items=2**12 if negatives else portion,  # 2 to 3 GB
        )
        items = f"{negatives:,} drawn" if negatives else "all items"
        kind = "pairs" if samples == "pairs" else "windows"
        ways.append(Way(f"once, {items}, {size} {kind}", config, cocorec_loss))
    return ways


def steps_part(options: argparse.Namespace) -> None:
    """Times steps at the paper's sizes."""
    quick = options.quick
    num_items, num_users = (600, 1000) if quick else (options.items, 57_439)
    num_views, drawn = (2, 100) if quick else (5, 2048)
    base = Model(dim=32, feedforward_dim=64) if quick else Model()
    portion = 128
    ways = step_ways(base, (50, 10, 30) if quick else (400, 64, 256), drawn, portion)
    device = torch.device(options.device)
    model = random_model(base, num_items, 4 * num_views, num_views).to(device)
    histories = random_histories(num_users, num_items)
    targets = sum(len(history) - 1 for history in histories)
    print(f"\n{num_items:,} items, {4 * num_views} codes, {num_views} views, {num_users:,} users, "
          f"{targets:,} targets an epoch\n")  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-4, fused=True)
    batches, steps, flops = {}, {}, {}
    for way in ways:
        source = way.config.batches(histories, num_items, 0)
        batches[way.name], steps[way.name] = _endless(source), len(source)
        # Products are counted in a separate step, since counting is slow; then steps are timed.
        batch = next(batches[way.name]).to(device)
        with Products() as counter:
            _timed(way, model, optimizer, batch, device)
        flops[way.name] = counter.flops - PRODUCTS * PRODUCT
        batches[way.name] = chain([batch], batches[way.name])
    for _ in range(options.rounds):
        for way in ways:
            for batch in islice(batches[way.name], STEPS if way.config.num_negatives else 1):
                way.rounds.append(_timed(way, model, optimizer, batch.to(device), device))
    report_steps(ways, steps, flops)
    kept = _kept_bytes(model, portion) * (PAPER_NEGATIVES / PAPER_ITEMS * num_items)
    print("the plain way runs in portions; the activations of its negatives alone would take "
          f"{kept / MIB:,.0f} MiB, and its weights get no usable gradients")  # fmt: skip


def report_steps(ways: list[Way], steps: dict[str, int], flops: dict[str, float]) -> None:
    """Prints one line for each way.

    Args:
        ways: The ways, with the times of their steps.
        steps: Steps of an epoch, by name.
        flops: FLOPs of the products of the first step, by name.
    """
    print(f"{'way':32} {'s a step':>9} {'min':>7} {'max':>7} {'CPU s':>7} {'targets':>7} "
          f"{'h an epoch':>10} {'x plain':>8} {'MiB':>6} {'GFLOP':>7} {'GFLOP/s':>8} "
          f"{'of product':>10}")  # fmt: skip
    plain = 0.0
    for way in ways:
        took = {name: [step[name] for step in way.rounds] for name in way.rounds[0]}
        epoch = statistics.mean(took["seconds"]) * steps[way.name]
        plain = plain or epoch
        speed = flops[way.name] / took["seconds"][0]
        print(f"{way.name:32} {statistics.median(took['seconds']):9.2f} "
              f"{min(took['seconds']):7.2f} {max(took['seconds']):7.2f} "
              f"{statistics.median(took['cpu']):7.2f} "
              f"{statistics.mean(took['targets']):7.0f} {epoch / 3600:10.3f} {plain / epoch:8.1f} "
              f"{max(took['memory']) / MIB:6.0f} {flops[way.name] / 1e9:7.0f} {speed / 1e9:8.1f} "
              f"{speed / statistics.median(took['product']):10.0%}")  # fmt: skip


def _endless(source: Any) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from source(epoch)
        epoch += 1


def _timed(
    way: Way, model: CoCoRec, optimizer: torch.optim.Optimizer, batch: Batch, device: torch.device
) -> dict[str, float]:
    """Times a plain product, then one step of a way."""
    product = product_rate(device)
    model.train()
    # Both ways read the same modules; only the portions differ.
    model.item_encoder.checkpoint_items = way.config.checkpoint_items
    optimizer.zero_grad()
    with Watch(device) as watch:
        start, cpu = time.perf_counter(), time.process_time()
        sum(way.loss(way.config, model, batch).values(), torch.zeros((), device=device)).backward()
        optimizer.step()
        model.norm.weight[0].item()  # waits for the device
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "seconds": seconds,
        "cpu": cpu,
        "targets": float((batch.targets < model.num_items).sum()),
        "memory": float(watch.most),
        "product": product,
    }


def _kept_bytes(model: CoCoRec, portion: int) -> float:
    """Bytes that are kept for the backward pass of an item in the semantic fusion."""
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    rows = torch.arange(portion, device=next(model.parameters()).device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        vectors, _ = model.item_encoder(rows)
    del vectors
    return sum(size for place, size in kept.items() if place not in parameters) / portion


def product_rate(device: torch.device) -> float:
    """FLOP/s of a plain product, [25600, 128] times [128, 512]: the best of several runs."""
    left, right = torch.randn(25_600, 128, device=device), torch.randn(128, 512, device=device)
    times = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        (left @ right)[0, 0].item()
        times.append(time.perf_counter() - start)
    return PRODUCT / min(times)


@dataclass(frozen=True, kw_only=True)
class Small:
    """Some users of a data set, and the items of their histories.

    Attributes:
        name: Name of the data set.
        train: One history per user.
        queries: Queries of validation.
        views: [items, views, dim].
        codes: [items, codes].
        sizes: Sizes of the codebooks.
    """

    name: str
    train: list[np.ndarray]
    queries: Queries
    views: Tensor
    codes: Tensor
    sizes: list[int]

    @property
    def num_targets(self) -> int:
        """Of an epoch."""
        return sum(len(history) - 1 for history in self.train)


def small_data(options: argparse.Namespace) -> Small:
    """Samples the users of the second part and makes views and codes of their items."""
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if data is None:
            users = 200 if options.quick else options.users
            data = write_synthetic(Path(folder) / "data", num_items=600, num_users=users)
        catalog = read_catalog(find_catalog(data))
        table = read_interactions(find_interactions(data), item_ids=catalog.item_ids)
        split = leave_one_out(table)
    users = min(200 if options.quick else options.users, len(split.train))
    chosen = np.sort(np.random.default_rng(0).choice(len(split.train), users, replace=False))
    train = [split.train[user] for user in chosen]
    # The catalogue has only these users' items: most items have no interaction with a tenth of the
    # users.
    known = np.unique(np.concatenate([*train, split.validation.targets[chosen]]))
    row = np.full(len(catalog), -1)
    row[known] = np.arange(len(known))
    train = [row[history] for history in train]
    views, codes, sizes = small_catalogue(catalog, known)
    queries = dataclasses.replace(
        split.validation,
        histories=train,
        targets=row[split.validation.targets[chosen]],
        num_items=len(known),
        cold=split.validation.cold[chosen],
        users=None,
    )
    name = "synthetic" if options.data is None else options.data.name
    return Small(name=name, train=train, queries=queries, views=views, codes=codes, sizes=sizes)


def small_ways(small: Small, epochs: int) -> list[Way]:
    """The three ways of the second part."""
    per_step, num_items = 200, small.queries.num_items
    base = Model(
        dim=small.views.shape[2],
        feedforward_dim=128,
        dropout=0.2,
        epochs=epochs,
        warmup_steps=20,
        samples="pairs",
        batch_size=per_step,
        checkpoint_items=2**14,
        learning_rate=3e-3,
    )
    drawn = max(round(2048 / PAPER_ITEMS * num_items), 1)
    windows = max(round(per_step * len(small.train) / small.num_targets), 1)
    faster = dataclasses.replace(base, samples="sequences", batch_size=windows, num_negatives=drawn)
    return [
        Way(f"plain, {per_step} pairs", base, plain_loss),
        Way(f"once, all items, {per_step} pairs", base, cocorec_loss),
        Way(f"once, {drawn} drawn, {windows} windows", faster, cocorec_loss),
    ]


def quality_part(options: argparse.Namespace) -> None:
    """Trains in three ways on the same small data for the same number of epochs."""
    seeds, epochs = (1, 1) if options.quick else (options.seeds, options.epochs)
    small = small_data(options)
    num_items = small.queries.num_items
    ways = small_ways(small, epochs)
    print(f"\n{small.name}: {len(small.train):,} users, {num_items:,} items, "
          f"{small.num_targets:,} targets; {epochs} epochs, {seeds} seeds; NDCG@10 of "
          "validation, all items, unfiltered, after the last epoch\n", flush=True)  # fmt: skip
    device = torch.device(options.device)
    for seed in range(seeds):
        for way in ways:
            torch.manual_seed(seed)
            model = CoCoRec(way.config, small.codes, small.sizes, small.views).to(device)
            settings = dataclasses.replace(
                way.config.settings(seed, monitor="none"), monitor=None, patience=None
            )
            start = time.perf_counter()
            batches = way.config.batches(small.train, num_items, seed)
            fit(model, batches, partial(way.loss, way.config), settings)
            seconds = time.perf_counter() - start
            score = dense_scorer(model.eval(), way.config.history_length)
            report = evaluate(small.queries, score, ks=(10,))
            reached = float(report.per_user("ndcg@10", "unfiltered").mean())
            way.rounds.append({"seconds": seconds, "ndcg": reached})
    report_quality(ways)


def report_quality(ways: list[Way]) -> None:
    """Prints one line for each way, over its rounds, each with its own seed."""
    print(f"{'way':32} {'NDCG@10':>8} {'sd':>7} {'of plain':>8} {'s':>7} {'x plain':>8}")
    plain = ways[0].rounds
    first = statistics.mean(trained["ndcg"] for trained in plain)
    first_seconds = statistics.median(trained["seconds"] for trained in plain)
    for way in ways:
        reached = [trained["ndcg"] for trained in way.rounds]
        seconds = statistics.median(trained["seconds"] for trained in way.rounds)
        mean = statistics.mean(reached)
        spread = statistics.stdev(reached) if len(reached) > 1 else math.nan
        print(f"{way.name:32} {mean:8.4f} {spread:7.4f} {mean / first:8.1%} {seconds:7.1f} "
              f"{first_seconds / seconds:8.1f}")  # fmt: skip


def small_catalogue(catalog: Any, rows: np.ndarray) -> tuple[Tensor, Tensor, list[int]]:
    """Views, codes and codebook sizes of some items: LSA, PCA and PQ, as in the app."""
    dim, per_view, size = 32, 2, 64
    views, codes = [], []
    for name in ("title", "brand", "categories"):
        if name not in catalog.fields:
            continue
        embedding = LsaEmbedding.fit(catalog, fields=(name,), dim=2 * dim)
        vectors = embedding.embed(catalog)[rows]
        kept = min(dim, *vectors.shape)
        vectors = Pca.fit(vectors, dim=kept, whiten=True).transform(vectors)
        vectors = np.pad(vectors, ((0, 0), (0, dim - kept)))
        quantizer = ProductQuantizer.fit(vectors, num_levels=per_view, codebook_size=size)
        views.append(vectors)
        codes.append(quantizer.encode(vectors))
    stacked = np.concatenate(codes, axis=1)
    return (
        torch.from_numpy(np.stack(views, axis=1)).float(),
        torch.from_numpy(stacked),
        [size] * stacked.shape[1],
    )


def main() -> None:
    """Reads the options and runs the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="native folder; synthetic data without it")
    parser.add_argument("--part", choices=("step", "quality", "both"), default="both")
    parser.add_argument("--items", type=int, default=PAPER_ITEMS, help="items of part one")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, in seconds")
    options = parser.parse_args()
    device = platform.processor() or platform.machine()
    if options.device != "cpu":
        device = torch.cuda.get_device_name(options.device)
    print(f"{date.today()}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    check_equal()
    if options.part != "quality":
        steps_part(options)
    if options.part != "step":
        quality_part(options)


if __name__ == "__main__":
    main()
