"""The next-item loss of a model that scores all items: a full softmax, or a sampled one.

A training step first draws its negatives (`draw`). It may then compute the vectors of only the
items in the batch (`rows`). Last, it calls the loss on the states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrec.config_checks import Similarity, check_negatives, check_similarity
from genrec.losses import full_cross_entropy, sampled_cross_entropy
from genrec.sampling import sample_negatives


@dataclass(frozen=True, kw_only=True)
class NextItemLoss:
    """Cross-entropy of next items over the catalogue, or over negatives shared by a batch.

    Attributes:
        similarity: How states and item vectors are compared, "dot" or "cosine".
        temperature: Divides the similarity.
        num_negatives: Number of negatives per batch, drawn uniformly. A logQ correction makes the
            loss an estimate of the full softmax. 0 is the softmax over the whole catalogue.

    Raises:
        ValueError: A value is out of range.
    """

    similarity: Similarity = "dot"
    temperature: float = 1.0
    num_negatives: int = 0

    def __post_init__(self) -> None:
        check_similarity(self.similarity, self.temperature)
        check_negatives(self.num_negatives)

    def draw(
        self,
        num_items: int,
        device: torch.device | str = "cpu",
        *,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, " negatives"]:
        """Returns the negatives of a batch, all different; all items if the softmax is full.

        Args:
            num_items: Size of the catalogue; at most so many are drawn.
            device: Device of the result.
            generator: Random generator; None is torch's default one.
        """
        if not self.num_negatives:
            return torch.arange(num_items, device=device)
        count = min(self.num_negatives, num_items)
        return sample_negatives(num_items, count, generator=generator, device=device)

    def rows(self, num_items: int, *parts: Int[Tensor, ...]) -> Int[Tensor, " rows"]:
        """Returns the items of a batch, in ascending order without repeats or padding.

        Args:
            num_items: Size of the catalogue, and the padding.
            *parts: Item rows of any shape: histories, targets, negatives.
        """
        rows: Tensor = torch.unique(torch.cat([part.flatten() for part in parts]))
        return rows[rows < num_items]

    def __call__(
        self,
        states: Float[Tensor, "*batch dim"],
        item_vectors: Float[Tensor, "items dim"],
        targets: Int[Tensor, "*batch"],
        negatives: Int[Tensor, " negatives"],
        num_items: int | None = None,
    ) -> Float[Tensor, ""]:
        """Returns the mean cross-entropy, in nats, of the targets that are not padding.

        Args:
            states: The model's state for each history, or for each position of it.
            item_vectors: Vectors of all items; with sampled negatives, those of the batch suffice.
            targets: Rows of `item_vectors`; the number of rows is padding.
            negatives: Rows of `item_vectors`; ignored if the softmax is full.
            num_items: Size of the catalogue, if `item_vectors` has only some of its items.
        """
        if not self.num_negatives:
            return full_cross_entropy(
                states,
                item_vectors,
                targets,
                similarity=self.similarity,
                temperature=self.temperature,
            )
        log_q = torch.full(
            (len(item_vectors),),
            -math.log(num_items or len(item_vectors)),
            device=item_vectors.device,
        )
        return sampled_cross_entropy(
            states,
            item_vectors,
            targets,
            negatives,
            log_q=log_q,
            similarity=self.similarity,
            temperature=self.temperature,
        )
