"""k-means and nearest centroids by torch, for a GPU; also on a CPU, where tests compare the two.

All products are in float32, never in the shorter formats that a GPU may take for it: what is
within their rounding is told apart in float64 by `nearest`, as on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

_COSTS = 2**26  # costs that are held at a time: 256 MiB
_STEPS = 10  # of a progressive k-means, as in faiss
_SPLIT = 1 / 1024  # how far the halves of a split centroid lie apart, relatively


def best_two(
    x: Float32[np.ndarray, "items dim"],
    centroids: Float32[np.ndarray, "codes dim"],
    device: str,
) -> tuple[
    Int64[np.ndarray, " items"],
    Float32[np.ndarray, " items"],
    Float32[np.ndarray, " items"],
    Float32[np.ndarray, " items"],
]:
    """As `semtok.quantizers.nearest.best_two`, of two centroids or more, on a device."""
    labels, costs, seconds, squares = [], [], [], []
    with _full_precision():
        table = torch.tensor(centroids, device=device)
        middle = table.mean(dim=0)
        table = table - middle  # [codes, dim]
        sizes = table.square().sum(dim=1)  # [codes]
        for part in _parts(x, len(centroids)):
            moved = torch.tensor(part, device=device) - middle  # [block, dim]
            block = torch.addmm(sizes, moved, table.T, alpha=-2)  # [block, codes]
            # Not `topk`, which says nothing of the order of equal ones: the first must win.
            least = block.min(dim=1)
            first = (block == least.values[:, None]).int().argmax(dim=1)  # [block]
            block.scatter_(1, first[:, None], torch.inf)
            labels.append(first.cpu())
            costs.append(least.values.cpu())
            seconds.append(block.amin(dim=1).cpu())
            squares.append(moved.square().sum(dim=1).cpu())
    return (
        torch.cat(labels).numpy(),
        torch.cat(costs).numpy(),
        torch.cat(seconds).numpy(),
        torch.cat(squares).numpy(),
    )


def centroids_of(
    x: Float32[np.ndarray, "items dim"],
    num_codes: int,
    *,
    iterations: int,
    progressive: bool,
    seed: int,
    device: str,
) -> Float32[np.ndarray, "codes dim"]:
    """Centroids of vectors of which more than `num_codes` are distinct, by Lloyd's rounds.

    Args:
        x: Vectors.
        num_codes: How many centroids.
        iterations: Rounds of assignment and update, of each step where progressive.
        progressive: Whether to start in the first principal directions, and add others in ten
            steps that grow by the same factor.
        seed: Draws the vectors that are the first centroids.
        device: As torch names it.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)[:num_codes]
    with _full_precision():
        vectors = torch.tensor(x, device=device)  # [items, dim]
        if not progressive:
            centroids = _rounds(vectors, vectors[rows.to(device)], iterations)
            return centroids.cpu().numpy()
        middle = vectors.mean(dim=0)
        moved = vectors - middle
        # Principal directions, the greatest first: eigenvalues ascend.
        directions = torch.linalg.eigh((moved.T @ moved).double()).eigenvectors.flip(1).float()
        turned = moved @ directions  # [items, dim]
        dim, centroids = x.shape[1], turned[rows.to(device), :0]
        for step in range(1, _STEPS + 1):
            width = max(1, int(dim ** (step / _STEPS))) if step < _STEPS else dim
            if width == centroids.shape[1]:
                continue
            # The new directions of a centroid begin at 0, the mean; the first ones at vectors.
            if centroids.shape[1]:
                added = (0, width - centroids.shape[1])
                centroids = torch.nn.functional.pad(centroids, added)
            else:
                centroids = turned[rows.to(device), :width]
            centroids = _rounds(turned[:, :width].contiguous(), centroids, iterations)
        result: Float32[np.ndarray, "codes dim"] = (centroids @ directions.T + middle).cpu().numpy()
        return result


def _rounds(
    x: Float[Tensor, "items dim"], centroids: Float[Tensor, "codes dim"], iterations: int
) -> Float[Tensor, "codes dim"]:
    """Returns the centroids after rounds of assignment and update."""
    for _ in range(iterations):
        sums, counts = torch.zeros_like(centroids), x.new_zeros(len(centroids))
        sizes = centroids.square().sum(dim=1)  # [codes]
        size = max(1, _COSTS // len(centroids))
        for start in range(0, len(x), size):
            part = x[start : start + size]  # [block, dim]
            labels = torch.addmm(sizes, part, centroids.T, alpha=-2).argmin(dim=1)  # [block]
            # A product, which a GPU adds up in the same order each time; `index_add_` does not.
            chosen = torch.nn.functional.one_hot(labels, len(centroids)).to(part.dtype)
            sums += chosen.T @ part
            counts += chosen.sum(dim=0)
        centroids = sums / counts.clamp(min=1)[:, None]
        _split(centroids, counts)
    return centroids


def _split(centroids: Float[Tensor, "codes dim"], counts: Float[Tensor, " codes"]) -> None:
    """Gives each centroid that has no vector half of the largest cluster that is left."""
    for empty in torch.nonzero(counts == 0).flatten().tolist():
        largest = int(counts.argmax())
        signs = torch.ones_like(centroids[largest])
        signs[1::2] = -1
        centroids[empty] = centroids[largest] * (1 - _SPLIT * signs)
        centroids[largest] *= 1 + _SPLIT * signs
        counts[empty] = counts[largest] = counts[largest] / 2


def _parts(x: Float32[np.ndarray, "items dim"], num_codes: int) -> Iterator[np.ndarray]:
    """Yields vectors in blocks whose costs stay within bounds, at least one block."""
    size = max(1, _COSTS // num_codes)
    for start in range(0, max(len(x), 1), size):
        yield x[start : start + size]


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keeps products from being made of shorter numbers within the block."""
    former = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_float32_matmul_precision(former)
