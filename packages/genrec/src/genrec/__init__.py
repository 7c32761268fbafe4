"""Generative recommendation: sequence models, generation of semantic IDs, a training loop."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genrec.answers import Answers
    from genrec.artifact import load_weights, save_weights
    from genrec.backbones import (
        DIN,
        FDSA,
        HGN,
        HSTU,
        RPG,
        Backbone,
        BERT4Rec,
        Caser,
        CL4SRec,
        CodeTable,
        ConcatenatedTables,
        ContentExperts,
        ContentTable,
        DuoRec,
        EnsRec,
        FeatureTables,
        FMLPRec,
        GRU4Rec,
        ItemInput,
        ItemTable,
        S3Rec,
        SASRec,
        StateBackbone,
        TedRec,
        UniSRec,
        VQRec,
        item_table,
    )
    from genrec.calibration import Calibration, calibrate, calibrated
    from genrec.catalogue import grown, with_catalogue
    from genrec.cloze import MaskedBatches
    from genrec.decoding import Ranked, beam_recall, beam_search, exact_scores, score_items
    from genrec.errors import ArtifactError
    from genrec.exporting import DecoderStep, HistoryEncoder, QueryState
    from genrec.item_checks import first_of_each
    from genrec.item_graph import ItemGraph, ItemMatrix, ItemScores
    from genrec.liger import LIGER
    from genrec.losses import (
        binary_cross_entropy,
        candidate_binary_cross_entropy,
        candidate_cross_entropy,
        distillation_loss,
        full_cross_entropy,
        in_batch_cross_entropy,
        sampled_cross_entropy,
    )
    from genrec.next_item import NextItemLoss
    from genrec.padded import PaddedBeamSearch
    from genrec.paths import kept_levels, path_log_probs
    from genrec.progress import LoggerError, MetricsLogger, TrainingEvent, rich_progress
    from genrec.recipes import NextItemRecipe, SequenceRecipe, TrainingRecipe
    from genrec.recommender import DenseRecommender, Recommender
    from genrec.requests import Answer, Recommendation, Request
    from genrec.sampling import sample_candidates, sample_negatives
    from genrec.saved_backbone import SavedBackbone, load_backbone, save_backbone
    from genrec.saved_seq2seq import SavedModel, load_model, save_model
    from genrec.scoring import dense_scorer, rank_histories
    from genrec.seq2seq import Seq2Seq, Seq2SeqOutput, Tables
    from genrec.seq2seq_config import Seq2SeqConfig
    from genrec.sequence_config import (
        BACKBONE_TITLES,
        CODED_BACKBONES,
        ITEM_INPUTS,
        BackboneName,
        SequenceModelConfig,
        backbone_class,
        make_backbone,
    )
    from genrec.sequences import Batch, PairBatches, SequenceBatches, query_batches
    from genrec.shard_units import ShardUnits
    from genrec.similarity import item_scores
    from genrec.steps import StepFunction, step_beam_search, step_exact_scores, step_score_items
    from genrec.streams import Ensemble, Streams
    from genrec.training import TrainingResult, fit
    from genrec.training_config import TrainingConfig
    from genrec.trie import Trie
    from genrec.twins import TwinBatches
    from genrec.vocabulary import Vocabulary

__version__ = metadata.version("genrec")

__all__ = [
    "BACKBONE_TITLES",
    "CODED_BACKBONES",
    "DIN",
    "FDSA",
    "HGN",
    "HSTU",
    "ITEM_INPUTS",
    "LIGER",
    "RPG",
    "Answer",
    "Answers",
    "ArtifactError",
    "BERT4Rec",
    "Backbone",
    "BackboneName",
    "Batch",
    "CL4SRec",
    "Calibration",
    "Caser",
    "CodeTable",
    "ConcatenatedTables",
    "ContentExperts",
    "ContentTable",
    "DecoderStep",
    "DenseRecommender",
    "DuoRec",
    "EnsRec",
    "Ensemble",
    "FMLPRec",
    "FeatureTables",
    "GRU4Rec",
    "HistoryEncoder",
    "ItemGraph",
    "ItemInput",
    "ItemMatrix",
    "ItemScores",
    "ItemTable",
    "LoggerError",
    "MaskedBatches",
    "MetricsLogger",
    "NextItemLoss",
    "NextItemRecipe",
    "PaddedBeamSearch",
    "PairBatches",
    "QueryState",
    "Ranked",
    "Recommendation",
    "Recommender",
    "Request",
    "S3Rec",
    "SASRec",
    "SavedBackbone",
    "SavedModel",
    "Seq2Seq",
    "Seq2SeqConfig",
    "Seq2SeqOutput",
    "SequenceBatches",
    "SequenceModelConfig",
    "SequenceRecipe",
    "ShardUnits",
    "StateBackbone",
    "StepFunction",
    "Streams",
    "Tables",
    "TedRec",
    "TrainingConfig",
    "TrainingEvent",
    "TrainingRecipe",
    "TrainingResult",
    "Trie",
    "TwinBatches",
    "UniSRec",
    "VQRec",
    "Vocabulary",
    "backbone_class",
    "beam_recall",
    "beam_search",
    "binary_cross_entropy",
    "calibrate",
    "calibrated",
    "candidate_binary_cross_entropy",
    "candidate_cross_entropy",
    "dense_scorer",
    "distillation_loss",
    "exact_scores",
    "first_of_each",
    "fit",
    "full_cross_entropy",
    "grown",
    "in_batch_cross_entropy",
    "item_scores",
    "item_table",
    "kept_levels",
    "load_backbone",
    "load_model",
    "load_weights",
    "make_backbone",
    "path_log_probs",
    "query_batches",
    "rank_histories",
    "rich_progress",
    "sample_candidates",
    "sample_negatives",
    "sampled_cross_entropy",
    "save_backbone",
    "save_model",
    "save_weights",
    "score_items",
    "step_beam_search",
    "step_exact_scores",
    "step_score_items",
    "with_catalogue",
]

# A module is loaded when one of its names is first used: most import torch, which takes seconds.
_MODULES = {
    "answers": ("Answers",),
    "artifact": ("load_weights", "save_weights"),
    "backbones": (
        "VQRec",
        "TedRec",
        "S3Rec",
        "RPG",
        "EnsRec",
        "CodeTable",
        "BERT4Rec",
        "Backbone",
        "CL4SRec",
        "Caser",
        "ConcatenatedTables",
        "ContentExperts",
        "ContentTable",
        "DIN",
        "DuoRec",
        "FDSA",
        "FMLPRec",
        "FeatureTables",
        "GRU4Rec",
        "HGN",
        "HSTU",
        "ItemInput",
        "ItemTable",
        "SASRec",
        "StateBackbone",
        "UniSRec",
        "item_table",
    ),
    "calibration": ("Calibration", "calibrate", "calibrated"),
    "catalogue": ("grown", "with_catalogue"),
    "cloze": ("MaskedBatches",),
    "decoding": ("Ranked", "beam_recall", "beam_search", "exact_scores", "score_items"),
    "errors": ("ArtifactError",),
    "exporting": ("DecoderStep", "HistoryEncoder", "QueryState"),
    "item_checks": ("first_of_each",),
    "item_graph": ("ItemGraph", "ItemMatrix", "ItemScores"),
    "liger": ("LIGER",),
    "losses": (
        "binary_cross_entropy",
        "candidate_binary_cross_entropy",
        "candidate_cross_entropy",
        "distillation_loss",
        "full_cross_entropy",
        "in_batch_cross_entropy",
        "sampled_cross_entropy",
    ),
    "next_item": ("NextItemLoss",),
    "padded": ("PaddedBeamSearch",),
    "paths": ("kept_levels", "path_log_probs"),
    "progress": ("LoggerError", "MetricsLogger", "TrainingEvent", "rich_progress"),
    "recipes": ("NextItemRecipe", "SequenceRecipe", "TrainingRecipe"),
    "recommender": ("DenseRecommender", "Recommender"),
    "requests": ("Answer", "Recommendation", "Request"),
    "sampling": ("sample_candidates", "sample_negatives"),
    "saved_backbone": ("SavedBackbone", "load_backbone", "save_backbone"),
    "saved_seq2seq": ("SavedModel", "load_model", "save_model"),
    "scoring": ("dense_scorer", "rank_histories"),
    "seq2seq": ("Seq2Seq", "Seq2SeqOutput", "Tables"),
    "seq2seq_config": ("Seq2SeqConfig",),
    "sequence_config": (
        *("BACKBONE_TITLES", "BackboneName", "CODED_BACKBONES", "ITEM_INPUTS"),
        "SequenceModelConfig",
        *("backbone_class", "make_backbone"),
    ),
    "shard_units": ("ShardUnits",),
    "sequences": ("Batch", "PairBatches", "SequenceBatches", "query_batches"),
    "similarity": ("item_scores",),
    "steps": ("StepFunction", "step_beam_search", "step_exact_scores", "step_score_items"),
    "streams": ("Ensemble", "Streams"),
    "training": ("TrainingResult", "fit"),
    "training_config": ("TrainingConfig",),
    "trie": ("Trie",),
    "twins": ("TwinBatches",),
    "vocabulary": ("Vocabulary",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
