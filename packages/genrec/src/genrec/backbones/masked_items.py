"""Histories with masked items, for models whose training masks some of what inference reads."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from genrec.backbones.items import StateBackbone


class MaskedItems(StateBackbone):
    """What CL4SRec and S3-Rec share: `num_items + 1` in a history stands for a masked item.

    A class below it makes `mask_vector`, the learned vector that is read there.
    """

    mask_vector: nn.Parameter

    @property
    def mask_item(self) -> int:
        """What stands in a history where an item is masked."""
        return self.num_items + 1

    def look_up(
        self, history: Int[Tensor, "*batch"], item_vectors: Float[Tensor, "items dim"] | None
    ) -> tuple[Float[Tensor, "*batch dim"], Bool[Tensor, "*batch"]]:
        """Returns the vectors of the items in `history`, masks among them, and where padding is."""
        is_masked = history == self.mask_item
        vectors, padding = super().look_up(history.masked_fill(is_masked, 0), item_vectors)
        mask_vector = self.mask_vector.to(vectors.dtype)
        return vectors.where(~is_masked[..., None], mask_vector), padding
