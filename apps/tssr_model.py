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
from semtok import Catalog
from stages import STORED, Choosing, Columns, field_groups
from torch import Tensor, nn
from training import SequenceModel
from tssr_encoders import ContentEncoder, Encoder, VectorTable
from tssr_images import RANDOM, ImageEncoder, image_paths
from tssr_texts import TextEncoder

Streams = tuple[str, ...]

_ID_SCALE = 0.1  # of id embeddings that start from content, whose variance is 1

ONLY_IDS = (
    "head must be 'ids', as in the paper, where content is encoded end to end, got {!r}: it would "
    "encode every negative's content too"
)


@dataclass(frozen=True, kw_only=True)
class Content:
    """What items say of themselves.

    Attributes:
        mode: "stored" embeddings through a trained projection; or "end-to-end", the network that
            makes the embeddings trained with the rest, as in the paper.
        embedding: "minilm" (offline), "lsa", a sentence-transformers name or folder, or a file of
            stored embeddings; end to end, a sentence-transformers one.
        streams: The catalogue's fields of each content stream, joined by "+". The paper has one;
            more are its second limitation lifted.
        dim: Dimensions of stored embeddings kept by PCA.
        image_field: The field with the path of an item's image; a stream of it alone is of images.
        image_embedding: "resnet50", or a name that open_clip knows.
        image_weights: As torchvision or open_clip name them, "" for their usual ones; a
            .safetensors file; or, end to end, "random".
        encoder: How networks are trained end to end.
    """

    mode: Literal["stored", "end-to-end"] = "stored"
    embedding: str = "minilm"
    streams: Streams = ("title+brand+categories",)
    dim: int = 128
    image_field: str = "image"
    image_embedding: str = "resnet50"
    image_weights: str = ""
    encoder: Encoder = field(default_factory=Encoder)

    def __post_init__(self) -> None:
        if self.mode not in ("stored", "end-to-end"):
            raise ValueError(f"mode must be 'stored' or 'end-to-end', got {self.mode!r}")
        if not self.streams or not all(self.fields):
            raise ValueError(f"streams must name fields, such as 'title+brand', got {self.streams}")
        for names in self.fields:
            if self.image_field in names and not self.is_image(names):
                raise ValueError(
                    f"streams must have {self.image_field!r}, the images, for itself, "
                    f"got {'+'.join(names)!r}"
                )
        if self.mode == "stored":
            if self.encoder != Encoder():
                raise ValueError("mode must be 'end-to-end' where [encoder] is set, got 'stored'")
            if self.image_weights == RANDOM:
                raise ValueError("image_weights must not be 'random' for stored embeddings")
        elif not all(map(self.is_image, self.fields)) and (
            self.embedding == "lsa" or self.embedding.endswith(STORED)
        ):
            raise ValueError(
                "embedding must be minilm, or the name or folder of a sentence-transformers model, "
                f"to be trained end to end, got {self.embedding!r}"
            )

    @property
    def fields(self) -> tuple[tuple[str, ...], ...]:
        """The fields of each stream."""
        return field_groups(self.streams)

    def is_image(self, fields: Sequence[str]) -> bool:
        """Whether a stream of these fields is of images."""
        return tuple(fields) == (self.image_field,)

    def check(self, catalog: Catalog) -> None:
        """Refuses streams that a catalogue cannot fill, before anything is trained.

        Raises:
            CatalogError: An image is missing.
            ValueError: A stream has no field of the catalogue.
        """
        for fields in self.fields:
            if self.is_image(fields):
                image_paths(catalog, self.image_field)
            else:
                catalog.texts(fields)

    def encoders(self, catalog: Catalog, dim: int) -> list[ContentEncoder]:
        """The content encoders of the end-to-end mode, one a stream, to be given to `TwoStream`.

        Args:
            catalog: The items; row i is item i.
            dim: Width of the vectors: the model's.

        Raises:
            CatalogError: An image is missing.
            ValueError: A stream has no field of the catalogue, or `encoder` does not fit a network.
        """
        found: list[ContentEncoder] = []
        for fields in self.fields:
            if self.is_image(fields):
                encoder: ContentEncoder = ImageEncoder(
                    image_paths(catalog, self.image_field),
                    dim,
                    model=self.image_embedding,
                    weights=self.image_weights,
                    options=self.encoder,
                )
            else:
                texts = catalog.texts(fields)
                encoder = TextEncoder(texts, dim, model=self.embedding, options=self.encoder)
            found.append(encoder)
        return found


