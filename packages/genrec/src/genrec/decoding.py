"""Decoding: beam search, the exact scores of all items, and the scores of some items."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrec.item_checks import check_rows
from genrec.masks import Mask
from genrec.model_walk import ModelWalk
from genrec.seq2seq import Seq2Seq, Tables
from genrec.trie import Trie
from genrec.walk import PastT, Walk


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Items and their log-probabilities, best first.

    Attributes:
        items: Item rows; -1 where there are no more items.
        scores: log p(item | history), PRORec, eq. 1; minus infinity where `items` is -1.
    """

    items: Int[Tensor, "batch k"]
    scores: Float[Tensor, "batch k"]

    @classmethod
    def best(
        cls,
        scores: Float[Tensor, "batch candidates"],
        count: int,
        *,
        items: Int[Tensor, "batch candidates"] | None = None,
        permitted: Bool[Tensor, "batch candidates"] | None = None,
    ) -> Ranked:
        """Returns the candidates with the highest scores.

        Args:
            scores: Scores of the candidates; minus infinity where there is none.
            count: Number of items; fewer are returned if there are fewer candidates.
            items: The candidates' item rows; None if the candidates are all items in order.
            permitted: Which candidates may be returned; None for all.
        """
        if permitted is not None:
            scores = scores.masked_fill(~permitted, -torch.inf)
        best = scores.topk(min(count, scores.shape[1]), dim=1)
        ranked = best.indices if items is None else items.gather(1, best.indices)  # [batch, k]
        return cls(items=ranked.masked_fill(best.values == -torch.inf, -1), scores=best.values)


@torch.inference_mode()
def beam_search(
    model: Seq2Seq,
    trie: Trie,
    history: Int[Tensor, "batch length"],
    *,
    num_beams: int = 100,
    top_k: int = 10,
    exclude: Int[Tensor, "batch m"] | None = None,
    allow: Int[Tensor, "batch n"] | Bool[Tensor, " items"] | None = None,
    tables: Tables | None = None,
) -> Ranked:
    """Returns each history's best items, found by beam search over the trie.

    All items exist and none is repeated. With as many beams as items in the catalogue, the ranking
    is that of `exact_scores`.

    Args:
        model: The model, in eval mode.
        trie: The catalogue's code sequences: `model.trie`, or any other trie over the same
            codebooks if the output vocabulary is "level" and the model has neither `history_bias`
            nor an item graph.
        history: Item rows, oldest first, padded with the number of items on either side.
        num_beams: Prefixes kept at each level.
        top_k: Items returned, at most `num_beams`.
        exclude: For each user the items that must not be returned, padded with the number of items.
            They are masked before beams are chosen, and so is every prefix that leads only to such
            items. So each beam leads to an item that may be returned, and `top_k` items are found
            if so many remain. Scores are not renormalised.
        allow: For each user the only items that may be returned, padded in the same way; or one
            truth value per item for all users. Masked in the same way as `exclude`.
        tables: `model.tables()`; pass it if you make many calls with the same weights.

    Returns:
        The ranked items.

    Raises:
        ValueError: The model is in training mode, the trie does not fit the model, a number is out
            of range, or `history`, `exclude` or `allow` holds a number that is no item row.
    """
    check_beams(model, num_beams, top_k)
    check_rows("history", history, model.trie.num_items)
    mask = Mask.of(trie, len(history), exclude, allow)
    with torch.autocast(history.device.type, enabled=False):
        memory = model.encode(history)
        walk = ModelWalk(model, trie, memory, tables=tables, mask=mask)
        return search(walk, num_beams=num_beams, top_k=top_k)


def search(walk: Walk[PastT], *, num_beams: int, top_k: int) -> Ranked:
    """Runs a beam search from the root; `num_beams` and `top_k` are those of `beam_search`."""
    trie, prefixes = walk.trie, walk.start()
    if not prefixes.nodes.shape[0]:
        return Ranked(
            items=prefixes.nodes.new_empty(0, top_k), scores=prefixes.scores.new_empty(0, top_k)
        )
    for level in range(trie.num_levels - 1):
        prefixes = walk.expand(level, prefixes).best(num_beams)
    candidates = walk.expand(trie.num_levels - 1, prefixes)
    best = candidates.scores.topk(min(top_k, candidates.scores.shape[1]), dim=1)
    items = trie.leaf_items[candidates.nodes[candidates.place.gather(1, best.indices)]].long()
    items = items.masked_fill(best.values == -torch.inf, -1)
    missing = (0, top_k - items.shape[1])
    return Ranked(
        items=torch.nn.functional.pad(items, missing, value=-1),
        scores=torch.nn.functional.pad(best.values, missing, value=-torch.inf),
    )


