"""Generative recommendation: sequence models, semantic-ID generation, the one training loop."""

from genrec.answers import Answers
from genrec.artifact import ArtifactError, SavedModel, load_model, save_model
from genrec.backbones import (
    DIN,
    HSTU,
    Backbone,
    BERT4Rec,
    GRU4Rec,
    ItemTable,
    SASRec,
    StateBackbone,
)
from genrec.catalogue import with_catalogue
from genrec.cloze import MaskedBatches
from genrec.decoding import Ranked, beam_recall, beam_search, exact_scores, score_items
from genrec.losses import (
    binary_cross_entropy,
    candidate_binary_cross_entropy,
    candidate_cross_entropy,
    distillation_loss,
    full_cross_entropy,
    in_batch_cross_entropy,
    sampled_cross_entropy,
)
from genrec.progress import TrainingEvent, rich_progress
from genrec.recommender import (
    Answer,
    DenseRecommender,
    Recommendation,
    Recommender,
    Request,
)
from genrec.sampling import sample_candidates, sample_negatives
from genrec.seq2seq import Seq2Seq, Seq2SeqOutput, Tables
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.sequences import Batch, PairBatches, SequenceBatches, query_batches
from genrec.similarity import item_scores
from genrec.streams import Streams
from genrec.training import TrainingConfig, TrainingResult, fit
from genrec.trie import Trie
from genrec.vocabulary import Vocabulary

__all__ = [
    "DIN",
    "HSTU",
    "Answer",
    "Answers",
    "ArtifactError",
    "BERT4Rec",
    "Backbone",
    "Batch",
    "DenseRecommender",
    "GRU4Rec",
    "ItemTable",
    "MaskedBatches",
    "PairBatches",
    "Ranked",
    "Recommendation",
    "Recommender",
    "Request",
    "SASRec",
    "SavedModel",
    "Seq2Seq",
    "Seq2SeqConfig",
    "Seq2SeqOutput",
    "SequenceBatches",
    "StateBackbone",
    "Streams",
    "Tables",
    "TrainingConfig",
    "TrainingEvent",
    "TrainingResult",
    "Trie",
    "Vocabulary",
    "beam_recall",
    "beam_search",
    "binary_cross_entropy",
    "candidate_binary_cross_entropy",
    "candidate_cross_entropy",
    "distillation_loss",
    "exact_scores",
    "fit",
    "full_cross_entropy",
    "in_batch_cross_entropy",
    "item_scores",
    "load_model",
    "query_batches",
    "rich_progress",
    "sample_candidates",
    "sample_negatives",
    "sampled_cross_entropy",
    "save_model",
    "score_items",
    "with_catalogue",
]
