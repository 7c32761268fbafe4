"""Rows of codes as single numbers, so that they can be sorted and counted."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64


def number_rows(codes: Int64[np.ndarray, "items levels"]) -> Int64[np.ndarray, " items"]:
    """One number per row of non-negative codes; equal rows get equal numbers, order is kept."""
    numbers = np.zeros(len(codes), dtype=np.int64)
    if len(codes) == 0:
        return numbers
    highest = 0
    for column in codes.T:
        size = int(column.max()) + 1
        if (highest + 1) * size > 2**62:  # ranks are smaller than the numbers, and in their order
            numbers = np.unique(numbers, return_inverse=True)[1].reshape(-1)
            highest = int(numbers.max())
        numbers = numbers * size + column
        highest = (highest + 1) * size - 1
    return numbers
