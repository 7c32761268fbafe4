"""Writes a part of a native folder as a new native folder, for benchmarks on cut data."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
from evalrec import Interactions
from jaxtyping import Bool
from semtok import find_catalog


def write_part(
    data: Path, folder: Path, table: Interactions, is_kept: Bool[np.ndarray, " interactions"]
) -> Bool[np.ndarray, " items"]:
    """Writes some of the interactions of a native folder, and their items.

    Args:
        data: The native folder; its items are lines of JSON, compressed or not.
        folder: The new folder; if it exists, it is not changed.
        table: All interactions of `data`, with items in the order of the file.
        is_kept: Which interactions are written.

    Returns:
        Which items are written.
    """
    is_there = np.bincount(table.items[is_kept], minlength=table.num_items) > 0
    if folder.exists():
        return is_there
    source = find_catalog(data)
    opened = gzip.open if source.suffix == ".gz" else open
    with opened(source, "rt", encoding="utf-8") as file:
        lines = [line for line in file if line.strip()]
    if len(lines) != table.num_items:
        raise SystemExit(f"{source} must have a line of JSON an item, so that it can be cut")
    beside = folder.with_name(f".{folder.name}.part")
    beside.mkdir(parents=True, exist_ok=True)
    kept_lines = [line for line, stays in zip(lines, is_there, strict=True) if stays]
    (beside / "items.jsonl").write_text("".join(kept_lines), encoding="utf-8")
    pl.DataFrame(
        {
            "user_id": [table.user_ids[user] for user in table.users[is_kept]],
            "item_id": [table.item_ids[item] for item in table.items[is_kept]],
            "timestamp": table.timestamps[is_kept],
        }
    ).write_parquet(beside / "interactions.parquet")
    beside.rename(folder)
    return is_there
