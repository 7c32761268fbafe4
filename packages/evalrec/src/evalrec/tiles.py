"""Scores of a batch of users in blocks of items, and what is gathered from them in one pass.

A tile is a batch of users. Its blocks are scored one after the other, so that users x items is
never held, and each block is shown to counters and lists. Two kinds of tile share this: scores that
a function gave, which are one block, and products of embeddings.

Counting needs care. A product rounds differently in another block, on another machine or in a batch
of another size, so a target and its exact copy may differ in the last bit, and a rank by comparison
would flatter. Here the products only sort items into those surely above the target, those surely
below, and the few within the rounding error; these few are compared by products in double
precision, added in an order that depends on nothing else. So ranks by embeddings are the same for
every batch size, number of processes, thread count and device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# A word of eight bytes adds up eight columns of a mask at once, 255 times before a byte overflows.
_WORD, _WORDS = 8, 255
BLOCK_ITEMS = _WORD * _WORDS
_CUDA_BLOCKS = 32  # how many times larger the parts are on a device that computes in parallel
LIST_BLOCK_ITEMS = 8 * BLOCK_ITEMS
_PAIR_CELLS = 2**15  # numbers of gathered embeddings at once: what the nearest cache holds
_NEAR_CELLS = 2**22  # mask entries searched at once for the undecided


@runtime_checkable
class Tile(Protocol):
    """A batch of users, ready to be ranked."""

    @property
    def num_users(self) -> int:
        """Users in the batch."""

    @property
    def num_items(self) -> int:
        """Items in the catalogue."""

    @property
    def device(self) -> torch.device:
        """Where the scores are."""

    def at(self, rows: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]) -> Tensor:
        """The scores by which ranks are decided, of some (user of the batch, item) pairs."""

    def roughly(self, rows: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]) -> Tensor:
        """The scores of some pairs as a block might give them."""

    def bounds(self, thresholds: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor | None]:
        """Between which block scores a comparison with the thresholds is not decided yet.

        Returns:
            Scores below the first are below the threshold; scores above the second are above it.
            Without a second, scores from the first on are at least the threshold.
        """

    def blocks(self, *, lists: bool) -> Iterator[tuple[int, Float[Tensor, "batch block"]]]:
        """Each block's first item and its scores, which hold until the next one is asked for.

        Args:
            lists: Whether best items are gathered as well, for which large blocks are faster.
        """


@dataclass(frozen=True, eq=False)
class ScoreTile:
    """Scores of every item, as a function gave them: one block, compared as they are."""

    scores: Float[Tensor, "batch items"]

    @property
    def num_users(self) -> int:
        """Users in the batch."""
        return self.scores.shape[0]

    @property
    def num_items(self) -> int:
        """Items in the catalogue."""
        return self.scores.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return self.scores.device

    def at(self, rows: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]) -> Tensor:
        """The scores of some pairs."""
        return self.scores[rows, items]

    def roughly(self, rows: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]) -> Tensor:
        """The scores of some pairs."""
        return self.scores[rows, items]

    def bounds(self, thresholds: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor | None]:
        """The thresholds: nothing is undecided."""
        return thresholds, None

    def blocks(self, *, lists: bool) -> Iterator[tuple[int, Float[Tensor, "batch block"]]]:
        """All items at once."""
        yield 0, self.scores


@dataclass(frozen=True, eq=False)
class EmbeddingTile:
    """Products of query and item embeddings, block by block.

    Attributes:
        queries: One vector a user, fp32.
        items: One vector an item, fp32, fp16 or bf16.
        largest_norm: Of the item vectors.
    """

    queries: Float[Tensor, "batch dim"]
    items: Float[Tensor, "items dim"]
    largest_norm: float

    @property
    def num_users(self) -> int:
        """Users in the batch."""
        return self.queries.shape[0]

    @property
    def num_items(self) -> int:
        """Items in the catalogue."""
        return self.items.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self.items.device

    def at(self, rows: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]) -> Tensor:
        """Products in double precision, whose order of additions is fixed by the width alone."""
        products = [torch.zeros(0, dtype=torch.float64, device=self.device)]
        for terms in self._terms(rows, items, torch.float64):  # [chunk, dim]
            # The left half of the columns is added to the right half until one column is left, so
            # that the order of additions is the same whatever stands in the chunk beside a pair.
            while (width := terms.shape[1]) > 1:
                half = width // 2
                folded = terms[:, :half] + terms[:, half : 2 * half]  # [chunk, half]
                # An odd width leaves its last column for the next round.
                terms = torch.cat([folded, terms[:, 2 * half :]], dim=1) if width % 2 else folded
            products.append(terms[:, 0])  # [chunk]
        return torch.cat(products)  # [pairs]

    def roughly(self, rows: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]) -> Tensor:
        """Products in fp32."""
        products = [terms.sum(dim=1) for terms in self._terms(rows, items, torch.float32)]
        return torch.cat([torch.zeros(0, device=self.device), *products])

    def _terms(
        self, rows: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"], dtype: torch.dtype
    ) -> Iterator[Float[Tensor, "chunk dim"]]:
        """The terms of each pair's product, not yet added up, for as many pairs as fit a cache."""
        size = max(1, _PAIR_CELLS // self.items.shape[1])
        if self.device.type == "cuda":
            size *= _CUDA_BLOCKS
        for start in range(0, len(rows), size):
            chunk = slice(start, start + size)
            yield self.queries[rows[chunk]].to(dtype) * self.items[items[chunk]].to(dtype)

    def bounds(self, thresholds: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor | None]:
        """The thresholds less and plus the largest error of a product of this width.

        A sum of n products, in any order, is off by less than n u / (1 - n u) times the sum of
        their magnitudes, which is at most the product of both norms; u is the unit roundoff.
        """
        norms = self.queries.double().square().sum(dim=1).sqrt()  # [batch]
        slack = _product_error(self.items.shape[1]) * norms * self.largest_norm  # [batch]
        low, high = (thresholds - slack).float(), (thresholds + slack).float()
        away = torch.full_like(low, math.inf)
        # Rounding to fp32 may have moved a bound inwards by half a step, so each goes one outwards.
        return torch.nextafter(low, -away), torch.nextafter(high, away)

    def blocks(self, *, lists: bool) -> Iterator[tuple[int, Float[Tensor, "batch block"]]]:
        """Small blocks, whose scores stay in the processor's cache."""
        size = LIST_BLOCK_ITEMS if lists else BLOCK_ITEMS
        size = _CUDA_BLOCKS * BLOCK_ITEMS if self.device.type == "cuda" else size
        size = min(size, self.num_items)
        # Every block is written to the same memory; a shorter last block uses the front of it.
        memory = torch.empty(self.num_users * size, device=self.device)
        for start in range(0, self.num_items, size):
            block = self.items[start : start + size].float()  # [block, dim]
            scores = memory[: self.num_users * len(block)].view(self.num_users, len(block))
            yield start, torch.mm(self.queries, block.T, out=scores)  # [batch, block]


class Gatherer(Protocol):
    """Something to be shown every block of a tile once, in order."""

    def add(self, start: int, scores: Float[Tensor, "batch block"]) -> None:
        """Take in a block, whose first item is `start`."""


class Counter:
    """Counts, for every user of a tile, the items that score at least a threshold.

    An item whose block score is above `high` surely reaches it, and one below `low` surely does
    not. What lies between is compared by `tile.at`, and is rare: a target itself and its copies.
    """

    def __init__(self, tile: Tile, thresholds: Float[Tensor, " batch"]) -> None:
        self.tile, self.thresholds = tile, thresholds
        self.low, self.high = tile.bounds(thresholds)
        self.counts = torch.zeros(tile.num_users, dtype=torch.int64, device=tile.device)
        self._masks: list[Bool[Tensor, "batch padded"]] = []
        self._width = 0

    def add(self, start: int, scores: Float[Tensor, "batch block"]) -> None:
        """Count a block, whose first item is `start`."""
        width = scores.shape[1]
        if width != self._width:
            needed = 1 if self.high is None else 2
            self._masks, self._width = [_empty_mask(scores) for _ in range(needed)], width
        reaching = self._masks[0]  # [batch, padded]; the padding stays false
        _compare("greater_equal", scores, self.low, reaching[:, :width])
        num_reaching = count_true(reaching)  # [batch]
        if self.high is None:
            self.counts += num_reaching
            return
        above = self._masks[1]  # [batch, padded]
        _compare("greater", scores, self.high, above[:, :width])
        num_above = count_true(above)  # [batch]
        self.counts += num_above
        undecided = (num_reaching > num_above).nonzero()[:, 0]  # users that have such an item
        size = max(1, _NEAR_CELLS // width)
        for first in range(0, len(undecided), size):
            rows = undecided[first : first + size]
            # What is above also reaches, so the masks differ at the undecided items alone.
            near = (reaching[rows, :width] ^ above[rows, :width]).nonzero()  # [pairs, 2]
            owners, items = rows[near[:, 0]], near[:, 1] + start  # [pairs] each
            reach = self.tile.at(owners, items) >= self.thresholds[owners]  # [pairs]
            self.counts.index_add_(0, owners, reach.long())

    def reached(
        self, rows: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]
    ) -> Bool[Tensor, " pairs"]:
        """Whether some pairs reach the user's threshold: whether `add` counts them."""
        scores = self.tile.roughly(rows, items)  # [pairs]
        reach = scores >= self.low[rows]  # [pairs]
        if self.high is not None:
            near = (reach & (scores <= self.high[rows])).nonzero()[:, 0]  # places in the pairs
            owners = rows[near]  # [near]
            reach[near] = self.tile.at(owners, items[near]) >= self.thresholds[owners]
        return reach


def _compare(
    how: str,
    scores: Float[Tensor, "batch block"],
    bounds: Float[Tensor, " batch"],
    out: Bool[Tensor, "batch block"],
) -> None:
    """`scores >= bounds` or `scores > bounds` row by row, by numpy where it can.

    On a CPU it takes a third of torch's time.
    """
    bounds = bounds.unsqueeze(1)
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        getattr(np, how)(scores.numpy(), bounds.numpy(), out=out.numpy())
    else:
        getattr(torch, how)(scores, bounds, out=out)


def count_true(mask: Bool[Tensor, "rows padded"]) -> Int[Tensor, " rows"]:
    """How many entries of each row are true, 50 to 100 times as fast as `mask.sum(dim=1)`.

    Args:
        mask: As `_empty_mask` makes it: its width is a multiple of eight that splits into parts
            of at most 255 words.
    """
    words = mask.view(torch.int64)  # [rows, words]: eight entries of 0 or 1 in the bytes of each
    parts = words.view(len(mask), -1, min(_WORDS, words.shape[1]))  # [rows, parts, up to 255]
    # Adding words adds each of their bytes, none of which carries into the next up to 255 words.
    sums = parts.sum(dim=2)  # [rows, parts]
    return sums.view(torch.uint8).view(len(mask), -1).sum(dim=1)  # [rows, 8 parts] -> [rows]


def _empty_mask(scores: Float[Tensor, "batch block"]) -> Bool[Tensor, "batch padded"]:
    """A mask for a block, all false, padded to a width that `count_true` can split."""
    rows, width = scores.shape
    unit = _WORD if width <= BLOCK_ITEMS else BLOCK_ITEMS
    padded = -(-width // unit) * unit
    return torch.zeros(rows, padded, dtype=torch.bool, device=scores.device)


def _product_error(dim: int) -> float:
    """Bound of the error of a product in fp32, by torch's present setting, per product of norms."""
    error = (dim + 4) * 2.0**-24
    exact_inputs = torch.get_float32_matmul_precision() == "highest"
    return error / (1 - error) + (0.0 if exact_inputs else 2.0**-6)  # rounded to 8 bits or more
