"""What a GPU gives: training, decoding and quantizers, each beside what the card can do at most.

    python benchmarks/gpu.py                      # needs a GPU, and says so where there is none
    python benchmarks/gpu.py --device cpu --small # the same calls at small sizes, on a CPU
    python benchmarks/gpu.py --parts training

- training: samples a second of SASRec (a softmax over all items) and of the encoder-decoder by
  `genrec.fit`, in fp32 and bf16, and the share of the limit: FLOPs of matrix products counted in a
  step, over what a large product of the same run reaches in that precision;
- decoding: a beam search of the encoder-decoder, and Hugging Face's `generate` of a T5 of the same
  sizes and weights under `genrec.hf.TrieLogitsProcessor` and, where `rectokens` is installed, under
  the public STATIC mask (see constrained_generate.py); milliseconds a call and a step, a level;
- quantizers: k-means, RQ and PQ on a mixture of 10,000,000 x 768 vectors, fitted and encoded.

Contenders of decoding take turns after one warm-up each; medians with the fastest and the slowest
run. All else is one run.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from constrained_generate import LEVELS, Catalogue, StaticProcessor
from decoding import CODEBOOK_SIZE, take_turns
from decoding_peers import load_t5, make_t5
from genrec import (
    PairBatches,
    SASRec,
    Seq2Seq,
    Seq2SeqConfig,
    TrainingConfig,
    beam_search,
    fit,
)
from genrec.hf import TrieLogitsProcessor
from quantizers import mixture
from semtok import QUANTIZERS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training import Endless, by_codes, by_last_state
from transformers import LogitsProcessorList

HISTORY_LENGTH = 20


@dataclass(frozen=True)
class Sizes:
    """How large all is.

    Attributes:
        num_items: Of the catalogue.
        batch_size: Of training.
        steps: Of training, after as many to warm up.
        users: Of one call of decoding.
        num_beams: Of decoding.
        vectors: Rows and dimensions that quantizers get.
        product: Rows and columns of the factors of the limit's product.
    """

    num_items: int = 1_000_000
    batch_size: int = 1024
    steps: int = 100
    users: int = 32
    num_beams: int = 100
    vectors: tuple[int, int] = (10_000_000, 768)
    product: int = 8192


SMALL = Sizes(
    num_items=500,
    batch_size=16,
    steps=2,
    users=2,
    num_beams=5,
    vectors=(3000, 16),
    product=256,
)


def limit(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Returns the FLOP/s of a large product, the best of ten."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    timings = take_turns({"product": lambda: left @ right}, 10, device)
    return 2 * size**3 / min(timings["product"].walls)


def training(device: torch.device, sizes: Sizes) -> None:
    """Prints the speed of both models in both precisions."""
    generator = np.random.default_rng(0)
    histories = [generator.integers(sizes.num_items, size=21) for _ in range(2000)]
    source = PairBatches(
        histories,
        num_items=sizes.num_items,
        history_length=HISTORY_LENGTH,
        batch_size=sizes.batch_size,
    )
    trie = Catalogue(sizes.num_items).trie
    for precision, dtype in (("32", torch.float32), ("bf16", torch.bfloat16)):
        rate = limit(device, dtype, sizes.product)
        models: dict[str, tuple[nn.Module, Any]] = {
            "SASRec": (
                SASRec(sizes.num_items, dim=128, history_length=HISTORY_LENGTH),
                by_last_state,
            ),
            "encoder-decoder": (Seq2Seq(Seq2SeqConfig(), trie), by_codes),
        }
        for name, (model, loss) in models.items():
            model.to(device).train()
            with FlopCounterMode(display=False) as counter:
                batch = next(iter(source(0)))
                sum(loss(model, batch.to(device)).values()).backward()
            model.zero_grad()
            endless = Endless(source)
            endless.steps = sizes.steps
            config = TrainingConfig(epochs=2, precision=precision)  # type: ignore[arg-type]
            record = fit(model, endless, loss, config).log[1]  # the first epoch warms up
            speed = record["samples_per_second"]
            flops = counter.get_total_flops() / len(batch) * speed
            print(
                f"{name:16} {precision:>4} {speed:12,.0f} samples/s {flops / 1e12:9.3f} TFLOP/s "
                f"{flops / rate:6.1%} of {rate / 1e12:.3f}  "
                f"peak {record['peak_memory_mib']:,.0f} MiB",
                flush=True,
            )


def decoding(device: torch.device, sizes: Sizes) -> None:
    """Prints the time of a call of all contenders, which decode the same histories."""
    catalogue = Catalogue(sizes.num_items)
    config = Seq2SeqConfig(scoring="renormalized")
    t5: Any = make_t5(config, (CODEBOOK_SIZE,) * LEVELS)
    model = load_t5(t5, Seq2Seq(config, catalogue.trie)).to(device)
    t5, trie = t5.to(device), model.trie
    generator = torch.Generator().manual_seed(2)
    shape = (sizes.users, HISTORY_LENGTH)
    rows = torch.randint(0, sizes.num_items, shape, generator=generator)
    history, tokens = rows.to(device), catalogue.tokens[rows].flatten(1).to(device)
    top_k, tables = min(10, sizes.num_beams), model.tables()
    processors: dict[str, Any] = {
        "generate": TrieLogitsProcessor(trie, catalogue.token_ids.to(device), prompt_length=1)
    }
    if importlib.util.find_spec("rectokens") is None:
        print("static is left out: rectokens is not on the path (see constrained_generate.py)")
    else:
        static: Any = catalogue.static()
        fields = {name: _moved(value, device) for name, value in static.trie._asdict().items()}
        processors["generate, static"] = StaticProcessor(static.trie._replace(**fields))

    def generate(processor: Any) -> Any:
        with torch.inference_mode():
            return t5.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                num_beams=sizes.num_beams,
                num_return_sequences=top_k,
                max_new_tokens=LEVELS,
                do_sample=False,
                renormalize_logits=True,
                logits_processor=LogitsProcessorList([processor]),
            )

    calls: dict[str, Any] = {
        "beam_search": lambda: beam_search(
            model, trie, history, num_beams=sizes.num_beams, top_k=top_k, tables=tables
        )
    }
    calls |= {name: lambda p=p: generate(p) for name, p in processors.items()}
    for name, timing in take_turns(calls, 5, device).items():
        print(
            f"{name:18} {timing} ms a call {timing.wall / LEVELS * 1e3:9.2f} ms a step", flush=True
        )


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(entry, device) for entry in value)
    return value


def quantizers(device: torch.device, sizes: Sizes) -> None:
    """Prints how long quantizers fit and encode."""
    place = "cpu:0" if device.type == "cpu" else str(device)  # the path by torch, on a CPU too
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        mixture(path, *sizes.vectors, 0)
        x = np.load(path, mmap_mode="r")
        for name in ("hierarchical", "pq", "rq"):
            start = time.perf_counter()
            fitted = QUANTIZERS[name].fit(x, device=place)
            middle = time.perf_counter()
            codes = fitted.codes
            end = time.perf_counter()
            print(f"{name:14} fit {middle - start:9.2f} s, codes of {len(codes):,} vectors "
                  f"{end - middle:9.2f} s", flush=True)  # fmt: skip


PARTS = {"training": training, "decoding": decoding, "quantizers": quantizers}


def main() -> int:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--small", action="store_true", help="sizes that a CPU is through with soon"
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no GPU: --device cpu --small runs the same calls", file=sys.stderr)
        return 1
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}", flush=True)
    sizes = SMALL if arguments.small else Sizes()
    for part in arguments.parts:
        print(f"-- {part}", flush=True)
        PARTS[part](device, sizes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
