"""The methods that every quantizer has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int64


@runtime_checkable
class Quantizer(Protocol):
    """A fitted quantizer, made by its class's `fit` or `load`.

    Vectors may be a memory map larger than memory: `fit` learns from a sample drawn by the seed,
    and all other methods work in chunks. The codes of a vector depend on that vector only.
    """

    @classmethod
    def fit(cls, x: Float[np.ndarray, "items dim"], *args: Any, **options: Any) -> Quantizer:
        """Fits the quantizer.

        Args:
            x: Vectors.
            *args: A configuration, for a class that takes one; options are passed by name.
            **options: `seed`, `progress` (called with the work done and the total work), and the
                options of this class.

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
        """The number of codes at each level."""
        ...

    if TYPE_CHECKING:  # else, up to Python 3.11, each isinstance would compute the codes

        @property
        def codes(self) -> Int64[np.ndarray, "items levels"]:
            """The codes of the vectors that the quantizer was fitted on, in their order.

            For hierarchical k-means they are unique, even if vectors are equal. For all others
            they are what `encode` returns, computed at first use and not saved.

            Raises:
                ValueError: If the quantizer was loaded, and is not hierarchical k-means.
            """
            ...

    def encode(self, x: Float[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The codes of any vectors, each row independent of the others.

        Raises:
            ValueError: If `x` is not finite or has another dim than the fitted vectors.
        """
        ...

    def decode(self, codes: Int64[np.ndarray, "items levels"]) -> Float32[np.ndarray, "items dim"]:
        """The vectors that codes, or their first few levels, decode to.

        Raises:
            ValueError: If the codes are not codes of this quantizer.
        """
        ...

    def distortion(self, x: Float[np.ndarray, "items dim"]) -> tuple[float, ...]:
        """Mean squared distance to the vectors that the first 1, 2, ... levels decode to."""
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
