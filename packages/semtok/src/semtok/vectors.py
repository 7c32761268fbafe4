"""Vectors in chunks: checked, sampled and measured without copying all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

if TYPE_CHECKING:
    from semtok.quantizers.contract import Quantizer

CHUNK = 8192  # rows that are processed together; results never depend on it
LARGE_CHUNK = 65_536  # rows that are reduced or quantized at a time, so that memory stays bounded

_BLOCK = 512  # rows of one matrix product
_LIMIT = 1e15  # squares and sums of greater numbers overflow float32


def vector_chunks(
    x: Float[np.ndarray, "items dim"], *, dim: int | None = None, size: int = CHUNK
) -> Iterator[tuple[slice, Float32[np.ndarray, "rows dim"]]]:
    """The rows of `x`, which may be a memory map, chunk by chunk as contiguous float32.

    Args:
        x: Vectors.
        dim: The length that each vector must have; None takes any length.
        size: Rows per chunk.

    Raises:
        ValueError: If `x` is not two-dimensional, has another dim, or holds a number that is not
            finite or too large to be squared.
    """
    check_shape(x, dim)
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        part = np.asarray(x[rows])
        _check_values(part, start)
        yield rows, np.ascontiguousarray(part, dtype=np.float32)


def as_vectors(
    x: Float[np.ndarray, "items dim"], *, dim: int | None = None
) -> Float32[np.ndarray, "items dim"]:
    """The vectors as contiguous float32: `x` itself, not a copy, if it is contiguous float32.

    Raises:
        ValueError: For the same reasons as `vector_chunks`.
    """
    check_shape(x, dim)
    for start in range(0, len(x), CHUNK):
        _check_values(np.asarray(x[start : start + CHUNK]), start)
    return np.ascontiguousarray(x, dtype=np.float32)


def training_sample(
    x: Float[np.ndarray, "items dim"], *, max_training_items: int, seed: int
) -> Float32[np.ndarray, "sample dim"]:
    """Rows of `x` drawn at random by `seed`; all rows if there are at most `max_training_items`.

    All rows are checked, including those that are not drawn. The sample may be `x` itself.

    Raises:
        ValueError: If `x` is empty, or for the same reasons as `vector_chunks`.
    """
    check_shape(x, None)
    if len(x) == 0:
        raise ValueError("x must hold at least one vector, got none")
    if len(x) <= max_training_items:
        return as_vectors(x)
    for start in range(0, len(x), CHUNK):
        _check_values(np.asarray(x[start : start + CHUNK]), start)
    rows = np.random.default_rng(seed).choice(len(x), max_training_items, replace=False)
    return np.ascontiguousarray(x[np.sort(rows)], dtype=np.float32)


def mean_vector(x: Float[np.ndarray, "items dim"]) -> Float32[np.ndarray, " dim"]:
    """The mean of all rows, summed in float64.

    Raises:
        ValueError: If `x` is empty, or for the same reasons as `vector_chunks`.
    """
    check_shape(x, None)
    if len(x) == 0:
        raise ValueError("x must hold at least one vector, got none")
    total = np.zeros(x.shape[1])
    for _, part in vector_chunks(x):
        total += part.sum(axis=0, dtype=np.float64)
    return (total / len(x)).astype(np.float32)


def measured_distortion(
    quantizer: Quantizer, x: Float[np.ndarray, "items dim"]
) -> tuple[float, ...]:
    """Mean squared distance from vectors to the vectors of their first 1, 2, ... codes.

    Raises:
        ValueError: If `x` is empty, or does not suit the quantizer.
    """
    if len(x) == 0:
        raise ValueError("x must hold at least one vector, got none")
    totals = np.zeros(quantizer.num_levels)
    for _, part in vector_chunks(x, dim=quantizer.dim):
        codes = quantizer.encode(part)
        for level in range(quantizer.num_levels):
            gaps = part - quantizer.decode(codes[:, : level + 1])
            totals[level] += np.einsum("nd,nd->n", gaps, gaps).sum(dtype=np.float64)
    return tuple((totals / len(x)).tolist())


def check_shape(x: np.ndarray, dim: int | None) -> None:
    """Checks that `x` holds vectors, of `dim` numbers each unless `dim` is None.

    Raises:
        ValueError: If `x` is not two-dimensional, or has another dim.
    """
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"x must have the shape [items, dim], got {list(x.shape)}")
    if dim is not None and x.shape[1] != dim:
        raise ValueError(f"x must have dim {dim}, as the fitted vectors, got {x.shape[1]}")


def check_codes(codes: Int64[np.ndarray, "items levels"], codebook_sizes: tuple[int, ...]) -> None:
    """Checks codes, or their first few levels.

    Raises:
        ValueError: If there are too few or too many levels, or a code is outside its codebook.
    """
    most = len(codebook_sizes)
    if codes.ndim != 2 or not 1 <= codes.shape[1] <= most:
        levels = codes.shape[1] if codes.ndim == 2 else list(codes.shape)
        raise ValueError(f"codes must have 1 to {most} levels, got {levels}")
    sizes = np.array(codebook_sizes[: codes.shape[1]])
    wrong = ((codes < 0) | (codes >= sizes)).any(axis=1)
    if wrong.any():
        row = codes[int(wrong.argmax())].tolist()
        raise ValueError(f"codes must lie within codebooks of {sizes.tolist()}, got {row}")


def check_options(*options: tuple[str, float, float]) -> None:
    """Checks options, each passed as (name, value, least).

    Raises:
        ValueError: If a value is less than `least`.
    """
    for name, value, least in options:
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def _check_values(part: np.ndarray, start: int) -> None:
    """Refuses numbers beyond the limit, naming the first row of `part` that has one."""
    if part.size == 0 or (part.max() <= _LIMIT and part.min() >= -_LIMIT):  # false if NaN
        return
    row = start + int((~(np.abs(part) <= _LIMIT)).any(axis=1).argmax())
    raise ValueError(f"x must hold finite numbers within +-{_LIMIT:g}, got others in row {row}")


def stable_product(
    x: Float[np.ndarray, "items dim"], matrix: Float[np.ndarray, "dim out"]
) -> Float64[np.ndarray, "items out"]:
    """`x @ matrix` in float64, in blocks of one shape: a row's result is the same in any batch.

    A matrix product alone may round a row differently in batches of different sizes.
    """
    wide = matrix.astype(np.float64)
    product = np.empty((len(x), matrix.shape[1]))
    block = np.zeros((_BLOCK, x.shape[1]))
    for start in range(0, len(x), _BLOCK):
        part = x[start : start + _BLOCK]
        block[: len(part)] = part
        product[start : start + _BLOCK] = (block @ wide)[: len(part)]
    return product
