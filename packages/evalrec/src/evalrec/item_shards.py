"""A catalogue scored in parts: each process of a group, or each model of one, has some items.

What is counted is counted where the scores are, and the counts are added up: the rank of a target
is the number of items that reach its score, over all shards. Only the scores of targets, the counts
and the best items of each shard travel. So a report by shards is that of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from evalrec.best import BestItems, best_first
from evalrec.distributed import add_up, of_everyone, together
from evalrec.scorers import (
    EmbeddingScorer,
    ScoreMatrix,
    Scorer,
    Scores,
    scorer_of,
    tile_of,
    user_slices,
)
from evalrec.splits import Queries
from evalrec.tiles import Tile


@dataclass(frozen=True, eq=False)
class ItemShards:
    """Models that score some of the items each, as one model of the whole catalogue.

    In the processes of a torch.distributed group, each passes the shards that it holds, at least
    one; together, over all processes, they hold every item once. All processes score all users.
    Without a group, the shards of the one process are the catalogue.

    Attributes:
        models: By the rows of its items, what scores them: anything that `evaluate` takes for all
            items but ranked lists, with a column (or a vector) for each item of the shard, in
            order. All are on one device.

    Raises:
        ValueError: If there is no shard, or the rows of one are not an ascending run of items.
    """

    models: Mapping[range, EmbeddingScorer | Scorer | Scores | ScoreMatrix]

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models must hold at least one shard, got none")
        for items in self.models:
            if items.step != 1 or not 0 <= items.start < items.stop:
                raise ValueError(
                    f"models must be by runs of item rows, such as range(0, 500), got {items}"
                )
        ordered = sorted(self.models.items(), key=lambda shard: shard[0].start)
        object.__setattr__(self, "models", dict(ordered))

    def checked(self, queries: Queries) -> ItemShards:
        """The same shards, their tables of scores checked, and that they make up the catalogue.

        Raises:
            TypeError: If one of the models is none.
            ValueError: If an item is in no shard or in several, of this process or another.
        """
        with together():
            models = {
                items: scorer_of(queries, model, num_items=len(items))
                for items, model in self.models.items()
            }
        (most,) = of_everyone(np.array([len(models)])).max(axis=0)
        bounds = np.full((most, 2), -1)  # [shards of a process at most, 2]
        bounds[: len(models)] = [(items.start, items.stop) for items in models]
        every = of_everyone(bounds).reshape(-1, 2)  # [processes * shards, 2]
        every = every[every[:, 0] >= 0]
        every = every[np.argsort(every[:, 0], kind="stable")]
        starts, ends = [*every[:, 0], queries.num_items], [0, *every[:, 1]]
        if not np.array_equal(starts, ends):
            wrong = int(np.flatnonzero(np.not_equal(starts, ends))[0])
            raise ValueError(
                f"shards must hold each of {queries.num_items} items once, got one that ends "
                f"before item {ends[wrong]} and then item {starts[wrong]}"
            )
        return ItemShards(models)

    def user_slices(self, queries: Queries, batch_size: int | None) -> list[slice]:
        """Batches of users, the same in every process.

        Raises:
            ValueError: If the batch size, or the number of vectors of a shard, is wrong.
        """
        with together():
            slices = [
                user_slices(queries, model, batch_size, num_items=len(items))
                for items, model in self._scorers()
            ]
        least = min(part[0].stop for part in slices)  # users of the smallest batch
        size = int(of_everyone(np.array([least])).min())
        starts = range(0, len(queries), size)
        return [slice(start, min(start + size, len(queries))) for start in starts]

    def tile(self, queries: Queries, part: slice) -> ShardedTile:
        """Some users, scored by this process's shards or ready to be.

        Raises:
            ValueError: If the scores of a shard are refused, or two are on different devices.
        """
        with together():
            tiles = {
                items.start: tile_of(queries, model, part, num_items=len(items))
                for items, model in self._scorers()
            }
            devices = {str(tile.device) for tile in tiles.values()}
            if len(devices) > 1:
                raise ValueError(f"shards must be on one device, got {', '.join(sorted(devices))}")
        return ShardedTile(tiles, queries.num_items)

    def _scorers(self) -> Iterator[tuple[range, Any]]:
        return iter(self.models.items())


@dataclass(frozen=True, eq=False)
class ShardedTile:
    """A batch of users before the items of this process, which are rows of the whole catalogue.

    Attributes:
        tiles: By the first item of a shard, its tile; first to last.
        num_items: Items in the catalogue.
    """

    tiles: Mapping[int, Tile]
    num_items: int

    @property
    def num_users(self) -> int:
        """Users in the batch."""
        return next(iter(self.tiles.values())).num_users

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return next(iter(self.tiles.values())).device

    def holds(self, items: Int[Tensor, " pairs"]) -> Bool[Tensor, " pairs"]:
        """Which of these items are scored by this process."""
        held = torch.zeros_like(items, dtype=torch.bool)
        for first, tile in self.tiles.items():
            held |= (items >= first) & (items < first + tile.num_items)
        return held

    def at(self, rows: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]) -> Tensor:
        """The scores by which ranks are decided, fp64, of pairs whose items are held here."""
        return self._routed("at", rows, items)

    def roughly(self, rows: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]) -> Tensor:
        """The scores of such pairs as a block might give them, fp64."""
        return self._routed("roughly", rows, items)

    def _routed(self, how: str, rows: Tensor, items: Tensor) -> Tensor:
        scores = torch.zeros(len(items), dtype=torch.float64, device=self.device)  # [pairs]
        for first, tile in self.tiles.items():
            places = ((items >= first) & (items < first + tile.num_items)).nonzero()[:, 0]
            part = getattr(tile, how)(rows[places], items[places] - first)  # [pairs of the shard]
            scores[places] = part.double()
        return scores

    def bounds(self, thresholds: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor | None]:
        """The widest bounds of the shards' tiles."""
        pairs = [tile.bounds(thresholds) for tile in self.tiles.values()]
        low = torch.stack([low.double() for low, _ in pairs]).amin(dim=0)  # [batch]
        if all(high is None for _, high in pairs):
            return _narrow(low), None
        highs = [thresholds if high is None else high for _, high in pairs]
        return _narrow(low), _narrow(torch.stack([high.double() for high in highs]).amax(dim=0))

    def blocks(self, *, lists: bool) -> Iterator[tuple[int, Float[Tensor, "batch block"]]]:
        """The blocks of one shard after the other's."""
        for first, tile in self.tiles.items():
            for start, scores in tile.blocks(lists=lists):
                yield first + start, scores


