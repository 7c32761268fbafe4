"""Product quantization, plain (PQ) and after a learned rotation (OPQ)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int64

from semtok.parts import floats, read_part, refusing, write_part
from semtok.progress import Progress, report
from semtok.quantizers.fitted import FittedQuantizer
from semtok.quantizers.kmeans import check_kmeans_device, kmeans
from semtok.quantizers.nearest import nearest
from semtok.vectors import (
    check_codes,
    check_options,
    mean_vector,
    measured_distortion,
    stable_product,
    training_sample,
    vector_chunks,
)

_ROTATIONS = 8


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ProductQuantizer(FittedQuantizer):
    """PQ (Jegou et al., 2011): the dimensions in equal parts, each part with its own codebook.

    The code of level l is the nearest of `codebook_size` centroids to the l-th part of the vector.
    If the levels do not divide the dimensions, the last parts are padded with zeros.

    Attributes:
        codebooks: The centroids of each part.
        mean: The mean of the fitted vectors: decodes the levels that a prefix leaves out.
        rotation: Only for `OptimizedProductQuantizer`: orthogonal, as long as all parts together.
        device: Where `encode` searches nearest centroids: "cpu", or another device of torch. The
            codes do not depend on it. Not saved.
    """

    kind: ClassVar[str] = "product"

    codebooks: Float32[np.ndarray, "levels codes part"]
    mean: Float32[np.ndarray, " dim"]
    rotation: Float32[np.ndarray, "padded padded"] | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.codebooks.ndim != 3 or self.mean.ndim != 1 or 0 in self.codebooks.shape:
            raise ValueError("codebooks must have the shape [levels, codes, part], mean [dim]")
        padded = self.codebooks.shape[0] * self.codebooks.shape[2]
        if not 0 <= padded - self.dim < self.codebooks.shape[0]:
            raise ValueError(f"codebooks must be {self.dim} long in all, as the mean, got {padded}")
        if self.rotation is not None and self.rotation.shape != (padded, padded):
            raise ValueError(f"rotation must have the shape {[padded, padded]}")

    @classmethod
    def fit(
        cls,
        x: Float[np.ndarray, "items dim"],
        *,
        num_levels: int = 4,
        codebook_size: int = 256,
        iterations: int = 25,
        max_training_items: int = 65_536,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> ProductQuantizer:
        """Fits a k-means for each part of the dimensions (faiss).

        Args:
            x: Vectors; may be a memory map.
            num_levels: The number of parts, at most the number of dimensions.
            codebook_size: Centroids per part.
            iterations: Iterations of each k-means.
            max_training_items: How many vectors, drawn at random, are used for fitting.
            seed: The same seed and vectors give the same quantizer.
            device: Where k-means runs: "cpu" for faiss; any other device of torch for torch, which
                ends at other centroids.
            progress: Called with the number of fitted parts and of all parts.

        Raises:
            ValueError: If `x` is empty or not finite, or an option is out of range.
        """
        check_options(
            ("num_levels", num_levels, 1),
            ("codebook_size", codebook_size, 2),
            ("iterations", iterations, 1),
            ("max_training_items", max_training_items, 1),
            ("seed", seed, 0),
        )
        check_kmeans_device(device)
        sample = training_sample(x, max_training_items=max_training_items, seed=seed)
        if num_levels > sample.shape[1]:
            raise ValueError(
                f"num_levels must be at most {sample.shape[1]}, as there are dimensions, "
                f"got {num_levels}"
            )
        mean = mean_vector(sample)
        sample = _padded(sample, num_levels)
        rotation = cls._fit_rotation(sample, num_levels, codebook_size, seed, device)
        if rotation is not None:
            sample = stable_product(sample, rotation).astype(np.float32)
        codebooks = []
        for level, part in enumerate(_parts(sample, num_levels)):
            codebooks.append(
                kmeans(
                    part, codebook_size, iterations=iterations, seed=(seed, level), device=device
                )
            )
            report(progress, level + 1, num_levels)
        return cls(
            codebooks=np.stack(codebooks),
            mean=mean,
            rotation=rotation,
            device=device,
            fitted_vectors=x,
        )

    @classmethod
    def _fit_rotation(
        cls,
        x: Float32[np.ndarray, "items padded"],
        num_levels: int,
        codebook_size: int,
        seed: int,
        device: str,
    ) -> Float32[np.ndarray, "padded padded"] | None:
        """The rotation that is applied before the split into parts; plain PQ has none."""
        return None

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        return len(self.mean)

    @property
    def num_levels(self) -> int:
        """Codes per item: one per part."""
        return len(self.codebooks)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Centroids of each part."""
        return (self.codebooks.shape[1],) * self.num_levels

    def encode(self, x: Float[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The nearest centroid for each part of vectors; of equally near ones, the first.

        Raises:
            ValueError: If `x` is not finite or has another dim than the fitted vectors.
        """
        codes = np.empty((len(x), self.num_levels), dtype=np.int64)
        for rows, chunk in vector_chunks(x, dim=self.dim):
            for level, part in enumerate(_parts(self._rotated(chunk), self.num_levels)):
                codes[rows, level] = nearest(part, self.codebooks[level], device=self.device)
        return codes

    def decode(self, codes: Int64[np.ndarray, "items levels"]) -> Float32[np.ndarray, "items dim"]:
        """The vectors that codes decode to; levels that are left out decode to the mean.

        Raises:
            ValueError: If a code is outside its codebook.
        """
        check_codes(codes, self.codebook_sizes)
        parts = list(_parts(self._rotated(self.mean[None]), self.num_levels))
        known = [self.codebooks[level][codes[:, level]] for level in range(codes.shape[1])]
        rest = [np.repeat(part, len(codes), axis=0) for part in parts[codes.shape[1] :]]
        vectors = np.concatenate([*known, *rest], axis=1)
        if self.rotation is not None:
            vectors = stable_product(vectors, self.rotation.T).astype(np.float32)
        return np.ascontiguousarray(vectors[:, : self.dim])

    def distortion(self, x: Float[np.ndarray, "items dim"]) -> tuple[float, ...]:
        """Mean squared distance from vectors to the vectors of their first 1, 2, ... codes."""
        return measured_distortion(self, x)

    def save(self, folder: str | Path) -> None:
        """Writes config.json and tensors.safetensors into a new folder.

        Raises:
            FileExistsError: If the folder exists already.
        """
        tensors = {"codebooks": self.codebooks, "mean": self.mean}
        if self.rotation is not None:
            tensors["rotation"] = self.rotation
        write_part(folder, {"kind": self.kind}, tensors)

    @classmethod
    def load(cls, folder: str | Path) -> ProductQuantizer:
        """Reads what `save` wrote: an `OptimizedProductQuantizer` if there is a rotation.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        _, tensors = read_part(folder, cls.kind)
        loaded_class = OptimizedProductQuantizer if "rotation" in tensors else cls
        with refusing(folder):
            return loaded_class(
                codebooks=floats(tensors, "codebooks", 3),
                mean=floats(tensors, "mean", 1),
                rotation=floats(tensors, "rotation", 2) if "rotation" in tensors else None,
            )

    def _rotated(self, x: Float32[np.ndarray, "items dim"]) -> Float32[np.ndarray, "items padded"]:
        """The vectors padded and rotated, each row independent of the others."""
        x = _padded(x, self.num_levels)
        if self.rotation is None:
            return x
        return stable_product(x, self.rotation).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OptimizedProductQuantizer(ProductQuantizer):
    """OPQ (Ge et al., 2013): PQ after a rotation that makes the parts easy to quantize.

    Its options and its folder are the same as for `ProductQuantizer`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rotation is None:
            raise ValueError("rotation must be given: without one it is a ProductQuantizer")

    @classmethod
    def _fit_rotation(
        cls,
        x: Float32[np.ndarray, "items padded"],
        num_levels: int,
        codebook_size: int,
        seed: int,
        device: str,
    ) -> Float32[np.ndarray, "padded padded"]:
        return _learned_rotation(x, num_levels, codebook_size, seed, device)


def _padded(
    x: Float32[np.ndarray, "items dim"], num_levels: int
) -> Float32[np.ndarray, "items padded"]:
    """The vectors padded with zeros up to the next multiple of the number of levels."""
    missing = -x.shape[1] % num_levels
    return np.pad(x, ((0, 0), (0, missing))) if missing else x


def _parts(
    x: Float32[np.ndarray, "items padded"], num_levels: int
) -> Iterator[Float32[np.ndarray, "items part"]]:
    """The parts of the vectors, in order."""
    size = x.shape[1] // num_levels
    for level in range(num_levels):
        yield np.ascontiguousarray(x[:, level * size : (level + 1) * size])


def _learned_rotation(
    x: Float32[np.ndarray, "items padded"],
    num_levels: int,
    codebook_size: int,
    seed: int,
    device: str,
) -> Float32[np.ndarray, "padded padded"]:
    """The rotation of OPQ, to be multiplied from the right: the best of a few rounds.

    The first round distributes the principal directions so that the variances of each part have
    about the same product. Each further round fits the vectors to what the codes of the previous
    round decode to. (The OPQ of faiss ends the process if there are few vectors or dimensions.)
    """
    rotation = _shared_directions(x, num_levels)
    best = (np.inf, rotation)
    for step in range(_ROTATIONS):
        rotated = stable_product(x, rotation).astype(np.float32)
        decoded = np.empty_like(rotated)
        size = rotated.shape[1] // num_levels
        for level, part in enumerate(_parts(rotated, num_levels)):
            codebook = kmeans(
                part, codebook_size, iterations=10, seed=(seed, level, step), device=device
            )
            decoded[:, level * size : (level + 1) * size] = codebook[
                nearest(part, codebook, device=device)
            ]
        rotated -= decoded
        error = float(np.einsum("nd,nd->n", rotated, rotated).sum(dtype=np.float64))
        del rotated
        if error < best[0]:
            best = (error, rotation)
        left, _, right = np.linalg.svd(_cross_product(x, decoded))
        rotation = (left @ right).astype(np.float32)
    return best[1]


def _shared_directions(
    x: Float32[np.ndarray, "items padded"], num_levels: int
) -> Float32[np.ndarray, "padded padded"]:
    """Principal directions, distributed to equal parts (Ge et al., eigenvalue allocation)."""
    gaps = x - mean_vector(x)
    variances, directions = np.linalg.eigh(_cross_product(gaps, gaps))
    logs = np.log(np.maximum(variances, variances.max() * 1e-12 + 1e-300))
    parts: list[list[int]] = [[] for _ in range(num_levels)]
    for direction in np.argsort(-logs, kind="stable").tolist():
        open_parts = [part for part in parts if len(part) < len(logs) // num_levels]
        min(open_parts, key=lambda part: float(logs[part].sum())).append(direction)
    order = np.concatenate(parts)
    rotation: Float32[np.ndarray, "padded padded"] = directions[:, order].astype(np.float32)
    return rotation


def _cross_product(
    x: Float32[np.ndarray, "items padded"], y: Float32[np.ndarray, "items padded"]
) -> Float[np.ndarray, "padded padded"]:
    """`x.T @ y` in float64, chunk by chunk."""
    total = np.zeros((x.shape[1], y.shape[1]))
    for rows, part in vector_chunks(x):
        total += part.T.astype(np.float64) @ y[rows].astype(np.float64)
    return total
