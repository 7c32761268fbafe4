"""The steps that decide which interactions a preparation keeps."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evalrec.filtering import drop_repeats, drop_short, k_core, keep_items, keep_last, sample_users
from evalrec.interactions import DataError, Interactions
from evalrec.readers.formats import Progress


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Which interactions are kept. The fields are in the order of the steps, except the last two.

    Attributes:
        min_rating: Interactions rated lower are left out; None keeps all.
        unknown_items: Whether interactions with items that no file describes are kept, dropped or
            refused. For a table, use `TableOptions.unknown_items`.
        duplicates: Which of the repeated pairs of a user and an item are kept: all, the first or
            the last.
        min_interactions: Users with fewer interactions are left out; 1 keeps all.
        k_core: Users and items with fewer interactions are left out, repeatedly until all remaining
            ones have enough; 1 keeps all.
        sample_users: Number of users that are sampled at random; None keeps all. Afterwards, items
            may have fewer interactions than `k_core`.
        max_history: Number of the last interactions that are kept for each user; None keeps all.
            Afterwards, items may have fewer interactions than `k_core`.
        seed: Seed of the sample of users.
        keep_images: Whether items keep their image, a URL or a path, as the field `image`. The
            fields of a native folder and the images of a table are always kept.

    Raises:
        ValueError: If an option is out of range.
    """

    min_rating: float | None = None
    unknown_items: Literal["keep", "drop", "refuse"] = "keep"
    duplicates: Literal["keep", "first", "last"] = "keep"
    min_interactions: int = 1
    k_core: int = 5
    sample_users: int | None = None
    max_history: int | None = None
    seed: int = 0
    keep_images: bool = False

    def __post_init__(self) -> None:
        if self.min_rating is not None and not np.isfinite(self.min_rating):
            raise ValueError(f"min_rating must be a number, got {self.min_rating}")
        if self.unknown_items not in ("keep", "drop", "refuse"):
            raise ValueError(
                f"unknown_items must be keep, drop or refuse, got {self.unknown_items!r}"
            )
        if self.duplicates not in ("keep", "first", "last"):
            raise ValueError(f"duplicates must be keep, first or last, got {self.duplicates!r}")
        for name in ("min_interactions", "k_core"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("sample_users", "max_history"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


def reduce(
    table: Interactions,
    options: PrepareOptions,
    progress: Progress | None,
    *,
    described: Container[str] | None = None,
) -> tuple[Interactions, list[dict[str, Any]]]:
    """Apply the steps of the options to the interactions that are rated high enough.

    Args:
        table: The interactions.
        options: Which interactions are kept.
        progress: Called with "filtering".
        described: The items that a file describes, for `unknown_items`; None if all are kept.

    Returns:
        The remaining interactions, and the counts after each step.

    Raises:
        DataError: If nothing is left, if there are fewer users than `sample_users`, or if an
            unknown item is refused.
    """
    steps = [_step("read", table)]
    if progress is not None:
        progress("filtering", 0, 1)
    if described is not None and options.unknown_items == "refuse":
        _refuse_unknown(table, described)
    elif described is not None and options.unknown_items == "drop":
        table = keep_items(table, described)
        steps.append(_step("items that are described", table))
    if options.duplicates != "keep":
        table = drop_repeats(table, keep=options.duplicates)
        steps.append(_step(f"{options.duplicates} of repeated pairs", table))
    if options.min_interactions > 1:
        table = drop_short(table, n=options.min_interactions)
        steps.append(_step(f"users of {options.min_interactions} or more", table))
    table = k_core(table, k=options.k_core)
    if options.k_core > 1:
        steps.append(_step(f"{options.k_core}-core", table))
    if options.sample_users is not None:
        table = sample_users(table, n=options.sample_users, seed=options.seed)
        steps.append(_step(f"{options.sample_users:,} users drawn", table))
    if options.max_history is not None:
        table = keep_last(table, n=options.max_history)
        steps.append(_step(f"last {options.max_history} of each user", table))
    if progress is not None:
        progress("filtering", 1, 1)
    return table, steps


def counts_of(table: Interactions) -> dict[str, int]:
    """How many users and items have interactions, and how many interactions there are."""
    users, items = (np.count_nonzero(np.bincount(rows)) for rows in (table.users, table.items))
    return {"users": int(users), "items": int(items), "interactions": len(table)}


def _step(name: str, table: Interactions) -> dict[str, Any]:
    return {"step": name, **counts_of(table)}


def _refuse_unknown(table: Interactions, described: Container[str]) -> None:
    unknown = [item for item in table.item_ids if item not in described]
    if unknown:
        raise DataError(
            f"{len(unknown):,} items have interactions, but no file describes them, such as "
            f"{unknown[0]!r}; unknown_items='drop' leaves them out"
        )
