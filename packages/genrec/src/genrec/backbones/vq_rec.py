"""VQ-Rec: SASRec over codes of texts (Hou et al., WWW 2023)."""

from __future__ import annotations

from genrec.backbones.sasrec import SASRec


class VQRec(SASRec):
    """SASRec whose items are told by the codes of their texts through a `CodeTable`, without ids.

    The item encoder is all that sets it apart: the paper's codes are those of an optimised product
    quantizer, 32 of 256. The paper compares by the dot product.

    Differs: layers and positions are those of `SASRec` here; vectors of codes are summed, where the
    paper takes their mean; it is trained on one catalogue from the start, without the contrastive
    tasks that pretrain the original on others and without the permutation that carries their codes
    over.

    Its arguments are those of `SASRec`.
    """
