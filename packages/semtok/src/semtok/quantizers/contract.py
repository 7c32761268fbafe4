"""What every quantizer can do."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int64

from semtok.catalog import CatalogError
from semtok.storage import read_part

_LIMIT = 1e15  # squares and sums of greater numbers overflow float32


@runtime_checkable
class Quantizer(Protocol):
    """A fitted quantizer: made by its class's `fit` or `load`, never half-made."""

    @property
    def num_levels(self) -> int:
        """Codes an item."""
        ...

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes to choose from at each level."""
        ...

    def encode(self, x: Float[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The codes of any vectors, each row's independent of the others."""
        ...

    def decode(self, codes: Int64[np.ndarray, "items levels"]) -> Float32[np.ndarray, "items dim"]:
        """The vectors that codes, or their first few levels, stand for."""
        ...

    def distortion(self, x: Float[np.ndarray, "items dim"]) -> tuple[float, ...]:
        """Mean squared distance to what the first 1, 2, ... levels stand for."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes the quantizer into a new folder."""
        ...


def load_quantizer(folder: str | Path) -> Quantizer:
    """Loads whichever quantizer a folder holds.

    Raises:
        CatalogError: If it holds none that this version knows.
    """
    from semtok.quantizers.hierarchical import HierarchicalKMeans

    config, _ = read_part(folder)
    if config.get("kind") != HierarchicalKMeans.kind:
        raise CatalogError(f"{folder}: unknown kind of quantizer {config.get('kind')!r}")
    return HierarchicalKMeans.load(folder)


def as_vectors(
    x: Float[np.ndarray, "items dim"], *, dim: int | None = None
) -> Float32[np.ndarray, "items dim"]:
    """The vectors as contiguous float32.

    Args:
        x: Vectors.
        dim: How long each must be; None takes any length.

    Raises:
        ValueError: If `x` is not two-dimensional, has another dim, or holds a number that is not
            finite or too large to be squared.
    """
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"x must have the shape [items, dim], got {list(x.shape)}")
    if dim is not None and x.shape[1] != dim:
        raise ValueError(f"x must have dim {dim}, as the fitted vectors, got {x.shape[1]}")
    bad = ~(np.abs(x) <= _LIMIT).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"x must hold finite numbers within +-{_LIMIT:g}, got others in row {row}")
    return np.ascontiguousarray(x, dtype=np.float32)
