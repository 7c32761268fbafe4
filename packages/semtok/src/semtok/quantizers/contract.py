"""What every quantizer can do, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int64

from semtok.catalog import CatalogError
from semtok.storage import read_part

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


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
            *args: None; all options are named.
            **options: `seed`, `progress` (called with how much is done, and of how much), and
                those that each class has of its own.

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
        """Codes an item."""
        ...

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes to choose from at each level."""
        ...

    def encode(self, x: Float[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The codes of any vectors, each row's independent of the others.

        Raises:
            ValueError: If `x` is not finite or its dim is not that of the fitted vectors.
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


@dataclass(frozen=True, kw_only=True)
class QuantizerKind:
    """A quantizer by name; its module is imported on first use.

    Attributes:
        module: Where the class is, below `semtok.quantizers`.
        class_name: Its name there.
        options: Of its `fit`, set by the name.
        kind: What its config.json says.
    """

    module: str
    class_name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def quantizer_class(self) -> type[Any]:
        """The class, which follows `Quantizer`."""
        found: type[Any] = getattr(
            import_module(f"semtok.quantizers.{self.module}"), self.class_name
        )
        return found

    def fit(self, x: Float[np.ndarray, "items dim"], **options: Any) -> Quantizer:
        """Fits the class with the name's options and any others that it has."""
        fitted: Quantizer = self.quantizer_class.fit(x, **self.options, **options)
        return fitted


QUANTIZERS: dict[str, QuantizerKind] = {
    "hierarchical": QuantizerKind(
        module="hierarchical", class_name="HierarchicalKMeans", kind="hierarchical_kmeans"
    ),
    "pq": QuantizerKind(module="product", class_name="ProductQuantizer", kind="product"),
    "opq": QuantizerKind(
        module="product", class_name="ProductQuantizer", kind="product", options={"rotate": True}
    ),
    "rq": QuantizerKind(module="residual", class_name="ResidualQuantizer", kind="residual"),
    "rqvae": QuantizerKind(module="rqvae", class_name="RqVae", kind="rqvae"),
    "random": QuantizerKind(module="random", class_name="RandomCodes", kind="random"),
}
"""Every quantizer by the name that command lines have for it."""


def load_quantizer(folder: str | Path) -> Quantizer:
    """Loads whichever quantizer a folder holds.

    Raises:
        CatalogError: If it holds none that this version knows.
    """
    config, _ = read_part(folder)
    for known in QUANTIZERS.values():
        if known.kind == config.get("kind"):
            loaded: Quantizer = known.quantizer_class.load(folder)
            return loaded
    from semtok.views import ViewQuantizer

    if config.get("kind") == ViewQuantizer.kind:
        return ViewQuantizer.load(folder)
    raise CatalogError(f"{folder}: unknown kind of quantizer {config.get('kind')!r}")
