"""Fewer interactions: known items, one of repeated pairs, the k-core, a sample, the last ones."""

from __future__ import annotations

from collections.abc import Container
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from evalrec.interactions import DataError, Interactions


def k_core(interactions: Interactions, *, k: int = 5) -> Interactions:
    """Keep the users and items with at least k interactions among themselves.

    Users and items below k are dropped again and again until none is left below k, not in one pass.
    Users and items without interactions are removed from the key tables, so rows are renumbered;
    the order of the keys stays.

    Raises:
        ValueError: If k is below 1.
        DataError: If nothing is left.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    keep = np.ones(len(interactions), dtype=bool)
    while True:
        users, items = interactions.users[keep], interactions.items[keep]
        user_ok = np.bincount(users, minlength=interactions.num_users) >= k
        item_ok = np.bincount(items, minlength=interactions.num_items) >= k
        good = user_ok[users] & item_ok[items]
        if good.all():
            break
        keep[keep] = good
    if len(users) == 0:
        raise DataError(f"the {k}-core is empty: no users and items have {k} interactions each")
    return _only(interactions, keep)


def drop_repeats(interactions: Interactions, *, keep: Literal["first", "last"]) -> Interactions:
    """Of each pair of a user and an item, keep the first or the last interaction.

    Raises:
        ValueError: If `keep` is neither.
    """
    if keep not in ("first", "last"):
        raise ValueError(f"keep must be first or last, got {keep!r}")
    pairs = interactions.users * interactions.num_items + interactions.items
    if keep == "last":
        pairs = pairs[::-1]
    places = np.unique(pairs, return_index=True)[1]
    kept = np.zeros(len(interactions), dtype=bool)
    kept[places if keep == "first" else len(pairs) - 1 - places] = True
    return _only(interactions, kept)


def keep_last(interactions: Interactions, *, n: int) -> Interactions:
    """Keep the last n interactions of each user.

    Raises:
        ValueError: If n is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    ends = np.cumsum(np.bincount(interactions.users, minlength=interactions.num_users))
    return _only(interactions, np.arange(len(interactions)) >= ends[interactions.users] - n)


def drop_short(interactions: Interactions, *, n: int) -> Interactions:
    """Leave out the users with fewer than n interactions, once; items may then have none.

    Raises:
        ValueError: If n is below 1.
        DataError: If nothing is left.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    counts = np.bincount(interactions.users, minlength=interactions.num_users)
    keep = counts[interactions.users] >= n
    if not keep.any():
        raise DataError(f"no user has {n} interactions or more")
    return _only(interactions, keep)


def keep_items(interactions: Interactions, item_ids: Container[str]) -> Interactions:
    """Keep the interactions with some items.

    Raises:
        DataError: If nothing is left.
    """
    wanted = np.array([item in item_ids for item in interactions.item_ids])
    keep = wanted[interactions.items]
    if not keep.any():
        raise DataError("no item of an interaction is one that a file of items describes")
    return _only(interactions, keep)


def sample_users(interactions: Interactions, *, n: int, seed: int = 0) -> Interactions:
    """Keep n users, drawn at random; users stay in their order, and items may then have none.

    Raises:
        ValueError: If n is below 1.
        DataError: If there are fewer users.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if n > interactions.num_users:
        raise DataError(f"{n:,} users cannot be drawn of {interactions.num_users:,}")
    drawn = np.zeros(interactions.num_users, dtype=bool)
    drawn[np.random.default_rng(seed).choice(interactions.num_users, n, replace=False)] = True
    return _only(interactions, drawn[interactions.users])


def _only(interactions: Interactions, keep: Bool[np.ndarray, " interactions"]) -> Interactions:
    """Some interactions; users and items without any are removed from the key tables."""
    kept_users, users = _renumbered(interactions.users[keep], interactions.num_users)
    kept_items, items = _renumbered(interactions.items[keep], interactions.num_items)
    return Interactions(
        users=users,
        items=items,
        timestamps=interactions.timestamps[keep],
        user_ids=tuple(interactions.user_ids[row] for row in kept_users),
        item_ids=tuple(interactions.item_ids[row] for row in kept_items),
        weights=None if interactions.weights is None else interactions.weights[keep],
    )


def _renumbered(
    rows: Int[np.ndarray, " kept"], num_rows: int
) -> tuple[Int[np.ndarray, " used"], Int[np.ndarray, " kept"]]:
    """The rows that occur, ascending, and the position of each occurrence among them."""
    occurs = np.bincount(rows, minlength=num_rows) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[rows]
