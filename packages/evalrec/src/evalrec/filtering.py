"""The k-core of interactions."""

from __future__ import annotations

import numpy as np

from evalrec.interactions import DataError, Interactions


def k_core(interactions: Interactions, *, k: int = 5) -> Interactions:
    """Keep the users and items with at least k interactions among themselves.

    Users and items below k are dropped until none is left to drop: the fixed point, not one pass.
    Users and items without interactions leave the key tables, so rows are numbered anew; the order
    of the keys stays.

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
    kept_users, users = np.unique(users, return_inverse=True)
    kept_items, items = np.unique(items, return_inverse=True)
    return Interactions(
        users=users,
        items=items,
        timestamps=interactions.timestamps[keep],
        user_ids=tuple(interactions.user_ids[row] for row in kept_users),
        item_ids=tuple(interactions.item_ids[row] for row in kept_items),
    )