@torch.inference_mode()
def exact_scores(
    model: Seq2Seq,
    trie: Trie,
    history: Int[Tensor, "batch length"],
    *,
    tables: Tables | None = None,
    prefixes_at_once: int = 16384,
) -> Float[Tensor, "batch items"]:
    """Returns log p(item | history) of every item, in nats (PRORec, eq. 1).

    Shared prefixes are computed once. Subtrees are computed one after the other, so only the result
    grows with the catalogue, not the other memory.

    Args:
        model: The model, in eval mode.
        trie: As in `beam_search`.
        history: Item rows, oldest first, padded with the number of items.
        tables: `model.tables()`; pass it if you make many calls with the same weights.
        prefixes_at_once: Number of prefixes, times users, that are decoded together.

    Raises:
        ValueError: The model is in training mode, the trie does not fit the model,
            `prefixes_at_once` is below 1, or `history` holds a number that is no item row.
    """
    check_mode(model)
    check_rows("history", history, model.trie.num_items)
    with torch.autocast(history.device.type, enabled=False):
        walk = ModelWalk(model, trie, model.encode(history), tables=tables)
        return all_scores(walk, prefixes_at_once)


def all_scores(walk: Walk[PastT], prefixes_at_once: int) -> Float[Tensor, "users items"]:
    """Returns the score of every item; arguments and errors are those of `exact_scores`."""
    if prefixes_at_once < 1:
        raise ValueError(f"prefixes_at_once must be at least 1, got {prefixes_at_once}")
    trie, prefixes = walk.trie, walk.start()
    num_users = len(prefixes.nodes)
    scores = torch.empty(num_users, trie.num_items, device=trie.device)
    if not num_users:
        return scores
    for leaves in walk.subtrees(0, prefixes, max(prefixes_at_once // num_users, 1)):
        items = trie.leaf_items[leaves.nodes[leaves.place]].long()
        scores.scatter_(1, items, leaves.scores)
    return scores


@torch.inference_mode()
def score_items(
    model: Seq2Seq,
    trie: Trie,
    history: Int[Tensor, "batch length"],
    items: Int[Tensor, "batch m"],
    *,
    tables: Tables | None = None,
) -> Float[Tensor, "batch m"]:
    """Returns log p(item | history) of some items, for example to rank another system's candidates.

    Args:
        model: The model, in eval mode.
        trie: As in `beam_search`.
        history: Item rows, oldest first, padded with the number of items.
        items: Item rows, padded with the number of items; a user's items may repeat.
        tables: `model.tables()`; pass it if you make many calls with the same weights.

    Returns:
        The log-probabilities, in nats; minus infinity where there is no item.

    Raises:
        ValueError: The model is in training mode, the trie does not fit the model, or `history` or
            `items` holds a number that is no item row.
    """
    check_mode(model)
    check_rows("history", history, model.trie.num_items)
    check_rows("items", items, trie.num_items)
    missing = items == trie.num_items
    with torch.autocast(history.device.type, enabled=False):
        walk = ModelWalk(model, trie, model.encode(history), tables=tables)
        return walk.score(items.masked_fill(missing, 0)).masked_fill(missing, -torch.inf)


def beam_recall(
    model: Seq2Seq,
    trie: Trie,
    history: Int[Tensor, "batch length"],
    *,
    num_beams: int = 100,
    top_k: int = 10,
    tables: Tables | None = None,
    prefixes_at_once: int = 16384,
) -> Float[Tensor, " batch"]:
    """Returns the share of each history's `top_k` best items that beam search finds.

    The best items are those of `exact_scores`. Arguments and errors are those of `beam_search` and
    `exact_scores`.
    """
    beam = beam_search(model, trie, history, num_beams=num_beams, top_k=top_k, tables=tables)
    scores = exact_scores(model, trie, history, tables=tables, prefixes_at_once=prefixes_at_once)
    best = scores.topk(min(top_k, trie.num_items), dim=1).indices  # [batch, k]
    is_hit = (best[:, :, None] == beam.items[:, None, :]).any(dim=2)  # [batch, k]
    return is_hit.float().mean(dim=1)


def check_beams(model: Seq2Seq, num_beams: int, top_k: int) -> None:
    """Checks the mode of a model and the numbers of a beam search.

    Raises:
        ValueError: The model is in training mode, or a number is out of range.
    """
    check_top_k(num_beams, top_k)
    check_mode(model)


def check_top_k(num_beams: int, top_k: int) -> None:
    """Checks the numbers of a beam search.

    Raises:
        ValueError: `top_k` is below 1 or above `num_beams`.
    """
    if top_k < 1 or num_beams < top_k:
        raise ValueError(
            f"top_k must be at least 1 and at most num_beams, got {top_k} and {num_beams}"
        )


def check_mode(model: Seq2Seq) -> None:
    """Checks the mode of a model.

    Raises:
        ValueError: The model is in training mode.
    """
    if model.training:
        raise ValueError("model must be in eval mode, got training mode: call model.eval()")
