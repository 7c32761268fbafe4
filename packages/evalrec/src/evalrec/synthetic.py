"""A deterministic catalogue with texts, and users whose behaviour can be learned.

Items belong to latent groups, which their titles and categories name, and to brands. A user moves
from group to group by a sparse Markov chain and, within a group, prefers well-known items and one
favourite brand; no user has an item twice. So the last item predicts the next group, the whole
history predicts the brand, and the text shows group and brand of items that are too rare to be
learned by their ids.

Recall@10 on the test items at the default size, seen items not removed: popularity .08, first-order
Markov .35, transition graph with text .39, and .62 for a model that knows the groups, the brands
and the chain and must only guess each user's favourite brand.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from evalrec.storage import replacing_folder, write_parquet

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
_STAY = 0.5  # probability to stay in the same group
_SUCCESSORS = (0.3, 0.15)  # of moves to two other groups; the rest goes to any group
_BRAND_PULL = 20.0  # how many times more probable the favourite brand is
_POPULARITY_EXPONENT = 0.6  # of Zipf's law within a group


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
        num_users: The number of histories.
        min_length: Length of the shortest history.
        max_length: Length of the longest history, at most half the catalogue.
        seed: The seed of everything that is drawn.

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
    looks = _looks(groups, rng)
    brands = looks // len(_STYLES)
    lines = _item_lines(groups, brands, looks % len(_STYLES))
    frame = _walks(groups, brands, num_users, (min_length, max_length), rng)

    with replacing_folder(folder) as beside:
        (beside / "items.jsonl").write_text("".join(lines), encoding="utf-8")
        write_parquet(frame, beside / "interactions.parquet")
    return folder


def _looks(
    groups: Int[np.ndarray, " items"], rng: np.random.Generator
) -> Int[np.ndarray, " items"]:
    """A pair of brand and style for each item, as one number; no pair twice within a group."""
    looks = np.empty_like(groups)
    for group in range(int(groups.max()) + 1):
        members = np.flatnonzero(groups == group)
        looks[members] = rng.permutation(len(_BRANDS) * len(_STYLES))[: len(members)]
    return looks


def _item_lines(
    groups: Int[np.ndarray, " items"],
    brands: Int[np.ndarray, " items"],
    styles: Int[np.ndarray, " items"],
) -> list[str]:
    lines = []
    for row, (group, brand, style) in enumerate(zip(groups, brands, styles, strict=True)):
        place, thing, series = _group_words(int(group))
        record = {
            "item_id": f"item-{row:05d}",
            "title": f"{_BRANDS[brand]} {_STYLES[style]} {place} {thing}{series}",
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
    moves = np.cumsum(_group_moves(num_groups, rng), axis=1)
    members = [np.flatnonzero(groups == group) for group in range(num_groups)]
    likes = [
        rng.permutation((np.arange(len(rows)) + 1.0) ** -_POPULARITY_EXPONENT) for rows in members
    ]
    tastes = [  # by group and favourite brand
        [
            np.cumsum(weights * np.where(brands[rows] == brand, _BRAND_PULL, 1.0))
            for brand in range(len(_BRANDS))
        ]
        for rows, weights in zip(members, likes, strict=True)
    ]

    users, items, timestamps = [], [], []
    for user in range(num_users):
        favourite = int(rng.integers(len(_BRANDS)))
        group = int(rng.integers(num_groups))
        time = int(rng.integers(1_500_000_000, 1_600_000_000))
        had: set[int] = set()
        length = int(rng.integers(lengths[0], lengths[1] + 1))
        while len(had) < length:
            item = int(members[group][_draw(tastes[group][favourite], rng)])
            if item not in had:
                had.add(item)
                time += int(rng.integers(60, 1_000_000))
                users.append(f"user-{user:05d}")
                items.append(f"item-{item:05d}")
                timestamps.append(time)
            group = _draw(moves[group], rng)
    return pl.DataFrame({"user_id": users, "item_id": items, "timestamp": timestamps})


def _draw(cumulative: Float[np.ndarray, " weights"], rng: np.random.Generator) -> int:
    """An index, drawn in proportion to weights; the argument is their running sum."""
    return int(np.searchsorted(cumulative[:-1], rng.random() * cumulative[-1], side="right"))


def _group_moves(num_groups: int, rng: np.random.Generator) -> Float[np.ndarray, "groups groups"]:
    """The probabilities of moves from each group: stay, a few others, or rarely any group."""
    moves = np.full((num_groups, num_groups), (1 - _STAY - sum(_SUCCESSORS)) / num_groups)
    moves += _STAY * np.eye(num_groups)
    for group in range(num_groups):
        others = rng.permutation(np.delete(np.arange(num_groups), group))
        for target, share in zip(others, _SUCCESSORS, strict=False):
            moves[group, target] += share
    moves /= moves.sum(axis=1, keepdims=True)
    return moves
