"""PRORec's configuration, its item embeddings and its two losses (sections 3.3, 3.4 and 4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from fusion import ModalityAdaptionLayer, alignment_loss
from genrec import (
    DIN,
    Batch,
    SASRec,
    Seq2SeqConfig,
    candidate_cross_entropy,
    distillation_loss,
    sample_candidates,
)
from jaxtyping import Float, Int
from stages import Columns
from torch import Tensor, nn
from training import SequenceModel, Training


@dataclass(frozen=True, kw_only=True)
class Text:
    """E_S, the semantic embeddings.

    Attributes:
        embedding: "minilm" (offline), "lsa", a sentence-transformers name or folder, or a file of
            stored embeddings. The paper's is Llama2-7b.
        fields: The catalogue's fields that make an item's text; absent ones are passed over.
        dim: Dimensions kept by PCA.
    """

    embedding: str = "minilm"
    fields: tuple[str, ...] = ("title", "brand", "categories")
    dim: int = 128


@dataclass(frozen=True, kw_only=True)
class StageOne(SequenceModel):
    """The sequence model with alignment (section 3.3). Sizes and rates are section 4.1's.

    Attributes:
        backbone: "din" is the paper's.
        item_input: What the sequence model reads and ranks: E_C, or E_C + E_T.
        integrated: What is quantized and distilled; left open by the paper.
        adapted_weight: Scales E_T, whose rows start much longer than those of E_C.
        num_negatives: SASRec: drawn uniformly for a batch, with logQ correction; 0 is the softmax
            over the whole catalogue. DIN: drawn for each row (EAGER: 60).
        alignment_items: Most items of a batch that are aligned.
        batch_size: SASRec: sequences, which hold some six targets each; DIN: targets.
    """

    backbone: Literal["sasrec", "din"] = "sasrec"
    item_input: Literal["collaborative", "sum"] = "sum"
    integrated: Literal["collaborative", "adapted", "sum", "concatenated"] = "sum"
    adapted_weight: float = 0.1
    alpha: float = 1.0
    alignment_temperature: float = 0.07
    alignment_items: int = 768

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise ValueError(f"alpha must be at least 0, got {self.alpha}")
        if self.integrated != "collaborative" and not self.alpha and self.item_input != "sum":
            raise ValueError(
                f'integrated must be "collaborative" when nothing trains the adaption layer '
                f"(alpha is 0 and item_input is collaborative), got {self.integrated!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Hierarchical k-means over the integrated embeddings; K = 256 in section 4.1."""

    codebook_size: int = 256
    balanced: bool = True


