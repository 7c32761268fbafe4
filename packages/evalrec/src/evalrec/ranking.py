"""Ranks over all items: from embeddings, from scores or from ranked lists, seen items in and out.

The tie rule: among equal scores the target comes last, so that a constant scorer earns nothing.
Ranks start at 1; a target that is not ranked has rank `num_items + 1`. In the filtered mode the
items of the user's own history are removed from the candidates; a target among them is a miss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from evalrec.best import BestItems
from evalrec.interactions import Histories, flatten
from evalrec.item_shards import ItemShards, best_of_all, held, in_step, scores_of, total
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
from evalrec.tiles import Counter, Gatherer, Tile

Ranks = Mapping[str, Int[np.ndarray, " users"]]
"""By mode, "unfiltered" and "filtered"."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TileResult:
    """What one pass over the scores of some users gave.

    Attributes:
        part: The users.
        ranks: Of their targets.
        code_ranks: Of the best item with the target's codes, if codes were given.
        ranked: Their best items, if asked for.
    """

    part: slice
    ranks: Ranks
    code_ranks: Ranks | None
    ranked: Mapping[str, Int[np.ndarray, "batch k"]] | None


def rank_tiles(
    queries: Queries,
    model: Scorer | ScoreMatrix | EmbeddingScorer | ItemShards,
    *,
    batch_size: int | None = None,
    top_k: int | None = None,
    code_groups: CodeGroups | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[TileResult]:
    """Rank the targets batch by batch, in one pass over the scores.

    Args:
        queries: Whom to rank.
        model: Their scores.
        batch_size: Users at once; None suits the catalogue.
        top_k: Also gather so many best items a user, in both modes.
        code_groups: Also rank by codes.
        shard: Which share of the batches to take, and of how many.

    Raises:
        ValueError: If scores or embeddings are refused.
    """
    number, of = shard
    for part in _user_slices(queries, model, batch_size)[number::of]:
        tile = _tile(queries, model, part)
        yield _rank_tile(tile, queries, part, top_k=top_k, code_groups=code_groups)


def _user_slices(
    queries: Queries,
    model: Scorer | ScoreMatrix | EmbeddingScorer | ItemShards,
    batch_size: int | None,
) -> list[slice]:
    if isinstance(model, ItemShards):
        return model.user_slices(queries, batch_size)
    return user_slices(queries, model, batch_size)


def _tile(
    queries: Queries, model: Scorer | ScoreMatrix | EmbeddingScorer | ItemShards, part: slice
) -> Tile:
    if isinstance(model, ItemShards):
        return model.tile(queries, part)
    return tile_of(queries, model, part)


def _rank_tile(
    tile: Tile,
    queries: Queries,
    part: slice,
    *,
    top_k: int | None,
    code_groups: CodeGroups | None,
) -> TileResult:
    def on_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(tile.device)

    targets, num_items = queries.targets[part], queries.num_items
    # Each distinct (user of the batch, seen item) once.
    owners, seen = np.divmod(_seen_pairs(queries.histories[part], num_items), num_items)
    is_held = held(tile, on_device(seen))  # [seen]
    pairs = on_device(owners)[is_held], on_device(seen)[is_held]  # those this process scores
    repeated = owners[seen == targets[owners]]  # users whose target is in their history
    users = torch.arange(tile.num_users, device=tile.device)
    counter = Counter(tile, scores_of(tile, users, on_device(targets)))
    by_codes = None
    if code_groups is not None:
        by_codes = _CodeRanks(tile, code_groups, targets, owners, seen, pairs)
    best = {}
    if top_k is not None:
        nothing = pairs[0][:0], pairs[1][:0]
        best = {
            "unfiltered": BestItems(tile, top_k, nothing),
            "filtered": BestItems(tile, top_k, pairs),
        }
    gathered: list[Gatherer] = [counter, *(by_codes.counters if by_codes else ()), *best.values()]
    with in_step(tile):
        for start, scores in tile.blocks(lists=top_k is not None):
            for gatherer in gathered:
                gatherer.add(start, scores)

    # The target reaches its own score, so a count is a rank from 1 on. Filtered, the seen items
    # that were counted before it are taken off again.
    reached = counter.reached(*pairs).long()  # [seen]
    filtered = total(tile, counter.counts.clone().index_add_(0, pairs[0], -reached))
    filtered[repeated] = num_items + 1
    return TileResult(
        part=part,
        ranks={"unfiltered": total(tile, counter.counts), "filtered": filtered},
        code_ranks=by_codes.ranks(repeated) if by_codes else None,
        ranked={mode: best_of_all(tile, lists)[0] for mode, lists in best.items()} or None,
    )


class CodeGroups:
    """Which items share all their codes.

    Attributes:
        of_item: The group of each item.
    """

    def __init__(self, codes: Int[np.ndarray, "items levels"]) -> None:
        self.of_item: Int[np.ndarray, " items"] = np.unique(codes, axis=0, return_inverse=True)[1]
        # Items group by group; group g has those from starts[g] up to starts[g + 1].
        self._members = np.argsort(self.of_item, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(self.of_item))])

    def members(
        self, items: Int[np.ndarray, " batch"]
    ) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
        """Pairs (place in `items`, an item with the same codes), each item itself included."""
        groups = self.of_item[items]  # [batch]
        sizes = self._starts[groups + 1] - self._starts[groups]  # [batch]
        owners = np.repeat(np.arange(len(items)), sizes)  # [pairs]
        # The place of each pair within its group: 0, 1, 2, ... for every owner anew.
        within = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # [pairs]
        return owners, self._members[self._starts[groups][owners] + within]


