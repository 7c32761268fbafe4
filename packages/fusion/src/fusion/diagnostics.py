"""Measures of fused embeddings: modality share, alignment, uniformity. They have no gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CHUNK_ROWS = 1024
"""Rows whose similarities to all others are held at once."""


@dataclass(frozen=True, kw_only=True)
class ModalityShare:
    """How much of each modality a final embedding keeps.

    Attributes:
        semantic: Share in [0, 1]; 1 means that the final space is the semantic one.
        collaborative: One minus ``semantic``.
        kl_semantic: KL(S || E), in nats per item.
        kl_collaborative: KL(C || E), in nats per item.
    """

    semantic: float
    collaborative: float
    kl_semantic: float
    kl_collaborative: float


@torch.no_grad()
def modality_share(
    semantic: Float[Tensor, "items semantic_dim"],
    collaborative: Float[Tensor, "items collaborative_dim"],
    final: Float[Tensor, "items final_dim"],
    *,
    temperature: float = 0.1,
    max_items: int = 4096,
    seed: int = 0,
) -> ModalityShare:
    """Share of the semantic and of the collaborative modality in the final embeddings, by KL.

    PRORec, eq. 9-10, with S as ``semantic``, C as ``collaborative`` and E as ``final``. The paper
    leaves open which distributions the KL compares, and the three spaces may have different widths.
    Here each item has, in each space, a distribution over the other items: the softmax of its
    cosine similarities to them, divided by ``temperature``. The KL is taken item by item and
    averaged. So it compares the neighbours of each item, which do not change when a space is
    rotated or scaled.

    Args:
        semantic: Text embeddings, one row per item.
        collaborative: Embeddings from interactions alone, of the same items on the same device.
        final: The embeddings that are measured, of the same items.
        temperature: With a low value only the nearest neighbours count.
        max_items: From a larger catalogue a sample of this many items is drawn.
        seed: Seed of the sample.

    Returns:
        Shares that sum to 1; one half each if both divergences are 0.

    Raises:
        ValueError: Fewer than three items, unequal numbers of rows, a value that is not finite,
            or a parameter out of range.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    # [sample, width of the space] each
    s, c, e = _sampled_spaces(semantic, collaborative, final, max_items=max_items, seed=seed)

    kl_semantic = kl_collaborative = 0.0
    for rows in _row_chunks(len(e), e.device):
        log_e = _log_neighbours(e, rows, temperature)
        kl_semantic += _kl_sum(_log_neighbours(s, rows, temperature), log_e)
        kl_collaborative += _kl_sum(_log_neighbours(c, rows, temperature), log_e)
    kl_semantic /= len(e)
    kl_collaborative /= len(e)
    total = kl_semantic + kl_collaborative
    share = 1 - kl_semantic / total if total > 0 else 0.5
    return ModalityShare(
        semantic=share,
        collaborative=1 - share,
        kl_semantic=kl_semantic,
        kl_collaborative=kl_collaborative,
    )


@torch.no_grad()
def alignment_distance(x: Float[Tensor, "items dim"], y: Float[Tensor, "items dim"]) -> float:
    """Mean squared distance between paired unit vectors: 0 is perfect, 4 is opposite.

    Wang & Isola (ICML 2020), alignment with alpha = 2.

    Args:
        x: One view of the items.
        y: The other view of the same items.

    Raises:
        ValueError: The shapes differ, there are no rows, or a value is not finite.
    """
    if x.shape != y.shape:
        raise ValueError(f"y must have the shape of x, {tuple(x.shape)}, got {tuple(y.shape)}")
    return float((_unit_rows("x", x) - _unit_rows("y", y)).square().sum(dim=-1).mean())


@torch.no_grad()
def uniformity(x: Float[Tensor, "items dim"]) -> float:
    """Log of the mean Gaussian potential between all pairs of unit vectors; lower is more even.

    Wang & Isola (ICML 2020), uniformity with t = 2: 0 if all vectors are equal, close to -4 if they
    spread evenly over a sphere of many dimensions. Every pair of distinct rows counts once.

    Args:
        x: The items' embeddings.

    Raises:
        ValueError: Fewer than two rows, or a value that is not finite.
    """
    num_items = x.shape[0]
    if num_items < 2:
        raise ValueError(f"x must have at least 2 rows, got {num_items}")
    unit = _unit_rows("x", x)
    sums = []
    for rows in _row_chunks(num_items, x.device):
        # exp(-2 |a - b|^2) = exp(4 a.b - 4), for unit vectors
        logits = (4 * (unit[rows] @ unit.T) - 4).masked_fill(_is_self(rows, num_items), -torch.inf)
        sums.append(logits.flatten().logsumexp(dim=0))
    return float(torch.stack(sums).logsumexp(dim=0)) - math.log(num_items * (num_items - 1))


def _sampled_spaces(
    semantic: Tensor, collaborative: Tensor, final: Tensor, *, max_items: int, seed: int
) -> list[Tensor]:
    """The unit vectors of at most `max_items` items, the same items in each of three spaces."""
    num_items = len(final)
    if max_items < 3:
        raise ValueError(f"max_items must be at least 3, got {max_items}")
    if num_items < 3:
        raise ValueError(f"final must have at least 3 rows, got {num_items}")
    spaces = {"semantic": semantic, "collaborative": collaborative, "final": final}
    for name, space in spaces.items():
        if len(space) != num_items:
            raise ValueError(
                f"{name} must have as many rows as final, {num_items}, got {len(space)}"
            )
    if num_items > max_items:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(num_items, generator=generator)[:max_items]
        spaces = {name: space[rows.to(space.device)] for name, space in spaces.items()}
    return [_unit_rows(name, space) for name, space in spaces.items()]


def _unit_rows(name: str, x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    if len(x) == 0:
        raise ValueError(f"{name} must have at least 1 row, got 0")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def _row_chunks(num_rows: int, device: torch.device) -> Iterator[Tensor]:
    yield from torch.split(torch.arange(num_rows, device=device), CHUNK_ROWS)


def _is_self(rows: Tensor, num_rows: int) -> Tensor:
    return rows.unsqueeze(1) == torch.arange(num_rows, device=rows.device)


def _log_neighbours(unit: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Log-softmax of the similarities of ``rows`` to all other rows; 0 for a row and itself."""
    is_self = _is_self(rows, len(unit))
    logits = (unit[rows] @ unit.T / temperature).masked_fill(is_self, -torch.inf)
    return logits.log_softmax(dim=-1).masked_fill(is_self, 0)


def _kl_sum(log_p: Tensor, log_q: Tensor) -> float:
    # Only rounding makes it negative, and rounding must not push a share out of [0, 1].
    return float((log_p.exp() * (log_p - log_q)).sum(dim=-1).clamp(min=0).sum())
