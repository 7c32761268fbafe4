"""TSSR's configuration, its two-stream model, its losses, and the baselines it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from fusion import CrossModalEncoder, Gate, item_contrast, user_contrast
from genrec import Batch, ItemTable, SASRec, StateBackbone
from item_tables import ContentTable
from jaxtyping import Float, Int
from stages import Columns
from torch import Tensor, nn
from training import SequenceModel

Streams = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What items say of themselves.

    Attributes:
        embedding: "minilm" (offline), "lsa", a sentence-transformers name or folder, or a file of
            stored embeddings.
        streams: The catalogue's fields of each content stream, joined by "+". The paper has one;
            more are its second limitation lifted.
        dim: Dimensions kept by PCA.
    """

    embedding: str = "minilm"
    streams: Streams = ("title+brand+categories",)
    dim: int = 128

    def __post_init__(self) -> None:
        if not self.streams or not all(self.fields):
            raise ValueError(f"streams must name fields, such as 'title+brand', got {self.streams}")

    @property
    def fields(self) -> tuple[tuple[str, ...], ...]:
        """The fields of each stream."""
        return tuple(
            tuple(name.strip() for name in stream.split("+") if name.strip())
            for stream in self.streams
        )


@dataclass(frozen=True, kw_only=True)
class Model(SequenceModel):
    """The two-stream model and its training (sections 3.2 to 3.5); the baselines share it.

    Attributes:
        head: What states are compared with: the id embeddings, as in the paper, or their sum with
            the content's.
        num_layers: Layers of each unimodal encoder.
        num_cross_layers: Layers of the cross-modal encoder, a direction; the authors' code has 4.
        user_weight: lambda_1 of eq. 4.
        item_weight: lambda_2 of eq. 4.
        contrast_temperature: tau of eq. 1; .2 in the authors' code.
        item_temperature: tau of eq. 2; the authors' code divides by none, which is 1.
        item_similarity: s of eq. 2; the paper's is the inner product, "dot".
        residual_start: What each part of the cross-modal encoder is scaled by at first; 1e-8 in the
            authors' code, 1 for none.
    """

    head: Literal["ids", "sum"] = "sum"
    num_layers: int = 1
    num_cross_layers: int = 1
    feedforward_dim: int = 256
    user_weight: float = 1.0
    item_weight: float = 1.0
    contrast_temperature: float = 0.2
    item_temperature: float = 1.0
    item_similarity: Literal["dot", "cosine"] = "dot"
    residual_start: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("user_weight", "item_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("contrast_temperature", "item_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How models are chosen and tested.

    Attributes:
        ks: Cut-offs.
        validation_users: Users drawn for early stopping; the test takes all.
        baselines: Whether SASRec on ids, on content and on both is trained too (table 1).
    """

    ks: tuple[int, ...] = (5, 10, 20)
    validation_users: int = 5000
    baselines: bool = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    seed: int = 0
    columns: Columns = field(default_factory=Columns)
    content: Content = field(default_factory=Content)
    model: Model = field(default_factory=Model)
    evaluation: Evaluation = field(default_factory=Evaluation)


def sasrec(config: Model, num_items: int, item_encoder: nn.Module, num_layers: int) -> SASRec:
    """A unimodal encoder (section 3.3), which alone is SASRec."""
    return SASRec(
        num_items,
        dim=config.dim,
        num_layers=num_layers,
        num_heads=config.num_heads,
        history_length=config.history_length,
        dropout=config.dropout,
        feedforward_dim=config.feedforward_dim,
        item_encoder=item_encoder,
        similarity=config.similarity,
        temperature=config.temperature,
    )


class TwoStream(StateBackbone):
    """TSSR: a stream of item ids and one of each content, that foretell the next item together.

    Each stream has an encoder of its own (section 3.3); a cross-modal encoder lets every stream
    attend to the others, and a gate joins them (section 3.4).

    Args:
        config: Sizes.
        contents: Content embeddings, one array a stream.
    """

    def __init__(
        self, config: Model, contents: Sequence[Float[Tensor, "items feature_dim"]]
    ) -> None:
        num_items = len(contents[0])
        tables = [
            ItemTable(num_items, config.dim),
            *(ContentTable(content, config.dim) for content in contents),
        ]
        super().__init__(
            num_items,
            dim=config.dim,
            item_encoder=Head(tables if config.head == "sum" else tables[:1]),
            similarity=config.similarity,
            temperature=config.temperature,
        )
        self.streams = nn.ModuleList(
            sasrec(config, num_items, table, config.num_layers) for table in tables
        )
        self.cross = CrossModalEncoder(
            len(tables),
            config.dim,
            num_layers=config.num_cross_layers,
            num_heads=config.num_heads,
            feedforward_dim=config.feedforward_dim,
            dropout=config.dropout,
            residual_start=config.residual_start,
        )
        self.gate = Gate(len(tables), config.dim)

    def tables(self, rows: Int[Tensor, " rows"] | None = None) -> list[Float[Tensor, "items dim"]]:
        """E of each stream; where `rows` are given, zero but for these items."""
        found = []
        for stream in self.streams:
            encoder = stream.item_encoder
            if rows is None or not isinstance(encoder, ContentTable):
                found.append(stream.item_vectors())  # type: ignore[operator]
            else:
                some = encoder(rows)
                found.append(some.new_zeros(self.num_items, self.dim).index_copy(0, rows, some))
        return found

    def unimodal(
        self, history: Int[Tensor, "batch length"], tables: Sequence[Float[Tensor, "items dim"]]
    ) -> list[Float[Tensor, "batch length dim"]]:
        """F of each stream: its states after each item of the history."""
        return [stream(history, table) for stream, table in zip(self.streams, tables, strict=True)]

    def join(
        self, states: Sequence[Float[Tensor, "batch length dim"]]
    ) -> Float[Tensor, "batch length dim"]:
        """The streams' states, attended to one another and joined by the gate (eq. 3)."""
        joined: Tensor = self.gate(self.cross(states))
        return joined

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """The state after each item of the history; the streams' own tables are what is read."""
        return self.join(self.unimodal(history, self.tables()))

    def last_state(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """The state after the newest item of each history."""
        states: Tensor = self(history)
        newest = (history != self.num_items).sum(dim=1).sub(1).clamp(min=0)
        return states[torch.arange(len(states), device=states.device), newest]


class Head(nn.Module):
    """The item vectors that states are compared with: the sum of some streams' tables."""

    def __init__(self, tables: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tables = list(tables)  # they belong to the streams

    def forward(self) -> Float[Tensor, "items dim"]:
        """The vectors of all items."""
        vectors: Tensor = sum(table() for table in self.tables)
        return vectors


def tssr_loss(config: Model, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """lambda_1 L_u, lambda_2 L_i (eq. 1-2) and the cross-entropy (eq. 4)."""
    assert isinstance(model, TwoStream)
    negatives = config.draw(model.num_items, batch.history.device)
    rows = config.rows(model.num_items, batch.history, batch.targets, negatives)
    tables = model.tables(rows)
    ids, *contents = states = model.unimodal(batch.history, tables)
    vectors = sum(tables[1:], tables[0]) if config.head == "sum" else tables[0]
    joined = model.join(states)
    losses = {"next_item": config.next_item(joined, vectors, batch.targets, negatives)}
    valid = batch.targets < model.num_items
    following = [
        nn.functional.embedding(batch.targets.masked_fill(~valid, 0), table) for table in tables
    ]
    if config.user_weight:
        losses["user_contrast"] = (
            config.user_weight
            * torch.stack(
                [
                    user_contrast(ids, content, valid, temperature=config.contrast_temperature)
                    for content in contents
                ]
            ).mean()
        )
    if config.item_weight:
        losses["item_contrast"] = (
            config.item_weight
            * torch.stack(
                [
                    item_contrast(
                        ids,
                        content,
                        following[0],
                        following[number],
                        batch.targets,
                        valid,
                        temperature=config.item_temperature,
                        similarity=config.item_similarity,
                    )
                    for number, content in enumerate(contents, start=1)
                ]
            ).mean()
        )
    return losses


def baseline_loss(config: Model, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The cross-entropy alone, for SASRec on any item vectors."""
    assert isinstance(model, SASRec)
    negatives = config.draw(model.num_items, batch.history.device)
    vectors = model.item_vectors()
    states = model(batch.history, vectors)
    return {"next_item": config.next_item(states, vectors, batch.targets, negatives)}
