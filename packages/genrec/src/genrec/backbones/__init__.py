"""Sequence models with a common interface: from histories to scores of all items."""

from __future__ import annotations

from genrec.backbones.bert4rec import BERT4Rec
from genrec.backbones.caser import Caser
from genrec.backbones.cl4srec import CL4SRec
from genrec.backbones.code_table import CodeTable
from genrec.backbones.din import DIN
from genrec.backbones.duorec import DuoRec
from genrec.backbones.ens_rec import EnsRec
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
from genrec.backbones.rpg import RPG
from genrec.backbones.s3rec import S3Rec
from genrec.backbones.sasrec import SASRec
from genrec.backbones.tedrec import TedRec
from genrec.backbones.unisrec import ContentExperts, UniSRec
from genrec.backbones.vq_rec import VQRec

__all__ = [
    "DIN",
    "FDSA",
    "HGN",
    "HSTU",
    "RPG",
    "BERT4Rec",
    "Backbone",
    "CL4SRec",
    "Caser",
    "CodeTable",
    "ConcatenatedTables",
    "ContentExperts",
    "ContentTable",
    "DuoRec",
    "EnsRec",
    "FMLPRec",
    "FeatureTables",
    "GRU4Rec",
    "ItemInput",
    "ItemTable",
    "S3Rec",
    "SASRec",
    "StateBackbone",
    "TedRec",
    "UniSRec",
    "VQRec",
    "item_table",
]
