"""Checks of what is known of the items, row by row: their ids, and how often each was had."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_item_ids(item_ids: Sequence[str], num_items: int) -> None:
    """Refuses ids that are not one string an item, no two alike.

    Raises:
        TypeError: One is no string.
        ValueError: There are too many, too few, or two alike.
    """
    if len(item_ids) != num_items:
        raise ValueError(
            f"item_ids must be one id for each of {num_items} items, got {len(item_ids)}"
        )
    seen: set[str] = set()
    for row, item_id in enumerate(item_ids):
        if not isinstance(item_id, str):
            raise TypeError(f"item_ids must be strings, got {item_id!r} in row {row}")
        if item_id in seen:
            raise ValueError(f"item_ids must differ, got {item_id!r} twice, again in row {row}")
        seen.add(item_id)


def check_popularity(popularity: Tensor, num_items: int) -> None:
    """Refuses popularity that is not one count an item.

    Raises:
        ValueError: It is of another shape, of fractions, or below 0.
    """
    if popularity.shape != (num_items,):
        got = f"shape {tuple(popularity.shape)}"
    elif popularity.is_floating_point():
        got = f"{popularity.dtype}"
    elif bool((popularity < 0).any()):
        got = f"{int(popularity.min())}"
    else:
        return
    raise ValueError(
        f"popularity must be one whole number, 0 or more, for each of {num_items} items, got {got}"
    )
