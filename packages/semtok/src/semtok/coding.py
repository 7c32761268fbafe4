"""From the vectors of a fitted quantizer to codes without collisions, and measures of quality.

`SemanticIds.fit` and `Tokenizer.fit` both make their code tables here.
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
        codes: One row per vector, after collisions were resolved: [items, levels].
        codebook_sizes: The number of codes at each level, a suffix level included.
        collisions: The collisions before they were resolved, and how they were resolved.
        distortion: The distortion of the vectors after each level of the quantizer.
        neighbour_overlap: The overlap at 10 neighbours; None with fewer than two vectors.
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
    """Encodes the fitted vectors, resolves collisions, and measures the result.

    Args:
        quantizer: Fitted on `x`.
        x: The vectors.
        policy: How collisions are resolved; see `semtok.collisions`.
        progress: Called with the name of a stage, the work done and the total work.

    Raises:
        ValueError: If there are fewer codes than vectors, and the policy is not `allow`.
    """
    # As fitted, identical vectors have different codes; encoded anew, they would share them.
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
    """The quantizer's codes of vectors, computed in large chunks."""
    codes = np.empty((len(x), quantizer.num_levels), dtype=np.int64)
    for start in range(0, len(x), LARGE_CHUNK):
        codes[start : start + LARGE_CHUNK] = quantizer.encode(x[start : start + LARGE_CHUNK])
        report(progress, min(start + LARGE_CHUNK, len(x)), len(x))
    return codes


def code_space(quantizer: Quantizer) -> CodeSpace:
    """How codes are compared: by common prefix if levels refine one another, else by agreement."""
    return "hamming" if isinstance(quantizer, ProductQuantizer | ViewQuantizer) else "prefix"


def stage(progress: StageProgress | None, name: str) -> Progress | None:
    """Begins a stage and returns the function that takes its progress."""
    if progress is None:
        return None
    progress(name, 0, 1)
    return partial(progress, name)


def _same(fitted: Float[np.ndarray, "fitted dim"], x: Float[np.ndarray, "items dim"]) -> bool:
    """Whether `x` is what was fitted; the numbers are compared only if need be."""
    return fitted.shape == x.shape and (
        np.may_share_memory(fitted, x) or bool(np.array_equal(fitted, x))
    )


def _distortion(
    quantizer: Quantizer,
    x: Float[np.ndarray, "items dim"],
    codes: Int64[np.ndarray, "items levels"],
) -> tuple[float, ...]:
    """What `quantizer.distortion` measures, from codes that exist already."""
    totals = np.zeros(quantizer.num_levels)
    for start in range(0, len(x), LARGE_CHUNK):
        part, part_codes = x[start : start + LARGE_CHUNK], codes[start : start + LARGE_CHUNK]
        for level in range(quantizer.num_levels):
            gaps = part - quantizer.decode(part_codes[:, : level + 1])
            totals[level] += np.einsum("nd,nd->n", gaps, gaps).sum(dtype=np.float64)
    return tuple((totals / len(x)).tolist())
