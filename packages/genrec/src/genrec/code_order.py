"""Preparation of a code table for a trie: checks, and the order of its rows."""

from __future__ import annotations

import torch
from torch import Tensor


def code_dtype(size: int) -> torch.dtype:
    """Returns the narrowest type that holds numbers below `size`."""
    return torch.int16 if size <= 2**15 else torch.int32


def code_order(codes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Returns the items sorted by their codes; by as many levels at once as fit 63 bits."""
    groups: list[list[int]] = [[]]
    span = 1
    for level in reversed(range(len(sizes))):
        if span * sizes[level] >= 2**63:
            groups.append([])
            span = 1
        span *= sizes[level]
        groups[-1].insert(0, level)
    # From the last group of levels to the first: where earlier levels are equal, a stable sort
    # keeps the order by later levels.
    order = torch.arange(len(codes), device=codes.device)  # [items]
    for number, levels in enumerate(groups):
        key = torch.zeros_like(order)  # [items], the levels' codes as the digits of one number
        for level in levels:
            key.mul_(sizes[level]).add_(codes[:, level])
        order = order[key[order].argsort(stable=True)] if number else key.argsort(stable=True)
    return order


def check_table(codes: Tensor, sizes: tuple[int, ...]) -> None:
    """Checks a code table.

    Raises:
        ValueError: The table is empty, or does not fit the codebook sizes.
    """
    if codes.ndim != 2 or not codes.numel():
        raise ValueError(
            f"codes must be a table of at least one item and one level, got shape "
            f"{tuple(codes.shape)}"
        )
    if codes.shape[1] != len(sizes):
        raise ValueError(
            f"codebook_sizes must have one entry per level, got {len(sizes)} for codes of "
            f"{codes.shape[1]} levels"
        )
    for level, size in enumerate(sizes):
        column = codes[:, level]
        if int(column.min()) < 0 or int(column.max()) >= size:
            item = int(((column < 0) | (column >= size)).nonzero()[0])
            raise ValueError(
                f"codes must be at least 0 and below their codebook's size ({size} at level "
                f"{level}), got {int(column[item])} for item {item}"
            )