class _CodeRanks:
    """Ranks of the best item that shares the target's codes: what counting on codes would give.

    The items of the group do not stand in one another's way; any other item that scores as high
    as the best of them comes before it. Filtered, the group is its unseen items.
    """

    def __init__(
        self,
        tile: Tile,
        groups: CodeGroups,
        targets: Int[np.ndarray, " batch"],
        owners: Int[np.ndarray, " seen"],
        seen: Int[np.ndarray, " seen"],
        held_pairs: tuple[Int[Tensor, " held"], Int[Tensor, " held"]],
    ) -> None:
        num_items = tile.num_items
        rows, members = groups.members(targets)  # [pairs] each: a user, an item of its group
        unseen = ~np.isin(rows * num_items + members, owners * num_items + seen)
        self.tile = tile
        self.rows = torch.from_numpy(rows).to(tile.device)
        items = torch.from_numpy(members).to(tile.device)  # [pairs]
        self.scores = scores_of(tile, self.rows, items)
        self.is_held = held(tile, items)
        self.kept = {
            "unfiltered": torch.ones_like(self.rows, dtype=torch.bool),
            "filtered": torch.from_numpy(unseen).to(tile.device),
        }
        self.seen = held_pairs
        self.best = {}
        for mode, kept in self.kept.items():
            lowest = torch.full_like(self.scores[:1], -torch.inf).expand(tile.num_users).clone()
            scores = self.scores.masked_fill(~kept, -torch.inf)  # [pairs]
            self.best[mode] = lowest.scatter_reduce_(0, self.rows, scores, "amax")
        self._counters = {mode: Counter(tile, best) for mode, best in self.best.items()}

    @property
    def counters(self) -> Sequence[Counter]:
        """To be shown every block."""
        return list(self._counters.values())

    def ranks(self, repeated: Int[np.ndarray, " repeated"]) -> Ranks:
        """Ranks, once every block was counted; the users `repeated` miss when filtered."""
        ranks = {}
        for mode, counter in self._counters.items():
            best = self.best[mode]
            # The items of the group that reach its best score are counted once, as the best.
            reaches = self.kept[mode] & (self.scores >= best[self.rows]) & self.is_held  # [pairs]
            before = counter.counts.clone().index_add_(0, self.rows, -reaches.long())  # [batch]
            if mode == "filtered":
                before.index_add_(0, self.seen[0], -counter.reached(*self.seen).long())
            ranks[mode] = total(self.tile, before) + 1
        ranks["filtered"][repeated] = self.tile.num_items + 1
        return ranks


