"""PCA, with or without whitening."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32

from semtok.quantizers.vectors import as_vectors
from semtok.storage import read_part, refusing, write_part


@dataclass(frozen=True, kw_only=True, eq=False)
class Pca:
    """A fitted linear map to fewer dimensions.

    Attributes:
        mean: What is subtracted first.
        components: One direction an output dimension, scaled to unit variance if whitened.
    """

    kind: ClassVar[str] = "pca"

    mean: Float32[np.ndarray, " dim"]
    components: Float32[np.ndarray, "reduced dim"]

    def __post_init__(self) -> None:
        if self.components.ndim != 2 or self.components.shape[1:] != self.mean.shape:
            raise ValueError("components must be as long as the mean")

    @classmethod
    def fit(cls, x: Float[np.ndarray, "items dim"], *, dim: int, whiten: bool = False) -> Pca:
        """Fits the directions of greatest variance.

        Args:
            x: Vectors.
            dim: How many directions to keep, at most the number and the length of the vectors.
            whiten: Whether to scale each direction to unit variance. Directions without variance
                stay 0.

        Raises:
            ValueError: If `dim` is out of range or `x` not finite.
        """
        from sklearn.decomposition import PCA

        x = as_vectors(x)
        if not 1 <= dim <= min(x.shape):
            raise ValueError(f"dim must be within [1, {min(x.shape)}] for x, got {dim}")
        if len(x) == 1:
            return cls(mean=x[0], components=np.eye(dim, x.shape[1], dtype=np.float32))
        fitted = PCA(n_components=dim, svd_solver="full").fit(x)
        components, variance = fitted.components_, fitted.explained_variance_
        if whiten:
            some = variance > variance[0] * 1e-10
            scales = np.where(some, np.sqrt(np.where(some, variance, 1)), np.inf)
            components = components / scales[:, None]
        return cls(mean=fitted.mean_.astype(np.float32), components=components.astype(np.float32))

    def transform(self, x: Float[np.ndarray, "items dim"]) -> Float32[np.ndarray, "items reduced"]:
        """The coordinates of vectors along the directions.

        Raises:
            ValueError: If `x` is not finite or its dim is not that of the fitted vectors.
        """
        x = as_vectors(x, dim=len(self.mean))
        reduced: Float32[np.ndarray, "items reduced"] = (
            (x.astype(np.float64) - self.mean) @ self.components.T.astype(np.float64)
        ).astype(np.float32)
        return reduced

    def save(self, folder: str | Path) -> None:
        """Writes config.json and tensors.safetensors into a new folder."""
        tensors = {"mean": self.mean, "components": self.components}
        write_part(folder, {"kind": self.kind}, tensors)

    @classmethod
    def load(cls, folder: str | Path) -> Pca:
        """Reads what `save` wrote.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        _, tensors = read_part(folder, cls.kind)
        with refusing(folder):
            return cls(mean=tensors["mean"], components=tensors["components"])
