"""Rows of codes as single numbers, so that they can be sorted and counted."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64


def number_rows(*tables: Int64[np.ndarray, "_ levels"]) -> Int64[np.ndarray, " items"]:
    """One number per row of non-negative codes: equal for equal rows, and in the same order.

    Several tables with the same number of levels are numbered together, one after the other.
    """
    numbers = np.zeros(sum(map(len, tables)), dtype=np.int64)
    if len(numbers) == 0:
        return numbers
    highest = 0
    for columns in zip(*(table.T for table in tables), strict=True):
        column = columns[0] if len(columns) == 1 else np.concatenate(columns)
        size = int(column.max()) + 1
        if (highest + 1) * size > 2**62:  # ranks are smaller than the numbers, and in their order
            numbers = np.unique(numbers, return_inverse=True)[1].reshape(-1)
            highest = int(numbers.max())
        numbers *= size
        numbers += column
        highest = (highest + 1) * size - 1
    return numbers


def sorted_rows(numbers: Int64[np.ndarray, " items"]) -> Int64[np.ndarray, " items"]:
    """The row indices that sort non-negative numbers in ascending order, with a stable sort.

    If a number and its row index fit into one integer, both are sorted together in place. This
    overwrites `numbers`, needs no further memory, and takes half of the time.
    """
    bits = max(len(numbers) - 1, 0).bit_length()
    if len(numbers) == 0 or int(numbers.max()) >> (63 - bits):
        return np.argsort(numbers, kind="stable")
    numbers <<= bits
    numbers |= np.arange(len(numbers))
    numbers.sort()
    numbers &= (1 << bits) - 1
    return numbers