def rank_lists(
    ranked: Int[np.ndarray, "users k"],
    queries: Queries,
    *,
    code_groups: CodeGroups | None = None,
) -> tuple[Ranks, Ranks | None, dict[str, Int[np.ndarray, "users k"]]]:
    """The place of each target in its user's ranked list, unfiltered and filtered.

    Filtered, the seen items are struck out and the rest moves up, so a list that is to hold k
    unseen items must be longer than k.

    Args:
        ranked: Item rows, best first; -1 fills the end of a list that is shorter.
        queries: The users of the lists, in their order.
        code_groups: Also give the place of the first item that shares the target's codes.

    Returns:
        The ranks, the ranks by codes, and the lists themselves in both modes.

    Raises:
        ValueError: If the lists are not those of the queries' users, hold a row that is no item,
            an item twice, or an item after a -1.
    """
    if len(ranked) != len(queries):
        raise ValueError(f"ranked must hold one list a user, {len(queries)}, got {len(ranked)}")
    ranked = ranked.astype(np.int64)
    _check_lists(ranked, queries.num_items)
    owners = np.arange(len(queries))[:, None]  # [users, 1]
    seen_pairs = _seen_pairs(queries.histories, queries.num_items)
    seen = (ranked >= 0) & np.isin(owners * queries.num_items + ranked, seen_pairs)  # [users, k]
    # What stays comes first, in the order that it had; what is struck out goes to the end.
    order = np.argsort(seen | (ranked < 0), axis=1, kind="stable")  # [users, k]
    struck = np.where(seen, -1, ranked)
    lists = {"unfiltered": ranked, "filtered": np.take_along_axis(struck, order, axis=1)}

    def places(same: Int[np.ndarray, " items"]) -> Ranks:
        wanted = same[queries.targets][:, None]  # [users, 1]
        ranks = {}
        for mode, items in lists.items():
            hits = (items >= 0) & (same[items] == wanted)  # [users, k]
            ranks[mode] = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, queries.num_items + 1)
        ranks["filtered"][repeated] = queries.num_items + 1
        return ranks

    repeated = np.isin(owners[:, 0] * queries.num_items + queries.targets, seen_pairs)
    by_item = places(np.arange(queries.num_items))
    return by_item, places(code_groups.of_item) if code_groups else None, lists


def rank_items(
    queries: Queries,
    model: Scorer | Scores | EmbeddingScorer | ItemShards,
    *,
    top_k: int,
    filter_seen: bool = False,
    batch_size: int | None = None,
) -> Int[np.ndarray, "users k"]:
    """The `top_k` best items of every user, best first, in bounded memory.

    Of items with the same score, that of the lower row comes first. Items that score -inf, seen
    ones included where `filter_seen` is set, are not returned: where a user has fewer than `top_k`
    others, -1 fills the end.

    Raises:
        ValueError: If `top_k` is not in [1, num_items], or the scores are refused.
    """
    ranked, _ = best_items(
        queries, model, top_k=top_k, filter_seen=filter_seen, batch_size=batch_size
    )
    return ranked


def best_items(
    queries: Queries,
    model: Scorer | Scores | EmbeddingScorer | ItemShards,
    *,
    top_k: int,
    filter_seen: bool,
    batch_size: int | None,
) -> tuple[Int[np.ndarray, "users k"], Float[np.ndarray, "users k"]]:
    """What `rank_items` returns, and the scores of these items; -inf where there is none.

    Raises:
        ValueError: If `top_k` is not in [1, num_items], or the scores are refused.
    """
    if not 1 <= top_k <= queries.num_items:
        raise ValueError(f"top_k must be in [1, {queries.num_items}], got {top_k}")
    scorer = model.checked(queries) if isinstance(model, ItemShards) else scorer_of(queries, model)
    ranked = np.empty((len(queries), top_k), dtype=np.int64)
    values = np.empty((len(queries), top_k), dtype=np.float64)
    for part in _user_slices(queries, scorer, batch_size):
        tile = _tile(queries, scorer, part)
        owners, items = flatten(queries.histories[part] if filter_seen else [])
        struck = torch.from_numpy(owners).to(tile.device), torch.from_numpy(items).to(tile.device)
        best = BestItems(tile, top_k, struck)
        with in_step(tile):
            for start, scores in tile.blocks(lists=True):
                best.add(start, scores)
        ranked[part], values[part] = best_of_all(tile, best)
    return ranked, values


def _seen_pairs(histories: Histories, num_items: int) -> Int[np.ndarray, " seen"]:
    """Each distinct (history, item) once, as history * num_items + item, ascending."""
    owners, items = flatten(histories)
    return np.unique(owners * num_items + items)


def _check_lists(ranked: Int[np.ndarray, "users k"], num_items: int) -> None:
    wrong = (ranked < -1) | (ranked >= num_items)
    if wrong.any():
        user, place = np.argwhere(wrong)[0]
        raise ValueError(
            f"ranked must hold item rows in [0, {num_items}) or -1, "
            f"got {ranked[user, place]} for user {user}"
        )
    late = (ranked[:, :-1] == -1) & (ranked[:, 1:] != -1)
    if late.any():
        user = np.argwhere(late)[0][0]
        raise ValueError(f"ranked must hold -1 at the end only, got an item after -1: user {user}")
    ordered = np.sort(ranked, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != -1)
    if twice.any():
        user, place = np.argwhere(twice)[0]
        raise ValueError(
            f"ranked must hold an item once, got item {ordered[user, place]} twice for user {user}"
        )
