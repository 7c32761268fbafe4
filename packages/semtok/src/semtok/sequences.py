"""Files of interactions, read as sequences of items: to measure codes, not for training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from semtok.catalog import CatalogError, item_id_of
from semtok.rows import open_rows


def read_sequences(path: str | Path, *, id_column: str = "item_id") -> list[list[str]]:
    """Reads the items of each user, oldest first.

    Args:
        path: A .jsonl, .csv (both also with .gz) or .parquet file with one interaction per line or
            row: `user_id`, the item's id and possibly a numeric `timestamp`. Without timestamps,
            or where they are equal, the items of a user keep the order of the file.
        id_column: The column with the item's id.

    Returns:
        The item ids of each user, users in the order of their first rows.

    Raises:
        CatalogError: If the file is missing, broken or empty, or lacks a user, an item or, in
            some rows only, a timestamp; the message names the line or row.
    """
    rows, unit = open_rows(path, None)
    events: dict[str, list[tuple[float, str]]] = {}
    for number, row in rows:
        place = f"{path}, {unit} {number}"
        user = item_id_of(row, "user_id", place)
        item = item_id_of(row, id_column, place)
        events.setdefault(user, []).append((_timestamp(row, place), item))
    if not events:
        raise CatalogError(f"{path}: holds no interactions")
    return [
        [item for _, item in sorted(user, key=lambda event: event[0])] for user in events.values()
    ]


def _timestamp(row: Mapping[str, object], place: str) -> float:
    if "timestamp" not in row:
        return 0.0
    value = row["timestamp"]
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise CatalogError(f"{place}: timestamp must be a number, got {value!r}")
