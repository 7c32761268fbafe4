"""Times Hugging Face's `generate` within a trie: our logits processor and two others.

    python -m pip install --no-deps --target=PEERS rectokens     # optional, for the third peer
    PYTHONPATH=PEERS python benchmarks/constrained_generate.py
    PYTHONPATH=PEERS python benchmarks/constrained_generate.py --num-items 12000 --batch-sizes 1 32

All contenders mask the same scores, and then run the same `generate` of one random T5:

- ours: `genrec.hf.TrieLogitsProcessor`;
- callback: Hugging Face's own `prefix_allowed_tokens_fn`, a look-up in a Python dict of prefixes
  for each beam, as in most code with semantic IDs;
- static: the design of STATIC (Su et al., 2026), as implemented by `rectokens`: a trie as a sparse
  transition matrix in compressed rows, with dense tables for its first two levels. It is the
  `CompactCSRTrie` of `rectokens`, padded so that it is never read beyond its end, and the PyTorch
  form of its step, `vtnk_pytorch`, in a logits processor. This finds the state of each beam from
  its tokens, as ours does. The rest of `rectokens`, with its beam search, imports CUDA kernels and
  does not run on a CPU; Google's own code is not compared.

The masking is timed over all levels of one search, on prefixes of random items; all contenders must
mask the same tokens. Whole runs must return the same lists. Contenders take turns (A B A B) after
one warm-up each; the times are medians with the fastest and the slowest run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
from collections import defaultdict
from collections.abc import Callable
from datetime import date
from typing import Any

os.environ.setdefault("USE_TORCH", "1")

import torch
from decoding import CODEBOOK_SIZE, random_codes, take_turns
from decoding_peers import FIRST_CODE, make_t5
from genrec import Seq2SeqConfig, Trie
from genrec.hf import TrieLogitsProcessor
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PrefixConstrainedLogitsProcessor

LEVELS = 3
NUM_BEAMS = 100
TOP_K = 10
HISTORY_LENGTH = 20
# How many times faster than the callback ours should be at a batch of 32.
TARGET = 10
Processor = Callable[[Tensor, Tensor], Tensor]


class Catalogue:
    """The same items in the form of each contender.

    Args:
        num_items: Items, with random codes of three levels.
    """

    def __init__(self, num_items: int) -> None:
        codes = random_codes(num_items, torch.Generator().manual_seed(0))
        self.trie = Trie.build(codes, [CODEBOOK_SIZE] * LEVELS)
        self.token_ids = FIRST_CODE + torch.arange(CODEBOOK_SIZE * LEVELS).view(LEVELS, -1)
        self.tokens = codes + self.token_ids[:, 0]  # [items, levels]
        self.vocabulary = FIRST_CODE + CODEBOOK_SIZE * LEVELS

    def ours(self) -> TrieLogitsProcessor:
        """Returns our processor, for a decoder that starts with one token."""
        return TrieLogitsProcessor(self.trie, self.token_ids, prompt_length=1)

    def callback(self) -> Callable[[int, Tensor], list[int]]:
        """Returns the usual callback over a dict from prefixes to their next tokens."""
        below: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for row in self.tokens.tolist():
            for level, token in enumerate(row):
                below[tuple(row[:level])].add(token)
        legal = {prefix: sorted(tokens) for prefix, tokens in below.items()}
        return lambda _, prefix: legal.get(tuple(prefix[1:].tolist()), [0])

    def static(self) -> LogitsProcessor:
        """Returns the processor over the CSR trie of `rectokens`."""
        from rectokens.schemas.compact_csr_trie import CompactCSRTrie

        order = self.trie.leaf_items.long()
        trie = CompactCSRTrie.from_sorted_batch(self.tokens[order], self.vocabulary)
        padding = (0, max(trie.layer_max_branches))
        padded = torch.nn.functional.pad(trie.stacked_cols_vals, padding, value=-1)
        return StaticProcessor(trie._replace(stacked_cols_vals=padded))


class StaticProcessor(LogitsProcessor):
    """STATIC's masking: dense tables for two levels, then slices of compressed rows.

    Args:
        trie: A `rectokens` trie in compressed rows.
    """

    def __init__(self, trie: Any) -> None:
        self.trie = trie
        self.num_dense = len(trie.dense_mask_by_layer)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Returns the scores with minus infinity at tokens that are not legal."""
        from rectokens.decoding.vntk import vtnk_pytorch

        tokens = input_ids[:, 1:]  # after the decoder's start
        level = tokens.shape[1]
        if level < self.num_dense:
            mask = self.trie.dense_mask_by_layer[level]
            return scores.masked_fill(~mask[tokens.unbind(1)], -torch.inf)
        # Three levels: only the last one is beyond the dense tables, so no loop is needed here.
        states = self.trie.dense_states[tokens[:, : self.num_dense].unbind(1)]  # [rows]
        masked: Tensor = vtnk_pytorch(scores, states, self.trie, level)[2]
        return masked


