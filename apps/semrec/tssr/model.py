"""TSSR's two-stream model, its losses, and its baselines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fusion import (
    ContentEncoder,
    CrossModalEncoder,
    Gate,
    VectorTable,
    item_contrast,
    user_contrast,
)
from genrec import Batch, ContentTable, ItemTable, SASRec, StateBackbone
from jaxtyping import Float, Int
from torch import Tensor, nn

from semrec.tssr.config import ONLY_IDS, Model

_ID_SCALE = 0.1  # the scale of id embeddings that start from content of variance 1


def sasrec(config: Model, num_items: int, item_encoder: nn.Module, num_layers: int) -> SASRec:
    """A unimodal encoder (section 3.3); on its own it is SASRec."""
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
    """TSSR: a stream of item ids and streams of content, which predict the next item together.

    Each stream has its own encoder (section 3.3). A cross-modal encoder lets every stream attend to
    the others, and a gate joins them (section 3.4).

    Args:
        config: Sizes.
        contents: One per stream: stored embeddings; an encoder that is trained with the model; or
            the table of vectors from a trained encoder.

    Raises:
        ValueError: Items are scored by the sum of ids and content, but content is encoded here.
    """

    def __init__(
        self,
        config: Model,
        contents: Sequence[Float[Tensor, "items feature_dim"] | ContentEncoder | VectorTable],
    ) -> None:
        if config.head == "sum" and any(
            isinstance(content, ContentEncoder) for content in contents
        ):
            raise ValueError(ONLY_IDS.format(config.head))
        first = contents[0]
        num_items = len(first) if isinstance(first, Tensor) else first.num_items
        tables: list[nn.Module] = [
            ItemTable(num_items, config.dim),
            *(
                ContentTable(content, config.dim) if isinstance(content, Tensor) else content
                for content in contents
            ),
        ]
        if config.id_start == "content":
            _start_ids(tables[0], [c for c in contents if isinstance(c, Tensor)])
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
        """E of each stream; with `rows`, zero except for these items."""
        tables = []
        for stream in self.streams:
            encoder = stream.item_encoder
            if rows is None or isinstance(encoder, ItemTable):
                tables.append(stream.item_vectors())  # type: ignore[operator]
            else:
                vectors: Tensor = encoder(rows)  # type: ignore[operator]
                zeros = vectors.new_zeros(self.num_items, self.dim)
                tables.append(zeros.index_copy(0, rows, vectors))  # [items, dim]
        return tables

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
        """The state after each item of the history, read from the streams' own tables."""
        return self.join(self.unimodal(history, self.tables()))

    def last_state(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """The state after the newest item of each history."""
        states: Tensor = self(history)
        newest = (history != self.num_items).sum(dim=1).sub(1).clamp(min=0)
        return states[torch.arange(states.shape[0], device=states.device), newest]


def kept_model(config: Model, num_items: int, num_contents: int) -> TwoStream:
    """The stored form of an end-to-end model: content as tables; weights are loaded later.

    Args:
        config: Sizes.
        num_items: Size of the catalogue.
        num_contents: Content streams.
    """
    zeros = torch.zeros(num_items, config.dim)
    return TwoStream(config, [VectorTable(zeros.clone()) for _ in range(num_contents)])


@torch.no_grad()
def _start_ids(table: nn.Module, contents: Sequence[Float[Tensor, "items feature_dim"]]) -> None:
    """Initialises id embeddings from the leading principal components of stored content.

    Differs: the paper starts them at random. Layer norms then scale the noise of rare items up to
    the size of well-trained vectors. Here similar items start with similar vectors.
    """
    assert isinstance(table, ItemTable)
    for content in contents:
        width = min(content.shape[1], table.ids.shape[1])
        scale = _ID_SCALE / len(contents) ** 0.5
        table.ids[:, :width] += scale * content[:, :width].to(table.ids)


class Head(nn.Module):
    """The item vectors that states are compared with: the sum of some streams' tables."""

    def __init__(self, tables: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tables = list(tables)  # a list, because they belong to the streams

    def forward(self) -> Float[Tensor, "items dim"]:
        """The vectors of all items."""
        vectors: Tensor = sum(table() for table in self.tables)
        return vectors


def tssr_loss(config: Model, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """lambda_1 L_u, lambda_2 L_i (eq. 1-2) and the cross-entropy (eq. 4)."""
    assert isinstance(model, TwoStream)
    negatives = config.loss.draw(model.num_items, batch.history.device)
    scored = (negatives,) if config.head == "sum" else ()  # content is scored too
    rows = config.loss.rows(model.num_items, batch.history, batch.targets, *scored)
    tables = model.tables(rows)
    ids, *contents = states = model.unimodal(batch.history, tables)
    vectors = sum(tables[1:], tables[0]) if config.head == "sum" else tables[0]
    joined = model.join(states)
    losses = {"next_item": config.loss(joined, vectors, batch.targets, negatives)}
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
    negatives = config.loss.draw(model.num_items, batch.history.device)
    vectors = model.item_vectors()
    states = model(batch.history, vectors)
    return {"next_item": config.loss(states, vectors, batch.targets, negatives)}
