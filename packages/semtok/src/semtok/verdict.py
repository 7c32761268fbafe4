"""What the measures of a code table mean: a warning, a hint, a verdict in one or two sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semtok.code_numbers import number_rows
from semtok.collisions import Collisions
from semtok.health import CodeHealth, LevelHealth, chance_overlap
from semtok.phrases import counted
from semtok.quantizers.contract import Quantizer
from semtok.quantizers.hierarchical import HierarchicalKMeans
from semtok.semantic_ids import SemanticIds

MANY_COLLISIONS = 0.5
"""The share of collided items above which the codes hardly distinguish items."""

_LEAST_USE = 0.5  # of the codes that a level could use
_LEAST_EVENNESS = 0.1  # of these, as the perplexity of the first level
_FEWEST_TO_GROUP = 8  # items; fewer are not worth a hint
_LEAST_GAIN = 2.0  # neighbour overlap, over chance


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether codes are good, and the two or three numbers that show why.

    Attributes:
        is_good: Whether no fault was found.
        sentence: The verdict in words, with the numbers.
    """

    is_good: bool
    sentence: str


def collision_warning(collisions: Collisions) -> str | None:
    """A warning with advice if most items collided, else None."""
    if collisions.rate < MANY_COLLISIONS:
        return None
    return (
        f"{collisions.rate:.1%} of items shared all their codes with another, as many as "
        f"{collisions.largest_bucket:,} the same ones: give more --levels or a larger "
        "--codebook-size"
    )


def balance_hint(quantizer: Quantizer) -> str | None:
    """A hint what `--balanced` would save, if a tree is deeper than its items need."""
    if not isinstance(quantizer, HierarchicalKMeans) or quantizer.balanced:
        return None
    num_items, levels = len(quantizer.leaves), 1
    while quantizer.codebook_size**levels < num_items:
        levels += 1
    if levels == quantizer.num_levels:
        return None
    _, counts = np.unique(number_rows(quantizer.codes[:, :levels]), return_counts=True)
    deep = int(counts[counts > 1].sum())  # items that their first codes do not identify
    return (
        f"hint: {deep:,} of {counted(num_items, 'item')} need more than "
        f"{counted(levels, 'level')}; with --balanced, all would do with that"
    )


def codebook_hint(quantizer: Quantizer) -> str | None:
    """A hint if a tree has one level, so that each item has a code of its own."""
    if not isinstance(quantizer, HierarchicalKMeans) or quantizer.num_levels > 1:
        return None
    num_items = len(quantizer.leaves)
    if num_items < _FEWEST_TO_GROUP:
        return None
    size = 2
    while size**2 < num_items:
        size *= 2
    return (
        f"hint: each of {counted(num_items, 'item')} has a code of its own, so the codes do not "
        f"show which items are alike; with --codebook-size {size}, similar items share a code"
    )


def needed_codes(semantic_ids: SemanticIds) -> list[int]:
    """How many codes each level could use.

    This is the size of the largest group of items with the same codes before that level, as the
    level has to tell these apart; at most the codebook size. A last level that numbers a few items
    needs few codes.
    """
    needed = []
    for level, size in enumerate(semantic_ids.codebook_sizes):
        largest = len(semantic_ids)
        if level:
            numbers = number_rows(semantic_ids.codes[:, :level])
            largest = int(np.unique(numbers, return_counts=True)[1].max(initial=0))
        needed.append(max(1, min(size, largest)))
    return needed


def judged(health: CodeHealth, semantic_ids: SemanticIds) -> Verdict:
    """The verdict on a code table.

    Codes are good if no two items share all codes, few did before collisions were resolved, each
    level uses at least half of the codes that it could, the first level uses them about evenly,
    and neighbours by codes are neighbours by vectors far more often than by chance.

    Args:
        health: The health of the table.
        semantic_ids: The table.
    """
    if not len(semantic_ids):
        return Verdict(is_good=True, sentence="There are no items.")
    faults = [
        *_collision_faults(health),
        *_level_faults(health.levels, needed_codes(semantic_ids)),
        *_neighbour_faults(health),
    ]
    if faults:
        return Verdict(is_good=False, sentence=_sentence("; ".join(faults)))
    first = health.levels[0]
    merits = [
        "no two items share all their codes",
        f"the first level uses {first.used:,} of {first.codebook_size:,} codes, about as evenly "
        f"as {first.perplexity:,.0f} equal ones",
    ]
    if health.neighbour_overlap is not None:
        merits.append(
            f"{health.neighbour_overlap:.0%} of an item's nearest neighbours are nearest by codes "
            f"as well (by chance {chance_overlap(health.num_items):.1%})"
        )
    words = f"{', '.join(merits[:-1])}, and {merits[-1]}"
    return Verdict(is_good=True, sentence=_sentence(words))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _collision_faults(health: CodeHealth) -> list[str]:
    if health.resolved_collision_rate > 0:
        return [
            f"{health.resolved_collision_rate:.1%} of items share all their codes with another, as "
            f"many as {health.resolved_largest_bucket:,} the same ones"
        ]
    if health.collision_rate >= MANY_COLLISIONS:
        return [
            f"{health.collision_rate:.1%} of items collided before this was resolved, so that "
            "their last codes say little"
        ]
    return []


def _level_faults(levels: tuple[LevelHealth, ...], needed: list[int]) -> list[str]:
    faults = [
        f"level {number} uses {level.used:,} of the {count:,} codes that it could use"
        for number, (level, count) in enumerate(zip(levels, needed, strict=True), start=1)
        if level.used < _LEAST_USE * count
    ]
    first = levels[0]
    if not faults and first.perplexity < _LEAST_EVENNESS * needed[0]:
        faults.append(
            f"the first level uses its codes as unevenly as if there were {first.perplexity:,.1f} "
            f"of them instead of {first.used:,}"
        )
    return faults


def _neighbour_faults(health: CodeHealth) -> list[str]:
    overlap, chance = health.neighbour_overlap, chance_overlap(health.num_items)
    if overlap is None or chance >= _LEAST_EVENNESS or overlap >= _LEAST_GAIN * chance:
        return []
    return [
        f"codes reflect neighbours hardly better than chance ({overlap:.1%} of the nearest "
        f"ones, by chance {chance:.1%})"
    ]
