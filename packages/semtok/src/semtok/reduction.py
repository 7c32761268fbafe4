"""PCA, with or without whitening, and vectors brought to one scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32

from semtok.parts import floats, read_part, refusing, write_part
from semtok.threads import one_thread
from semtok.vectors import (
    check_options,
    mean_vector,
    stable_product,
    training_sample,
    vector_chunks,
)


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
    def fit(
        cls,
        x: Float[np.ndarray, "items dim"],
        *,
        dim: int,
        whiten: bool = False,
        max_training_items: int = 262_144,
        seed: int = 0,
    ) -> Pca:
        """Fits the directions of greatest variance, from the covariance in float64.

        Args:
            x: Vectors; may be a memory map.
            dim: How many directions to keep, at most the number and the length of the vectors.
            whiten: Whether to scale each direction to unit variance. Directions without variance
                stay 0.
            max_training_items: How many vectors, drawn at random, are learned from.
            seed: Draws them.

        Raises:
            ValueError: If `dim` is out of range or `x` empty or not finite.
        """
        check_options(("max_training_items", max_training_items, 1), ("seed", seed, 0))
        x = training_sample(x, max_training_items=max_training_items, seed=seed)
        if not 1 <= dim <= min(x.shape):
            raise ValueError(f"dim must be within [1, {min(x.shape)}] for x, got {dim}")
        mean = mean_vector(x)
        if len(x) == 1:
            return cls(mean=mean, components=np.eye(dim, x.shape[1], dtype=np.float32))
        with one_thread():
            variance, components = _directions(x, mean, dim)
        # A direction has no sign of its own: its largest coordinate is made positive.
        largest = np.abs(components).argmax(axis=1)
        components = components * np.sign(components[np.arange(dim), largest])[:, None]
        if whiten:
            varies = variance > variance[0] * 1e-10
            scales = np.where(varies, np.sqrt(np.where(varies, variance, 1)), np.inf)
            components = components / scales[:, None]
        return cls(mean=mean, components=components.astype(np.float32))

    def __repr__(self) -> str:
        dims, kept = self.components.shape[::-1]
        return f"Pca({dims} to {kept} dimensions)"

    def transform(self, x: Float[np.ndarray, "items dim"]) -> Float32[np.ndarray, "items reduced"]:
        """The coordinates of vectors along the directions, each row independent of the others.

        Raises:
            ValueError: If `x` is not finite or its dim is not that of the fitted vectors.
        """
        reduced = np.empty((len(x), len(self.components)), dtype=np.float32)
        for rows, part in vector_chunks(x, dim=len(self.mean)):
            reduced[rows] = stable_product(part.astype(np.float64) - self.mean, self.components.T)
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
            return cls(mean=floats(tensors, "mean", 1), components=floats(tensors, "components", 2))


def _directions(
    x: Float32[np.ndarray, "items dim"], mean: Float32[np.ndarray, " dim"], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The greatest variances, and their directions, one a row."""
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for _, part in vector_chunks(x):
        gaps = part.astype(np.float64) - mean
        covariance += gaps.T @ gaps
    variance, directions = np.linalg.eigh(covariance / (len(x) - 1))
    return variance[::-1][:count], directions.T[::-1][:count]


def standardised(
    vectors: Float[np.ndarray, "items _"], dim: int
) -> Float32[np.ndarray, "items reduced"]:
    """Vectors reduced by PCA, of mean 0 in each dimension and of unit variance over all of them.

    Args:
        vectors: One an item.
        dim: How many dimensions PCA keeps. No fewer vectors or dimensions than that: none is lost.

    Raises:
        ValueError: If `dim` is less than 1, `vectors` holds none, or PCA meets a number that is
            not finite.
    """
    check_options(("dim", dim, 1))
    if len(vectors) == 0:
        raise ValueError("vectors must hold at least one vector, got none")
    if dim < min(vectors.shape):
        vectors = Pca.fit(vectors, dim=dim).transform(vectors)
    vectors = vectors - vectors.mean(axis=0)
    scaled: Float[np.ndarray, "items reduced"] = vectors / vectors.std().clip(1e-6)
    return scaled.astype(np.float32)
