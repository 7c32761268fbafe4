"""Random codes: what a quantizer must beat (PRORec, figure 8)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int64

from semtok.limits import MOST_CODES
from semtok.parts import floats, read_part, refusing, whole, wholes, write_part
from semtok.progress import Progress, report
from semtok.quantizers.fitted import FittedQuantizer
from semtok.quantizers.nearest import vector_keys
from semtok.vectors import (
    check_codes,
    check_options,
    mean_vector,
    measured_distortion,
    vector_chunks,
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RandomCodes(FittedQuantizer):
    """Codes that depend only on a hash of the vector, keyed by the seed.

    Equal vectors have equal codes; the codes of different vectors are practically independent.

    Attributes:
        codebook_sizes: The number of codes at each level.
        seed: The key of the hash.
        mean: The mean of the fitted vectors, to which all codes decode.
    """

    kind: ClassVar[str] = "random"

    codebook_sizes: tuple[int, ...]
    seed: int
    mean: Float32[np.ndarray, " dim"]

    def __post_init__(self) -> None:
        if not self.codebook_sizes or min(self.codebook_sizes) < 2:
            raise ValueError(f"codebook_sizes must be at least 2 each, got {self.codebook_sizes}")
        if self.mean.ndim != 1 or self.seed < 0:
            raise ValueError("mean must be one vector and seed at least 0")

    @classmethod
    def fit(
        cls,
        x: Float[np.ndarray, "items dim"],
        *,
        num_levels: int = 3,
        codebook_size: int = 256,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> RandomCodes:
        """Takes the mean of the vectors and the seed.

        Args:
            x: Vectors.
            num_levels: Codes per item.
            codebook_size: The number of codes at each level.
            seed: The same seed and vectors give the same codes.
            progress: Called once, at the end.

        Raises:
            ValueError: If `x` is empty or not finite, or an option is out of range.
        """
        check_options(("num_levels", num_levels, 1), ("codebook_size", codebook_size, 2))
        check_options(("seed", seed, 0))
        mean = mean_vector(x)
        report(progress, len(x), len(x))
        sizes = (codebook_size,) * num_levels
        return cls(codebook_sizes=sizes, seed=seed, mean=mean, fitted_vectors=x)

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        return len(self.mean)

    @property
    def num_levels(self) -> int:
        """Codes per item."""
        return len(self.codebook_sizes)

    def encode(self, x: Float[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The codes of vectors, by their exact float32 values.

        Raises:
            ValueError: If `x` is not finite or has another dim than the fitted vectors.
        """
        codes = np.empty((len(x), self.num_levels), dtype=np.int64)
        for rows, part in vector_chunks(x, dim=self.dim):
            keys = vector_keys(part, seed=self.seed)
            for level, size in enumerate(self.codebook_sizes):
                codes[rows, level] = _mixed(keys, level) % np.uint64(size)
        return codes

    def decode(self, codes: Int64[np.ndarray, "items levels"]) -> Float32[np.ndarray, "items dim"]:
        """The mean of the fitted vectors, whatever the codes.

        Raises:
            ValueError: If a code is outside its codebook.
        """
        check_codes(codes, self.codebook_sizes)
        return np.tile(self.mean, (len(codes), 1))

    def distortion(self, x: Float[np.ndarray, "items dim"]) -> tuple[float, ...]:
        """Mean squared distance to the mean; it is the same at every level."""
        return measured_distortion(self, x)

    def save(self, folder: str | Path) -> None:
        """Writes config.json and tensors.safetensors into a new folder.

        Raises:
            FileExistsError: If the folder exists already.
        """
        config = {"kind": self.kind, "codebook_sizes": self.codebook_sizes, "seed": self.seed}
        write_part(folder, config, {"mean": self.mean})

    @classmethod
    def load(cls, folder: str | Path) -> RandomCodes:
        """Reads what `save` wrote.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        config, tensors = read_part(folder, cls.kind)
        with refusing(folder):
            return cls(
                codebook_sizes=wholes(config, "codebook_sizes", 2, MOST_CODES),
                seed=whole(config, "seed", 0, 2**63),
                mean=floats(tensors, "mean", 1),
            )


def _mixed(keys: np.ndarray, level: int) -> np.ndarray:
    """The splitmix64 finalizer over keys, with a stream for each level."""
    z = keys + np.uint64((level + 1) * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


def random_codes(
    num_items: int, *, codebook_size: int = 256, seed: int = 0
) -> Int64[np.ndarray, "items levels"]:
    """Unique random codes with the fewest levels that can hold all items.

    Args:
        num_items: How many items, at least 1.
        codebook_size: Codes at each level, at least 2.
        seed: Draws the codes.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_options(("num_items", num_items, 1), ("codebook_size", codebook_size, 2))
    num_levels = 1
    while codebook_size**num_levels < num_items:
        num_levels += 1
    shape = (codebook_size,) * num_levels
    draws = np.random.default_rng(seed).choice(codebook_size**num_levels, num_items, replace=False)
    return np.stack(np.unravel_index(draws, shape), axis=1).astype(np.int64)
