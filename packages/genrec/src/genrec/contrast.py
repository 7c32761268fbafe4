"""Contrastive loss of two copies of each history; copies of other histories are the negatives."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from genrec.config_checks import Similarity
from genrec.similarity import comparable


def contrast_of_copies(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    *,
    similarity: Similarity,
    temperature: float,
    targets: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy, in nats, of finding each copy's other copy in the batch.

    N histories have 2 N copies. Each copy has one positive and 2 (N - 1) negatives: the contrastive
    losses of CL4SRec and of DuoRec.

    Args:
        first: The state of one copy of each history.
        second: The state of its other copy.
        similarity: Dot product, or cosine.
        temperature: Divides the similarity.
        targets: The next item of each history. With it, copies of histories with the same next
            item are not negatives.

    Raises:
        ValueError: An option is out of range.
    """
    copies = torch.cat([first, second])  # [2 batch, dim]
    left, right = comparable(copies, copies, similarity, temperature)
    scores = left @ right.T
    count = len(first)
    rows = torch.arange(2 * count, device=scores.device)
    positives = (rows + count) % (2 * count)
    left_out = rows[:, None] == rows
    if targets is not None:
        left_out = (targets[:, None] == targets).repeat(2, 2)
        left_out[rows, positives] = False
    return F.cross_entropy(scores.masked_fill(left_out, -math.inf), positives)
