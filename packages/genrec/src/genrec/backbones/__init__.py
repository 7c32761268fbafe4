"""Sequence models behind one contract: histories in, item vectors and scores of all items out."""

from __future__ import annotations

from genrec.backbones.din import DIN
from genrec.backbones.items import Backbone, ItemTable, StateBackbone
from genrec.backbones.sasrec import SASRec

__all__ = ["DIN", "Backbone", "ItemTable", "SASRec", "StateBackbone"]