@dataclass(frozen=True, kw_only=True)
class StageTwo(Training):
    """Generation with distillation (section 3.4). Sizes and rates are section 4.1's."""

    num_encoder_layers: int = 1
    num_decoder_layers: int = 4
    dim: int = 128
    num_heads: int = 4
    feedforward_dim: int = 256
    dropout: float = 0.2
    history_length: int = 20
    history_input: Literal["vectors", "codes", "both"] = "vectors"
    output_vocabulary: Literal["level", "node"] = "node"
    scoring: Literal["masked", "renormalized"] = "renormalized"
    node_start: Literal["random", "vectors"] = "vectors"
    history_bias: bool = True
    label_smoothing: float = 0.0
    beta: float = 1.0
    distillation_similarity: Literal["cosine", "dot"] = "cosine"
    distillation_temperature: float = 0.07
    distillation_negatives: int = 2048
    warmup_steps: int = 500
    batch_size: int = 256
    epochs: int = 8
    patience: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model(1)
        if self.beta < 0:
            raise ValueError(f"beta must be at least 0, got {self.beta}")

    def model(self, integrated_dim: int) -> Seq2SeqConfig:
        """The encoder-decoder's own configuration."""
        own = {field.name for field in dataclasses.fields(Seq2SeqConfig)}
        shared = {name: value for name, value in vars(self).items() if name in own}
        return Seq2SeqConfig(**shared, distillation_dim=integrated_dim if self.beta else None)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How models are chosen and tested.

    Attributes:
        ks: Cut-offs.
        num_beams: Beams of the test; as many items are ranked.
        validation_users: Users drawn for early stopping; the test takes all.
        validation_beams: Beams of early stopping.
        reference: Whether to train the stage I model on ids alone as well: a baseline, and the
            collaborative modality that the modality share is measured against.
    """

    ks: tuple[int, ...] = (5, 10, 20)
    num_beams: int = 100
    validation_users: int = 5000
    validation_beams: int = 30
    reference: bool = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    seed: int = 0
    columns: Columns = field(default_factory=Columns)
    text: Text = field(default_factory=Text)
    stage_one: StageOne = field(default_factory=StageOne)
    codes: Codes = field(default_factory=Codes)
    stage_two: StageTwo = field(default_factory=StageTwo)
    evaluation: Evaluation = field(default_factory=Evaluation)


class ItemEncoder(nn.Module):
    """The item embeddings of stage I: E_C, a table, and E_T = MAL(E_S) (eq. 2).

    Args:
        semantic: E_S, standardised.
        config: Which of them the sequence model reads, and which are the integrated embeddings.
    """

    semantic: Tensor

    def __init__(self, semantic: Float[Tensor, "items semantic_dim"], config: StageOne) -> None:
        super().__init__()
        self.config = config
        self.collaborative = nn.Parameter(torch.randn(len(semantic), config.dim) * 0.02)
        self.adaption = ModalityAdaptionLayer(semantic.shape[1], config.dim)
        self.register_buffer("semantic", semantic, persistent=False)

    def adapted(self, rows: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows dim"]:
        """E_T of some items or of all, scaled to the size of the collaborative table."""
        semantic = self.semantic if rows is None else self.semantic[rows]
        adapted: Tensor = self.config.adapted_weight * self.adaption(semantic)
        return adapted

    def forward(self) -> Float[Tensor, "items dim"]:
        """What the sequence model reads and ranks."""
        if self.config.item_input == "collaborative":
            return self.collaborative
        return self.collaborative + self.adapted()

    def integrated(self) -> Float[Tensor, "items integrated_dim"]:
        """The integrated embeddings, of length 1; the paper leaves open which they are."""
        unit = partial(nn.functional.normalize, dim=-1)
        options: dict[str, Callable[[], Tensor]] = {
            "collaborative": lambda: self.collaborative,
            "adapted": self.adapted,
            "sum": lambda: self.collaborative + self.adapted(),
            "concatenated": lambda: torch.cat(
                [unit(self.collaborative), unit(self.adapted())], dim=1
            ),
        }
        return unit(options[self.config.integrated]())


def stage_one_model(config: StageOne, semantic: Tensor) -> SASRec | DIN:
    """The sequential recommendation model of section 3.3 over an `ItemEncoder`."""
    encoder = ItemEncoder(semantic, config)
    if config.backbone == "din":
        return DIN(
            len(semantic), dim=config.dim, recency=config.history_length, item_encoder=encoder
        )
    return SASRec(
        len(semantic),
        dim=config.dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        history_length=config.history_length,
        dropout=config.dropout,
        item_encoder=encoder,
        similarity=config.similarity,
        temperature=config.temperature,
    )


def stage_one_loss(config: StageOne, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """L_seq and alpha L_align (eq. 3-5), on the embeddings of the items that the batch needs."""
    assert isinstance(model, SASRec | DIN)
    encoder = model.item_encoder
    assert isinstance(encoder, ItemEncoder)
    num_items, device = model.num_items, batch.history.device
    if isinstance(model, DIN):
        negatives = sample_candidates(batch.targets, num_items, config.num_negatives)
    else:
        negatives = config.draw(num_items, device)
    rows = config.rows(num_items, batch.history, batch.targets, negatives)
    vectors: Tensor = encoder.collaborative
    collaborative = vectors[rows]
    if config.alpha or config.item_input == "sum":
        adapted = encoder.adapted(rows)
    if config.item_input == "sum":
        vectors = torch.zeros_like(vectors).index_copy(0, rows, collaborative + adapted)

    if isinstance(model, DIN):
        scores = model(batch.history, negatives, vectors)
        losses = {"next_item": candidate_cross_entropy(scores, negatives)}
    else:
        states = model(batch.history, vectors)
        losses = {"next_item": config.next_item(states, vectors, batch.targets, negatives)}
    if config.alpha:
        drawn = torch.randperm(len(rows), device=device)[: config.alignment_items]
        losses["alignment"] = config.alpha * alignment_loss(
            collaborative[drawn], adapted[drawn], temperature=config.alignment_temperature
        )
    return losses


def stage_two_loss(
    config: StageTwo, integrated: Tensor, model: nn.Module, batch: Batch
) -> dict[str, Tensor]:
    """L_gen and beta L_distillation (eq. 6-8)."""
    output = model(batch.history, batch.targets)
    losses = {"generation": output.loss}
    if config.beta:
        losses["distillation"] = config.beta * distillation_loss(
            output.distillation,
            integrated,
            batch.targets,
            num_negatives=min(config.distillation_negatives, len(integrated)),
            similarity=config.distillation_similarity,
            temperature=config.distillation_temperature,
        )
    return losses
