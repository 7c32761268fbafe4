"""Modules and losses that join text and collaborative signals.

Nothing here trains or reads a file: tensors go in, tensors and numbers come out.
"""

from __future__ import annotations

from fusion.alignment import AdaLN, ModalityAdaptionLayer, alignment_loss
from fusion.contrast import info_nce, item_contrast, masked_sequence_alignment, user_contrast
from fusion.diagnostics import ModalityShare, alignment_distance, modality_share, uniformity
from fusion.masking import MaskedCodes, mask_codes, masked_code_loss
from fusion.semantic_fusion import SemanticFusion, pool_codes
from fusion.two_stream import CrossModalEncoder, CrossModalLayer, Gate

__all__ = [
    "AdaLN",
    "CrossModalEncoder",
    "CrossModalLayer",
    "Gate",
    "MaskedCodes",
    "ModalityAdaptionLayer",
    "ModalityShare",
    "SemanticFusion",
    "alignment_distance",
    "alignment_loss",
    "info_nce",
    "item_contrast",
    "mask_codes",
    "masked_code_loss",
    "masked_sequence_alignment",
    "modality_share",
    "pool_codes",
    "uniformity",
    "user_contrast",
]