def masking(name: str, processors: dict[str, Processor], steps: list[Any], runs: int) -> bool:
    """Prints the time of masking alone; returns whether the target is met."""

    def call(processor: Processor) -> list[Tensor]:
        return [processor(input_ids, scores) for input_ids, scores in steps]

    answers = {key: call(processor) for key, processor in processors.items()}
    for key, answer in answers.items():
        if not all(map(torch.equal, answer, answers["ours"])):
            raise SystemExit(f"{name}: {key} strikes out other tokens than ours")
    del answers
    return report(name, {key: lambda p=p: call(p) for key, p in processors.items()}, runs)  # type: ignore[misc]


def report(name: str, calls: dict[str, Callable[[], object]], runs: int) -> bool:
    """Times all contenders and prints the times; returns whether ours reaches the target."""
    timings = take_turns(calls, runs, torch.device("cpu"))
    ours, fine = timings["ours"], True
    for key, timing in timings.items():
        ratio, cpu_ratio = timing.wall / ours.wall, timing.cpu / ours.cpu
        ratios = f" {ratio:8.1f}x {cpu_ratio:8.1f}x" if key != "ours" else ""
        print(f"{name:34} {key:9} {timing}{ratios}", flush=True)
        fine &= key != "callback" or min(ratio, cpu_ratio) >= TARGET
    return fine


def steps_of(catalogue: Catalogue, rows: int) -> list[Any]:
    """Returns a processor's inputs, level by level, for prefixes of random items."""
    generator = torch.Generator().manual_seed(1)
    items = torch.randint(0, len(catalogue.tokens), (rows,), generator=generator)
    ids = torch.nn.functional.pad(catalogue.tokens[items], (1, 0))  # [rows, 1 + levels]
    scores = torch.randn(rows, catalogue.vocabulary, generator=generator).log_softmax(dim=1)
    return [(ids[:, : 1 + level], scores) for level in range(LEVELS)]


def whole(
    name: str, catalogue: Catalogue, t5: Any, options: dict[str, Any], batch: int, runs: int
) -> bool:
    """Prints the time of whole `generate` calls; returns whether the target is met."""
    generator = torch.Generator().manual_seed(2)
    shape = (batch, HISTORY_LENGTH)
    history = catalogue.tokens[torch.randint(0, len(catalogue.tokens), shape, generator=generator)]

    def generate(constraint: dict[str, Any]) -> Tensor:
        with torch.inference_mode():
            sequences: Tensor = t5.generate(
                input_ids=history.flatten(1),
                attention_mask=torch.ones_like(history.flatten(1)),
                num_beams=NUM_BEAMS,
                num_return_sequences=TOP_K,
                max_new_tokens=LEVELS,
                do_sample=False,
                renormalize_logits=True,
                **constraint,
            )
        return sequences

    expected = generate(options["ours"])
    for key, constraint in options.items():
        if not torch.equal(generate(constraint), expected):
            raise SystemExit(f"{name}: {key} returns other lists than ours")
    calls = {key: lambda c=c: generate(c) for key, c in options.items()}  # type: ignore[misc]
    return report(name, calls, runs)  # type: ignore[arg-type]


def main() -> int:
    """Reads the options and runs the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-items", type=int, nargs="+", default=[12_000, 1_000_000])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--runs", type=int, default=5)
    parts = ["masking", "generate"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    busy = "" if load < 0.5 else "  THE MACHINE IS BUSY: do not trust wall times, but ratios"
    print(f"{date.today()}  torch {torch.__version__}  {platform.processor() or platform.machine()}"
          f"  {torch.get_num_threads()} threads  load {load:.1f}{busy}")  # fmt: skip
    print(f"{'':34} {'':9} {'ms':>9} {'fastest-slowest':>19} {'CPU ms':>9}  over ours,    by CPU")
    with_static = importlib.util.find_spec("rectokens") is not None
    if not with_static:
        print("static is left out: rectokens is not on the path (see --help and this file's head)")
    config = Seq2SeqConfig()
    fine = True
    for num_items in arguments.num_items:
        catalogue = Catalogue(num_items)
        t5 = make_t5(config, (CODEBOOK_SIZE,) * LEVELS)
        callback, ours = catalogue.callback(), catalogue.ours()
        processors: dict[str, Processor] = {
            "ours": ours,
            "callback": PrefixConstrainedLogitsProcessor(callback, NUM_BEAMS),
        }
        options: dict[str, dict[str, Any]] = {
            "ours": {"logits_processor": LogitsProcessorList([ours])},
            "callback": {"prefix_allowed_tokens_fn": callback},
        }
        if with_static:
            processors["static"] = static = catalogue.static()
            options["static"] = {"logits_processor": LogitsProcessorList([static])}
        for batch in arguments.batch_sizes:
            name = f"{num_items:,} items, batch {batch}"
            if "masking" in arguments.parts:
                steps = steps_of(catalogue, batch * NUM_BEAMS)
                met = masking(f"{name}, masking", processors, steps, arguments.runs)
                fine &= met or batch < 32
            if "generate" in arguments.parts:
                met = whole(f"{name}, generate", catalogue, t5, options, batch, arguments.runs)
                fine &= met or batch < 32
    print(f"target at batch 32: {TARGET} times faster than the callback, masking and generate")
    return int(not fine)


if __name__ == "__main__":
    raise SystemExit(main())
