"""Keys: the ids of users or of items, each with its row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Int


class Keys:
    """Keys numbered in the order of first appearance, or by a catalogue."""

    def __init__(self, keys: Sequence[str] | None, name: str) -> None:
        self.rows = {key: row for row, key in enumerate(keys or ())}
        self.closed = keys is not None
        if keys is not None and len(self.rows) != len(keys):
            twice = next(key for row, key in enumerate(keys) if self.rows[key] != row)
            raise ValueError(f"{name} must be unique, got {twice!r} twice")

    def __call__(self, values: pl.Series) -> Int[np.ndarray, " rows"]:
        """The row of each value; -1 if a closed catalogue lacks it."""
        unique = values.unique(maintain_order=True)
        known = self.rows
        if self.closed:
            rows = [known.get(key, -1) for key in unique]
        else:
            rows = [known.setdefault(key, len(known)) for key in unique]
        mapped = values.replace_strict(unique, rows, return_dtype=pl.Int64)
        return mapped.to_numpy()
