"""Metrics of all lists together: how much of the catalogue is shown, and how evenly.

`popularity_groups` divides targets into popular, rare and cold ones.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

__all__ = ["coverage", "exposures", "gini"]

GROUPS = ("head", "middle", "tail", "cold")


def exposures(
    ranked: Int[np.ndarray, "users k"], k: int, num_items: int
) -> Int[np.ndarray, " items"]:
    """How many users have each item in their first k places.

    Args:
        ranked: Item rows, best first; -1 is an empty place.
        k: How many places count.
        num_items: Size of the catalogue.
    """
    shown = ranked[:, :k]
    return np.bincount(shown[shown >= 0], minlength=num_items)


def coverage(exposures: Int[np.ndarray, " items"]) -> float:
    """The share of the catalogue that is shown to at least one user."""
    return float((exposures > 0).mean())


def gini(exposures: Int[np.ndarray, " items"]) -> float:
    """The Gini coefficient of exposure over the whole catalogue.

    It is 0 if every item is shown equally often, and (items - 1) / items if only one is shown: the
    mean difference between two items' exposures over twice the mean. Without exposure it is 0.
    """
    ordered = np.sort(exposures).astype(np.float64)
    total, num_items = ordered.sum(), len(ordered)
    if total == 0:
        return 0.0
    places = np.arange(1, num_items + 1)
    return float(((2 * places - num_items - 1) * ordered).sum() / (num_items * total))


def popularity_groups(
    targets: Int[np.ndarray, " users"],
    cold: np.ndarray,
    item_counts: Int[np.ndarray, " items"],
) -> Int[np.ndarray, " users"]:
    """Which of "head", "middle", "tail", "cold" each target belongs to, as an index.

    Items are ordered by their interactions. The head is the items before which less than a third of
    all interactions lies, the middle those before which less than two thirds do, the tail the
    rest. Equally popular items are in one group. Cold targets never occur in training.

    Args:
        targets: Item rows.
        cold: Whether a target is cold.
        item_counts: Interactions of each item in training.

    Raises:
        ValueError: If there is no interaction at all, or a count is negative.
    """
    total = int(item_counts.sum())
    if total < 1 or item_counts.min() < 0:
        raise ValueError(
            f"item_counts must be interactions, at least one, got {total} in all, "
            f"the smallest {item_counts.min()}"
        )
    before = np.concatenate([[0], np.cumsum(np.sort(item_counts)[::-1])])
    places = popularity_places(item_counts)[targets]
    return np.where(cold, GROUPS.index("cold"), np.minimum(3 * before[places] // total, 2))


def popularity_places(item_counts: Int[np.ndarray, " items"]) -> Int[np.ndarray, " items"]:
    """How many items are more popular than each; equally popular ones have the same place."""
    ordered = np.sort(item_counts)[::-1]
    return np.searchsorted(-ordered, -item_counts, side="left")
