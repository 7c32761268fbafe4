"""The loss of a model that scores all items: one softmax, and what stands for it when it is large.

A training step draws its negatives first (`draw`), may then compute the vectors of just the items
that it meets (`rows`), and calls the loss on the states.
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
    """Cross-entropy of next items over the catalogue, or over negatives that a batch shares.

    Attributes:
        similarity: How states and item vectors are compared, "dot" or "cosine".
        temperature: Divides the similarity.
        num_negatives: Drawn uniformly for a batch, with logQ correction, so that the loss estimates
            that of all items; 0 is the softmax over the whole catalogue.

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
        """Returns the negatives of a batch, no two alike; all items where the softmax is full.

        Args:
            num_items: Size of the catalogue; no more are drawn.
            device: Where they lie.
            generator: Draws them; torch's default generator when None.
        """
        if not self.num_negatives:
            return torch.arange(num_items, device=device)
        count = min(self.num_negatives, num_items)
        return sample_negatives(num_items, count, generator=generator, device=device)

    def rows(self, num_items: int, *parts: Int[Tensor, ...]) -> Int[Tensor, " rows"]:
        """Returns the items that a batch meets, ascending, each once; padding is left out.

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
        """Returns the cross-entropy of the targets, the mean over those that are not padding.

        Args:
            states: What the model says of each history (or of each of its positions).
            item_vectors: Of all items; where negatives are drawn, those of the batch will do.
            targets: Rows of `item_vectors`, their number for padding.
            negatives: Rows of `item_vectors`; not read where the softmax is full.
            num_items: Size of the catalogue, where `item_vectors` are of some of it only.
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
