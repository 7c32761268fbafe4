"""SASRec with a contrastive loss of two copies of each history, added to the next-item loss."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from genrec.backbones.sasrec import SASRec
from genrec.config_checks import Similarity
from genrec.contrast import contrast_of_copies
from genrec.layers import Norm
from genrec.sequences import Batch


class Contrasting(SASRec):
    """The base class of CL4SRec and DuoRec: SASRec with a contrastive loss of two copies.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: As in `SASRec`, like all arguments that are not explained here.
        num_layers: Self-attention layers.
        num_heads: Heads in each layer.
        history_length: Largest number of items in a history.
        dropout: Dropout probability.
        feedforward_dim: Inner width of the feed-forward parts.
        positions: Which item has position 0.
        norm: Position of the layer norms.
        contrast_weight: Weight of the contrastive loss.
        contrast_temperature: Divides the similarity of copies.
        item_encoder: Module whose `forward()` returns [num_items, dim].
        similarity: How states and item vectors are compared, "dot" or "cosine".
        temperature: Divides the similarity.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        history_length: int = 50,
        dropout: float = 0.2,
        feedforward_dim: int | None = None,
        positions: Literal["oldest", "newest"] = "oldest",
        norm: Norm = "pre",
        contrast_weight: float = 0.1,
        contrast_temperature: float = 1.0,
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        contrast = {
            "contrast_weight": contrast_weight,
            "contrast_temperature": contrast_temperature,
        }
        for name, value in contrast.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        super().__init__(
            num_items,
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            history_length=history_length,
            dropout=dropout,
            feedforward_dim=feedforward_dim,
            positions=positions,
            norm=norm,
            item_encoder=item_encoder,
            similarity=similarity,
            temperature=temperature,
        )
        self.settings |= contrast
        self.contrast_weight = contrast_weight
        self.contrast_temperature = contrast_temperature

    def copies(
        self, batch: Batch
    ) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch copy_length"]]:
        """Returns two copies of each history of a batch."""
        raise NotImplementedError

    def same_target(self, batch: Batch) -> Int[Tensor, " batch"] | None:
        """Returns a number per history; equal ones are no negatives. None: all are negatives."""
        return None

    def further_losses(
        self, batch: Batch, item_vectors: Float[Tensor, "items dim"]
    ) -> dict[str, Tensor]:
        """Returns the weighted loss term "contrast", in nats."""
        first, second = (self.last_state(copy, item_vectors) for copy in self.copies(batch))
        contrast = contrast_of_copies(
            first,
            second,
            similarity=self.similarity,
            temperature=self.contrast_temperature,
            targets=self.same_target(batch),
        )
        return {"contrast": self.contrast_weight * contrast}
