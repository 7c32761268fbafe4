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
    """Sizes and choices of the encoder-decoder; sizes default to the paper's (section 4.1).

    Attributes:
        dim: Width of every state.
        num_encoder_layers: Layers over the history; those of a backbone are its own.
        num_decoder_layers: Layers over the target's codes.
        num_heads: Attention heads.
        feedforward_dim: Inner width of the feed-forward parts.
        dropout: Dropout probability.
        history_length: Newest items of a history that are read; older ones are cut.
        history_input: What stands for an item of the history: "codes", its codes one after the
            other, as the paper's text has it; "vectors", one vector an item, as in EAGER's code;
            "both", one position an item, the vector plus the mean of its codes' embeddings;
            "backbone", the states of a sequence model that was trained before and is trained on.
        train_item_vectors: Whether item vectors given to the model are trained with it.
        output_vocabulary: "level", a code means the same under every prefix; "node", each distinct
            prefix has a row of its own, as in EAGER's code.
        scoring: "masked", a softmax over all codes of the level, illegal ones struck out
            afterwards; "renormalized", a softmax over the children of the chosen prefix alone.
        node_start: Where the rows of nodes start: "random", or "vectors", a learned projection of
            the mean item vector under the node (standardised by level) plus an offset from zero.
        similarity: How states meet the rows of codes or nodes: "dot" product or "cosine".
        temperature: Divides the similarity.
        history_bias: Whether one learned number is added to the logit of a code that leads to
            nothing but items of the history. Beyond the paper: where nothing is had twice it
            learns to hold them back, where people come back for more, to bring them forward.
            Needs "renormalized" scoring.
        direct_path: Whether the encoder's state of the newest item is added to the decoder's first
            input, beside what attention reads. Beyond the paper.
        label_smoothing: Share of the target's probability spread over the children of its parent.
        distillation_dim: Width of the vectors that <c_dis> is compared with; None leaves it out.
        distillation_state: Which state that is: "last", that of <c_dis> after the target's codes,
            as in the paper, which exists in training only; "first", that of <BOS>, which knows the
            history alone and so ranks items at inference, too (`Seq2Seq.dense_state`).
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
        """TIGER: four layers on either side that read and write codes, one softmax a level.

        Its codes are those of a residual quantizer, 3 x 256, and a last level that tells items
        with equal ones apart. Differs: heads are 4 of width 32, not 6 of width 64; layers are those
        of this model, pre-LN with learned positions, and not T5's.

        Args:
            **changes: Other values for single fields.
        """
        sizes = {"num_encoder_layers": 4, "num_decoder_layers": 4, "feedforward_dim": 1024}
        return cls(**{**sizes, **changes})

    def __post_init__(self) -> None:
        self._check_values()
        self._check_combinations()

    def _check_values(self) -> None:
        """Refuses what is out of range by itself."""
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
        """Refuses choices that have no effect, or no sense, beside others."""
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
                'history_bias must be false when scoring is "masked", got true: it moves codes '
                "against their siblings"
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
