"""Explains the ranks of items by their paths in the trie, level by level."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from genrec.decoding import check_mode
from genrec.item_checks import check_rows
from genrec.masks import Mask
from genrec.model_walk import ModelWalk
from genrec.seq2seq import Seq2Seq, Tables
from genrec.trie import Trie


@torch.inference_mode()
def path_log_probs(
    model: Seq2Seq,
    trie: Trie,
    history: Int[Tensor, "batch length"],
    items: Int[Tensor, "batch m"],
    *,
    tables: Tables | None = None,
) -> Float[Tensor, "batch m levels"]:
    """Returns log p(code | codes before it, history) for each code of some items.

    These are the logarithms of the factors of PRORec, eq. 1: their sum over the levels is the
    result of `score_items`.

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
    missing = items == trie.num_items  # [batch, m]
    with torch.autocast(history.device.type, enabled=False):
        walk = ModelWalk(model, trie, model.encode(history), tables=tables)
        scores = walk.score_paths(items.masked_fill(missing, 0))  # [batch, m, levels]
    steps = scores - F.pad(scores[..., :-1], (1, 0))
    return steps.masked_fill(missing[..., None], -torch.inf)


@torch.inference_mode()
def kept_levels(
    model: Seq2Seq,
    trie: Trie,
    history: Int[Tensor, "batch length"],
    items: Int[Tensor, "batch m"],
    *,
    num_beams: int = 100,
    exclude: Int[Tensor, "batch x"] | None = None,
    allow: Int[Tensor, "batch n"] | Bool[Tensor, " items"] | None = None,
    tables: Tables | None = None,
) -> Int[Tensor, "batch m"]:
    """Returns how many codes of each item a beam search keeps.

    If `beam_search` returns the item for a `top_k` of `num_beams`, it keeps all codes of the item.
    Otherwise the first code that it does not keep is the level at which other prefixes took the
    item's place among the beams.

    Args:
        model: The model, in eval mode.
        trie: As in `beam_search`.
        history: Item rows, oldest first, padded with the number of items.
        items: Item rows, padded with the number of items; a user's items may repeat.
        num_beams: Prefixes kept at each level.
        exclude: As in `beam_search`.
        allow: As in `beam_search`.
        tables: `model.tables()`; pass it if you make many calls with the same weights.

    Returns:
        Numbers of levels; 0 where there is no item.

    Raises:
        ValueError: The model is in training mode, the trie does not fit the model, `num_beams` is
            below 1, or a list holds a number that is no item row.
    """
    check_mode(model)
    check_rows("history", history, model.trie.num_items)
    check_rows("items", items, trie.num_items)
    if num_beams < 1:
        raise ValueError(f"num_beams must be at least 1, got {num_beams}")
    missing = items == trie.num_items  # [batch, m]
    kept = torch.zeros_like(items)  # [batch, m]
    if not items.numel():
        return kept
    mask = Mask.of(trie, len(history), exclude, allow)
    paths = trie.paths(items.masked_fill(missing, 0))  # [batch, m, levels]
    with torch.autocast(history.device.type, enabled=False):
        walk = ModelWalk(model, trie, model.encode(history), tables=tables, mask=mask)
        prefixes = walk.start()
        for level in range(trie.num_levels):
            prefixes = walk.expand(level, prefixes).best(num_beams)
            is_node = paths[:, :, level, None] == prefixes.nodes[:, None, :]  # [batch, m, beams]
            kept += (is_node & (prefixes.scores > -torch.inf)[:, None, :]).any(dim=2)
    return kept.masked_fill(missing, 0)
