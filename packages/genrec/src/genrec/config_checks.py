"""A type and checks that configurations share; they import no torch."""

from __future__ import annotations

from typing import Literal

Similarity = Literal["dot", "cosine"]


def check_similarity(similarity: Similarity, temperature: float) -> None:
    """Checks a similarity and its temperature.

    Raises:
        ValueError: The similarity is unknown, or the temperature is not positive.
    """
    if similarity not in ("dot", "cosine"):
        raise ValueError(f"similarity must be 'dot' or 'cosine', got {similarity!r}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def check_negatives(num_negatives: int) -> None:
    """Checks a number of negatives; 0 means all items.

    Raises:
        ValueError: It is below 0.
    """
    if num_negatives < 0:
        raise ValueError(f"num_negatives must be at least 0, got {num_negatives}")


def check_positive(**values: int) -> None:
    """Checks counts by name.

    Raises:
        ValueError: A count is below 1.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
