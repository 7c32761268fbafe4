"""Histories with masked items, for models whose training masks some of what inference reads."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from genrec.backbones.items import StateBackbone


class MaskedItems(StateBackbone):
    """The base class of CL4SRec and S3-Rec: `num_items + 1` in a history is a masked item.

    A subclass creates `mask_vector`, the learned vector of a masked item.
    """

    mask_vector: nn.Parameter

    @property
    def mask_item(self) -> int:
        """The number that replaces a masked item in a history."""
        return self.num_items + 1

    def look_up(
        self, history: Int[Tensor, "*batch"], item_vectors: Float[Tensor, "items dim"] | None
    ) -> tuple[Float[Tensor, "*batch dim"], Bool[Tensor, "*batch"]]:
        """Returns the vectors of the items and masks in `history`, and True at padding."""
        is_masked = history == self.mask_item
        vectors, padding = super().look_up(history.masked_fill(is_masked, 0), item_vectors)
        mask_vector = self.mask_vector.to(vectors.dtype)
        return vectors.where(~is_masked[..., None], mask_vector), padding
