"""k-means for any number of vectors: by faiss, or by torch on a GPU."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32

from semtok.embedding.contract import check_device
from semtok.quantizers.nearest import vector_keys

SAMPLE_PER_CODE = 256  # k-means is fitted on at most this many vectors per centroid


def kmeans(
    x: Float32[np.ndarray, "items dim"],
    num_codes: int,
    *,
    iterations: int = 25,
    progressive: bool = False,
    seed: int | tuple[int, ...] = 0,
    device: str = "cpu",
) -> Float32[np.ndarray, "codes dim"]:
    """Centroids of a sample of the vectors.

    If at most `num_codes` vectors are distinct, these are the centroids, in their order, with the
    last one repeated; `nearest` never chooses a repetition.

    Args:
        x: Vectors, at least one. If there are more than 256 per centroid, a sample is drawn.
        num_codes: The number of centroids.
        iterations: Rounds of assignment and update.
        progressive: Whether to start in the first few principal directions and add others step by
            step, each with as many iterations. This is slower, and gives lower distortion if the
            variance is spread over many directions, as for residuals. With fewer vectors than
            dimensions there are not enough principal directions: the start is then the plain one.
        seed: Draws the sample and the start.
        device: "cpu" for faiss; any other, as torch names it, for torch. They start differently,
            and so end at other centroids, as good ones.
    """
    generator = np.random.default_rng(seed)
    if len(x) > SAMPLE_PER_CODE * num_codes:
        rows = generator.choice(len(x), SAMPLE_PER_CODE * num_codes, replace=False)
        x = x[np.sort(rows)]
    # A few vectors are mostly enough to see that sufficiently many are distinct.
    if len(np.unique(vector_keys(x[: 2 * num_codes]))) <= num_codes:
        _, firsts = np.unique(vector_keys(x), return_index=True)
        if len(firsts) <= num_codes:
            distinct = x[np.sort(firsts)]
            missing = num_codes - len(distinct)
            return np.concatenate([distinct, np.repeat(distinct[-1:], missing, axis=0)])
    x = np.ascontiguousarray(x)
    draw = int(generator.integers(2**31 - 1))
    stepwise_fits = progressive and 1 < x.shape[1] <= len(x)
    if device != "cpu":
        from semtok.quantizers.kmeans_torch import centroids_of

        return centroids_of(
            x,
            num_codes,
            iterations=iterations,
            progressive=stepwise_fits,
            seed=draw,
            device=device,
        )
    if stepwise_fits:
        stepwise: Any = faiss.ProgressiveDimClustering(x.shape[1], num_codes)
        stepwise.niter, stepwise.seed = iterations, draw
        stepwise.min_points_per_centroid = 1
        stepwise.max_points_per_centroid = SAMPLE_PER_CODE
        stepwise.train(len(x), faiss.swig_ptr(x), faiss.ProgressiveDimIndexFactory())
        centroids = faiss.vector_to_array(stepwise.centroids).reshape(num_codes, x.shape[1])
    else:
        clusters: Any = faiss.Kmeans(
            x.shape[1],
            num_codes,
            niter=iterations,
            seed=draw,
            min_points_per_centroid=1,
            max_points_per_centroid=SAMPLE_PER_CODE,
        )
        clusters.train(x)
        centroids = clusters.centroids
    return np.asarray(centroids, dtype=np.float32)


def check_kmeans_device(device: str) -> None:
    """Raises ValueError unless k-means can run on a device here."""
    if device == "cpu":
        return
    try:
        check_device(device)
    except ModuleNotFoundError:
        raise ValueError(f"device must be 'cpu' where torch is missing, got {device!r}") from None
