"""Modules and losses that join text and collaborative signals.

Nothing here runs a training or reads a file: tensors go in, tensors and numbers come out.
"""

from __future__ import annotations

from importlib import metadata

from fusion.alignment import AdaLN, ModalityAdaptionLayer, alignment_loss
from fusion.contrast import info_nce, item_contrast, masked_sequence_alignment, user_contrast
from fusion.diagnostics import ModalityShare, alignment_distance, modality_share, uniformity
from fusion.encoders import (
    Adapted,
    ContentEncoder,
    Precision,
    Trained,
    VectorTable,
    encoder_counts,
    precomputed,
    restrict,
)
from fusion.fused_items import FusedItems, Guesses, Pooling
from fusion.masking import MaskedCodes, mask_codes, masked_code_loss
from fusion.semantic_fusion import SemanticFusion, pool_codes
from fusion.two_stream import CrossModalEncoder, CrossModalLayer, Gate

__version__ = metadata.version("recfusion")

__all__ = [
    "AdaLN",
    "Adapted",
    "ContentEncoder",
    "CrossModalEncoder",
    "CrossModalLayer",
    "FusedItems",
    "Gate",
    "Guesses",
    "MaskedCodes",
    "ModalityAdaptionLayer",
    "ModalityShare",
    "Pooling",
    "Precision",
    "SemanticFusion",
    "Trained",
    "VectorTable",
    "alignment_distance",
    "alignment_loss",
    "encoder_counts",
    "info_nce",
    "item_contrast",
    "mask_codes",
    "masked_code_loss",
    "masked_sequence_alignment",
    "modality_share",
    "pool_codes",
    "precomputed",
    "restrict",
    "uniformity",
    "user_contrast",
]
