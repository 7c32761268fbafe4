"""A deterministic catalogue with text, and users who can be learned.

Items belong to latent groups, which their titles and categories spell out, and to brands. A user
walks from group to group by a sparse Markov chain and, within a group, likes well-known items and
one favourite brand; nothing is had twice. So the last item tells the next group, the whole history
tells the brand, and the text tells group and brand of items too rare to be learned by their ids.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int

_PLACES = (
    *("Camping", "Kitchen", "Garden", "Travel", "Office", "Bath", "Winter", "Beach", "Studio"),
    *("Sport", "Bedroom", "Workshop"),
)
_THINGS = (
    *("Lamp", "Bottle", "Towel", "Bag", "Mirror", "Basket", "Blanket", "Brush", "Chair", "Clock"),
    *("Kettle", "Knife", "Ladder", "Mat", "Pillow", "Radio", "Scale", "Shelf", "Speaker", "Stool"),
    *("Table", "Tray", "Umbrella"),
)
_BRANDS = ("Velora", "Tonimo", "Aberlin", "Quista", "Norvell")
_STYLES = (
    *("Amber", "Compact", "Classic", "Deluxe", "Folding", "Light", "Natural", "Robust", "Silver"),
    *("Slim", "Soft", "Solid"),
)
_ITEMS_PER_GROUP = 25
_SUCCESSORS = (0.5, 0.25, 0.15)  # to three groups; what is left goes anywhere
_BRAND_PULL = 8.0  # how much likelier the favourite brand is
_POPULARITY_EXPONENT = 1.1  # of Zipf's law within a group


def write_synthetic(
    folder: str | Path,
    *,
    num_items: int = 600,
    num_users: int = 2000,
    min_length: int = 5,
    max_length: int = 20,
    seed: int = 0,
) -> Path:
    """Write a native folder: `items.jsonl` and `interactions.parquet`.

    Each item line is {"item_id", "title", "brand", "categories"}; interactions are user_id,
    item_id and timestamp (seconds, growing within a user). The same arguments write the same bytes.

    Args:
        folder: Must not exist yet, or be empty. It appears whole or not at all.
        num_items: Size of the catalogue, at least 50: two groups.
        num_users: How many histories.
        min_length: Shortest history.
        max_length: Longest history, at most half the catalogue.
        seed: Of everything drawn.

    Returns:
        The folder.

    Raises:
        ValueError: If a size is out of range.
        FileExistsError: If the folder holds anything.
    """
    if num_items < 2 * _ITEMS_PER_GROUP:
        raise ValueError(f"num_items must be at least {2 * _ITEMS_PER_GROUP}, got {num_items}")
    if num_users < 1:
        raise ValueError(f"num_users must be at least 1, got {num_users}")
    if not 1 <= min_length <= max_length <= num_items // 2:
        raise ValueError(
            f"lengths must be 1 <= min_length <= max_length <= {num_items // 2}, "
            f"got {min_length} and {max_length}"
        )
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder")
    rng = np.random.default_rng(seed)
    num_groups = num_items // _ITEMS_PER_GROUP
    groups = rng.permutation(np.arange(num_items) % num_groups)
    brands = rng.integers(len(_BRANDS), size=num_items)
    lines = _item_lines(groups, brands, rng)
    frame = _walks(groups, brands, num_users, (min_length, max_length), rng)

    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        beside.chmod(0o755)
        (beside / "items.jsonl").write_text("".join(lines), encoding="utf-8")
        frame.write_parquet(beside / "interactions.parquet")
        beside.replace(folder)
    except BaseException:  # an interrupted write, too, leaves nothing behind
        shutil.rmtree(beside)
        raise
    return folder


def _item_lines(
    groups: Int[np.ndarray, " items"], brands: Int[np.ndarray, " items"], rng: np.random.Generator
) -> list[str]:
    lines = []
    for row, (group, brand) in enumerate(zip(groups.tolist(), brands.tolist(), strict=True)):
        place, thing, series = _group_words(group)
        style, number = rng.choice(_STYLES), int(rng.integers(10, 100))
        record = {
            "item_id": f"item-{row:05d}",
            "title": f"{_BRANDS[brand]} {style} {place} {thing}{series} {number}",
            "brand": _BRANDS[brand],
            "categories": ["Home", place, f"{place} {thing}s{series}"],
        }
        lines.append(json.dumps(record) + "\n")
    return lines


def _group_words(group: int) -> tuple[str, str, str]:
    """Place, thing and series of a group: no two groups share all three."""
    place = _PLACES[group % len(_PLACES)]
    thing = _THINGS[group % len(_THINGS)]
    series = group // (len(_PLACES) * len(_THINGS))  # their lengths share no factor
    return place, thing, f" Series {series + 1}" if series else ""


def _walks(
    groups: Int[np.ndarray, " items"],
    brands: Int[np.ndarray, " items"],
    num_users: int,
    lengths: tuple[int, int],
    rng: np.random.Generator,
) -> pl.DataFrame:
    num_groups = int(groups.max()) + 1
    moves = _group_moves(num_groups, rng)
    members = [np.flatnonzero(groups == group) for group in range(num_groups)]
    likes = [
        rng.permutation((np.arange(len(rows)) + 1.0) ** -_POPULARITY_EXPONENT) for rows in members
    ]
    users, items, timestamps = [], [], []
    for user in range(num_users):
        favourite = rng.integers(len(_BRANDS))
        group = int(rng.integers(num_groups))
        time = int(rng.integers(1_500_000_000, 1_600_000_000))
        had: set[int] = set()
        length = int(rng.integers(lengths[0], lengths[1] + 1))
        while len(had) < length:
            rows = members[group]
            weights = likes[group] * np.where(brands[rows] == favourite, _BRAND_PULL, 1.0)
            item = int(rng.choice(rows, p=weights / weights.sum()))
            if item not in had:
                had.add(item)
                time += int(rng.integers(60, 1_000_000))
                users.append(f"user-{user:05d}")
                items.append(f"item-{item:05d}")
                timestamps.append(time)
            group = int(rng.choice(num_groups, p=moves[group]))
    return pl.DataFrame({"user_id": users, "item_id": items, "timestamp": timestamps})


def _group_moves(num_groups: int, rng: np.random.Generator) -> Float[np.ndarray, "groups groups"]:
    """Where a user goes from each group: mostly to a few others, sometimes anywhere."""
    moves = np.full((num_groups, num_groups), (1 - sum(_SUCCESSORS)) / num_groups)
    for group in range(num_groups):
        others = rng.permutation(np.delete(np.arange(num_groups), group))
        for target, share in zip(others, _SUCCESSORS, strict=False):
            moves[group, target] += share
    moves /= moves.sum(axis=1, keepdims=True)
    return moves