@dataclass(frozen=True, kw_only=True)
class Model(SequenceModel):
    """The two-stream model and its training (sections 3.2 to 3.5); the baselines share it.

    Differs: where the paper's choice is named below, it is another than the default, which did
    better on the validation users of Amazon Beauty (apps/README.md).

    Attributes:
        head: What states are compared with: the id embeddings, as in the paper, or their sum with
            the content's.
        id_start: What id embeddings are before training: "random", as in the paper, or the first
            principal components of the content.
        num_layers: Layers of each unimodal encoder.
        num_cross_layers: Layers of the cross-modal encoder, a direction; the authors' code has 4.
        user_weight: lambda_1 of eq. 4; 1 in the paper.
        item_weight: lambda_2 of eq. 4; 1 in the paper.
        contrast_temperature: tau of eq. 1; .2 in the authors' code.
        item_temperature: tau of eq. 2; the authors' code divides by none, which is 1.
        item_similarity: s of eq. 2; the paper's is the inner product, "dot".
        residual_start: What each part of the cross-modal encoder is scaled by at first; 1e-8 in the
            authors' code, 1 for none.
    """

    head: Literal["ids", "sum"] = "sum"
    id_start: Literal["random", "content"] = "content"
    num_layers: int = 1
    num_cross_layers: int = 1
    feedforward_dim: int = 256
    user_weight: float = 0.1
    item_weight: float = 0.1
    contrast_temperature: float = 0.2
    item_temperature: float = 0.1
    item_similarity: Literal["dot", "cosine"] = "cosine"
    residual_start: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("user_weight", "item_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("contrast_temperature", "item_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Evaluation(Choosing):
    """How models are chosen and tested.

    Attributes:
        baselines: Whether SASRec on ids, on content and on both is trained too (table 1).
    """

    baselines: bool = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    seed: int = 0
    columns: Columns = field(default_factory=Columns)
    content: Content = field(default_factory=Content)
    model: Model = field(default_factory=Model)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        if self.content.mode == "end-to-end" and self.model.head != "ids":
            raise ValueError(ONLY_IDS.format(self.model.head))
        if self.content.mode == "end-to-end" and self.model.id_start != "random":
            raise ValueError(
                "id_start must be 'random' where content is encoded end to end and none is stored, "
                f"got {self.model.id_start!r}"
            )


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
        contents: One a stream: stored embeddings; an encoder that is trained with the rest; or the
            table of vectors that is left of one.

    Raises:
        ValueError: Items are to be scored by the sum of ids and content that is encoded here.
    """

    def __init__(
        self,
        config: Model,
        contents: Sequence[Float[Tensor, "items feature_dim"] | ContentEncoder | VectorTable],
    ) -> None:
        if config.head == "sum" and any(isinstance(one, ContentEncoder) for one in contents):
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
            _start_ids(tables[0], [one for one in contents if isinstance(one, Tensor)])
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
            if rows is None or isinstance(encoder, ItemTable):
                found.append(stream.item_vectors())  # type: ignore[operator]
            else:
                some: Tensor = encoder(rows)  # type: ignore[operator]
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


def kept_model(config: Model, num_items: int, num_contents: int) -> TwoStream:
    """The model as it is kept of an end-to-end training: content is tables; weights are to come.

    Args:
        config: Sizes.
        num_items: Size of the catalogue.
        num_contents: Content streams.
    """
    zeros = torch.zeros(num_items, config.dim)
    return TwoStream(config, [VectorTable(zeros.clone()) for _ in range(num_contents)])


@torch.no_grad()
def _start_ids(table: nn.Module, contents: Sequence[Float[Tensor, "items feature_dim"]]) -> None:
    """Starts id embeddings from stored content, which comes with its principal components first.

    Differs: the paper starts them at random. Layer norms then blow up the noise of rare items to
    the size of what is known of the others; items that are alike start alike here.
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
        self.tables = list(tables)  # they belong to the streams

    def forward(self) -> Float[Tensor, "items dim"]:
        """The vectors of all items."""
        vectors: Tensor = sum(table() for table in self.tables)
        return vectors


def tssr_loss(config: Model, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """lambda_1 L_u, lambda_2 L_i (eq. 1-2) and the cross-entropy (eq. 4)."""
    assert isinstance(model, TwoStream)
    negatives = config.draw(model.num_items, batch.history.device)
    scored = (negatives,) if config.head == "sum" else ()  # by the content too
    rows = config.rows(model.num_items, batch.history, batch.targets, *scored)
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
