"""Sequence models with a common interface: from histories to scores of all items."""

from __future__ import annotations

from genrec.backbones.bert4rec import BERT4Rec
from genrec.backbones.caser import Caser
from genrec.backbones.cl4srec import CL4SRec
from genrec.backbones.din import DIN
from genrec.backbones.duorec import DuoRec
from genrec.backbones.fdsa import FDSA
from genrec.backbones.fmlp_rec import FMLPRec
from genrec.backbones.gru4rec import GRU4Rec
from genrec.backbones.hgn import HGN
from genrec.backbones.hstu import HSTU
from genrec.backbones.items import (
    Backbone,
    ConcatenatedTables,
    ContentTable,
    FeatureTables,
    ItemInput,
    ItemTable,
    StateBackbone,
    item_table,
)
from genrec.backbones.sasrec import SASRec
from genrec.backbones.unisrec import ContentExperts, UniSRec

__all__ = [
    "DIN",
    "FDSA",
    "HGN",
    "HSTU",
    "BERT4Rec",
    "Backbone",
    "CL4SRec",
    "Caser",
    "ConcatenatedTables",
    "ContentExperts",
    "ContentTable",
    "DuoRec",
    "FMLPRec",
    "FeatureTables",
    "GRU4Rec",
    "ItemInput",
    "ItemTable",
    "SASRec",
    "StateBackbone",
    "UniSRec",
    "item_table",
]