def _narrow(bounds: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The same numbers in fp32 if they are such, which are compared faster."""
    narrow = bounds.float()
    return narrow if torch.equal(narrow.double(), bounds) else bounds


def scores_of(tile: Tile, rows: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]) -> Tensor:
    """The scores by which ranks are decided, of some pairs, whichever process holds the items."""
    if not isinstance(tile, ShardedTile):
        return tile.at(rows, items)
    places = tile.holds(items).nonzero()[:, 0]
    scores = torch.zeros(len(items), dtype=torch.float64, device=tile.device)  # [pairs]
    scores[places] = tile.at(rows[places], items[places])
    # The one process that holds an item adds its score, and the others 0.
    (summed,) = add_up([scores.cpu().numpy()])
    return torch.from_numpy(summed).to(tile.device)


def held(tile: Tile, items: Int[Tensor, " pairs"]) -> Bool[Tensor, " pairs"]:
    """Which items this process scores: all of them but in a sharded tile."""
    if isinstance(tile, ShardedTile):
        return tile.holds(items)
    return torch.ones_like(items, dtype=torch.bool)


def total(tile: Tile, counts: Int[Tensor, " batch"]) -> Int[np.ndarray, " batch"]:
    """Counts over all items: those of every process, where each has some of the items."""
    held_here = counts.cpu().numpy()
    return add_up([held_here.copy()])[0] if isinstance(tile, ShardedTile) else held_here


def best_of_all(
    tile: Tile, best: BestItems
) -> tuple[Int[np.ndarray, "batch k"], Float[np.ndarray, "batch k"]]:
    """The best items over all processes, -1 where there are fewer, and their scores in fp64."""
    items, scores = best.ranked, best.scores.double()  # [batch, k of the process] each
    if isinstance(tile, ShardedTile):
        width = best.top_k
        shape = (tile.num_users, width)
        own_items, own_scores = np.full(shape, -1), np.full(shape, -np.inf)
        own_items[:, : items.shape[1]] = items.cpu().numpy()
        own_scores[:, : items.shape[1]] = scores.cpu().numpy()
        every_items = np.concatenate(list(of_everyone(own_items)), axis=1)
        every_scores = np.concatenate(list(of_everyone(own_scores)), axis=1)
        # Equal scores stand in the order of the rows, as in the list of a single process.
        order = np.argsort(every_items, axis=1, kind="stable")  # [batch, processes * k]
        scores, items = best_first(
            torch.from_numpy(np.take_along_axis(every_scores, order, axis=1)),
            torch.from_numpy(np.take_along_axis(every_items, order, axis=1)),
            width,
        )
    return items.cpu().numpy(), scores.cpu().numpy()


def in_step(tile: Tile) -> AbstractContextManager[None]:
    """Work on a tile that fails in every process if it does in one, where all work on it."""
    return together() if isinstance(tile, ShardedTile) else nullcontext()
