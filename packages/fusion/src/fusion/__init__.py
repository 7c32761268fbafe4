"""Modules and losses that join text and collaborative signals.

Nothing here trains or reads a file: tensors go in, tensors and numbers come out.
"""

from __future__ import annotations

from fusion.alignment import AdaLN, ModalityAdaptionLayer, alignment_loss
from fusion.contrast import info_nce
from fusion.diagnostics import ModalityShare, alignment_distance, modality_share, uniformity

__all__ = [
    "AdaLN",
    "ModalityAdaptionLayer",
    "ModalityShare",
    "alignment_distance",
    "alignment_loss",
    "info_nce",
    "modality_share",
    "uniformity",
]
