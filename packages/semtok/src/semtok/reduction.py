"""PCA, with or without whitening, and standardisation of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32

from semtok.parts import (
    flag,
    floats,
    number,
    read_part,
    refusing,
    write_part,
    write_tensors,
    writing_part,
)
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
        mean: Subtracted from a vector first: [dim].
        components: The directions, scaled to unit variance if whitened: [reduced, dim].
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
            max_training_items: How many vectors, drawn at random, are used for fitting.
            seed: Draws these vectors.

        Raises:
            ValueError: If `dim` is out of range, or `x` is empty or not finite.
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
        # PCA leaves the sign of a direction open: its largest coordinate is made positive.
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
            ValueError: If `x` is not finite or has another dim than the fitted vectors.
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
    """The greatest variances, and their directions, one per row."""
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for _, part in vector_chunks(x):
        gaps = part.astype(np.float64) - mean
        covariance += gaps.T @ gaps
    variance, directions = np.linalg.eigh(covariance / (len(x) - 1))
    return variance[::-1][:count], directions.T[::-1][:count]


MOST_SCALE = float(np.finfo(np.float32).max)
"""The greatest scale of vectors of single precision."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Standardisation:
    """PCA, then mean 0 in each dimension and unit variance over all dimensions together.

    The map is fitted on some vectors and then applied to later ones, so that a model trained on
    the first vectors stays valid for the later ones.

    Attributes:
        pca: The reduction; None where no dimension is dropped.
        mean: Subtracted from the reduced vectors.
        scale: Then divides the difference.
    """

    kind: ClassVar[str] = "standardisation"

    pca: Pca | None
    mean: Float32[np.ndarray, " reduced"]
    scale: float

    def __post_init__(self) -> None:
        if self.pca is not None and len(self.pca.components) != len(self.mean):
            raise ValueError("mean must be as long as what the reduction gives")
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale must be above 0 and finite, got {self.scale}")

    @classmethod
    def fit(cls, vectors: Float[np.ndarray, "items _"], dim: int) -> Standardisation:
        """Fits the map that `standardised` applies.

        Args:
            vectors: One per item.
            dim: How many dimensions PCA keeps. If there are no more vectors or dimensions than
                this, none is dropped.

        Raises:
            ValueError: For the same reasons as `standardised`.
        """
        check_options(("dim", dim, 1))
        if len(vectors) == 0:
            raise ValueError("vectors must hold at least one vector, got none")
        pca = Pca.fit(vectors, dim=dim) if dim < min(vectors.shape) else None
        reduced = vectors if pca is None else pca.transform(vectors)
        mean = reduced.mean(axis=0)
        scale = (reduced - mean).std().clip(1e-6)
        return cls(pca=pca, mean=mean.astype(np.float32), scale=float(scale))

    def transform(
        self, vectors: Float[np.ndarray, "items _"]
    ) -> Float32[np.ndarray, "items reduced"]:
        """Reduces vectors, subtracts the mean and divides by the scale.

        Raises:
            ValueError: If the vectors have another dim than the fitted ones, or are not finite.
        """
        if self.pca is not None:
            vectors = self.pca.transform(vectors)
        elif vectors.shape[1] != len(self.mean):
            raise ValueError(
                f"vectors must have {len(self.mean)} dimensions, as those that were fitted, got "
                f"{vectors.shape[1]}"
            )
        scaled: Float[np.ndarray, "items reduced"] = (vectors - self.mean) / self.scale
        return scaled.astype(np.float32)

    def save(self, folder: str | Path) -> None:
        """Writes config.json, tensors.safetensors and the reduction into a new folder."""
        config = {"kind": self.kind, "scale": self.scale, "is_reduced": self.pca is not None}
        with writing_part(folder, config) as beside:
            write_tensors(beside / "tensors.safetensors", {"mean": self.mean})
            if self.pca is not None:
                self.pca.save(beside / "pca")

    @classmethod
    def load(cls, folder: str | Path) -> Standardisation:
        """Reads what `save` wrote.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        config, tensors = read_part(folder, cls.kind)
        with refusing(folder):
            pca = Pca.load(Path(folder) / "pca") if flag(config, "is_reduced") else None
            mean, scale = floats(tensors, "mean", 1), number(config, "scale", 0, MOST_SCALE)
            return cls(pca=pca, mean=mean, scale=scale)


def standardised(
    vectors: Float[np.ndarray, "items _"], dim: int
) -> Float32[np.ndarray, "items reduced"]:
    """Vectors reduced by PCA, of mean 0 in each dimension and of unit variance over all of them.

    Args:
        vectors: One per item.
        dim: How many dimensions PCA keeps. If there are no more vectors or dimensions than this,
            none is dropped.

    Raises:
        ValueError: If `dim` is less than 1, `vectors` holds none, or PCA meets a number that is
            not finite.
    """
    return Standardisation.fit(vectors, dim).transform(vectors)
