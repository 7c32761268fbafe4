"""DuoRec: SASRec with a contrastive loss over histories (Qiu et al., WSDM 2022)."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from genrec.backbones.contrasting import Contrasting
from genrec.sequences import Batch


class DuoRec(Contrasting):
    """SASRec whose training also makes the states of histories with the same next item similar.

    One copy of a history is itself with another dropout (the paper's unsupervised augmentation),
    the other is its twin from `TwinBatches` (its supervised augmentation). Copies of the batch's
    other histories are the negatives, except those with the same next item (its contrastive
    regularization). Train it on `TwinBatches`.

    Differs: layers and positions are those of this library's `SASRec`. Copies are compared like
    states and items, by the dot product or the cosine, but with their own temperature.

    Its arguments are those of `SASRec` with `contrast_weight`, lambda in the paper, and
    `contrast_temperature`, tau.
    """

    def copies(
        self, batch: Batch
    ) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch twin_length"]]:
        """Returns each history itself, and its twin.

        Raises:
            ValueError: The batch has no twins.
        """
        if batch.twins is None:
            raise ValueError("batch must have twins, as from TwinBatches, got none")
        return batch.history, batch.twins

    def same_target(self, batch: Batch) -> Int[Tensor, " batch"]:
        """Returns the targets: histories with the same next item are not negatives."""
        return batch.targets
