"""Scores of states and item vectors, shared by losses and models."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from genrec.config_checks import Similarity, check_similarity


def item_scores(
    states: Float[Tensor, "batch dim"],
    item_vectors: Float[Tensor, "items dim"],
    *,
    similarity: Similarity = "dot",
    temperature: float = 1.0,
) -> Float[Tensor, "batch items"]:
    """Returns the scores that the losses compare and by which a trained model ranks.

    Args:
        states: One state per history.
        item_vectors: One vector per item.
        similarity: Dot product, or cosine.
        temperature: Divides the similarity.

    Raises:
        ValueError: The similarity or the temperature is out of range.
    """
    states, item_vectors = comparable(states, item_vectors, similarity, temperature)
    return states @ item_vectors.T


def comparable(
    states: Float[Tensor, "*batch dim"],
    item_vectors: Float[Tensor, "items dim"],
    similarity: Similarity,
    temperature: float,
) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "items dim"]]:
    """Returns states and item vectors such that their dot products are the scores.

    Raises:
        ValueError: The similarity or the temperature is out of range.
    """
    check_similarity(similarity, temperature)
    if similarity == "cosine":
        states, item_vectors = unit(states), unit(item_vectors)
    return (states if temperature == 1 else states / temperature), item_vectors


def unit(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Returns vectors of length 1, zeros for zeros; fp16 is computed in fp32, to avoid 0 / 0."""
    wide = x.float() if x.dtype == torch.float16 else x
    return F.normalize(wide, dim=-1).to(x.dtype)
