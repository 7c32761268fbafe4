"""Checks of item rows, ids, codes and popularity; and `first_of_each`, which drops repeats."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def check_item_ids(item_ids: Sequence[str], num_items: int) -> None:
    """Checks that there is one id per item, and that all ids differ.

    Raises:
        TypeError: An id is no string.
        ValueError: There are too many or too few ids, or two are equal.
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


def check_codes(codes: Tensor) -> None:
    """Checks that codes are a table of whole numbers.

    Raises:
        ValueError: They have another shape or type.
    """
    if codes.ndim != 2 or codes.is_floating_point() or codes.dtype == torch.bool:
        raise ValueError(
            "codes must be a table of whole numbers, one row per item, got shape "
            f"{tuple(codes.shape)} of {codes.dtype}"
        )


def check_popularity(popularity: Tensor, num_items: int) -> None:
    """Checks that popularity is one count per item.

    Raises:
        ValueError: It has another shape, is no whole number, or is below 0.
    """
    if popularity.shape != (num_items,):
        got = f"shape {tuple(popularity.shape)}"
    elif popularity.is_floating_point() or popularity.dtype == torch.bool:
        got = f"{popularity.dtype}"
    elif bool((popularity < 0).any()):
        got = f"{int(popularity.min())}"
    else:
        return
    raise ValueError(
        f"popularity must be one whole number, 0 or more, for each of {num_items} items, got {got}"
    )


def check_rows(name: str, rows: Tensor, num_items: int) -> None:
    """Checks that each number is an item row or padding; on a GPU this waits for the device.

    Raises:
        ValueError: A row is below 0 (an index would count it from the end) or too large.
    """
    if not rows.numel():
        return
    least, most = torch.stack(rows.aminmax()).tolist()
    if least < 0 or most > num_items:
        raise ValueError(
            f"{name} must hold item rows from 0 to {num_items - 1}, or {num_items} as padding, "
            f"got {least if least < 0 else most}"
        )


def first_of_each(items: Int[Tensor, "users m"], fill: int) -> Int[Tensor, "users m"]:
    """Returns the items with `fill` wherever an item occurs earlier in the same row.

    Args:
        items: Item rows, in any order.
        fill: The number that replaces a repeated item, such as the padding or -1.
    """
    # Equal items are neighbours once sorted, and a stable sort keeps the first of them first.
    ordered, order = items.sort(dim=1, stable=True)  # [users, m]
    is_repeat = torch.zeros_like(ordered, dtype=torch.bool)
    is_repeat[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    # The marks go back to the items' original places.
    is_repeat = torch.zeros_like(is_repeat).scatter(1, order, is_repeat)
    return items.masked_fill(is_repeat, fill)
