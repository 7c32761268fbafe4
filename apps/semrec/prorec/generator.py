"""Recommends with an exported generator; needs only NumPy and onnxruntime.

`export` copies this file into its folder as `recommend.py`, where it needs nothing else of this
project. It answers one history at a time, with the answers of the generator in `recommend`. It is
written to be read: to serve in another language, translate `Generator.search`.

    from recommend import Generator

    generator = Generator("export")
    for item_id, log_probability in generator.recommend(["i1", "i7"]):
        ...

or, on the command line, `python recommend.py i1,i7`.

The codes of the catalogue form a tree. Its nodes are numbered level by level. The children of a
node have consecutive numbers, and so have the items below it: child[l][n] to child[l][n + 1] are
node n's children at level l, and leaf[l][n] to leaf[l][n + 1] its items, as positions in
`leaf_items`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

FORMAT = 1


class Generator:
    """A generator that `export` wrote.

    Args:
        folder: The folder of the export.
        num_beams: Prefixes that the search keeps; default: the run's number.

    Raises:
        ValueError: The export is of another version, or holds no generator.
    """

    def __init__(self, folder: str | Path, *, num_beams: int | None = None) -> None:
        folder = Path(folder)
        facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        if facts["format"] != FORMAT or "generator" not in facts:
            raise ValueError(f"{folder} must be an export of format {FORMAT} with a generator")
        self.facts: dict[str, Any] = facts["generator"]
        self.history_length: int = self.facts["history_length"]
        self.num_beams: int = num_beams or self.facts["num_beams"]
        self.num_levels: int = self.facts["num_levels"]
        with np.load(folder / "generator.npz", allow_pickle=False) as arrays:
            self.arrays: dict[str, NDArray[Any]] = dict(arrays)
        self.item_ids: list[str] = self.arrays["item_ids"].tolist()
        self.rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self.child = [self.arrays[f"child_{level}"] for level in range(self.num_levels)]
        self.leaf = [self.arrays[f"leaf_{level}"] for level in range(self.num_levels)]
        self.tokens = [self.arrays[f"tokens_{level}"] for level in range(self.num_levels)]
        self.leaf_items = self.arrays["leaf_items"]
        self.item_leaves = np.argsort(self.leaf_items)
        self.encoder = onnxruntime.InferenceSession(folder / "encoder.onnx")
        self.decoder = onnxruntime.InferenceSession(folder / "decoder.onnx")

    def recommend(
        self, history: Sequence[str], top_k: int = 10, *, exclude: Collection[str] = ()
    ) -> list[tuple[str, float]]:
        """Returns item ids with their log-probabilities, best first.

        Args:
            history: Item ids, oldest first; unknown ids are skipped.
            top_k: Most items that are returned.
            exclude: Ids of items to leave out, such as those of the history.
        """
        rows = [self.rows[item_id] for item_id in history if item_id in self.rows]
        excluded = [self.rows[item_id] for item_id in exclude if item_id in self.rows]
        ranked = [] if rows else self.popular(top_k, excluded)
        if not ranked:
            ranked = self.search(rows[-self.history_length :], top_k, excluded)
        return [(self.item_ids[row], score) for row, score in ranked]

    def popular(self, top_k: int, excluded: Collection[int] = ()) -> list[tuple[int, float]]:
        """Returns the most popular items and log-shares, for histories without a known item."""
        counts = self.arrays.get("counts", np.zeros(0, dtype=np.int64))
        order = np.argsort(-counts, kind="stable")
        allowed = [row for row in order.tolist() if counts[row] > 0 and row not in excluded]
        return [(row, math.log(counts[row] / counts.sum())) for row in allowed[:top_k]]

    def search(
        self, history: Sequence[int], top_k: int, excluded: Collection[int] = ()
    ) -> list[tuple[int, float]]:
        """Returns item rows with their log-probabilities, found by beam search."""
        num_items, num_beams = len(self.item_ids), max(self.num_beams, top_k)
        # Rows, oldest first; an empty history is one padding row, whose number is that of the
        # items.
        batch = np.array([list(history) or [num_items]], dtype=np.int64)  # [1, length]
        memory = dict(
            zip(
                ("memory", "padding", "newest"),
                self.encoder.run(None, {"history": batch}),
                strict=True,
            )
        )
        read, banned = self._leaves(history), self._leaves(excluded)
        told_leaves, told = self._told(history)  # [entries], [entries + 1, kinds]
        sizes = [self.facts[name] for name in ("num_layers", "num_heads", "head_dim")]
        layers, heads, head_dim = sizes
        # The search begins at the root: one beam with the token <BOS> and an empty past.
        nodes, scores = np.zeros(1, dtype=np.int64), np.zeros(1)
        tokens = np.array([self.facts["bos"]], dtype=np.int64)
        past = np.zeros((1, 1, layers, 2, heads, self.num_levels, head_dim), dtype=np.float32)
        for level in range(self.num_levels):
            beams = {"tokens": tokens[None], "level": np.array(level), "past": past}
            query, past = self.decoder.run(None, {**beams, **memory})
            # All children of all beams, concatenated over beams.
            first, end = self.child[level][nodes], self.child[level][nodes + 1]
            starts = np.cumsum(end - first) - (end - first)  # [beams]
            parent = np.repeat(np.arange(len(nodes)), end - first)  # [children]
            nodes = np.arange(len(parent)) + (first - starts)[parent]
            tokens = self.tokens[level][nodes]
            logits = np.einsum("cd,cd->c", query[0][parent], self.arrays["head"][tokens])
            if self.facts["scoring"] == "masked":
                low, high = self.facts["level_tokens"][level]
                table = query[0] @ self.arrays["head"][low:high].T  # [beams, codes of the level]
                log_probs = logits - _logsumexp(table)[parent]
            else:
                logits = self._biased(level, logits, nodes, read, told_leaves, told)
                log_probs = logits - _grouped_logsumexp(logits, starts, parent)
            scores = scores[parent] + log_probs
            # Prefixes that lead only to excluded items are removed before beams are chosen.
            scores[self._is_exhausted(level, nodes, banned)] = -np.inf
            width = top_k if level == self.num_levels - 1 else num_beams
            best = np.argsort(-scores, kind="stable")[:width]
            best = best[scores[best] > -np.inf]
            if not len(best):
                return []
            nodes, tokens, scores = nodes[best], tokens[best], scores[best]
            past = past[:, parent[best]]  # each beam gets its parent's past
        return list(zip(self.leaf_items[nodes].tolist(), scores.tolist(), strict=True))

    def _biased(
        self,
        level: int,
        logits: NDArray[Any],
        nodes: NDArray[Any],
        read: NDArray[Any],
        told_leaves: NDArray[Any],
        told: NDArray[Any],
    ) -> NDArray[Any]:
        """Returns logits with the item graph's scores and the history bias of nodes."""
        if "graph_weights" in self.arrays:
            low, high = self._below(level, nodes, told_leaves)
            sums = np.maximum(told[high] - told[low], 0.0)  # [children, kinds]
            scale, floor, weight = (
                self.arrays[name][level] for name in ("scale", "floor", "weight")
            )
            prior = self.arrays[f"prior_{level}"][nodes]
            logits = scale * logits + np.log(sums + floor) @ weight + prior
        biased: NDArray[Any] = logits + self.facts["history_bias"] * self._is_exhausted(
            level, nodes, read
        )
        return biased

    def _told(self, history: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns the item graph's scores: the leaves of items, ascending, and cumulative sums."""
        if "graph_weights" not in self.arrays:
            return np.zeros(0, dtype=np.int64), np.zeros((1, 0))
        offsets, decays = self.arrays["graph_offsets"], self.arrays["graph_decays"]
        leaves, scores = [np.zeros(0, dtype=np.int64)], [np.zeros((0, len(decays)))]
        for age, row in enumerate(reversed(history[-self.facts["last_items"] :])):
            edges = slice(offsets[row], offsets[row + 1])
            leaves.append(self.item_leaves[self.arrays["graph_neighbours"][edges]])
            scores.append(self.arrays["graph_weights"][edges] * decays**age)
        joined = np.concatenate(leaves)
        order = np.argsort(joined, kind="stable")
        running = np.concatenate(scores)[order].cumsum(axis=0, dtype=np.float64)
        return joined[order], np.concatenate([np.zeros((1, len(decays))), running])

    def _leaves(self, rows: Collection[int]) -> NDArray[Any]:
        """Returns the leaves of items, ascending, each once."""
        return np.unique(self.item_leaves[np.array(list(rows), dtype=np.int64)])

    def _below(
        self, level: int, nodes: NDArray[Any], leaves: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns where the leaves below each node begin and end in a list of ascending leaves."""
        first, end = self.leaf[level][nodes], self.leaf[level][nodes + 1]
        return np.searchsorted(leaves, first), np.searchsorted(leaves, end)

    def _is_exhausted(
        self, level: int, nodes: NDArray[Any], leaves: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Returns the nodes below which there are only listed leaves."""
        low, high = self._below(level, nodes, leaves)
        result: NDArray[np.bool_] = (
            high - low == self.leaf[level][nodes + 1] - self.leaf[level][nodes]
        )
        return result


def _logsumexp(table: NDArray[Any]) -> NDArray[Any]:
    """Returns the logarithm of each row's sum of exponentials."""
    top = table.max(axis=1)
    result: NDArray[Any] = top + np.log(np.exp(table - top[:, None]).sum(axis=1))
    return result


def _grouped_logsumexp(
    logits: NDArray[Any], starts: NDArray[Any], parent: NDArray[Any]
) -> NDArray[Any]:
    """Returns, for each child, the logsumexp over its siblings and itself."""
    top = np.maximum.reduceat(logits, starts)  # [beams]
    total = np.add.reduceat(np.exp(logits - top[parent]), starts)
    result: NDArray[Any] = (top + np.log(total))[parent]
    return result


def main() -> None:
    """Prints the answer to a history of item ids separated by commas."""
    if len(sys.argv) != 2:
        sys.exit("usage: python recommend.py ID,ID,...  (item ids, oldest first)")
    generator, history = Generator(Path(__file__).parent), sys.argv[1].split(",")
    if not any(item_id in generator.rows for item_id in history):
        print("no item of the history is known: these are the popular items", file=sys.stderr)  # noqa: T201
    for item_id, score in generator.recommend(history):
        print(f"{item_id}\t{score:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
