"""Checks for what would mislead in a table of interactions: order by ids, ties, repeats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int
from scipy import stats

from evalrec.findings import Finding, by_severity
from evalrec.interactions import Interactions

SORTED_SHARE = 0.9
"""The share of neighbours in ascending order from which a table counts as sorted by id."""
_LEANING_SHARE = 0.6
_CHANCE = 1e-6  # a share is only reported if it is less probable than this under a fair coin


def check_interactions(interactions: Interactions) -> list[Finding]:
    """Look for what would mislead in a table of interactions, whatever the split.

    Sorted by id: the share of neighbours, within a user, of which the later has the greater id. By
    chance it would be a half. It is measured by ids as text, by ids as numbers (if all are) and by
    item rows. For item rows, pairs with the first appearance of an item are left out, since rows
    are often numbered in that order. A share of `SORTED_SHARE` or more that chance does not explain
    (binomial, 1e-6) is an error; so is the reverse order. If distinct times gave that order, it is
    only a warning. Positions, and times that only depend on the item, do not count as times.

    Returns:
        Errors first; empty if nothing was found.
    """
    same_user = interactions.users[1:] == interactions.users[:-1]
    ties = same_user & (interactions.timestamps[1:] == interactions.timestamps[:-1])
    findings = [
        *_order(interactions, same_user),
        *_ties(interactions, same_user, ties),
        *_repeats(interactions),
    ]
    unused = interactions.num_items - int(np.count_nonzero(np.bincount(interactions.items)))
    if unused:
        findings.append(
            Finding(
                code="unused-items",
                severity="info",
                count=unused,
                message=f"{unused:,} of {interactions.num_items:,} items have no interaction.",
                advice="They are candidates that no target can be; leave them out or say so.",
            )
        )
    return by_severity(findings)


def _order(interactions: Interactions, same_user: Bool[np.ndarray, " _"]) -> Iterator[Finding]:
    """Whether sequences are in the order of ids, by the measure that is furthest from a half."""
    rankings: list[tuple[float, str, int, int]] = []
    for name, ranks, pairs in _rankings(interactions):
        earlier, later = ranks[interactions.items[:-1]], ranks[interactions.items[1:]]
        counted = same_user & pairs & (earlier != later)
        total, ascending = int(counted.sum()), int((later > earlier)[counted].sum())
        if total and stats.binom.sf(max(ascending, total - ascending) - 1, total, 0.5) < _CHANCE:
            rankings.append((ascending / total, name, ascending, total))
    if not rankings:
        return
    share, name, ascending, total = max(rankings, key=lambda ranking: abs(ranking[0] - 0.5))
    way, count = ("ascend", ascending) if share > 0.5 else ("descend", total - ascending)
    says = f"{count / total:.1%} of {total:,} neighbours {way} by {name}; by chance half would"
    if count / total >= SORTED_SHARE and _has_times(interactions, same_user):
        yield Finding(
            code="sorted-by-id",
            severity="warning",
            count=count,
            message=f"Distinct times order the sequences, and by them {says}.",
            advice="This may be right: catalogues are numbered as items come in. The last item is "
            "the future, but a model may only learn the order of ids.",
        )
    elif count / total >= SORTED_SHARE:
        yield Finding(
            code="sorted-by-id",
            severity="error",
            count=count,
            message=f"Sequences are sorted by id, not by time: {says}.",
            advice="Use data with real times; the last item here is not the future.",
        )
    elif count / total >= _LEANING_SHARE:
        yield Finding(
            code="order-leans-to-id",
            severity="info",
            count=count,
            message=f"The order is similar to that of ids: {says}.",
            advice="Coarse times whose ties were broken by id do this; models can learn it.",
        )


def _has_times(interactions: Interactions, same_user: Bool[np.ndarray, " _"]) -> bool:
    """Whether distinct times gave the order of most neighbours.

    Consecutive positions are not times; nor are values of which each item has only one.
    """
    steps = np.diff(interactions.timestamps)[same_user]
    if np.count_nonzero(steps) < SORTED_SHARE * len(steps) or (steps == 1).all():
        return False
    pairs = np.unique(np.stack([interactions.items, interactions.timestamps]), axis=1)
    return bool(pairs.shape[1] > len(np.unique(interactions.items)))


def _rankings(
    interactions: Interactions,
) -> Iterator[tuple[str, Int[np.ndarray, " items"], Bool[np.ndarray, " _"]]]:
    """Ways to order items, each with the pairs of neighbours that can be judged by it."""
    ids = interactions.item_ids
    everywhere = np.ones(max(len(interactions) - 1, 0), dtype=bool)
    yield "id", _ranks(sorted(range(len(ids)), key=ids.__getitem__)), everywhere
    if all(each.isascii() and each.isdigit() for each in ids):
        numeric = sorted(range(len(ids)), key=lambda row: int(ids[row]))
        yield "id as a number", _ranks(numeric), everywhere
    first = np.full(len(ids), interactions.num_users, dtype=np.int64)
    np.minimum.at(first, interactions.items, interactions.users)
    known = first[interactions.items] < interactions.users
    yield "item row", np.arange(len(ids)), known[1:] & known[:-1]


def _ranks(order: list[int]) -> Int[np.ndarray, " items"]:
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def _ties(
    interactions: Interactions,
    same_user: Bool[np.ndarray, " _"],
    ties: Bool[np.ndarray, " _"],
) -> Iterator[Finding]:
    total, count = int(same_user.sum()), int(ties.sum())
    if count:
        yield Finding(
            code="equal-timestamps",
            severity="warning",
            count=count,
            message=f"{count:,} of {total:,} neighbours ({count / total:.1%}) have equal "
            "timestamps, so that the file's order decides which is last.",
            advice="Keep the order of the file stable, and say how fine the times are.",
        )
    starts = np.flatnonzero(np.append(True, ~same_user))
    lengths = np.diff(np.append(starts, len(interactions)))
    positions = np.arange(len(interactions)) - np.repeat(starts, lengths)
    if total and np.array_equal(positions, interactions.timestamps):
        yield Finding(
            code="no-times",
            severity="info",
            count=len(interactions),
            message="Timestamps are only positions 0, 1, 2, ... in each user's sequence.",
            advice="Leave-one-out works; a split by time would be meaningless.",
        )


def _repeats(interactions: Interactions) -> Iterator[Finding]:
    pairs = np.sort(interactions.users * interactions.num_items + interactions.items)
    count = int(np.count_nonzero(pairs[1:] == pairs[:-1]))
    if count:
        yield Finding(
            code="repeated-pairs",
            severity="warning",
            count=count,
            message=f"{count:,} of {len(pairs):,} interactions ({count / len(pairs):.1%}) repeat "
            "an item that the user had before.",
            advice="With seen items filtered such targets are misses; or prepare with "
            "--duplicates first.",
        )
