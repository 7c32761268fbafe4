"""What a fitted quantizer makes of its vectors: codes, collisions resolved, and how good they are.

One way from vectors to a code table, for `SemanticIds.fit` and `Tokenizer.fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int64

from semtok.collisions import Collisions, Policy, resolve_collisions
from semtok.neighbours import CodeSpace, neighbour_overlap
from semtok.progress import Progress, StageProgress, report
from semtok.quantizers.contract import Quantizer
from semtok.quantizers.hierarchical import HierarchicalKMeans
from semtok.quantizers.product import ProductQuantizer
from semtok.quantizers.views import ViewQuantizer
from semtok.vectors import LARGE_CHUNK


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedCodes:
    """The codes of the vectors that a quantizer was fitted on.

    Attributes:
        codes: One row a vector, after collisions were resolved.
        codebook_sizes: Of each level, a suffix level included.
        collisions: As they were, and what was done about them.
        distortion: Of the vectors after each level of the quantizer.
        neighbour_overlap: At 10 neighbours; None with fewer than two vectors.
    """

    codes: Int64[np.ndarray, "items levels"]
    codebook_sizes: tuple[int, ...]
    collisions: Collisions
    distortion: tuple[float, ...]
    neighbour_overlap: float | None


def fitted_codes(
    quantizer: Quantizer,
    x: Float[np.ndarray, "items dim"],
    *,
    policy: Policy,
    progress: StageProgress | None = None,
) -> FittedCodes:
    """Encodes the fitted vectors, resolves collisions, and measures what came of it.

    Args:
        quantizer: Fitted on `x`.
        x: The vectors.
        policy: How collisions are resolved; see `semtok.collisions`.
        progress: Called with a stage's name, how much is done and of how much.

    Raises:
        ValueError: If there are fewer codes than vectors, and each is to have its own.
    """
    # Identical vectors have codes of their own as fitted, but not as encoded.
    if isinstance(quantizer, HierarchicalKMeans) and _same(quantizer.vectors, x):
        raw = quantizer.codes
    else:
        raw = encoded(quantizer, x, stage(progress, "encoding"))
    codes, sizes, collisions = resolve_collisions(
        raw,
        quantizer.codebook_sizes,
        policy=policy,
        quantizer=quantizer,
        x=x,
        progress=progress and partial(progress, "resolving collisions"),
    )
    report_stage = stage(progress, "measuring")
    overlap = None
    if len(x) > 1:
        quantized = codes[:, : quantizer.num_levels]
        overlap = neighbour_overlap(x, quantized, space=code_space(quantizer))
    distortion = _distortion(quantizer, x, raw)
    report(report_stage, 1, 1)
    return FittedCodes(
        codes=codes,
        codebook_sizes=sizes,
        collisions=collisions,
        distortion=distortion,
        neighbour_overlap=overlap,
    )


def encoded(
    quantizer: Quantizer, x: Float[np.ndarray, "items dim"], progress: Progress | None
) -> Int64[np.ndarray, "items levels"]:
    """The quantizer's codes of vectors, many at a time."""
    codes = np.empty((len(x), quantizer.num_levels), dtype=np.int64)
    for start in range(0, len(x), LARGE_CHUNK):
        codes[start : start + LARGE_CHUNK] = quantizer.encode(x[start : start + LARGE_CHUNK])
        report(progress, min(start + LARGE_CHUNK, len(x)), len(x))
    return codes


def code_space(quantizer: Quantizer) -> CodeSpace:
    """By what codes are near each other: how many agree, if no level refines the one before."""
    return "hamming" if isinstance(quantizer, ProductQuantizer | ViewQuantizer) else "prefix"


def stage(progress: StageProgress | None, name: str) -> Progress | None:
    """Begins a stage; gives what its progress is told to."""
    if progress is None:
        return None
    progress(name, 0, 1)
    return partial(progress, name)


def _same(fitted: Float[np.ndarray, "fitted dim"], x: Float[np.ndarray, "items dim"]) -> bool:
    """Whether vectors are those that were fitted, looking at their numbers only if need be."""
    return fitted.shape == x.shape and (
        np.may_share_memory(fitted, x) or bool(np.array_equal(fitted, x))
    )


def _distortion(
    quantizer: Quantizer,
    x: Float[np.ndarray, "items dim"],
    codes: Int64[np.ndarray, "items levels"],
) -> tuple[float, ...]:
    """What `quantizer.distortion` measures, of codes that are there already."""
    totals = np.zeros(quantizer.num_levels)
    for start in range(0, len(x), LARGE_CHUNK):
        part, part_codes = x[start : start + LARGE_CHUNK], codes[start : start + LARGE_CHUNK]
        for level in range(quantizer.num_levels):
            gaps = part - quantizer.decode(part_codes[:, : level + 1])
            totals[level] += np.einsum("nd,nd->n", gaps, gaps).sum(dtype=np.float64)
    return tuple((totals / len(x)).tolist())
