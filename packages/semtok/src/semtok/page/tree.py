"""The page's tree of prefixes: items in the order of their codes, and how many are below each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from semtok.markup import well_formed
from semtok.page.words import typical_words
from semtok.semantic_ids import SemanticIds

_TITLE_LENGTH = 140


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """The items that the tree shows, in the order of their codes.

    Attributes:
        rows: The rows of these items in the table.
        counts: For each level and each prefix of that length that a shown item has: how many items
            of the table have this prefix. Prefixes are in ascending order.
        order: The rows of all items, in the order of their codes.
        starts: For each level, the position in that order at which each prefix begins.
        shown: For each level, which of these prefixes a shown item has.
        cut_level: 0 if all items are shown; else the first items of every prefix of
            `cut_level - 1` codes are shown.
        cut_size: How many items of each such prefix are shown.
    """

    rows: Int64[np.ndarray, " shown"]
    counts: tuple[Int64[np.ndarray, " _"], ...]
    order: Int64[np.ndarray, " items"]
    starts: tuple[Int64[np.ndarray, " _"], ...]
    shown: tuple[Bool[np.ndarray, " _"], ...]
    cut_level: int = 0
    cut_size: int = 0


def make_tree(semantic_ids: SemanticIds, *, max_items: int) -> Tree:
    """Chooses the items that the tree shows, the same number below every prefix.

    With more than `max_items` items, a prefix length is chosen: the longest of which there are at
    most `max_items` prefixes. Each prefix keeps its first items in code order, as many as fit.
    """
    codes = semantic_ids.codes
    order = np.lexsort(codes.T[::-1])
    ordered = codes[order]
    # True where a row begins a new prefix of 1, 2, ... codes.
    opens = np.ones(ordered.shape, dtype=bool)
    opens[1:] = np.logical_or.accumulate(ordered[1:] != ordered[:-1], axis=1)
    kept, cut_level, cut_size = np.ones(len(order), dtype=bool), 0, 0
    if len(order) > max_items:
        level = int((opens.sum(axis=0) <= max_items).sum())
        starts = np.flatnonzero(opens[:, level - 1]) if level else np.zeros(1, dtype=np.int64)
        sizes = np.diff(starts, append=len(order))
        rank = np.arange(len(order)) - np.repeat(starts, sizes)
        within = np.bincount(rank).cumsum()  # items kept if all ranks up to this one are kept
        cut_size = int((within <= max_items).sum())
        kept, cut_level = rank < cut_size, level + 1
    all_starts = [np.flatnonzero(opens[:, level]) for level in range(codes.shape[1])]
    shown = [np.logical_or.reduceat(kept, starts) for starts in all_starts]
    sizes_of = [np.diff(starts, append=len(order)) for starts in all_starts]
    return Tree(
        rows=order[kept],
        counts=tuple(sizes[mask] for sizes, mask in zip(sizes_of, shown, strict=True)),
        order=order,
        starts=tuple(all_starts),
        shown=tuple(shown),
        cut_level=cut_level,
        cut_size=cut_size,
    )


def tree_note(tree: Tree, num_items: int) -> str:
    """Says what the tree leaves out; "" if it shows all items."""
    if not tree.cut_level:
        return ""
    listed = f"the first {tree.cut_size:,} items" if tree.cut_size > 1 else "the first item"
    codes = "1 code" if tree.cut_level == 2 else f"{tree.cut_level - 1} codes"
    where = f" of every prefix of {codes}" if tree.cut_level > 1 else ""
    return (
        f"Of {num_items:,} items the tree lists {len(tree.rows):,}: {listed}{where}, in the order "
        "of their codes. Its counts are of all items; the search finds those listed."
    )


def tree_json(tree: Tree, semantic_ids: SemanticIds, titles: Sequence[str | None] | None) -> str:
    """The tree as JSON that is safe inside a script element."""
    rows = tree.rows.tolist()
    data = {
        "levels": semantic_ids.num_levels,
        "codes": semantic_ids.codes[tree.rows].reshape(-1).tolist(),
        "counts": [counts.tolist() for counts in tree.counts],
        "ids": [well_formed(semantic_ids.item_ids[row]) for row in rows],
        "titles": None if titles is None else [_shortened(titles[row]) for row in rows],
        "words": None if titles is None else _words(tree, titles),
    }
    # No "<" may remain: "</script>" and "<!--" would end or change the element.
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _words(tree: Tree, titles: Sequence[str | None]) -> list[list[str]]:
    """The typical words of each shown prefix, in the order of `counts`."""
    ordered = [titles[row] for row in tree.order.tolist()]
    return [
        [words for words, is_shown in zip(level, mask.tolist(), strict=True) if is_shown]
        for level, mask in zip(typical_words(ordered, tree.starts), tree.shown, strict=True)
    ]


def _shortened(title: str | None) -> str:
    flat = " ".join((title or "").split())
    if len(flat) > _TITLE_LENGTH:
        flat = flat[: _TITLE_LENGTH - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return well_formed(flat)
