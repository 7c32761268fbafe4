"""What every quantizer can do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int64


@runtime_checkable
class Quantizer(Protocol):
    """A fitted quantizer: made by its class's `fit` or `load`, never half-made.

    Vectors may be a memory map larger than memory: `fit` learns from a sample drawn by the seed,
    and all else works in chunks. The codes of a vector depend on nothing but the vector.
    """

    @classmethod
    def fit(cls, x: Float[np.ndarray, "items dim"], *args: Any, **options: Any) -> Quantizer:
        """Fits the quantizer.

        Args:
            x: Vectors.
            *args: A configuration, for a class that takes one; options are named.
            **options: `seed`, `progress` (called with the work done and the total work), and
                those that only this class has.

        Raises:
            ValueError: If `x` is empty or not finite, or an option is out of range.
        """
        ...

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        ...

    @property
    def num_levels(self) -> int:
        """Codes per item."""
        ...

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes to choose from at each level."""
        ...

    if TYPE_CHECKING:  # else, up to Python 3.11, each isinstance would make the codes

        @property
        def codes(self) -> Int64[np.ndarray, "items levels"]:
            """The codes of the vectors that it was fitted on, in their order.

            Those of hierarchical k-means are unique, also where vectors are equal; those of all
            others are what `encode` gives, made at first use and not kept in a folder.

            Raises:
                ValueError: If the quantizer was loaded, and is not hierarchical k-means.
            """
            ...

    def encode(self, x: Float[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The codes of any vectors, each row's independent of the others.

        Raises:
            ValueError: If `x` is not finite or has another dim than the fitted vectors.
        """
        ...

    def decode(self, codes: Int64[np.ndarray, "items levels"]) -> Float32[np.ndarray, "items dim"]:
        """The vectors that codes, or their first few levels, stand for.

        Raises:
            ValueError: If the codes are none of this quantizer's.
        """
        ...

    def distortion(self, x: Float[np.ndarray, "items dim"]) -> tuple[float, ...]:
        """Mean squared distance to what the first 1, 2, ... levels stand for."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes the quantizer into a new folder.

        Raises:
            FileExistsError: If the folder exists already.
        """
        ...

    @classmethod
    def load(cls, folder: str | Path) -> Quantizer:
        """Reads what `save` wrote.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        ...
