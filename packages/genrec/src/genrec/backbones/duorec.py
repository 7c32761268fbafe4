"""DuoRec: SASRec, and histories told by others before the same item (Qiu et al., WSDM 2022)."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from genrec.backbones.contrasting import Contrasting
from genrec.sequences import Batch


class DuoRec(Contrasting):
    """SASRec whose training also pulls each history towards another one before the same item.

    Of a history, one copy is itself under another dropout (the paper's unsupervised augmentation)
    and one the history that `TwinBatches` drew beside it (its supervised augmentation); both are
    told from the copies of the batch's other histories, but for those before the same item (its
    contrastive regularization). Train it on `TwinBatches`.

    Differs: layers and positions are those of `SASRec` here; copies are compared as states and
    items are, by the dot product or the cosine, over a temperature of their own.

    Its arguments are those of `SASRec` with `contrast_weight`, lambda in the paper, and
    `contrast_temperature`, tau.
    """

    def copies(
        self, batch: Batch
    ) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch twin_length"]]:
        """Returns each history as it is, and its twin.

        Raises:
            ValueError: The batch has no twins.
        """
        if batch.twins is None:
            raise ValueError("batch must have twins, as those of TwinBatches, got none")
        return batch.history, batch.twins

    def same_target(self, batch: Batch) -> Int[Tensor, " batch"]:
        """Returns the targets: histories before the same item are not told from one another."""
        return batch.targets
