"""Random codes: what a quantizer must beat (PRORec, figure 8)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64


def random_codes(
    num_items: int, *, codebook_size: int = 256, seed: int = 0
) -> Int64[np.ndarray, "items levels"]:
    """Unique random codes with as few levels as hold all items.

    Args:
        num_items: How many items, at least 1.
        codebook_size: Codes at each level, at least 2.
        seed: Draws the codes.

    Raises:
        ValueError: If an argument is out of range.
    """
    if num_items < 1:
        raise ValueError(f"num_items must be at least 1, got {num_items}")
    if codebook_size < 2:
        raise ValueError(f"codebook_size must be at least 2, got {codebook_size}")
    num_levels = 1
    while codebook_size**num_levels < num_items:
        num_levels += 1
    shape = (codebook_size,) * num_levels
    draws = np.random.default_rng(seed).choice(codebook_size**num_levels, num_items, replace=False)
    return np.stack(np.unravel_index(draws, shape), axis=1).astype(np.int64)
