"""What configurations share: a choice, and checks that need no torch to refuse a value."""

from __future__ import annotations

from typing import Literal

Similarity = Literal["dot", "cosine"]


def check_similarity(similarity: Similarity, temperature: float) -> None:
    """Refuses a similarity that is none, or a temperature that is not positive.

    Raises:
        ValueError: One of them is out of range.
    """
    if similarity not in ("dot", "cosine"):
        raise ValueError(f"similarity must be 'dot' or 'cosine', got {similarity!r}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def check_negatives(num_negatives: int) -> None:
    """Refuses a number of negatives below 0, which stands for all items."""
    if num_negatives < 0:
        raise ValueError(f"num_negatives must be at least 0, got {num_negatives}")


def check_positive(**values: int) -> None:
    """Refuses counts below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
