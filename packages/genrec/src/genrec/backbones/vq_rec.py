"""VQ-Rec: SASRec over codes of texts (Hou et al., WWW 2023)."""

from __future__ import annotations

from genrec.backbones.sasrec import SASRec


class VQRec(SASRec):
    """SASRec whose item vectors come from the codes of the texts (`CodeTable`), without ids.

    Only the item encoder differs from `SASRec`. In the paper, an optimised product quantizer gives
    32 codes per item, with 256 codes per level. The paper uses the dot product.

    Differs: layers and positions are those of this library's `SASRec`. The vectors of the codes are
    added; the paper takes their mean. The model is trained on one catalogue from the start. The
    original is pretrained on other catalogues by contrastive tasks, and a learned permutation
    transfers its codes.

    Its arguments are those of `SASRec`.
    """
