"""Sizes and choices of the encoder-decoder over semantic IDs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from genrec.config_checks import Similarity

HistoryInput = Literal["vectors", "codes", "both", "backbone"]
OutputVocabulary = Literal["level", "node"]
Scoring = Literal["masked", "renormalized"]
NodeStart = Literal["random", "vectors"]
DistillationState = Literal["last", "first"]


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """Sizes and choices of the encoder-decoder; default sizes are the paper's (section 4.1).

    Attributes:
        dim: Width of every state.
        num_encoder_layers: Layers over the history; a backbone has its own number.
        num_decoder_layers: Layers over the target's codes.
        num_heads: Attention heads.
        feedforward_dim: Inner width of the feed-forward parts.
        dropout: Dropout probability.
        history_length: How many of the newest items of a history are read; older ones are cut.
        history_input: What represents an item of the history. "codes": its codes one after the
            other, as in the paper's text. "vectors": one vector per item, as in EAGER's code.
            "both": one position per item, its vector plus the mean of its codes' embeddings.
            "backbone": the states of a trained sequence model, which is trained further.
        train_item_vectors: Whether the model's `item_vectors` are trained with it.
        output_vocabulary: "level": a code has the same row under every prefix. "node": each
            distinct prefix has its own row, as in EAGER's code.
        scoring: "masked": a softmax over all codes of the level, then illegal codes are masked.
            "renormalized": a softmax over only the children of the chosen prefix.
        node_start: Initial rows of nodes: "random", or "vectors": a learned projection of the mean
            item vector under the node (standardised by level) plus an offset that starts at zero.
        similarity: Comparison of states with the rows of codes or nodes: "dot" product or "cosine".
        temperature: Divides the similarity.
        history_bias: Whether one learned number is added to the logit of a code that leads only to
            items of the history. Not in the paper. If users rarely repeat items, the number learns
            to rank these items lower; if users repeat them, higher. Needs "renormalized" scoring.
        direct_path: Whether the encoder's state of the newest item is added to the decoder's first
            input. Not in the paper.
        label_smoothing: Share of the target's probability spread over the children of its parent.
        distillation_dim: Width of the vectors that <c_dis> is compared with; with None there is no
            <c_dis>.
        distillation_state: The state to compare. "last": the state of <c_dis> after the target's
            codes, as in the paper; it exists in training only. "first": the state of <BOS>, which
            depends only on the history, so it can rank items at inference too
            (`Seq2Seq.dense_state`).

    Raises:
        ValueError: A value is out of range, or has no effect or no meaning with the others.
    """

    dim: int = 128
    num_encoder_layers: int = 1
    num_decoder_layers: int = 4
    num_heads: int = 4
    feedforward_dim: int = 512
    dropout: float = 0.1
    history_length: int = 20
    history_input: HistoryInput = "codes"
    train_item_vectors: bool = False
    output_vocabulary: OutputVocabulary = "level"
    scoring: Scoring = "masked"
    node_start: NodeStart = "random"
    similarity: Similarity = "dot"
    temperature: float = 1.0
    history_bias: bool = False
    direct_path: bool = False
    label_smoothing: float = 0.0
    distillation_dim: int | None = None
    distillation_state: DistillationState = "last"

    @classmethod
    def tiger(cls, **changes: Any) -> Seq2SeqConfig:
        """TIGER: four encoder and four decoder layers over codes, one softmax per level.

        Its codes are from a residual quantizer, 3 x 256, plus a last level that distinguishes items
        with equal codes. Differs: 4 heads of width 32, not 6 of width 64; the layers are those of
        this model, pre-LN with learned positions, not T5's.

        Args:
            **changes: Other values for single fields.
        """
        sizes = {"num_encoder_layers": 4, "num_decoder_layers": 4, "feedforward_dim": 1024}
        return cls(**{**sizes, **changes})

    def __post_init__(self) -> None:
        self._check_values()
        self._check_combinations()

    def _check_values(self) -> None:
        """Checks each value alone."""
        for name in (
            "dim",
            "num_encoder_layers",
            "num_decoder_layers",
            "num_heads",
            "feedforward_dim",
            "history_length",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dim % self.num_heads:
            raise ValueError(
                f"dim must be a multiple of num_heads, got {self.dim} and {self.num_heads}"
            )
        for name, words in (
            ("history_input", HistoryInput),
            ("output_vocabulary", OutputVocabulary),
            ("scoring", Scoring),
            ("node_start", NodeStart),
            ("similarity", Similarity),
            ("distillation_state", DistillationState),
        ):
            if getattr(self, name) not in get_args(words):
                known = ", ".join(get_args(words))
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")
        if self.distillation_dim is not None and self.distillation_dim < 1:
            raise ValueError(f"distillation_dim must be at least 1, got {self.distillation_dim}")

    def _check_combinations(self) -> None:
        """Checks that choices have an effect and a meaning together with the others."""
        if self.distillation_state == "first" and self.distillation_dim is None:
            raise ValueError(
                'distillation_state must be "last" when distillation_dim is None, got "first"'
            )
        if self.output_vocabulary == "node" and self.scoring == "masked":
            raise ValueError(
                'scoring must be "renormalized" when output_vocabulary is "node", got "masked": '
                "rows of nodes are compared among siblings only"
            )
        if self.history_bias and self.scoring == "masked":
            raise ValueError(
                'history_bias must be false when scoring is "masked", got true: it changes a '
                "softmax over siblings only"
            )
        if self.output_vocabulary == "level" and self.node_start == "vectors":
            raise ValueError(
                'node_start must be "random" when output_vocabulary is "level", got "vectors"'
            )
        if self.train_item_vectors and self.history_input in ("codes", "backbone"):
            raise ValueError(
                f"train_item_vectors must be false when history_input is {self.history_input!r}, "
                "got true"
            )
