"""Sequence models behind one contract: histories in, item vectors and scores of all items out."""

from __future__ import annotations

from genrec.backbones.bert4rec import BERT4Rec
from genrec.backbones.din import DIN
from genrec.backbones.gru4rec import GRU4Rec
from genrec.backbones.hstu import HSTU
from genrec.backbones.items import (
    Backbone,
    ConcatenatedTables,
    ContentTable,
    ItemInput,
    ItemTable,
    StateBackbone,
    item_table,
)
from genrec.backbones.sasrec import SASRec

__all__ = [
    "DIN",
    "HSTU",
    "BERT4Rec",
    "Backbone",
    "ConcatenatedTables",
    "ContentTable",
    "GRU4Rec",
    "ItemInput",
    "ItemTable",
    "SASRec",
    "StateBackbone",
    "item_table",
]
